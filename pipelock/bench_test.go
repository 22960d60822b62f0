package pipelock

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"airlock/internal/bundle"
	"airlock/internal/policy"
)

func benchScanner(b *testing.B) *scanner {
	b.Helper()
	s, err := newScanner(bundle.PipelockFile{Version: 1}, func(string) string { return "" })
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// BenchmarkHead scans what a small request says before its body.
func BenchmarkHead(b *testing.B) {
	s := benchScanner(b)
	r := httptest.NewRequest(http.MethodGet, "https://api.ok.test/v1/items?page=2", nil)
	r.Header = http.Header{"User-Agent": {"Go-http-client/1.1"}, "Accept": {"*/*"}, "Accept-Encoding": {"gzip"}}
	h, err := policy.ParseHost("api.ok.test")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if v := s.head(r, h, nil); !v.Allow {
			b.Fatal(v)
		}
	}
}

// BenchmarkBody scans 64 KiB of JSON.
func BenchmarkBody(b *testing.B) {
	s := benchScanner(b)
	body := `{"text": "` + strings.Repeat("the quick brown fox jumps over the lazy dog ", 1480) + `"}`
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if v := s.look(b.Context(), "body", []byte(body)); !v.Allow {
			b.Fatal(v)
		}
	}
}
