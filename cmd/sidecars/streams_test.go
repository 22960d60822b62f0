package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"airlock/internal/bundle"
	"airlock/internal/lab"
)

// events answers with server-sent events until the client leaves; tell makes
// the next one.
type events struct {
	tell chan string
	left chan string // the host whose client left
}

func (e *events) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	for {
		select {
		case text := <-e.tell:
			fmt.Fprintf(w, "data: %s\n\n", text)
			_ = http.NewResponseController(w).Flush()
		case <-r.Context().Done():
			e.left <- r.Host
			return
		}
	}
}

// say makes an event of the one stream that is left.
func (e *events) say(t *testing.T, text string) {
	t.Helper()
	select {
	case e.tell <- text:
	case <-time.After(10 * time.Second):
		t.Fatal("there is no stream any more")
	}
}

func (b *running) stream(ctx context.Context, target string) *http.Response {
	b.t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	must(b.t, err)
	client := b.client(b.egress)
	client.Timeout = 0
	res, err := client.Do(req)
	must(b.t, err)
	b.t.Cleanup(func() { res.Body.Close() })
	return res
}

// TestRecall: a reload that takes a stream's route away ends that stream, and
// no other.
func TestRecall(t *testing.T) {
	e := &events{tell: make(chan string), left: make(chan string, 2)}
	b := start(t, e)
	kept, gone := b.stream(t.Context(), b.url("api.ok.test", "/v1/sse")), b.stream(t.Context(), b.url("a.cdn.test", "/sse"))
	b.write("egress.yaml", b.egressYAML("")[:strings.Index(b.egressYAML(""), "  - host: \"*.cdn")])
	must(t, b.ctl.Do(context.Background(), http.MethodPost, "/reload", url.Values{"daemon": {"egress"}}, nil, nil))

	if _, err := lab.ReadAll(t, gone.Body, "the stream whose route went away ends"); err == nil {
		t.Error("the stream whose route went away came to a good end")
	}
	if host := lab.Receive(t, e.left, "the origin sees its client leave"); !strings.HasPrefix(host, "a.cdn.test") {
		t.Errorf("%s was left", host)
	}
	b.until(`why="in progress, and ended: no route names a.cdn.test`)
	e.say(t, "still here")
	if line, err := bufio.NewReader(kept.Body).ReadString('\n'); err != nil || line != "data: still here\n" {
		t.Errorf("%q, %v", line, err)
	}
}

// TestExpiry: a stream ends with its grant.
func TestExpiry(t *testing.T) {
	e := &events{tell: make(chan string), left: make(chan string, 1)}
	b := start(t, e)
	res, _ := b.granted(3 * time.Second)
	if _, err := lab.ReadAll(t, res.Body, "the stream ends with its grant"); err == nil {
		t.Error("the stream came to a good end")
	}
	lab.Receive(t, e.left, "the origin sees its client leave")
}

// expiring is egress.yaml with a grant that ends by itself.
func (b *running) expiring(until time.Time) string {
	return strings.Replace(b.egressYAML(""), "    paths:", "    expires: "+until.UTC().Format(time.RFC3339)+"\n    paths:", 1)
}

// reload has egress take another configuration, and waits until it has.
func (b *running) reload(text string) {
	b.t.Helper()
	b.write("egress.yaml", text)
	must(b.t, b.ctl.Do(context.Background(), http.MethodPost, "/reload", url.Values{"daemon": {"egress"}}, nil, nil))
	b.until("msg=reloaded")
}

// granted gives a grant of that life and opens a stream before it ends: on a slow machine, with one that lives longer.
func (b *running) granted(life time.Duration) (stream *http.Response, until time.Time) {
	b.t.Helper()
	for ; life < time.Minute; life *= 2 {
		until = time.Now().Add(life).Truncate(time.Second)
		b.reload(b.expiring(until))
		if stream = b.stream(b.t.Context(), b.url("api.ok.test", "/v1/sse")); stream.StatusCode == http.StatusOK {
			return stream, until
		}
	}
	b.t.Fatal("no grant lasted until its stream had begun")
	return nil, until
}

