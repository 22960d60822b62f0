package socks

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"airlock/internal/policy"
)

const (
	greeting = "\x05\x01\x00"
	yes      = "\x05\x00"
	done     = "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"
)

func reply(code string) string { return yes + "\x05" + code + done[2:] }

func TestAccept(t *testing.T) {
	for _, c := range []struct {
		name, in, want, says, fails string
	}{
		{"a name", greeting + "\x05\x01\x00\x03\x0bAPI.ok.test\x01\xbb", "api.ok.test:443", reply("\x00"), ""},
		{"a name with a dot at the end", greeting + "\x05\x01\x00\x03\x05a.tt.\x00\x50", "a.tt:80", reply("\x00"), ""},
		{"IPv4", greeting + "\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50", "127.0.0.1:80", reply("\x00"), ""},
		{"IPv6", greeting + "\x05\x01\x00\x04\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x01\xbb", "[2001:db8::1]:443", reply("\x00"), ""},
		{"IPv4 in IPv6", greeting + "\x05\x01\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x7f\x00\x00\x01\x01\xbb", "127.0.0.1:443", reply("\x00"), ""},
		{"a password", "\x05\x01\x02" + "\x01\x02me\x06secret" + "\x05\x01\x00\x03\x04a.tt\x00\x50", "a.tt:80", "\x05\x02\x01\x00" + done, ""},
		{"no authentication is preferred", "\x05\x03\x02\x01\x00" + "\x05\x01\x00\x03\x04a.tt\x00\x50", "a.tt:80", reply("\x00"), ""},
		{"another method", "\x05\x01\x01", "", "\x05\xff", "offers neither"},
		{"no method", "\x05\x00", "", "\x05\xff", "offers neither"},
		{"SOCKS4", "\x04\x01\x00\x50\x7f\x00\x00\x01\x00", "", "", "SOCKS4"},
		{"something else", "GET / HTTP/1.1\r\n", "", "", "not SOCKS5"},
		{"BIND", greeting + "\x05\x02\x00\x03\x04a.tt\x00\x50", "", reply("\x07"), "only CONNECT"},
		{"UDP ASSOCIATE", greeting + "\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00", "", reply("\x07"), "only CONNECT"},
		{"an unknown type", greeting + "\x05\x01\x00\x02\x04a.tt\x00\x50", "", reply("\x08"), "nobody knows"},
		{"port 0", greeting + "\x05\x01\x00\x03\x04a.tt\x00\x00", "", reply("\x01"), "port 0"},
		{"a bad name", greeting + "\x05\x01\x00\x03\x04a..b\x00\x50", "", reply("\x01"), "an empty label"},
		{"an odd address", greeting + "\x05\x01\x00\x03\x0a2130706433\x00\x50", "", reply("\x01"), "four decimal numbers"},
		{"a port in the name", greeting + "\x05\x01\x00\x03\x06a.tt:1\x00\x50", "", reply("\x01"), "character"},
		{"no name", greeting + "\x05\x01\x00\x03\x00\x00\x50", "", reply("\x01"), "a host is needed"},
		{"another version", greeting + "\x04\x01\x00\x03\x04a.tt\x00\x50", "", reply("\x01"), "another version"},
		{"half of it", greeting + "\x05\x01\x00\x03\x20a.tt", "", reply("\x01"), "unexpected EOF"},
		{"half a password", "\x05\x01\x02\x01\x20secret", "", "\x05\x02", "unexpected EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var said bytes.Buffer
			a, err := Accept(strings.NewReader(c.in), &said)
			if c.fails == "" && (err != nil || a.String() != c.want) || c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails) || a != (policy.Authority{})) {
				t.Errorf("%v, %v", a, err)
			}
			if said.String() != c.says {
				t.Errorf("said %q, want %q", said.String(), c.says)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the password is in %v", err)
			}
		})
	}
}

// TestAcceptTakesNoMore leaves what follows the handshake where it is.
func TestAcceptTakesNoMore(t *testing.T) {
	r := strings.NewReader(greeting + "\x05\x01\x00\x03\x04a.tt\x00\x50GET /")
	if _, err := Accept(r, io.Discard); err != nil {
		t.Fatal(err)
	}
	if rest, _ := io.ReadAll(r); string(rest) != "GET /" { // it reads from memory
		t.Errorf("%q is left", rest)
	}
}

func FuzzAccept(f *testing.F) {
	f.Add([]byte(greeting + "\x05\x01\x00\x03\x0bAPI.ok.test\x01\xbb"))
	f.Add([]byte("\x05\x01\x02\x01\x02me\x06secret\x05\x01\x00\x04"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var said bytes.Buffer
		a, err := Accept(bytes.NewReader(in), &said)
		if err != nil {
			if a != (policy.Authority{}) || strings.HasSuffix(said.String(), done) {
				t.Errorf("%v, %v, said %q", a, err, said.String())
			}
			return
		}
		if again, err := policy.ParseAuthority(a.String(), 0); err != nil || again != a {
			t.Errorf("%v is not canonical: %v, %v", a, again, err)
		}
	})
}
