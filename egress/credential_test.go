package egress

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"airlock/internal/bundle"
	"airlock/internal/policy"
)

// configFor is a configuration of one route.
func configFor(a *bundle.Auth, slots credentials) *activeConfig {
	host, err := policy.ParsePattern("api.test")
	if err != nil {
		panic(err)
	}
	routes := []bundle.Route{{Host: host, Auth: a}}
	return &activeConfig{rules: routes, credentials: slots, canaries: newCanaries(routes), patterns: formsOf(slots, users(routes))}
}

// ruleOf is the rule of the refusal in an error.
func ruleOf(err error) string {
	var known *refusedError
	if errors.As(err, &known) {
		return known.v.Rule
	}
	return ""
}

func TestInjectPerAuthType(t *testing.T) {
	w := credentials{"S": "the value"}
	for _, c := range []struct {
		name   string
		auth   bundle.Auth
		header http.Header
		query  string
		want   http.Header
		raw    string
		names  []string
	}{
		{"bearer replaces every spelling", bundle.Auth{Type: "bearer", Slot: "S"},
			http.Header{"Authorization": {"a", "b"}, "AUTHORIZATION": {"c"}, "X_api_key": {"d"}, "Proxy-Authorization": {"e"}, "Accept": {"f"}}, "a=b&access_token=c",
			http.Header{"Authorization": {"Bearer the value"}, "Accept": {"f"}}, "a=b", []string{"Authorization"}},
		{"basic", bundle.Auth{Type: "basic", User: "u", Slot: "S"}, http.Header{}, "", http.Header{"Authorization": {"Basic dTp0aGUgdmFsdWU="}}, "", []string{"Authorization"}},
		{"header", bundle.Auth{Type: "header", Name: "x-my-key", Slot: "S"}, http.Header{"X-My-Key": {"mine"}, "X_my_key": {"mine"}, "Authorization": {"a"}}, "token=page2",
			http.Header{"X-My-Key": {"the value"}}, "token=page2", []string{"X-My-Key"}},
		{"query", bundle.Auth{Type: "query", Name: "key", Slot: "S"}, http.Header{}, "key=mine&a=%zz&k%65y=2&KEY=3&key[]=4&b=1;key=5&key%00x=6&api_key=7&api.key=8&keys=9", http.Header{},
			"a=%zz&keys=9&key=the+value", []string{"query:key"}},
		{"query alone", bundle.Auth{Type: "query", Name: "a b", Slot: "S"}, http.Header{}, "a_b=mine", http.Header{}, "a+b=the+value", []string{"query:a+b"}},
		{"replace", bundle.Auth{Type: "replace", Placeholder: "PLACEHOLDER", Slot: "S", In: []string{"headers", "query"}},
			http.Header{"X": {"a PLACEHOLDER b"}, "Authorization": {"Bearer mine"}}, "q=PLACEHOLDER&r=PLACE%48OLDER", http.Header{"X": {"a the value b"}}, "q=the+value&r=the+value",
			[]string{"X;replaced=S", "query:q;replaced=S", "query:r;replaced=S"}},
		{"replace in a basic pair", bundle.Auth{Type: "replace", Placeholder: "PLACEHOLDER", Slot: "S"},
			http.Header{"Authorization": {basic("me", "PLACEHOLDER")}}, "", http.Header{"Authorization": {basic("me", "the value")}}, "", []string{"Authorization;replaced=S"}},
		{"a name that would end the list", bundle.Auth{Type: "replace", Placeholder: "PLACEHOLDER", Slot: "S", In: []string{"query"}},
			http.Header{}, "a,X;replaced%0A=PLACEHOLDER", http.Header{}, "a,X;replaced%0A=the+value", []string{"query:a%2CX%3Breplaced%0A;replaced=S"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := httptest.NewRequest(http.MethodGet, "https://api.test/?"+c.query, nil)
			out.Header = c.header
			names, err := configFor(&c.auth, w).inject(t.Context(), out, &c.auth)
			if err != nil || !slices.Equal(names, c.names) || out.URL.RawQuery != c.raw || len(out.Header) != len(c.want) {
				t.Errorf("%v: injected %v, query %q, header %v", err, names, out.URL.RawQuery, out.Header)
			}
			for name, values := range c.want {
				if strings.Join(out.Header[name], "|") != strings.Join(values, "|") {
					t.Errorf("%s: %v", name, out.Header[name])
				}
			}
		})
	}
}