// TestGrantsChange: a stream goes by the grant of the moment, not by the one
// that it began with.
func TestGrantsChange(t *testing.T) {
	lab.Long(t)
	e := &events{tell: make(chan string), left: make(chan string, 16)}
	b := start(t, e)
	var res *http.Response
	var first time.Time
	for life := 4 * time.Second; !time.Now().Before(first); life *= 2 { // again where it had ended before it was changed
		res, first = b.granted(life)
		b.reload(b.egressYAML("")) // without an end
	}
	time.Sleep(time.Until(first.Add(4 * time.Second))) // past the first grant and its grace
	e.say(t, "still here")
	if line, err := bufio.NewReader(res.Body).ReadString('\n'); err != nil || line != "data: still here\n" {
		t.Fatalf("%q, %v", line, err)
	}
	b.reload(b.expiring(time.Now().Add(time.Second)))
	if _, err := lab.ReadAll(t, res.Body, "the stream ends with the grant that it was given later"); err == nil {
		t.Error("the stream outlived the grant that it was given later")
	}
	lab.Receive(t, e.left, "the origin sees its client leave")
}

// TestAgentLeaves: a silent stream is cancelled at the origin.
func TestAgentLeaves(t *testing.T) {
	e := &events{tell: make(chan string), left: make(chan string, 16)}
	b := start(t, e)
	for _, h2 := range []bool{false, true} {
		ctx, leave := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url("api.ok.test", "/v1/sse"), nil)
		must(t, err)
		client := b.client(b.egress)
		client.Transport.(*http.Transport).ForceAttemptHTTP2 = h2
		res, err := client.Do(req)
		must(t, err)
		leave()
		res.Body.Close()
		select {
		case <-e.left:
		case <-time.After(10 * time.Second):
			t.Errorf("with HTTP/2 %v: the origin was not told", h2)
		}
	}
}

