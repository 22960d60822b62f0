package hostkey

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"strings"
	"testing"
)

const ed = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ"

func TestHosts(t *testing.T) {
	h := hmac.New(sha1.New, []byte("salt"))
	h.Write([]byte("[git.example.com]:2222"))
	b64 := base64.StdEncoding.EncodeToString
	hashed := "|1|" + b64([]byte("salt")) + "|" + b64(h.Sum(nil))
	for line, want := range map[string]string{
		ed:                                     "git.example.com evil.test git.example.com:2222",
		"git.example.com " + ed + " a b":       "git.example.com git.example.com:2222",
		"GIT.example.com,192.0.2.1 " + ed:      "git.example.com git.example.com:2222",
		"[git.example.com]:2222 " + ed:         "git.example.com:2222",
		"*.example.com,!git.example.com " + ed: "",
		"*.example.com " + ed:                  "git.example.com git.example.com:2222",
		"git.exampl?.com " + ed:                "git.example.com git.example.com:2222",
		hashed + " " + ed:                      "git.example.com:2222",
		"@cert-authority *.example.com " + ed:  "git.example.com git.example.com:2222",
		"@revoked " + ed:                       "git.example.com evil.test git.example.com:2222",
		"|1|x|y " + ed:                         "",
	} {
		keys, err := Parse("# a comment\n\n" + line + "\n")
		if err != nil || len(keys) != 1 {
			t.Errorf("%s: %v, %v", line, keys, err)
			continue
		}
		var got []string
		for _, name := range []string{"git.example.com", "evil.test", "git.example.com:2222"} {
			host, port, _ := strings.Cut(name, ":")
			if keys[0].For(host, port) {
				got = append(got, name)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: for %q, want %q", line, got, want)
		}
		if keys[0].Authority != strings.HasPrefix(line, "@cert") || keys[0].Revoked != strings.HasPrefix(line, "@rev") || keys[0].Type != "ssh-ed25519" {
			t.Errorf("%s: %+v", line, keys[0])
		}
	}
}

func TestSeveralLinesAndSamples(t *testing.T) {
	keys, err := Parse(ed + "\n" + strings.Replace(ed, "IJdD", "IJdE", 1) + "\nssh-ed25519 AAAA...\nssh-rsa AAAA\n")
	if err != nil || len(keys) != 2 {
		t.Errorf("%v, %v", keys, err)
	}
}

func TestBadLines(t *testing.T) {
	for line, want := range map[string]string{
		"ssh-ed25519": "was wanted",
		"@revoked":    "was wanted",
		"AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLW": "was wanted",
		"git.example.com ssh-dss AAAAB3NzaC1kc3M=":     "no type of key that is taken",
		ed[:40]:                            "was it cut?",
		"ssh-rsa " + strings.Fields(ed)[1]: "not of the type ssh-rsa",
		"ssh-ed25519 AAAAB3NzaC1yc2EAAAADAQABAAAAgQC1":  "not of the type ssh-ed25519",
		"ssh-ed25519 /////w==":                          "was it cut?",
		"SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3": "was wanted",
	} {
		if keys, err := Parse(line); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v, want %q", line, keys, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("@cert-authority *,!x " + ed)
	f.Add("|1|c2FsdA==|c2FsdA== " + ed)
	f.Fuzz(func(t *testing.T, text string) {
		keys, err := Parse(text)
		if err != nil {
			return
		}
		for _, k := range keys {
			if all, ok := fields(k.Blob); !ok || all[0] != k.Type {
				t.Fatalf("%q pins a key of another type", text)
			}
			k.For("git.example.com", "2222")
		}
	})
}