func TestReplaceInBodies(t *testing.T) {
	w := credentials{"S": `va"l&ue-1`}
	long := strings.Repeat("0123456789", maxWholeReplace/10+1)
	for _, c := range []struct {
		name, kind, encoding, body, want string
		chunked                          bool
		length                           int64
		rule                             string
	}{
		{name: "text", kind: "text/plain", body: "a <HOLDER> b <HOLDER>", want: `a va"l&ue-1 b va"l&ue-1`, length: 23},
		{name: "no type", body: "<HOLDER>", want: `va"l&ue-1`, length: 9},
		{name: "JSON", kind: "application/json; charset=utf-8", body: `{"a": "<HOLDER>", "b": "\u003cHOLDER\u003e"}`, want: `{"a": "va\"l\u0026ue-1", "b": "va\"l\u0026ue-1"}`, length: 48},
		{name: "a form", kind: "application/x-www-form-urlencoded", body: "a=<HOLDER>&b=%3CHOLDER%3E", want: "a=va%22l%26ue-1&b=va%22l%26ue-1", length: 31},
		{name: "nothing to replace", body: "nothing", want: "nothing", length: 7},
		{name: "chunked", chunked: true, body: "a <HOLDER> b", want: `a va"l&ue-1 b`, length: -1},
		{name: "long", body: long + "<HOLDER>", want: long + `va"l&ue-1`, length: -1},
		{name: "compressed", encoding: "gzip", body: "xyz", want: "xyz", length: 3},
		{name: "in base64", body: "PEhPTERFUj4=", rule: "tripwire"},
		{name: "in base64, chunked", body: "PEhPTERFUj4=", chunked: true, rule: "tripwire"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := &bundle.Auth{Type: "replace", Placeholder: "<HOLDER>", Slot: "S", In: []string{"body"}}
			out := httptest.NewRequest(http.MethodPost, "https://api.test/", strings.NewReader(c.body))
			if c.chunked {
				out.ContentLength, out.Body = -1, io.NopCloser(iotest.OneByteReader(strings.NewReader(c.body)))
			}
			out.Header.Set("Content-Type", c.kind)
			out.Header.Set("Content-Encoding", c.encoding)
			names, err := configFor(a, w).inject(t.Context(), out, a)
			var got []byte
			if err == nil {
				got, err = io.ReadAll(out.Body)
				must(t, out.Body.Close())
			}
			if c.rule != "" {
				if ruleOf(err) != c.rule {
					t.Errorf("%v, want %s", err, c.rule)
				}
				return
			}
			if err != nil || string(got) != c.want || out.ContentLength != c.length || (len(names) == 1) != (c.encoding == "") {
				t.Errorf("%v: %.100q, length %d, injected %v", err, got, out.ContentLength, names)
			}
		})
	}
	noBytesBuffered(t)
}

func noBytesBuffered(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if bufferedBytes.Acquire(ctx, maxBuffered) != nil {
		t.Fatal("bodies are still held")
	}
	bufferedBytes.Release(maxBuffered)
}

// TestRefusedBodyReleasesItsMemory refuses a request after its body was read; the body is
// never closed.
func TestRefusedBodyReleasesItsMemory(t *testing.T) {
	a := &bundle.Auth{Type: "replace", Placeholder: "<HOLDER>", Slot: "S", In: []string{"body"}}
	ctx, cancel := context.WithCancel(t.Context())
	out := httptest.NewRequest(http.MethodPost, "https://api.test/<HOLDER>", strings.NewReader(strings.Repeat("<HOLDER>", 10_000)))
	if _, err := configFor(a, credentials{"S": "the value"}).inject(ctx, out, a); ruleOf(err) != "tripwire" || bufferedBytes.TryAcquire(maxBuffered) {
		t.Errorf("%v", err)
	}
	cancel()
	noBytesBuffered(t)
}