// TestFidelity: what a proxy must not change.
func TestFidelity(t *testing.T) {
	zipped := func() []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		fmt.Fprint(z, strings.Repeat("text ", 100))
		z.Close()
		return b.Bytes()
	}()
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Content-Type"] = nil
		w.Header().Set("Etag", `"tag"`)
		switch r.URL.Path {
		case "/v1/none":
			w.WriteHeader(http.StatusNoContent)
		case "/v1/same":
			w.WriteHeader(http.StatusNotModified)
		case "/v1/length":
			w.Header().Set("Content-Length", "12345")
		case "/early":
			w.Header().Set("Link", "</x>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Del("Link")
		case "/zip":
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(zipped)
		case "/range":
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader("0123456789"))
		case "/v1/trailer", "/trailer":
			w.Header().Set("Trailer", "X-Sum")
			fmt.Fprintf(w, "got %v", r.Trailer)
			w.Header().Set("X-Sum", "1")
		case "/v1/long":
			_, _ = io.Copy(w, io.LimitReader(zeros{}, 10<<20))
		}
	})
	b := start(t, h)
	for _, h2 := range []bool{false, true} {
		client := b.client(b.egress)
		client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		client.Transport.(*http.Transport).ForceAttemptHTTP2 = h2
		client.Transport.(*http.Transport).DisableCompression = true
		do := func(method, host, path string, body io.Reader, change ...func(*http.Request)) (*http.Response, string) {
			t.Helper()
			req, err := http.NewRequest(method, b.url(host, path), body)
			must(t, err)
			for _, f := range change {
				f(req)
			}
			res, err := client.Do(req)
			must(t, err)
			defer res.Body.Close()
			text, err := io.ReadAll(res.Body)
			must(t, err)
			if got := res.Header["Content-Type"]; got != nil && res.StatusCode < 400 {
				t.Errorf("%s %s: a type %q was invented", method, path, got)
			}
			return res, string(text)
		}
		if res, _ := do("GET", "api.ok.test", "/v1/none", nil); res.StatusCode != 204 || res.Header.Get("Etag") != `"tag"` {
			t.Errorf("204: %v", res)
		}
		if res, _ := do("GET", "api.ok.test", "/v1/same", nil); res.StatusCode != 304 || res.Header.Get("Etag") != `"tag"` {
			t.Errorf("304: %v", res)
		}
		if res, text := do("HEAD", "api.ok.test", "/v1/length", nil); res.ContentLength != 12345 || text != "" {
			t.Errorf("HEAD: %v", res)
		}
		if _, text := do("GET", "api.ok.test", "/v1/long", nil); len(text) != 10<<20 {
			t.Errorf("%d bytes of a long answer", len(text))
		}
		if res, text := do("GET", "a.cdn.test", "/zip", nil, func(r *http.Request) { r.Header.Set("Accept-Encoding", "gzip;q=0.5, br") }); text != string(zipped) || res.ContentLength != int64(len(zipped)) || res.Header.Get("Content-Encoding") != "gzip" {
			t.Errorf("gzip: %v", res)
		}
		if seen := b.origin.Seen(); seen[len(seen)-1].Header.Get("Accept-Encoding") != "gzip;q=0.5, br" {
			t.Errorf("Accept-Encoding became %q", seen[len(seen)-1].Header.Get("Accept-Encoding"))
		}
		if res, text := do("GET", "a.cdn.test", "/range", nil, func(r *http.Request) { r.Header.Set("Range", "bytes=2-4") }); res.StatusCode != 206 || text != "234" {
			t.Errorf("a range: %v %q", res, text)
		}
		for _, host := range []string{"api.ok.test", "a.cdn.test"} {
			path := map[string]string{"api.ok.test": "/v1/trailer", "a.cdn.test": "/trailer"}[host]
			res, text := do("POST", host, path, io.NopCloser(strings.NewReader("x")), func(r *http.Request) { r.Trailer = http.Header{"X-Mine": {"2"}} })
			if res.Trailer.Get("X-Sum") != "1" || text != "got map[X-Mine:[2]]" {
				t.Errorf("trailers of %s with HTTP/2 %v: %v, %q", host, h2, res.Trailer, text)
			}
		}
		var hints []string
		trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			hints = append(hints, fmt.Sprint(code, h.Get("Link")))
			return nil
		}}
		if do("GET", "a.cdn.test", "/early", nil, func(r *http.Request) { *r = *r.WithContext(httptrace.WithClientTrace(r.Context(), trace)) }); fmt.Sprint(hints) != "[103</x>; rel=preload]" {
			t.Errorf("early hints: %q", hints)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestDuplex: both directions stream at once, in either version of HTTP.
func TestDuplex(t *testing.T) {
	b := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		_ = http.NewResponseController(w).Flush()
		in := bufio.NewScanner(r.Body)
		for in.Scan() {
			fmt.Fprintf(w, "<%s>", in.Text())
			_ = http.NewResponseController(w).Flush()
		}
	}))
	for _, h2 := range []bool{false, true} {
		for _, target := range []string{b.url("api.ok.test", "/v1/x"), b.url("a.cdn.test", "/x")} {
			client := b.client(b.egress)
			client.Transport.(*http.Transport).ForceAttemptHTTP2 = h2
			body, out := io.Pipe()
			req, err := http.NewRequest(http.MethodPost, target, body)
			must(t, err)
			req.Header.Set("X-Lab-Stream", "1")
			go fmt.Fprintln(out, "one")
			res, err := client.Do(req)
			must(t, err)
			defer res.Body.Close()
			piece := make([]byte, 5)
			for _, word := range []string{"one", "two"} {
				if word == "two" {
					go fmt.Fprintln(out, word)
				}
				if _, err := io.ReadFull(res.Body, piece); err != nil || string(piece) != "<"+word+">" {
					t.Fatalf("%s, HTTP/2 %v: %s: %q, %v", target, h2, word, piece, err)
				}
			}
			out.Close()
			if rest, err := io.ReadAll(res.Body); err != nil || len(rest) > 0 {
				t.Errorf("%q, %v", rest, err)
			}
		}
	}
}

// TestOneConnection has what follows each other on one connection.
func TestOneConnection(t *testing.T) { start(t, nil).atBothDoors(oneConnection) }

