package main

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"airlock/internal/lab"
	"airlock/internal/proposal"
)

// withAction starts a bundle whose findings are handled in another way.
func withAction(t *testing.T, secrets string, h http.Handler) *running {
	t.Helper()
	b := prepare(t, h)
	b.write("pipelock.yaml", strings.Replace(b.pipelockYAML(""), "secrets: {values: [EGRESS_DIGEST_0]}", "secrets: {values: [EGRESS_DIGEST_0], "+secrets+"}", 1))
	b.run()
	return b
}

// received is what the origin got of the last request.
type received struct {
	uri, note, body string
}

func keep(into *received) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		*into = received{r.RequestURI, r.Header.Get("X-Note"), string(text)}
		_, _ = io.WriteString(w, "ok")
	})
}

// TestRedact: what is found is overwritten, the rest of the request goes on,
// and what cannot be overwritten does not.
func TestRedact(t *testing.T) {
	var got received
	b := withAction(t, `hosts: {"*.cdn.test": {action: redact}}`, keep(&got))
	k := varied()
	x := strings.Repeat("x", len(k))
	for _, c := range []struct {
		name   string
		change func(r *http.Request)
		want   *received // nil: it is blocked
	}{
		{"a header", func(r *http.Request) { r.Header.Set("X-Note", "key "+k+" end") }, &received{uri: "/a", note: "key " + x + " end"}},
		{"the path", func(r *http.Request) { r.URL.Path = "/a/" + k + "/b" }, &received{uri: "/a/" + x + "/b"}},
		{"the query", func(r *http.Request) { r.URL.RawQuery = "a=1&b=" + k + "&c=2" }, &received{uri: "/a?a=1&b=" + x + "&c=2"}},
		{"a body", func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader(`{"a": "` + k + `", "b": 1}`)) }, &received{uri: "/a", body: `{"a": "` + x + `", "b": 1}`}},
		{"two fields", func(r *http.Request) { r.Header.Set("X-A", k[:20]); r.Header.Set("X-B", k[20:]) }, nil},
		{"the name of a field", func(r *http.Request) { r.Header.Set(fmt.Sprintf("x-%x", k), "1") }, nil},
		{"a compressed body", func(r *http.Request) {
			r.Header.Set("Content-Encoding", "gzip")
			r.Body = io.NopCloser(strings.NewReader(gzipped(t, k)))
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got = received{}
			status, body := b.send(b.client(b.egress), http.MethodPost, b.url("a.cdn.test", "/a"), nil, func(r *http.Request) {
				if c.change(r); r.Body != nil {
					r.ContentLength = -1
				}
			})
			switch {
			case c.want == nil && (status != 403 || !strings.Contains(body, "cannot be overwritten")):
				t.Errorf("status %d: %s", status, body)
			case c.want != nil && (status != 200 || got != *c.want):
				t.Errorf("status %d, the origin got %+v: %s", status, got, body)
			}
		})
	}
	if status, _ := b.get(b.url("api.ok.test", "/v1/x?q="+k)); status != 403 {
		t.Errorf("another host: %d", status)
	}
	if kept := b.audits(); strings.Contains(kept, k) || strings.Count(kept, `"verdict":"redacted"`) != 4 {
		t.Errorf("the audit: %s", kept)
	}
}

func gzipped(t *testing.T, text string) string {
	t.Helper()
	var b strings.Builder
	w := gzip.NewWriter(&b)
	_, err := io.WriteString(w, text)
	must(t, err)
	must(t, w.Close())
	return b.String()
}

// pending waits for the one proposal that is open.
func (b *running) pending() proposal.Proposal {
	b.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		for _, p := range b.proposals() {
			if p.State == proposal.Pending {
				return p
			}
		}
	}
	b.t.Fatal("nobody is asked")
	return proposal.Proposal{}
}

func (b *running) proposals() (all []proposal.Proposal) {
	b.t.Helper()
	must(b.t, b.ctl.Do(context.Background(), http.MethodGet, "/proposals", nil, nil, &all))
	return all
}

func (b *running) decide(id, state string) {
	b.t.Helper()
	must(b.t, b.ctl.Do(context.Background(), http.MethodPost, "/proposals/"+id, nil, strings.NewReader(`{"State": "`+state+`", "Answer": "because"}`), nil))
}

