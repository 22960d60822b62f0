package pipelock

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/ulikunitz/xz"

	"airlock/internal/lab"
	"airlock/internal/policy"
)

// zipOf is an archive of one file.
func zipOf(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	f, err := z.Create("a.txt")
	if err == nil {
		_, err = io.WriteString(f, text)
	}
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func xzOf(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	w, err := xz.NewWriter(&b)
	if err == nil {
		_, err = io.WriteString(w, text)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// deflated is RFC 1951, alone.
func deflated(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestCompression)
	if err == nil {
		_, err = io.WriteString(w, text)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// inForm is a form with a file, and its type.
func inForm(t *testing.T, text string) (body, contentType string) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	f, err := w.CreateFormFile("f", "a.bin")
	if err == nil {
		_, err = io.WriteString(f, text)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.String(), w.FormDataContentType()
}

// TestCompressedBeyondAWindow: what is compressed is seen as a whole, wherever
// in a body and however long it is; nothing of it goes on before.
func TestCompressedBeyondAWindow(t *testing.T) {
	lab.Long(t)
	s := testScanner(t, "")
	key := "\nthe key is " + lab.Token() + "\n"
	noise := string(random(3 * wholeBody / 2))
	form := func(text string) (string, string) { return inForm(t, text) }
	for name, wrap := range map[string]func(text string) (body, contentType string){
		"gzip":           func(text string) (string, string) { return zipped(t, text), "" },
		"zip":            func(text string) (string, string) { return zipOf(t, text), "" },
		"xz":             func(text string) (string, string) { return xzOf(t, text), "" },
		"xz in a form":   func(text string) (string, string) { return form(xzOf(t, text)) },
		"gzip in a form": func(text string) (string, string) { return form(zipped(t, text)) },
		"zip in a form":  func(text string) (string, string) { return form(zipOf(t, text)) },
		"gzip late": func(text string) (string, string) {
			return form(strings.Repeat("a b ", wholeBody/4-100) + zipped(t, text))
		},
		"gzip in base64": func(text string) (string, string) {
			return `{"a": "` + base64.StdEncoding.EncodeToString([]byte(zipped(t, text))) + `"}`, ""
		},
		"a message of gRPC": func(text string) (string, string) { return message(1, zipped(t, text)), "application/grpc" },
	} {
		for _, chunked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, chunked %v", name, chunked), func(t *testing.T) {
				send := func(text string) (policy.Verdict, string, string) {
					body, kind := wrap(text)
					r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
					r.Header.Set("Content-Type", kind)
					if chunked {
						r.ContentLength = -1
					}
					v, got := outcome(t, s, r)
					s.memory.idle(t)
					return v, got, body
				}
				if v, got, _ := send(noise + key); !isFinding(v) || got != "" {
					t.Errorf("%+v, %d bytes left", v, len(got))
				}
				if v, got, body := send(noise + " nothing"); !v.Allow || got != body {
					t.Errorf("clean: %+v, %d bytes of %d", v, len(got), len(body))
				}
			})
		}
	}
}

func message(flag byte, text string) string {
	return string(binary.BigEndian.AppendUint32([]byte{flag}, uint32(len(text)))) + text
}

// TestSmallCompressedParts: those without a mark of their own, too.
func TestSmallCompressedParts(t *testing.T) {
	s := testScanner(t, "")
	k := lab.Token()
	body, kind := inForm(t, deflated(t, "the key is "+k))
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
	r.Header.Set("Content-Type", kind)
	if v, _ := outcome(t, s, r); !isFinding(v) {
		t.Errorf("a file: %+v", v)
	}
	r = httptest.NewRequest(http.MethodPost, "/", strings.NewReader(message(0, "plain")+message(1, deflated(t, "the key is "+k))))
	r.Header.Set("Content-Type", "application/grpc+proto")
	r.ContentLength = -1
	if v, _ := outcome(t, s, r); !isFinding(v) {
		t.Errorf("a message: %+v", v)
	}
}

// TestUnreadableArchives: an encrypted one is refused, and the reason says so; the operator may let
// it pass like any finding.
func TestUnreadableArchives(t *testing.T) {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, err := z.CreateRaw(&zip.FileHeader{Name: "a.txt", Method: zip.Deflate, Flags: 1, CompressedSize64: 5000, UncompressedSize64: 9000})
	if err == nil {
		_, err = w.Write(random(5000))
	}
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	body, kind := inForm(t, b.String())
	for action, allowed := range map[string]bool{"": false, "secrets: {action: warn}\n": true} {
		s := testScanner(t, action)
		for text, kind := range map[string]string{b.String(): "application/zip", body: kind} {
			r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(text))
			r.Header.Set("Content-Type", kind)
			v, got := outcome(t, s, r)
			if v.Allow != allowed || !allowed && (v.Rule != "secret: unreadable-archive" || !strings.Contains(v.Why, "an archive that cannot be read") || got != "") {
				t.Errorf("%q: %+v, %d bytes left", action, v, len(got))
			}
		}
	}
}