func oneConnection(t *testing.T, b *running) {
	ok := fmt.Sprintf("api.ok.test:%d", b.origin.Port())
	open := func() *tls.Conn {
		c, err := b.tunnel(ok, "api.ok.test", "http/1.1")
		must(t, err)
		return c
	}
	t.Run("the second of two is denied, the first intact", func(t *testing.T) {
		c := open()
		_, err := fmt.Fprintf(c, "GET /v1/first HTTP/1.1\r\nHost: %s\r\n\r\nGET %[2]s HTTP/1.1\r\nHost: %[1]s\r\nConnection: close\r\n\r\n", ok, b.deniedPath())
		must(t, err)
		all, err := io.ReadAll(c)
		if err != nil || !strings.HasPrefix(string(all), "HTTP/1.1 200 ") || !strings.Contains(string(all), "hello /v1/first") || strings.Count(string(all), "HTTP/1.1 403 ") != 1 {
			t.Errorf("%q, %v", all, err)
		}
	})
	t.Run("a Connection field takes no credential away", func(t *testing.T) {
		if b.door == bundle.Pipelock {
			t.Skip("pipelock has none")
		}
		before := len(b.origin.Seen())
		if status, body := say(t, open(), "GET /v1/x HTTP/1.1\r\nHost: "+ok+"\r\nConnection: authorization, close\r\nAuthorization: mine\r\n\r\n"); status != 200 {
			t.Fatalf("%d %s", status, body)
		}
		if got := b.origin.Seen()[before].Header["Authorization"]; len(got) != 1 || got[0] != "Bearer "+b.token {
			t.Errorf("%d credentials", len(got))
		}
	})
	t.Run("a denial does not wait for the body", func(t *testing.T) {
		c := open()
		_, err := fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: %s\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n\r\n", b.deniedPath(), ok)
		must(t, err)
		all, err := io.ReadAll(c)
		if err != nil || !strings.HasPrefix(string(all), "HTTP/1.1 403 ") || !strings.Contains(string(all), "Connection: close") {
			t.Errorf("%q, %v", all, err)
		}
	})
	t.Run("a body is asked for when it may go on", func(t *testing.T) {
		c := open()
		_, err := fmt.Fprintf(c, "POST /v1/x HTTP/1.1\r\nHost: %s\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n", ok)
		must(t, err)
		if head, err := readHead(c); err != nil || !strings.HasPrefix(head, "HTTP/1.1 100 ") {
			t.Fatalf("%q, %v", head, err)
		}
		if status, _ := say(t, c, "hi"); status != 200 {
			t.Errorf("status %d", status)
		}
	})
	t.Run("what follows an upgrade that was refused is no request", func(t *testing.T) {
		status, body := say(t, open(), "GET /v1/x HTTP/1.1\r\nHost: "+ok+"\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
		if _, rule, _ := refusal(t, body); status != 403 || rule != "upgrade" {
			t.Errorf("%d %s", status, body)
		}
	})
}

// TestFloods: a client that resets its streams as fast as it opens them, or
// whose header never ends, is hung up on.
func TestFloods(t *testing.T) { start(t, nil).atBothDoors(floods) }

func floods(t *testing.T, b *running) {
	ok := fmt.Sprintf("api.ok.test:%d", b.origin.Port())
	d, err := b.ctl.Status(context.Background())
	must(t, err)
	egress, _ := d.Find(b.door)
	before := resident(t, egress.PID)
	header := func() []byte {
		var block bytes.Buffer
		enc := hpack.NewEncoder(&block)
		for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", ok}, {":path", "/v1/x"}} {
			must(t, enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}))
		}
		return block.Bytes()
	}
	for name, flood := range map[string]func(*http2.Framer, uint32) error{
		"rapid reset": func(f *http2.Framer, id uint32) error {
			if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: header(), EndStream: true, EndHeaders: true}); err != nil {
				return err
			}
			return f.WriteRSTStream(id, http2.ErrCodeCancel)
		},
		"continuation": func(f *http2.Framer, id uint32) error {
			if id == 1 {
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: header(), EndStream: true})
			}
			return f.WriteContinuation(1, false, bytes.Repeat([]byte{0}, 1<<10)) // a name that is none, or one more field
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := b.tunnel(ok, "api.ok.test", "h2")
			must(t, err)
			_, err = io.WriteString(c, http2.ClientPreface)
			must(t, err)
			f := http2.NewFramer(c, c)
			must(t, f.WriteSettings())
			go io.Copy(io.Discard, c)
			for id := uint32(1); ; id += 2 {
				if err := flood(f, id); err != nil {
					break
				}
				if id > 400_000 {
					t.Fatal("nobody hangs up")
				}
			}
		})
	}
	if status, body := b.get(b.url("api.ok.test", "/v1/x")); status != 200 {
		t.Errorf("afterwards: %d %s", status, body)
	}
	if after := resident(t, egress.PID); after > before+100<<20 {
		t.Errorf("memory grew from %d to %d bytes", before, after)
	}
}

