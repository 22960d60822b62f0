package main

import (
	"bytes"
	"crypto/rand"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/andybalholm/brotli"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"airlock/internal/lab"
)

// TestWhatMustNotLeave has every surface of a request, whole and in pieces,
// through the whole chain. The origin must not see it, nor the refusal, the
// audit and the log the secret.
func TestWhatMustNotLeave(t *testing.T) {
	b := start(t, nil)
	form := func(field, file, text string) (string, io.Reader) {
		var body bytes.Buffer
		w := multipart.NewWriter(&body)
		part, err := w.CreateFormFile(field, file)
		must(t, err)
		_, err = io.WriteString(part, text)
		must(t, err)
		must(t, w.Close())
		return w.FormDataContentType(), &body
	}
	compressed := func(text string) io.Reader {
		var body bytes.Buffer
		w := brotli.NewWriter(&body)
		_, _ = io.WriteString(w, text)
		must(t, w.Close())
		return &body
	}
	var secrets []string
	for _, c := range []struct {
		name    string
		surface string // that the refusal names
		change  func(r *http.Request, k string)
	}{
		{"a segment of the path", "path", func(r *http.Request, k string) { r.URL.Path += "/" + k }},
		{"two segments", "path", func(r *http.Request, k string) { r.URL.Path += "/" + k[:20] + "/" + k[20:] }},
		{"a query", "query", func(r *http.Request, k string) { r.URL.RawQuery = "q=" + k }},
		{"two parameters", "pieces", func(r *http.Request, k string) { r.URL.RawQuery = "a=" + k[:20] + "&b=" + k[20:] }},
		{"a cookie", "cookie", func(r *http.Request, k string) { r.Header.Set("Cookie", "a="+k) }},
		{"two cookies", "pieces", func(r *http.Request, k string) { r.Header.Set("Cookie", "a="+k[20:]+"; b="+k[:20]) }},
		{"two fields", "pieces", func(r *http.Request, k string) { r.Header.Set("X-A", k[20:]); r.Header.Set("X-B", k[:20]) }},
		{"a field and the path", "pieces", func(r *http.Request, k string) { r.Header.Set("X-A", k[20:]); r.URL.Path += "/" + k[:20] }},
		{"a file name", "body", func(r *http.Request, k string) {
			kind, body := form("a", k+".png", "x")
			r.Header.Set("Content-Type", kind)
			r.Body = io.NopCloser(body)
		}},
		{"a field's name", "body", func(r *http.Request, k string) {
			kind, body := form(k, "a.png", "x")
			r.Header.Set("Content-Type", kind)
			r.Body = io.NopCloser(body)
		}},
		{"a body in br", "body", func(r *http.Request, k string) {
			r.Header.Set("Content-Encoding", "br")
			r.Body = io.NopCloser(compressed("x " + k))
		}},
		{"a trailer", "trailer", func(r *http.Request, k string) {
			r.Trailer = http.Header{"X-T": {k}}
			r.Body = io.NopCloser(strings.NewReader("hello"))
		}},
		{"a trailer and a field", "pieces", func(r *http.Request, k string) {
			r.Header.Set("X-A", k[:20])
			r.Trailer = http.Header{"X-T": {k[20:]}}
			r.Body = io.NopCloser(strings.NewReader("hello"))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := varied()
			secrets = append(secrets, k)
			before := len(b.origin.Seen())
			status, body := b.send(b.client(b.egress), http.MethodPost, b.url("api.ok.test", "/v1/"+fmt.Sprintf("%x", before)), nil, func(r *http.Request) {
				c.change(r, k)
				if r.Body != nil {
					r.ContentLength = -1
				}
			})
			if _, rule, why := refusal(t, body); status != 403 || !strings.HasPrefix(rule, "secret: ") || !strings.Contains(why, c.surface) {
				t.Errorf("status %d, %s: %s", status, rule, why)
			}
			if !strings.HasPrefix(c.name, "a trailer") && len(b.origin.Seen()) != before {
				t.Error("the origin saw the request")
			}
			if strings.Contains(body, k[4:]) {
				t.Error("the refusal repeats the secret")
			}
		})
	}
	t.Run("two requests", func(t *testing.T) {
		k := varied()
		secrets = append(secrets, k)
		if status, body := b.get(b.url("a.cdn.test", "/a?q="+k[:20])); status != 200 {
			t.Errorf("the first half: %d %s", status, body)
		}
		if status, _ := b.get(b.url("api.ok.test", "/v1/x?q="+k[20:])); status != 200 {
			t.Errorf("the second half to another host: %d", status)
		}
		if status, body := b.get(b.url("a.cdn.test", "/b"), func(r *http.Request) { r.Header.Set("X-Y", k[20:]) }); status != 403 || !strings.Contains(body, "pieces") {
			t.Errorf("the second half: %d %s", status, body)
		}
	})
	for name, label := range map[string]string{"hexadecimal": hex.EncodeToString([]byte(lab.Token()[:30])), "base32": strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString([]byte(lab.Token()[:35])))} {
		t.Run("a label in "+name, func(t *testing.T) {
			secrets = append(secrets, label)
			if status, body := b.get(b.url(label+".cdn.test", "/")); status != 403 || !strings.Contains(body, "name") || strings.Contains(body, label) {
				t.Errorf("%d %s", status, body) // 502 would mean that it was looked up
			}
		})
	}
	b.stop(15)
	kept := b.audits() + strings.Join(b.output.all, "\n")
	for _, k := range secrets {
		if strings.Contains(kept, k) {
			t.Error("a secret is in the audit or the log")
		}
	}
}

