package pipelock

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"airlock/internal/bundle"
	"airlock/internal/policy"
)

// pipelockFile is one that says nothing.
func pipelockFile() bundle.PipelockFile { return bundle.PipelockFile{Version: 1} }

func benchScanner(b *testing.B) *scanner {
	b.Helper()
	s, err := newScanner(pipelockFile(), "", func(string) string { return "" })
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
		if v := s.head(r, scanContext{host: h}); !v.Allow {
			b.Fatal(v)
		}
	}
}

// BenchmarkHeadNew scans that of a client with a dozen fields, whose path and
// number are new each time.
func BenchmarkHeadNew(b *testing.B) {
	s := benchScanner(b)
	r := httptest.NewRequest(http.MethodPost, "https://api.ok.test/v1/messages?beta=true", nil)
	r.Header = http.Header{"User-Agent": {"Anthropic/Python 0.39.0"}, "Accept": {"application/json"}, "Accept-Encoding": {"gzip, deflate, br, zstd"}, "Content-Type": {"application/json"},
		"Anthropic-Version": {"2023-06-01"}, "X-Stainless-Arch": {"x64"}, "X-Stainless-Lang": {"python"}, "X-Stainless-Os": {"Linux"}, "X-Stainless-Package-Version": {"0.39.0"},
		"X-Stainless-Runtime": {"CPython"}, "X-Stainless-Runtime-Version": {"3.12.3"}, "X-Stainless-Retry-Count": {"0"}}
	h, err := policy.ParseHost("api.ok.test")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n++
		r.URL.RawQuery = fmt.Sprintf("page=%d", n)
		r.Header["X-Request-Id"] = []string{fmt.Sprintf("%08x-1234-4234-8234-123456789abc", n)}
		if v := s.head(r, scanContext{host: h}); !v.Allow {
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
		if v := s.scanText(b.Context(), "body", []byte(body)); !v.Allow {
			b.Fatal(v)
		}
	}
}