// resident is the memory of a process, in bytes, as everybody may read it.
func resident(t *testing.T, pid int) int {
	t.Helper()
	n, err := residentOf(pid)
	must(t, err)
	return n
}

func residentOf(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	var size, pages int
	_, err = fmt.Sscan(string(text), &size, &pages)
	return pages * os.Getpagesize(), err
}

// gauge is what a daemon tells of itself.
func (b *running) gauge(daemon, name string) float64 {
	b.t.Helper()
	n, ok := value(b.scrape(), name, "daemon", daemon)
	if !ok {
		b.t.Fatalf("no %s of %s", name, daemon)
	}
	return n
}

// TestLeaversInAnUpload: a client that leaves in a chunked body leaves nothing
// behind in either daemon.
func TestLeaversInAnUpload(t *testing.T) {
	b := start(t, nil)
	ok := fmt.Sprintf("api.ok.test:%d", b.origin.Port())
	const gauge = "go_goroutines"
	before := map[string]float64{"egress": b.gauge("egress", gauge), "pipelock": b.gauge("pipelock", gauge)}
	for i := range 40 {
		c, err := b.tunnel(ok, "api.ok.test", "http/1.1")
		must(t, err)
		_, err = fmt.Fprintf(c, "POST /v1/x HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n\r\n", ok)
		must(t, err)
		if i%2 == 1 {
			_, err = io.WriteString(c, "5\r\nhello\r\n")
			must(t, err)
		}
		must(t, c.Close())
	}
	for daemon, was := range before {
		for until := time.Now().Add(20 * time.Second); b.gauge(daemon, gauge) > was+5; time.Sleep(100 * time.Millisecond) { // between two questions
			if time.Now().After(until) {
				t.Errorf("%s: %v goroutines before, %v now", daemon, was, b.gauge(daemon, gauge))
				break
			}
		}
	}
}

// TestOddAnswers has answers that cannot be searched as they say, and
// credentials where no value is.
func TestOddAnswers(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		zipped := func() {
			z := gzip.NewWriter(w)
			fmt.Fprint(z, token)
			z.Close()
		}
		switch r.URL.Path {
		case "/v1/same":
			w.Header().Set("Content-Encoding", "gzip")
			w.WriteHeader(http.StatusNotModified)
		case "/v1/empty":
			w.Header().Set("Content-Encoding", "gzip")
			_ = http.NewResponseController(w).Flush()
		case "/v1/two":
			w.Header()["Content-Encoding"] = []string{"identity", "gzip"}
			zipped()
		case "/v1/list":
			w.Header().Set("Content-Encoding", "gzip, identity")
			zipped()
		case "/v1/name":
			w.Header().Set("X-"+token, "1")
			w.Header().Set("Trailer", "Y-"+token)
			fmt.Fprint(w, "ok")
			w.Header().Set("Y-"+token, "2")
		case "/v1/early":
			w.Header().Set("X-"+token, "1")
			w.WriteHeader(http.StatusEarlyHints)
		}
	})
	b := start(t, h)
	for path, want := range map[string]int{"/v1/same": 304, "/v1/empty": 200, "/v1/two": 200, "/v1/list": 200, "/v1/name": 200, "/v1/early": 200} {
		var early http.Header
		trace := &httptrace.ClientTrace{Got1xxResponse: func(_ int, h textproto.MIMEHeader) error { early = http.Header(h).Clone(); return nil }}
		client := b.client(b.egress)
		client.Transport.(*http.Transport).DisableCompression = true
		req, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), http.MethodGet, b.url("api.ok.test", path), nil)
		must(t, err)
		res, err := client.Do(req)
		must(t, err)
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		all := strings.ToLower(fmt.Sprint(string(body), res.Header, res.Trailer, early))
		if err != nil || res.StatusCode != want || strings.Contains(all, strings.ToLower(b.token)) {
			t.Errorf("%s: status %d, %d bytes, %v, the credential among it: %v", path, res.StatusCode, len(body), err, strings.Contains(all, strings.ToLower(b.token)))
		}
	}
}