// TestAsk: a request waits for a person; a yes lets this one pass, and
// nothing else does.
func TestAsk(t *testing.T) {
	var got received
	b := withAction(t, "action: ask, wait: 10s", keep(&got))
	k := lab.Token()
	post := func() (<-chan int, *string) {
		done, said := make(chan int, 1), new(string)
		go func() {
			status, body := b.send(b.client(b.egress), http.MethodPost, b.url("api.ok.test", "/v1/"+strings.Repeat("long", 20)), strings.NewReader("x "+k))
			*said = body
			done <- status
		}()
		return done, said
	}
	t.Run("yes, once", func(t *testing.T) {
		for i := range 2 {
			done, said := post()
			p := b.pending()
			if text := fmt.Sprintf("%+v", p); strings.Contains(text, k) || !strings.Contains(text, "github-pat") || !strings.Contains(text, "body") || !strings.Contains(p.URL, "api.ok.test") || strings.Contains(text, "longlong") {
				t.Errorf("the proposal: %s", text)
			}
			if len(b.origin.Seen()) != i {
				t.Error("the origin saw it before the answer")
			}
			b.decide(p.ID, proposal.Approved)
			if status := lab.Receive(t, done, "what runs beside the test ends"); status != 200 || got.body != "x "+k {
				t.Errorf("status %d: %s", status, *said)
			}
			if !strings.Contains(b.audits(), `"verdict":"approved"`) || strings.Count(b.audits(), p.ID) < 3 {
				t.Errorf("the audit does not tell of %s: %s", p.ID, b.audits())
			}
		}
	})
	t.Run("no", func(t *testing.T) {
		before := len(b.origin.Seen())
		done, said := post()
		p := b.pending()
		b.decide(p.ID, proposal.Denied)
		if status := lab.Receive(t, done, "what runs beside the test ends"); status != 403 || !strings.Contains(*said, p.ID) || !strings.Contains(*said, "because") || len(b.origin.Seen()) != before {
			t.Errorf("status %d: %s", status, *said)
		}
	})
	t.Run("the client leaves", func(t *testing.T) {
		ctx, leave := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, b.url("api.ok.test", "/v1/x"), strings.NewReader("x "+k))
		must(t, err)
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			if res, err := b.client(b.egress).Do(req); err == nil {
				res.Body.Close()
			}
		}()
		p := b.pending()
		leave()
		lab.Receive(t, gone, "the other side leaves")
		b.withdrawn(p.ID, "left")
	})
	t.Run("pipelock is replaced", func(t *testing.T) {
		before := len(b.origin.Seen())
		done, said := post()
		p := b.pending()
		must(t, b.cmd.Process.Signal(syscall.SIGUSR1))
		if status := lab.Receive(t, done, "what runs beside the test ends"); status != 403 || !strings.Contains(*said, p.ID) || len(b.origin.Seen()) != before {
			t.Errorf("status %d: %s", status, *said)
		}
		b.withdrawn(p.ID, "in time")
	})
	t.Run("pipelock dies", func(t *testing.T) {
		before := len(b.origin.Seen())
		done, said := post()
		p := b.pending()
		st, err := b.ctl.Status(t.Context())
		must(t, err)
		d, _ := st.Find("pipelock")
		must(t, syscall.Kill(d.PID, syscall.SIGKILL))
		if status := lab.Receive(t, done, "what runs beside the test ends"); status == 200 || len(b.origin.Seen()) != before {
			t.Errorf("status %d: %s", status, *said)
		}
		b.withdrawn(p.ID, "ended")
	})
}

// withdrawn waits until a proposal has been taken back for that reason.
func (b *running) withdrawn(id, why string) {
	b.t.Helper()
	last := proposal.Proposal{}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		for _, p := range b.proposals() {
			if last = p; p.ID == id && p.State == proposal.Denied && strings.Contains(p.Answer, why) {
				return
			}
		}
	}
	b.t.Errorf("it was not withdrawn: %+v", last)
}

// TestAskIsBounded: no more requests wait than proposals may be open, and none
// longer than it may.
func TestAskIsBounded(t *testing.T) {
	b := prepare(t, nil)
	b.write("pipelock.yaml", strings.Replace(b.pipelockYAML(""), "secrets: {values", "secrets: {action: ask, wait: 1s, values", 1))
	b.write("supervise.yaml", "version: 1\nlisten: 127.0.0.1:0\nlimits: {open_proposals: 3}\n")
	b.run()
	k := lab.Token()
	said := make(chan string, 8)
	for range 8 {
		go func() {
			_, body := b.get(b.url("a.cdn.test", "/?q="+k))
			said <- body
		}()
	}
	late, many := 0, 0
	for range 8 {
		switch body := lab.Receive(t, said, "an answer comes"); {
		case strings.Contains(body, "in time"):
			late++
		case strings.Contains(body, "too many proposals"):
			many++
		default:
			t.Error(body)
		}
	}
	if late < 3 || late+many != 8 || many == 0 || len(b.origin.Seen()) != 0 {
		t.Errorf("%d waited, %d did not, the origin saw %d", late, many, len(b.origin.Seen()))
	}
}

// TestWarn: everything passes, and is written down.
func TestWarn(t *testing.T) {
	var got received
	b := withAction(t, "action: warn", keep(&got))
	k := lab.Token()
	status, _ := b.send(b.client(b.egress), http.MethodPost, b.url("a.cdn.test", "/a"), strings.NewReader("x "+k), func(r *http.Request) { r.Header.Set("X-Note", k) })
	if status != 200 || got.body != "x "+k || got.note != k {
		t.Errorf("status %d, %+v", status, got)
	}
	if kept := b.audits(); strings.Count(kept, `"verdict":"warn"`) != 2 || strings.Contains(kept, k) {
		t.Errorf("the audit: %s", kept)
	}
}

// TestOwnRules: the operator's file is read by the confined daemon, again
// with each replacement; one that is wrong leaves the old process in place.
func TestOwnRules(t *testing.T) {
	b := prepare(t, nil)
	b.write("rules.toml", "[extend]\nuseDefault = true\n[[rules]]\nid = \"own-ticket\"\nregex = '''OWN-[0-9]{6}'''\nkeywords = [\"own-\"]\n")
	b.write("pipelock.yaml", strings.Replace(b.pipelockYAML(""), "secrets: {values", "secrets: {rules: /etc/airlock/rules.toml, values", 1))
	b.run()
	refused := func() bool {
		status, body := b.get(b.url("a.cdn.test", "/?q=OWN-123456"))
		return status == 403 && strings.Contains(body, "own-ticket")
	}
	if status, _ := b.get(b.url("a.cdn.test", "/?q="+lab.Token())); status != 403 || !refused() {
		t.Error("the rules are not in force")
	}
	b.write("rules.toml", "[[rules]]\nid = \"bad\"\nregex = '''('''\n")
	must(t, b.cmd.Process.Signal(syscall.SIGUSR1))
	b.until("secrets.rules")
	st, err := b.ctl.Status(t.Context())
	must(t, err)
	if d, _ := st.Find("pipelock"); !refused() || d.State == "down" {
		t.Errorf("%+v", d)
	}
}