// TestCompressedUploads: of a long one nothing reaches the origin before all has been
// seen, and a clean one arrives as it was.
func TestCompressedUploads(t *testing.T) {
	lab.Long(t)
	start(t, nil).atBothDoors(func(t *testing.T, b *running) {
		noise := make([]byte, 3<<20)
		_, _ = rand.Read(noise) // it never fails
		k := varied()
		for _, encoding := range []string{"", "gzip"} {
			for text, clean := range map[string]bool{string(noise) + "\nnothing": true, string(noise) + "\n" + k: false} {
				before, upload := len(b.origin.Seen()), gzipped(t, text)
				status, body := b.send(b.client(b.egress), http.MethodPost, b.url("a.cdn.test", "/upload"), strings.NewReader(upload), func(r *http.Request) {
					if encoding != "" {
						r.Header.Set("Content-Encoding", encoding)
					}
				})
				if clean {
					if status != 200 || string(b.last().Body) != upload {
						t.Errorf("%q, clean: %d %s, %d bytes of %d", encoding, status, body, len(b.last().Body), len(upload))
					}
					continue
				}
				if _, rule, _ := refusal(t, body); status != 403 || !strings.HasPrefix(rule, "secret: ") || len(b.origin.Seen()) != before {
					t.Errorf("%q: %d %s", encoding, status, rule)
				}
			}
		}
	})
}

// varied is a token of which both halves have digits: one that looks like a word is not
// remembered.
func varied() string {
	for {
		k := lab.Token()
		if few := regexp.MustCompile(`[0-9].*[0-9]`); few.MatchString(k[:20]) && few.MatchString(k[20:]) {
			return k
		}
	}
}

// TestTrailerBehindNothing: in HTTP/2 a trailer may follow a body that is said
// to have no bytes, and is left out, or one that has none, and is read like any
// other.
func TestTrailerBehindNothing(t *testing.T) {
	var mu sync.Mutex
	var came []string
	b := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		mu.Lock()
		defer mu.Unlock()
		came = append(came, fmt.Sprint(r.Trailer, r.Header))
	}))
	ok := fmt.Sprintf("api.ok.test:%d", b.origin.Port())
	b.atBothDoors(func(t *testing.T, b *running) {
		for _, length := range []string{"0", ""} {
			k := varied()
			c, err := b.tunnel(ok, "api.ok.test", "h2")
			must(t, err)
			defer c.Close()
			_, err = io.WriteString(c, http2.ClientPreface)
			must(t, err)
			f := http2.NewFramer(c, c)
			must(t, f.WriteSettings())
			var block bytes.Buffer
			enc := hpack.NewEncoder(&block)
			write := func(name, value string) { must(t, enc.WriteField(hpack.HeaderField{Name: name, Value: value})) }
			write(":method", "POST")
			write(":scheme", "https")
			write(":authority", ok)
			write(":path", "/v1/x")
			if length != "" {
				write("content-length", length)
			}
			write("trailer", "x-t")
			must(t, f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true}))
			block.Reset()
			write("x-t", k)
			must(t, f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true}))
			for {
				frame, err := f.ReadFrame()
				must(t, err)
				if h, ok := frame.(*http2.HeadersFrame); ok {
					fields, err := hpack.NewDecoder(4096, nil).DecodeFull(h.HeaderBlockFragment())
					must(t, err)
					if got, want := fields[0].Value, map[string]string{"0": "200", "": "403"}[length]; got != want {
						t.Errorf("with length %q: %s, want %s", length, got, want)
					}
					break
				}
			}
			mu.Lock()
			if strings.Contains(strings.Join(came, ""), k) {
				t.Errorf("with length %q the origin saw the secret", length)
			}
			mu.Unlock()
		}
	})
}
