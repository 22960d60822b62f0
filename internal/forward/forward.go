// Package forward passes a request on and its answer back, as an HTTP
// intermediary does (RFC 9110 §7.6): what belongs to a connection stays
// there, what streams is not held up, and when one side leaves, the other is
// told. Egress and pipelock decide before it and change messages around it.
package forward

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync"

	"airlock/internal/http1"
)

// Hooks are the caller's say in one exchange.
type Hooks interface {
	// Answer may change the answer before its header is written, or refuse it
	// with an error. Its body is an io.ReadWriteCloser where protocols switch.
	Answer(*http.Response) error
	// Failed writes what is said in place of an answer.
	Failed(w http.ResponseWriter, err error)
	// Cut is told why an answer that had begun was not brought to its end.
	Cut(err error)
}

// connectionFields belong to one connection (RFC 9110 §7.6.1).
var connectionFields = []string{"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// strip takes out what belongs to the connection, and what it says belongs
// to it.
func strip(h http.Header) {
	for _, list := range h["Connection"] {
		for name := range strings.SplitSeq(list, ",") {
			if name = textproto.TrimString(name); name != "" {
				h.Del(name)
			}
		}
	}
	for _, name := range connectionFields {
		delete(h, name)
	}
}

// Outgoing makes the request that goes on: r without what belongs to its
// connection. It shares r's header, which must not be read any more. An
// upgrade stays one, and so does the wish for trailers.
func Outgoing(r *http.Request) *http.Request {
	upgrade := ""
	if http1.Lists(r.Header, "Connection", "upgrade") {
		upgrade = r.Header.Get("Upgrade")
	}
	trailers := http1.Lists(r.Header, "Te", "trailers")
	strip(r.Header)
	delete(r.Header, "Expect") // whoever reads the body asks for it
	if upgrade != "" {
		r.Header["Connection"], r.Header["Upgrade"] = []string{"Upgrade"}, []string{upgrade}
	}
	if trailers {
		r.Header["Te"] = []string{"trailers"}
	}
	if _, ok := r.Header["User-Agent"]; !ok {
		r.Header["User-Agent"] = nil // net/http would send its own
	}
	out := new(http.Request)
	*out = *r
	out.RequestURI = ""
	if r.ContentLength == 0 {
		out.Body, out.Trailer = nil, nil // net/http would never end a request in HTTP/2 that has the second alone
	}
	return out
}

// Send passes out on and writes the answer to w. When an answer cannot be
// brought to its end it panics with http.ErrAbortHandler, so that the client
// sees a cut and no end.
func Send(via http.RoundTripper, w http.ResponseWriter, out *http.Request, hooks Hooks) {
	informed := &http1xx{w: w}
	ctx := httptrace.WithClientTrace(out.Context(), &httptrace.ClientTrace{Got1xxResponse: informed.pass})
	res, err := via.RoundTrip(out.WithContext(ctx))
	informed.end()
	if err != nil {
		hooks.Failed(w, err)
		return
	}
	defer res.Body.Close()
	upgrade := res.Header.Get("Upgrade")
	strip(res.Header)
	if err := hooks.Answer(res); err != nil {
		hooks.Failed(w, err)
		return
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		if upgrade == "" || out.Header["Upgrade"] == nil || !strings.EqualFold(upgrade, out.Header.Get("Upgrade")) {
			hooks.Failed(w, errors.New("the upstream switches to a protocol that was not asked for"))
			return
		}
		res.Header["Connection"], res.Header["Upgrade"] = []string{"Upgrade"}, []string{upgrade}
		switchProtocols(w, res, hooks)
		return
	}
	if err := answer(w, res); err != nil {
		hooks.Cut(err)
		panic(http.ErrAbortHandler)
	}
}

// http1xx passes informational answers on (RFC 9110 §15.2).
type http1xx struct {
	mu   sync.Mutex
	w    http.ResponseWriter
	over bool
}

func (i *http1xx) pass(status int, h textproto.MIMEHeader) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.over || status == http.StatusContinue {
		return nil
	}
	strip(http.Header(h))
	maps.Copy(i.w.Header(), http.Header(h))
	i.w.WriteHeader(status)
	clear(i.w.Header())
	return nil
}

func (i *http1xx) end() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.over = true
}

// answer writes a final answer.
func answer(w http.ResponseWriter, res *http.Response) error {
	h := w.Header()
	maps.Copy(h, res.Header)
	for _, invented := range [...]string{"Date", "Content-Type"} {
		if _, ok := h[invented]; !ok {
			h[invented] = nil // net/http's HTTP/2 would add its own
		}
	}
	var announced []string
	if len(res.Trailer) > 0 {
		announced = slices.Sorted(maps.Keys(res.Trailer))
		h["Trailer"] = []string{strings.Join(announced, ", ")}
	}
	w.WriteHeader(res.StatusCode)
	if err := stream(w, res); err != nil {
		return err
	}
	for name, values := range res.Trailer {
		if http1.IsReserved(name) {
			continue // it frames a message, or no origin speaks for us
		}
		if !slices.Contains(announced, name) {
			name = http.TrailerPrefix + name
		}
		h[name] = values
	}
	return nil
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}

// stream copies a body. Nothing that has come waits for something that has
// not.
func stream(w http.ResponseWriter, res *http.Response) error {
	if res.ContentLength == 0 && len(res.Trailer) == 0 {
		return nil
	}
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	flush := http.NewResponseController(w).Flush
	ahead, _ := res.Body.(interface{ Buffered() bool })
	for {
		if ahead == nil || !ahead.Buffered() {
			if err := flush(); err != nil {
				return err
			}
		}
		n, err := res.Body.Read(*buf)
		if n > 0 {
			if _, err := w.Write((*buf)[:n]); errors.Is(err, http.ErrBodyNotAllowed) {
				return nil
			} else if err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// switchProtocols hands both connections to each other.
func switchProtocols(w http.ResponseWriter, res *http.Response, hooks Hooks) {
	upstream, ok := res.Body.(io.ReadWriteCloser)
	if !ok {
		hooks.Failed(w, errors.New("the upstream switches protocols without a connection"))
		return
	}
	client, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		hooks.Failed(w, err)
		return
	}
	defer client.Close()
	ctx := res.Request.Context()
	defer context.AfterFunc(ctx, func() { _ = client.Close() })()
	if _, err := client.Write(http1.AppendHead(nil, res.StatusCode, res.Header)); err != nil {
		return
	}
	join(client, upstream)
}

// join copies both ways until both have ended. An end of one direction is
// passed on as that; a failure ends both.
func join(client net.Conn, upstream io.ReadWriteCloser) {
	var both sync.WaitGroup
	pass := func(to io.WriteCloser, from io.Reader) {
		buf := buffers.Get().(*[]byte)
		defer buffers.Put(buf)
		_, err := io.CopyBuffer(plainWriter{to}, plainReader{from}, *buf)
		if half, ok := to.(interface{ CloseWrite() error }); err != nil || !ok || half.CloseWrite() != nil {
			_ = client.Close()
			_ = upstream.Close()
		}
	}
	both.Go(func() { pass(upstream, client) })
	both.Go(func() { pass(client, upstream) })
	both.Wait()
}

// plainReader and plainWriter keep io.Copy from finding a way around what
// reads along.
type (
	plainReader struct{ io.Reader }
	plainWriter struct{ io.Writer }
)