// TestCompressedTooLong is refused, and says what can be done.
func TestCompressedTooLong(t *testing.T) {
	lab.Long(t)
	s := testScanner(t, "")
	long := zipped(t, string(random(maxGrown+wholeBody)))
	for _, encoding := range []string{"", "gzip"} {
		for _, length := range []int64{int64(len(long)), -1} {
			r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(long))
			r.ContentLength = length
			r.Header.Set("Content-Encoding", encoding)
			if v, got := outcome(t, s, r); v != tooLongPacked || got != "" {
				t.Errorf("%+v, %d bytes left", v, len(got))
			}
			s.memory.idle(t)
		}
	}
}

// TestLongContentEncoding: a compressed body may have 16 MiB.
func TestLongContentEncoding(t *testing.T) {
	lab.Long(t)
	s := testScanner(t, "")
	noise, k := string(random(3*wholeBody)), lab.Token()
	for text, clean := range map[string]bool{noise: true, noise + "\n" + k: false} {
		for _, chunked := range []bool{false, true} {
			body := zipped(t, text)
			r := httptest.NewRequest(http.MethodPost, "/", iotest.HalfReader(strings.NewReader(body)))
			r.ContentLength = int64(len(body))
			if chunked {
				r.ContentLength = -1
			}
			r.Header.Set("Content-Encoding", "gzip")
			v, got := outcome(t, s, r)
			if v.Allow != clean || clean && got != body || !clean && !isFinding(v) {
				t.Errorf("%+v, %d bytes", v, len(got))
			}
			s.memory.idle(t)
		}
	}
}

// TestCompressedStreamWaits: what a pause leaves open does not go on before
// the rest has come, and goes on then, without waiting for the end of all.
func TestCompressedStreamWaits(t *testing.T) {
	s := testScanner(t, "")
	packed := zipped(t, string(random(1000))+"\nnothing")
	secret := zipped(t, string(random(1000))+"\n"+lab.Token())
	synctest.Test(t, func(t *testing.T) {
		src, w := io.Pipe()
		go func() {
			_, _ = io.WriteString(w, packed[:500])
			time.Sleep(time.Minute)
			_, _ = io.WriteString(w, packed[500:])
			time.Sleep(time.Minute)
			_, _ = io.WriteString(w, secret[:500])
			time.Sleep(time.Minute)
			_, _ = io.WriteString(w, secret[500:])
		}()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", src)
		r.ContentLength = -1
		began := time.Now()
		v, err := s.body(r, scanContext{report: silent})
		if took := time.Since(began); err != nil || !v.Allow || took < time.Minute || took > time.Minute+time.Second {
			t.Fatalf("%+v, %v after %v", v, err, took)
		}
		got := make([]byte, len(packed))
		if _, err := io.ReadFull(r.Body, got); err != nil || string(got) != packed {
			t.Errorf("%v", err)
		}
		var refused *refusedError
		if n, err := r.Body.Read(got); n > 0 || !errors.As(err, &refused) || !isFinding(refused.v) {
			t.Errorf("%d bytes, %v", n, err)
		}
		r.Body.Close()
		w.Close()
	})
}

// TestGrownWindowsAreBounded: as many as there is room for, the others are told to come
// again; none waits for another for ever.
func TestGrownWindowsAreBounded(t *testing.T) {
	lab.Long(t)
	s := testScanner(t, "")
	s.memory.grown.wait = 50 * time.Millisecond
	body := zipped(t, string(random(3*wholeBody)))
	var all sync.WaitGroup
	var mu sync.Mutex
	passed, busy, noRoom := 0, 0, busy()
	for range 8 {
		all.Go(func() {
			r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
			r.ContentLength = -1
			v, err := s.body(r, scanContext{report: silent})
			if err != nil {
				t.Error(err)
				return
			}
			if v.Allow {
				_, err = io.Copy(io.Discard, r.Body)
				r.Body.Close()
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case v.Allow && err == nil:
				passed++
			case v == noRoom:
				busy++
			default:
				t.Errorf("%+v, %v", v, err)
			}
		})
	}
	all.Wait()
	if passed < 2 || passed+busy != 8 {
		t.Errorf("%d passed, %d were busy", passed, busy)
	}
	s.memory.idle(t)
}