// FuzzReplaceBody compares the replacement across the borders of reads with
// that in one piece.
func FuzzReplaceBody(f *testing.F) {
	f.Add([]byte("a PLACEHOLDER b PLACEHOLPLACEHOLDERDER"), uint8(3))
	f.Fuzz(func(t *testing.T, body []byte, size uint8) {
		forms := bodyForms("", "PLACEHOLDER", "the-value")
		pieces := &pieces{rest: body, size: int(size%17) + 1}
		got, err := io.ReadAll(newReader(io.NopCloser(pieces), newAutomaton(forms, func() {}), false))
		if want := bytes.ReplaceAll(body, []byte("PLACEHOLDER"), []byte("the-value")); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	})
}

// pieces gives a text in pieces of one size.
type pieces struct {
	rest []byte
	size int
}

func (p *pieces) Read(to []byte) (int, error) {
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(to, p.rest[:min(p.size, len(p.rest))])
	p.rest = p.rest[n:]
	return n, nil
}

func TestMisplacedPlaceholderIsRefused(t *testing.T) {
	a := &bundle.Auth{Type: "replace", Placeholder: "PLACEHOLDER1", Slot: "S", In: []string{"headers"}}
	l := configFor(a, credentials{"S": "the value"})
	for _, c := range []struct {
		name, target, header, body string
		unbound                    bool
	}{
		{name: "the path", target: "/x/PLACEHOLDER1"},
		{name: "the path, encoded", target: "/x/PLACE%48OLDER1"},
		{name: "the query, which the route does not name", target: "/?a=PLACEHOLDER1"},
		{name: "the query, encoded", target: "/?a=PLACEHOLD%45R1"},
		{name: "a name in the query", target: "/?PLACEHOLDER1=a"},
		{name: "the body, which the route does not name", target: "/", body: "x PLACEHOLDER1"},
		{name: "a header, in base64", target: "/", header: "UExBQ0VIT0xERVIx"},
		{name: "a header, in hex", target: "/", header: "504c414345484f4c44455231"},
		{name: "another host", target: "/", header: "PLACEHOLDER1", unbound: true},
		{name: "another host, a Basic pair", target: "/", header: basic("user", "PLACEHOLDER1"), unbound: true},
		{name: "another host, the body", target: "/", body: "PLACEHOLDER1", unbound: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := httptest.NewRequest(http.MethodPost, c.target, strings.NewReader(c.body))
			out.Header.Set("X-Key", c.header)
			var name string
			auth := a
			if c.unbound {
				name, auth = l.canaries.findInHead(out), nil
			}
			_, err := l.inject(t.Context(), out, auth)
			if name == "" && ruleOf(err) != "tripwire" && (!c.unbound || c.body != "") {
				t.Errorf("it passed: %v", err)
			}
			if c.unbound && c.header != "" && l.canaries.findInHead(out) == "" {
				t.Error("the header passed")
			}
		})
	}
}

// TestTrailersAreChecked has a credential of the agent, and a placeholder, in the trailer of a
// body.
func TestTrailersAreChecked(t *testing.T) {
	for name, c := range map[string]struct{ auth *bundle.Auth }{
		"bearer":  {&bundle.Auth{Type: "bearer", Slot: "S"}},
		"replace": {&bundle.Auth{Type: "replace", Placeholder: "PLACEHOLDER1", Slot: "S"}},
	} {
		l := configFor(c.auth, credentials{"S": "the value"})
		out := httptest.NewRequest(http.MethodPost, "/", io.NopCloser(strings.NewReader("body")))
		out.ContentLength, out.Trailer = -1, http.Header{}
		_, err := l.inject(t.Context(), out, c.auth)
		must(t, err)
		out.Trailer["AUTHORIZATION"], out.Trailer["X"] = []string{"Bearer mine"}, []string{"PLACEHOLDER1"}
		_, err = io.ReadAll(out.Body)
		if (ruleOf(err) == "tripwire") != (name == "replace") || len(out.Trailer) != 1 {
			t.Errorf("%s: %v, %v", name, err, out.Trailer)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
