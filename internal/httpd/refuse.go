// Package httpd holds what the HTTP faces of the daemons have in common: the
// form of a refusal, and servers with limits that drain. It decides nothing.
package httpd

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"unicode"

	"airlock/internal/http1"
	"airlock/internal/policy"
)

// Refusal is what an agent is told: as the member "error" of a JSON object, or as
// plain text.
type Refusal struct {
	By   string `json:"by"`   // the daemon
	Rule string `json:"rule"` // the line of configuration, or the check
	Why  string `json:"why"`
	URL  string `json:"url"`
	Ask  string `json:"ask"` // which tool of the MCP server helps

	Text bool `json:"-"` // it is told as plain text: see PrefersText
}

// AskAccess tells how to ask for a host or a path that is refused.
const AskAccess = "call the tool request_access of the MCP server supervise with this URL, the methods and why you need it; a person decides"

// AskOperator tells how to ask where no grant would help.
const AskOperator = "call the tool ask_operator of the MCP server supervise"

// Header names that a refusal and the in-bundle hop use.
const (
	HeaderRule     = "Airlock-Rule"
	HeaderInjected = "Airlock-Injected" // egress → pipelock: the fields that hold an injected credential
	HeaderKind     = "Airlock-Kind"     // egress → pipelock: the kind of the route, where it has one
	HeaderProto    = "Airlock-Proto"    // egress → pipelock: "h2", the agent speaks HTTP/2; back: "h1", the origin does not
)

// HeaderHop is in the notice of a pipelock that takes its leave, and in no
// other answer: nobody has acted on the request.
const HeaderHop = "Airlock-Hop"

// Replaced follows the name of what was injected when only a part of it is the
// credential, before the slot of that credential; the rest is the agent's own.
const Replaced = ";replaced="

// InjectedBody stands among the injected fields for the body. It is the name
// of no field.
const InjectedBody = ":body"

// StripOwn removes the fields that the daemons use among themselves: they mean nothing
// to an origin, and what an agent or an origin says in them is not ours.
func StripOwn(h http.Header) {
	for name := range h {
		if strings.HasPrefix(name, "Airlock-") {
			delete(h, name)
		}
	}
}

// Echoes reports whether a method has the server repeat the request (RFC 9110 §9.3.8,
// and what one server calls it).
func Echoes(method string) bool { return method == http.MethodTrace || method == "TRACK" }

// NoTrace refuses such a method, with 405.
var NoTrace = policy.Denied("method", "TRACE would have the server repeat the request, with the credential in it")

// MethodsBesideTrace are told where NoTrace refuses (RFC 9110 §15.5.6).
const MethodsBesideTrace = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"

// Refuse answers with the status and the reason. The body of the request is
// not read, and the connection of an HTTP/1 client closes where a long one
// stands unread.
func Refuse(w http.ResponseWriter, status int, r Refusal) {
	body := r.text()
	h := w.Header()
	r.fields(h, body)
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client may be gone
}

// RefuseRaw refuses on a connection on which no HTTP is spoken yet.
func RefuseRaw(w io.Writer, status int, r Refusal) {
	body := r.text()
	h := http.Header{"Connection": {"close"}}
	r.fields(h, body)
	_, _ = w.Write(append(http1.AppendHead(nil, status, h), body...)) // the client may be gone
}

func (r Refusal) text() []byte {
	if r.Text {
		return []byte(printable("refused by "+r.By+" ("+r.Rule+"): "+r.Why) + "\nURL: " + printable(r.URL) + "\nTo ask: " + printable(r.Ask) + "\n")
	}
	body, err := json.Marshal(map[string]Refusal{"error": r})
	if err != nil { // cannot happen: five strings
		return []byte("refused\n")
	}
	return append(body, '\n')
}

func (r Refusal) fields(h http.Header, body []byte) {
	h.Set("Content-Type", "application/json")
	if r.Text {
		h.Set("Content-Type", "text/plain; charset=utf-8")
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	h.Set(HeaderRule, headerSafe(r.Rule))
}

func headerSafe(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c < 0x20 || c > 0x7e {
			b[i] = '?'
		}
	}
	return string(b)
}

// printable is a text without control characters, on one line: a terminal may
// show it.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if unicode.IsControl(c) || unicode.Is(unicode.Cf, c) || c == unicode.ReplacementChar {
			return '?'
		}
		return c
	}, s)
}

// Forbid refuses by a verdict, with 403; as plain text if so wished.
func Forbid(w http.ResponseWriter, by string, v policy.Verdict, url, ask string, text bool) {
	Refuse(w, http.StatusForbidden, Refusal{By: by, Rule: v.Rule, Why: v.Why, URL: url, Ask: ask, Text: text})
}
