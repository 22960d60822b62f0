package pipelock

import (
	"encoding/base64"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"airlock/internal/lab"
)

// TestEscapesOfParts: what some receivers read as quoted-printable is read
// as that here.
func TestEscapesOfParts(t *testing.T) {
	s := testScanner(t, "")
	k := lab.Token()
	var q string
	for i, c := range []byte(k) {
		if i%7 == 3 {
			q += fmt.Sprintf("=%02X", c)
		} else {
			q += string(c)
		}
	}
	const usual = "Content-Transfer-Encoding: quoted-printable"
	for _, c := range []struct{ kind, head string }{
		{"multipart/form-data; boundary=b", usual},
		{"multipart/form-data; boundary=b; boundary=c", usual},
		{`multipart/form-data; boundary="b`, usual},
		{"multipart/form-data;boundary=b;x", usual},
		{"multipart/form-data, boundary=b", usual},
		{"multipart/form-data; boundary=b", usual + " ; x=y"},
		{"multipart/form-data; boundary=b", `Content-Transfer-Encoding: "quoted-printable"`},
		{"multipart/form-data; boundary=b", "Content-Transfer-Encoding : quoted-printable"},
		{"multipart/form-data; boundary=b", "Content-Transfer-Encoding: (c) quoted-printable"},
		{"multipart/form-data; boundary=b", "X: y\r\n z\r\nContent-Transfer-Encoding:\r\n quoted-printable"},
		{"multipart/form-data; boundary=b", "bad header\r\n" + usual},
	} {
		r := httptest.NewRequest("POST", "/", strings.NewReader("--b\r\n"+c.head+"\r\n\r\n"+q+"\r\n--b--\r\n"))
		r.Header.Set("Content-Type", c.kind)
		if v, _ := outcome(t, s, r); !isFinding(v) {
			t.Errorf("%q, %q: %+v", c.kind, c.head, v)
		}
	}
}

// TestLongPartInBase64: lines of any length, over a window.
func TestLongPartInBase64(t *testing.T) {
	s := testScanner(t, "")
	for pad := range 4 {
		text := strings.Repeat("the fox\n", 900_000/8) + strings.Repeat("x", pad) + "\nkey " + lab.Token() + " end\n"
		raw := base64.StdEncoding.EncodeToString([]byte(text))
		var b strings.Builder
		for n := 0; len(raw) > 0; n++ {
			m := min(len(raw), []int{5, 9, 7, 3, 11}[n%5])
			b.WriteString(raw[:m] + []string{"\r\n", " ", "\r\n \r\n"}[n%3])
			raw = raw[m:]
		}
		r := httptest.NewRequest("POST", "/", strings.NewReader("--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a\"\r\nContent-Transfer-Encoding: base64\r\n\r\n"+b.String()+"\r\n--b--\r\n"))
		r.Header.Set("Content-Type", "multipart/form-data; boundary=b")
		if v, _ := outcome(t, s, r); !isFinding(v) {
			t.Errorf("%d: %+v", pad, v)
		}
	}
}
