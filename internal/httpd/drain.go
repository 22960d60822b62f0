package httpd

import (
	"io"
	"net/http"
	"sync"
	"time"

	"airlock/internal/http1"
)

// ReadAfterRefusal is called before a handler of net/http's servers, and what it
// returns after it. Where the handler has refused the request (its answer has
// the field Airlock-Rule) the rest of the body is read and dropped within
// bounds: a client that still writes would meet a reset instead of the answer.
// In between, closing the request's body has no effect: net/http resets a
// stream of HTTP/2 whose body was closed.
func ReadAfterRefusal(w http.ResponseWriter, r *http.Request) (after func()) {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return func() {}
	}
	body := &openBody{body: r.Body}
	r.Body = body
	return func() {
		if w.Header().Get(HeaderRule) != "" {
			body.drop(http.NewResponseController(w))
		}
	}
}

// quietAfterRefusal is how long a client of net/http's servers may send nothing
// before the answer to it is ended: one that has stopped sending waits for that.
const quietAfterRefusal = 250 * time.Millisecond

// openBody is a request's body that only the server closes.
type openBody struct {
	mu   sync.Mutex // a goroutine that forwards the body may still be reading
	body io.ReadCloser
}

// Read implements io.Reader.
func (b *openBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.body.Read(p)
}

// Close implements io.Closer.
func (b *openBody) Close() error { return nil }

func (b *openBody) drop(control *http.ResponseController) {
	if err := control.Flush(); err != nil {
		return
	}
	_ = http1.Drain(b, quietAfterRefusal, control.SetReadDeadline) // the request is over in any case
}
