package pipelock

import (
	"encoding/base32"
	"encoding/base64"
	"fmt"
	"math/big"
	"net/http/httptest"
	"strings"
	"testing"
)

// someIDs are ids as services make them, all new.
func someIDs() []string {
	crockford := base32.NewEncoding("0123456789ABCDEFGHJKMNPQRSTVWXYZ").WithPadding(base32.NoPadding)
	return []string{
		fmt.Sprintf("%x", random(16)), fmt.Sprintf("%X", random(16)), fmt.Sprintf("%x", random(20)), fmt.Sprintf("%x", random(8)),
		base64.RawURLEncoding.EncodeToString(random(24)), new(big.Int).SetBytes(random(15)).Text(36), new(big.Int).SetBytes(random(20)).Text(62),
		"01J" + crockford.EncodeToString(random(15))[:23], new(big.Int).SetBytes(random(8)).Text(10),
	}
}

// TestIdentifiersAreNotJoined: what is drawn by chance makes a token together as rarely as
// it is one by itself.
func TestIdentifiersAreNotJoined(t *testing.T) {
	s := testScanner(t, "")
	h := host(t, "api.ok.test")
	made := 0
	for range 300 {
		ids := someIDs()
		r := httptest.NewRequest("POST", "https://api.ok.test/v1/"+ids[0]+"/"+ids[1]+"?cursor="+ids[4], nil)
		fields(r, "X-A-Id", ids[2], "X-B-Id", ids[3], "X-C-Id", ids[5], "Cookie", "a="+ids[6]+"; b="+ids[7]+"; c="+ids[8]+"; lang=SK; cc=sk; k=sq0",
			"User-Agent", `pip/24.0 {"ci":null,"cpu":"x86_64","distro":{"id":"noble","libc":{"lib":"glibc","version":"2.39"},"name":"Ubuntu","version":"24.04"},"implementation":{"name":"CPython","version":"3.12.3"}}`)
		if v := s.head(r, scanContext{host: h}); strings.HasPrefix(v.Why, "pieces") {
			made++
		}
	}
	if made > 2 {
		t.Errorf("%d of 300 requests", made)
	}
}

// FuzzOverwrite: what is overwritten is as long as before, and holds nothing
// any more.
func FuzzOverwrite(f *testing.F) {
	s, err := newScanner(pipelockFile(), "", func(string) string { return "" })
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"api_key": "a1B2c3D4e5F6g7H8i9J0k1L2m3N4"}`), 0)
	f.Add([]byte("token%3Da1B2c3D4e5F6g7H8i9J0k1L2m3N4"), 3)
	f.Fuzz(func(t *testing.T, text []byte, from int) {
		if from < 0 || from > len(text) || len(text) > 64<<10 {
			return
		}
		before := string(text)
		v := (&redactor{scanner: s, ctx: t.Context(), surface: "body", from: from}).redact(text)
		if len(text) != len(before) || string(text[:from]) != before[:from] {
			t.Fatal("what has gone was changed")
		}
		if v.Allow {
			if found, _, err := s.find(t.Context(), text); err != nil || len(found) > 0 {
				t.Fatalf("%v, %v", found, err)
			}
		}
	})
}

// FuzzParts: no body that calls itself multipart does any harm.
func FuzzParts(f *testing.F) {
	s, err := newScanner(pipelockFile(), "", func(string) string { return "" })
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("--b\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=41=\r\n=4\r\n--b--"), 20)
	f.Add([]byte("--b\r\nContent-Encoding: gzip\r\n\r\nx\r\n--b--"), 5)
	f.Fuzz(func(t *testing.T, text []byte, cut int) {
		if cut < 0 || cut > len(text) {
			return
		}
		p := newParts("multipart/form-data; boundary=b")
		p, _, _ = p.scan(t.Context(), s, text[:cut], 0, false)
		p.scan(t.Context(), s, text, cut, true)
	})
}

// FuzzNames: every name is judged, and the same way the second time.
func FuzzNames(f *testing.F) {
	for _, name := range ordinary {
		below, _, _ := strings.Cut(name, "|")
		f.Add(below)
	}
	f.Fuzz(func(t *testing.T, below string) {
		if len(below) > 253 {
			return
		}
		labels := strings.Split(strings.ToLower(below), ".")
		if why := shapeReason(labels); shapeReason(labels) != why {
			t.Error(why)
		}
		for _, l := range labels {
			for _, plain := range decodings(l) {
				if len(plain) > len(l) {
					t.Errorf("%d bytes of %d", len(plain), len(l))
				}
			}
		}
	})
}
