package gitgate

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A repository's settings are what git takes them for, and a file that git cannot read is not read here either.
func TestSettingsAreGits(t *testing.T) {
	r := &rig{t: t}
	path := filepath.Join(t.TempDir(), "config")
	for _, text := range []string{
		"[transfer]\n\thideRefs = refs/secret\n", "[transfer] hideRefs = refs/x\n", "[transfer] ; comment\n\thideRefs = \"refs/tags\" # x\n",
		"[transfer]\nhideRefs = refs/x # comment\n", "[transfer]\nhideRefs = refs/x;y\n", "[transfer]\nhideRefs = refs/\\\ntags\n", "[transfer]\r\nhideRefs = refs/x\r\n",
		"[TRANSFER]\nHIDErefs=a\nhiderefs=b", "[transfer]\nhideRefs = \"a b\" \"c\" d  \n", "[transfer]\nhideRefs = \"a # b\" # c\n", "[transfer]\nhideRefs = a\\tb\\\\c\\\"d\n",
		"[remote \"O \\\"x]\"]\nurl = y\n", "[remote.Sub]\nurl = y\n", "\ufeff[core]\nbare = true\n", "# x\n; y\n\n[core]\n\tbare = false\n[core] x = 1\n", "[a]b=1[c]\n", "[a]\nb=\n", "[a]\nb=x\\",
		"[a]\nb=\" x \"  y  \n", "[a]\n\x0bb=x\n", "[a]\nb=x\x0by\n",
		"[transfer\nhideRefs = x\n", "[transfer]\nhideRefs refs/x\n", "[a]\nb=\"x\n", "[a]\nb=\\q\n", "[a \"b\n\"]\nc=d\n", "[a]\n=x\n", "[a b]\nc=d\n", "[a]\n1b=x\n", "[]\nb=x\n", "[a \"b\" ]\nc=d\n",
		"[a]\nb_c=x\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		want, gitErr := r.try("/", "git", "config", "-f", path, "-z", "--list")
		found, err := parseSettings(text)
		var got []string
		for _, name := range slices.Sorted(maps.Keys(found)) {
			for _, value := range found[name] {
				got = append(got, name+"\n"+value)
			}
		}
		wanted := strings.Split(strings.Trim(want, "\x00"), "\x00")
		slices.Sort(wanted)
		slices.Sort(got)
		if (err == nil) != (gitErr == nil) || err == nil && !slices.Equal(got, wanted) {
			t.Errorf("%q:\n%q, %v\ngit: %q, %v", text, got, err, wanted, gitErr)
		}
	}
	for _, text := range []string{"[include]\npath = x\n", "[includeIf \"gitdir:/\"]\npath = x\n", "a = b\n"} {
		if found, err := parseSettings(text); err == nil {
			t.Errorf("%q gives %v", text, found)
		}
	}
}

// What git hides in any way of writing it is not shown, and a repository whose settings are elsewhere is not served at all.
func TestHiddenReferencesStayHidden(t *testing.T) {
	r := &rig{t: t}
	for i, c := range []struct {
		config string
		served bool
	}{
		{"[transfer] ; comment\n\thideRefs = \"refs/secret\" # x\n", true}, {"[transfer]\n\thideRefs = refs/\\\nsecret\n", true}, {"[uploadpack] hideRefs=refs/secret;x\n", true},
		{"[include]\n\tpath = other\n", false}, {"[transfer\n", false},
	} {
		dir := filepath.Join(t.TempDir(), fmt.Sprint(i))
		r.run("/", "git", "init", "-q", "-b", "main", dir)
		r.commit(dir, "one", nil)
		r.run(dir, "git", "update-ref", "refs/secret/x", "HEAD")
		file, err := os.OpenFile(filepath.Join(dir, ".git", "config"), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = file.WriteString(c.config)
		file.Close()
		o, err := openOrdinary(dir, false)
		if (err == nil) != c.served {
			t.Fatalf("%q: %v", c.config, err)
		}
		if err != nil {
			continue
		}
		src, err := o.load()
		if err != nil {
			t.Fatal(err)
		}
		if !src.snap.get("refs/secret/x").IsZero() || src.snap.get("refs/heads/main").IsZero() {
			t.Errorf("%q: %v", c.config, src.snap.refs)
		}
	}
}
