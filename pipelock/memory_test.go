package pipelock

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"airlock/internal/lab"
)

// stalled is an upload of a megabyte of which the last byte does not come.
func stalled(ctx context.Context, length int64) (*http.Request, *io.PipeWriter) {
	r, w := io.Pipe()
	req := httptest.NewRequestWithContext(ctx, http.MethodPost, "/", r)
	req.ContentLength = length
	context.AfterFunc(ctx, func() { _ = w.CloseWithError(context.Canceled) })
	return req, w
}

func (m *memoryPools) idle(t *testing.T) {
	t.Helper()
	for name, p := range map[string]*pool{"begins": m.firstWindows, "windows": m.windows, "grown": m.grown, "inflated": m.inflated} {
		if !p.free.TryAcquire(p.size) {
			t.Errorf("%s: memory is held for nobody", name)
			continue
		}
		p.free.Release(p.size)
	}
}

// TestStalledUploads: as many as there is memory for are held, the next one is
// refused after a while, a short one passes, and all is given back when they
// leave.
func TestStalledUploads(t *testing.T) {
	s := testScanner(t, "")
	text := []byte(strings.Repeat("x y z ", wholeBody/6))
	synctest.Test(t, func(t *testing.T) {
		ctx, leave := context.WithCancel(t.Context())
		var all sync.WaitGroup
		busy, began := 0, time.Now()
		var mu sync.Mutex
		for range 100 {
			all.Go(func() {
				req, w := stalled(ctx, 2<<20)
				go w.Write(text[:wholeBody-100])
				if _, err := s.body(req, scanContext{action: s.action.usual, report: silent}); errors.Is(err, errBusy) && time.Since(began) == acquireTimeout {
					mu.Lock()
					busy++
					mu.Unlock()
				}
			})
		}
		time.Sleep(acquireTimeout + time.Second)
		mu.Lock()
		if held := 100 - busy; held != windowBytes/(2*wholeBody) {
			t.Errorf("%d are held", held)
		}
		mu.Unlock()
		short := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("hello"))
		if v, err := s.body(short, scanContext{action: s.action.usual, report: silent}); err != nil || !v.Allow {
			t.Errorf("a short one: %+v, %v", v, err)
		}
		short.Body.Close()
		stream := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(string(text)))
		stream.ContentLength = -1
		if v, got := outcome(t, s, stream); !v.Allow || got != string(text) {
			t.Errorf("a stream: %+v, %d bytes", v, len(got))
		}
		leave()
		all.Wait()
		synctest.Wait()
		s.memory.idle(t)
	})
}

// TestReservationsAreReleased on every way out.
func TestReservationsAreReleased(t *testing.T) {
	lab.Long(t)
	token, long := lab.Token(), strings.Repeat("a b ", 5<<17)
	for _, action := range []string{"", "secrets: {action: warn}\n"} {
		s := testScanner(t, action+"limits: {body_bytes: 8MiB}\n")
		warns := s.action.usual == actionWarn
		for name, c := range map[string]struct {
			body, encoding string
			chunked        bool
			read           int64
		}{
			"read to its end":                {body: long, read: 1 << 30},
			"chunked, read to its end":       {body: long, chunked: true, read: 1 << 30},
			"closed half way":                {body: long, read: 2 << 20},
			"chunked, closed half way":       {body: long, chunked: true, read: 2 << 20},
			"a token at once":                {body: strings.Repeat("a b ", 1<<17) + token, read: 1 << 30},
			"a token later":                  {body: long + token, read: 1 << 30},
			"gzip":                           {body: zipped(t, strings.Repeat("a b ", 1<<18)), encoding: "gzip", read: 1 << 30},
			"gzip, a token":                  {body: zipped(t, strings.Repeat("a b ", 1<<18)+token), encoding: "gzip", read: 1 << 30},
			"gzip, a bomb":                   {body: zipped(t, strings.Repeat("\x00", maxInflate+1)), encoding: "gzip"},
			"not gzip":                       {body: "hello", encoding: "gzip"},
			"gzip without saying so, a bomb": {body: zipped(t, strings.Repeat("\x00", maxInflate+1))},
		} {
			r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(c.body))
			if c.chunked {
				r.ContentLength = -1
				r.Body = io.NopCloser(iotest.HalfReader(strings.NewReader(c.body)))
			}
			if c.encoding != "" {
				r.Header.Set("Content-Encoding", c.encoding)
			}
			v, err := s.body(r, scanContext{action: s.action.usual, report: silent})
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if v.Allow || warns {
				got, err := io.Copy(io.Discard, io.LimitReader(r.Body, c.read))
				if warns && err == nil && got != min(int64(len(c.body)), c.read) {
					t.Errorf("%s: with a warning %d bytes of %d pass, %v", name, got, len(c.body), err)
				}
				r.Body.Close()
			}
			s.memory.idle(t)
		}
	}
}

// TestManyPrompts: fifty of half a megabyte at once wait for nothing.
func TestManyPrompts(t *testing.T) {
	s := testScanner(t, "")
	s.memory.windows.wait = time.Minute
	text := strings.Repeat("the quick brown fox ", 25_000)
	var all sync.WaitGroup
	var held []io.Closer
	var mu sync.Mutex
	for range 50 {
		all.Go(func() {
			r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(text))
			v, err := s.body(r, scanContext{action: s.action.usual, report: silent})
			if err != nil || !v.Allow {
				t.Errorf("%+v, %v", v, err)
			}
			mu.Lock()
			defer mu.Unlock()
			held = append(held, r.Body)
		})
	}
	all.Wait()
	for _, b := range held {
		b.Close()
	}
	s.memory.idle(t)
}
