package pipelock

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"time"

	"airlock/internal/bundle"
	"airlock/internal/config"
	"airlock/internal/httpd"
	"airlock/internal/policy"
	"airlock/internal/secrets"
	"airlock/internal/websocket"
)

const (
	// wholeBody is up to which length a body is scanned before its first
	// byte goes on; longer ones go on window by window.
	wholeBody = 1 << 20
	// smallBody is up to which length a body takes little enough memory to be
	// read before any of the windows' is asked for.
	smallBody = 64 << 10
	// streamWindow is a window of a body of unknown length when there is no
	// memory for a whole one.
	streamWindow = smallBody - 2*pieceBytes
	// pieceBytes is what is read of such a body at a time.
	pieceBytes = 16 << 10
	// overlap is how much of what went before is scanned again with each
	// window, so that a secret across a border is seen as one.
	overlap = 8 << 10
	// streamPause is how long a body of unknown length may pause before what
	// has come is scanned and goes on: a stream must not wait for its end.
	streamPause = 100 * time.Millisecond
	// messagePause is that of a stream of messages, each of which is written
	// as a whole and may be waited for.
	messagePause = 2 * time.Millisecond
	// scanTimeout bounds the scan of one window.
	scanTimeout = 10 * time.Second
	// maxInflate bounds what a compressed body may grow to.
	maxInflate = 64 << 20
	// defaultBody is the longest body without a limit in the configuration.
	defaultBody = 100 << 20
)

// scanner reads what leaves.
type scanner struct {
	engine *secrets.Scanner
	known  map[string]secrets.Digest
	hosts  hosts
	warn   bool // findings are written down, not refused
	limit  int64
	memory *memory
}

// newScanner looks for the rules' tokens and for the digests that the
// configuration names.
func newScanner(f bundle.PipelockFile, getenv func(string) string) (*scanner, error) {
	known := map[string]secrets.Digest{}
	for i, name := range f.Secrets.Values {
		text := getenv(name)
		if text == "" {
			continue // a slot that holds nothing has nothing to protect
		}
		d, err := secrets.ParseDigest(text)
		if err != nil {
			return nil, config.At(fmt.Sprintf("secrets.values[%d]", i), "%s: %v", name, err)
		}
		known[name] = d
	}
	engine, err := secrets.New(secrets.Options{Known: known, ArchiveDepth: 2})
	if err != nil {
		return nil, err
	}
	// Before the first request, not with it: a replacement takes over warm.
	if err := engine.Warm(); err != nil {
		return nil, err
	}
	debug.FreeOSMemory() // compiling left as much garbage as the rules are large
	return &scanner{engine: engine, known: known, warn: f.Secrets.Action == "warn", limit: f.Limits.BodyBytes.Or(defaultBody), memory: newMemory(softLimit())}, nil
}

// look scans one text and turns a finding into the verdict of its surface.
func (s *scanner) look(ctx context.Context, surface string, data []byte) policy.Verdict {
	ctx, cancel := context.WithTimeout(ctx, scanTimeout)
	defer cancel()
	found, err := s.engine.Scan(ctx, data)
	switch {
	case err != nil:
		return policy.Denied("scan", "the "+surface+" could not be scanned: "+err.Error())
	case len(found) > 0:
		return policy.Denied("secret: "+found[0].Rule, "the "+surface+" holds what looks like a secret ("+found[0].Rule+")")
	}
	return policy.Allowed("scan")
}

// head scans what a request says before its body. Fields that egress filled
// are named in injected and left out. All is read in one go; only when
// something is found is it asked where.
func (s *scanner) head(r *http.Request, h policy.Host, injected []string) policy.Verdict {
	surfaces := []struct {
		name string
		text []byte
	}{
		{"host name", s.hosts.unread(h)},
		{"target", s.target(r.URL, injected)},
		{"header", s.fields(r, injected)},
	}
	var whole []byte
	for _, part := range surfaces {
		whole = append(append(whole, part.text...), '\n')
	}
	v := s.look(r.Context(), "request", whole)
	if v.Allow {
		s.hosts.read(h)
	}
	if v.Allow || v.Rule == "scan" {
		return v
	}
	for _, part := range surfaces {
		if where := s.look(r.Context(), part.name, part.text); !where.Allow {
			return where
		}
	}
	return policy.Allowed("scan") // the end of one with the beginning of another
}