// TestOlderOrigin: HTTP/2 is not offered any more to whom speaks with an
// origin that does not have it.
func TestOlderOrigin(t *testing.T) {
	b := prepare(t, nil)
	authority, err := lab.NewCA()
	must(t, err)
	b.origin.Close()
	b.origin, err = lab.NewOlderOrigin(authority, nil, "api.ok.test")
	must(t, err)
	t.Cleanup(b.origin.Close)
	b.write("ca/upstream.crt", string(authority.PEM))
	b.write("egress.yaml", b.egressYAML(""))
	b.write("pipelock.yaml", b.pipelockYAML(""))
	b.run()
	ok := fmt.Sprintf("api.ok.test:%d", b.origin.Port())
	var spoken []string
	for range 2 {
		client := b.client(b.egress)
		client.Transport.(*http.Transport).ForceAttemptHTTP2 = true
		res, err := client.Get(b.url("api.ok.test", "/v1/x"))
		must(t, err)
		_, err = io.Copy(io.Discard, res.Body)
		must(t, err)
		res.Body.Close()
		spoken = append(spoken, res.Proto)
		if res.Header.Get("Airlock-Proto") != "" {
			t.Error("the agent is told what is said between the daemons")
		}
	}
	if fmt.Sprint(spoken) != "[HTTP/2.0 HTTP/1.1]" {
		t.Errorf("%s was spoken to with %v", ok, spoken)
	}
	if seen := b.origin.Seen(); len(seen) != 2 || seen[0].Proto != "HTTP/1.1" {
		t.Errorf("%v", seen)
	}
}

// TestResumption: a second tunnel to a host resumes the session of the first,
// and not one to another host.
func TestResumption(t *testing.T) {
	b := start(t, nil)
	cache := tls.NewLRUClientSessionCache(8)
	open := func(host string) bool {
		t.Helper()
		c := tls.Client(b.connect(fmt.Sprintf("%s:%d", host, b.origin.Port())), &tls.Config{RootCAs: b.pairCA, ServerName: host, ClientSessionCache: cache})
		if status, body := say(t, c, fmt.Sprintf("GET /v1/x HTTP/1.1\r\nHost: %s:%d\r\n\r\n", host, b.origin.Port())); status != 200 {
			t.Fatalf("%d %s", status, body)
		}
		return c.ConnectionState().DidResume
	}
	if first, second := open("api.ok.test"), open("api.ok.test"); first || !second {
		t.Errorf("resumed: first %v, second %v", first, second)
	}
	if open("a.cdn.test") {
		t.Error("a session of another host was resumed")
	}
	t.Run("without SNI", func(t *testing.T) {
		// Without a name there is nothing to verify; the handshake must fail before that.
		c := tls.Client(b.connect(fmt.Sprintf("api.ok.test:%d", b.origin.Port())), &tls.Config{InsecureSkipVerify: true})
		if err := c.Handshake(); err == nil {
			t.Error("the handshake went through")
		}
		b.until(`why="SNI \"\" in a tunnel to api.ok.test"`)
	})
	t.Run("an old version", func(t *testing.T) {
		c := tls.Client(b.connect(fmt.Sprintf("api.ok.test:%d", b.origin.Port())), &tls.Config{RootCAs: b.pairCA, ServerName: "api.ok.test", MaxVersion: tls.VersionTLS11})
		if err := c.Handshake(); err == nil {
			t.Error("the handshake went through")
		}
	})
}

// TestOriginSpeaksFirst: a request with a body that has not begun reaches its
// origin, and the answer comes.
func TestOriginSpeaksFirst(t *testing.T) {
	b := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		fmt.Fprintln(w, "who is there?")
		_ = http.NewResponseController(w).Flush()
		_, _ = io.Copy(w, r.Body)
	}))
	for _, h2 := range []bool{false, true} {
		client := b.client(b.egress)
		client.Transport.(*http.Transport).ForceAttemptHTTP2 = h2
		body, out := io.Pipe()
		req, err := http.NewRequest(http.MethodPost, b.url("api.ok.test", "/v1/x"), body)
		must(t, err)
		req.Header.Set("X-Lab-Stream", "1")
		res, err := client.Do(req)
		must(t, err)
		in := bufio.NewReader(res.Body)
		if line, err := in.ReadString('\n'); err != nil || line != "who is there?\n" {
			t.Errorf("HTTP/2 %v: %q, %v", h2, line, err)
		}
		go func() {
			fmt.Fprint(out, "an agent")
			out.Close()
		}()
		if rest, err := io.ReadAll(in); err != nil || string(rest) != "an agent" {
			t.Errorf("HTTP/2 %v: %q, %v", h2, rest, err)
		}
		res.Body.Close()
	}
}