// hostText is a host name as labels, as it is, and as one word.
func hostText(name string) []byte {
	return []byte(strings.ReplaceAll(name, ".", "\n") + "\n" + name + "\n" + strings.ReplaceAll(name, ".", ""))
}

// fields are the method and the header, as far as they are the agent's. Names
// are written in lower case too: on the way here their first letters became
// capitals.
func (s *scanner) fields(r *http.Request, injected []string) []byte {
	text := append([]byte(r.Method), '\n')
	for name, values := range r.Header {
		text = append(append(text, strings.ToLower(name)...), '\n')
		for _, v := range values {
			if v, ok := s.own(name, []byte(v), injected); ok {
				text = append(append(append(append(text, name...), ": "...), v...), '\n')
			}
		}
	}
	return text
}

// own is the part of a field, parameter or body that is the agent's: all of
// it, none where egress filled it, and what stands beside the credential where
// egress replaced a placeholder in it.
func (s *scanner) own(name string, value []byte, injected []string) ([]byte, bool) {
	for _, i := range injected {
		whole, slot, part := strings.Cut(i, httpd.Replaced)
		switch {
		case whole != name && (strings.Contains(name, ":") || !strings.EqualFold(whole, name)): // fields alone have no case
		case !part:
			return nil, false
		default:
			value = s.without(value, slot)
		}
	}
	return value, true
}

// without takes the value of a slot out of a text. What stood around it is
// there twice then: apart, and as one.
func (s *scanner) without(text []byte, slot string) []byte {
	d, known := s.known[bundle.DigestSlot(slot)]
	if !known {
		return text
	}
	parts := d.Split(text)
	if len(parts) == 1 {
		return text
	}
	return append(bytes.Join(parts, []byte("\n")), append([]byte("\n"), bytes.Join(parts, nil)...)...)
}

// target is the path and the query, as written and decoded, without what
// egress put there.
func (s *scanner) target(u *url.URL, injected []string) []byte {
	var b bytes.Buffer
	b.WriteString(u.EscapedPath() + "\n" + u.Path + "\n")
	for part := range strings.SplitSeq(u.RawQuery, "&") {
		key, value, _ := strings.Cut(part, "=")
		name, err := url.QueryUnescape(key)
		if err != nil {
			name = key
		}
		own, ok := s.own("query:"+url.QueryEscape(name), []byte(value), injected)
		if !ok {
			continue
		}
		part = key + "=" + string(own)
		b.WriteString(part + "\n")
		if plain, err := url.QueryUnescape(part); err == nil && plain != part {
			b.WriteString(plain + "\n")
		}
	}
	return b.Bytes()
}

// frames scans what the agent sends over a WebSocket, each frame with the end
// of the ones before it.
func (s *scanner) frames(ctx context.Context, report func(policy.Verdict)) *websocket.Inspector {
	var tail []byte
	return websocket.NewInspector(func(f websocket.Frame) error {
		text := f.Payload
		if f.Opcode < websocket.Close {
			// A control frame may stand between two parts of a message
			// (RFC 6455 §5.4); it is read by itself.
			text = append(tail, f.Payload...)
			tail = tailOf(text)
		}
		v := s.look(ctx, "websocket frame", text)
		if v.Allow {
			return nil
		}
		report(v)
		if s.warn {
			return nil
		}
		return &refusedError{v: v}
	})
}

// injectedFields reads the field that egress names its injections in.
func injectedFields(h http.Header) []string {
	var all []string
	for part := range strings.SplitSeq(h.Get(httpd.HeaderInjected), ",") {
		if part = strings.TrimSpace(part); part != "" {
			all = append(all, part)
		}
	}
	return all
}
