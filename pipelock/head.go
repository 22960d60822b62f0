package pipelock

import (
	"bytes"
	"encoding/base64"
	"hash/maphash"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"airlock/internal/bundle"
	"airlock/internal/httpd"
	"airlock/internal/policy"
)

// head scans what a request says before its body. Fields that egress filled
// are left out. All is read in one go; only when something is found is it
// asked where. A head that was read before and is the same is not read again,
// nor is a field.
func (s *scanner) head(r *http.Request, to scanContext) policy.Verdict {
	sum := s.sum(r, to)
	if s.cleanHeads.Has(sum) {
		return policy.Allowed("scan")
	}
	text, sums := s.unread(r, to)
	v := s.scanText(r.Context(), "request", text)
	if isFinding(v) {
		v = s.where(r, to)
	}
	if v.Allow {
		v = s.scanJoined(r.Context(), to.host, s.rowsOf(r, to)...)
	}
	if v.Allow {
		s.cleanHeads.Add(sum)
		s.cleanNames.Add(sums...)
	}
	return v
}

// unread is what of a head was not read before, as one text. Names of fields
// are written in lower case too: on the way here their first letters became
// capitals.
func (s *scanner) unread(r *http.Request, to scanContext) (text []byte, sums []uint64) {
	text = make([]byte, 0, 1<<10)
	known := func(sum uint64) bool {
		if s.cleanNames.Has(sum) {
			return true
		}
		sums = append(sums, sum)
		return false
	}
	if host := to.host.String(); !known(maphash.String(seed, host)) {
		text = append(append(text, hostText(host)...), '\n')
	}
	path := r.URL.EscapedPath()
	text = append(append(text, path...), '\n')
	if r.URL.Path != path {
		text = append(append(text, r.URL.Path...), '\n')
	}
	for _, q := range s.query(r.URL, to) {
		text = append(append(text, q.own...), '\n')
		if q.plain != "" {
			text = append(append(text, q.plain...), '\n')
		}
	}
	text = append(append(text, r.Method...), '\n')
	for name, values := range r.Header {
		for i, v := range values {
			v, ok := s.own(name, []byte(v), to.injected)
			if ok && known(maphash.String(seed, name)*prime+maphash.Bytes(seed, v)) {
				continue
			}
			if i == 0 {
				text = append(append(text, strings.ToLower(name)...), '\n')
			}
			if ok {
				text = append(append(append(append(text, name...), ": "...), v...), '\n')
			}
		}
	}
	return text, sums
}

// hostText is a host name as labels, as it is, and as one word.
func hostText(name string) []byte {
	return []byte(strings.ReplaceAll(name, ".", "\n") + "\n" + name + "\n" + strings.ReplaceAll(name, ".", ""))
}

// place is one surface of a head.
type place struct {
	name string
	text []byte
	from int          // where in text the surface begins; what is before gives it a meaning
	put  func([]byte) // writes the surface back, with as many bytes; nil: it cannot be overwritten
}

// where names the first surface in which something is found.
func (s *scanner) where(r *http.Request, to scanContext) policy.Verdict {
	for _, p := range s.places(r, to) {
		if v := s.scanText(r.Context(), p.name, p.text); !v.Allow {
			return v
		}
	}
	return policy.Allowed("scan") // the end of one with the beginning of another
}

// findings is a verdict for each surface in which something is found, and for
// what pieces make.
func (s *scanner) findings(r *http.Request, to scanContext) (all []policy.Verdict) {
	for _, p := range s.places(r, to) {
		if v := s.scanText(r.Context(), p.name, p.text); !v.Allow && !slices.Contains(all, v) {
			all = append(all, v)
		}
	}
	if v := s.scanJoined(r.Context(), to.host, s.rowsOf(r, to)...); !v.Allow {
		all = append(all, v)
	}
	return all
}

// places are the surfaces of a head.
func (s *scanner) places(r *http.Request, to scanContext) []place {
	path := r.URL.EscapedPath()
	all := []place{
		{name: "host name", text: hostText(to.host.String())},
		{name: "method", text: []byte(r.Method)},
		{name: "path", text: []byte(path), put: func(b []byte) { setPath(r.URL, string(b)) }},
	}
	if r.URL.Path != path {
		all = append(all, place{name: "path", text: []byte(r.URL.Path)})
	}
	parts := strings.Split(r.URL.RawQuery, "&")
	for _, q := range s.query(r.URL, to) {
		p := place{name: "query", text: []byte(q.own)}
		if q.own == parts[q.i] {
			p.put = func(b []byte) {
				parts[q.i] = string(b)
				r.URL.RawQuery = strings.Join(parts, "&")
			}
		}
		all = append(all, p)
		if q.plain != "" {
			all = append(all, place{name: "query", text: []byte(q.plain)})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		all = append(all, s.field(r.Header, name, to)...)
	}
	return all
}

// field are the surfaces of one field: its name, and each value.
func (s *scanner) field(h http.Header, name string, to scanContext) []place {
	all := []place{{name: "name of a header", text: []byte(name)}, {name: "name of a header", text: []byte(strings.ToLower(name))}}
	values := h[name]
	for i, v := range values {
		own, ok := s.own(name, []byte(v), to.injected)
		if !ok {
			continue
		}
		p := place{name: fieldName(name), text: append([]byte(name+": "), own...), from: len(name) + 2}
		if string(own) == v {
			p.put = func(b []byte) { values[i] = string(b) }
		}
		all = append(all, p)
	}
	return all
}

// fieldName is what a verdict calls a field. Long names are not repeated.
func fieldName(name string) string {
	switch {
	case name == "Cookie":
		return "cookie"
	case len(name) > 32:
		return "header"
	}
	return "header " + name
}

// setPath replaces the path by another spelling of the same length.
func setPath(u *url.URL, escaped string) {
	if plain, err := url.PathUnescape(escaped); err == nil {
		u.Path, u.RawPath = plain, escaped
	}
}

// own is the part of a field, parameter or body that is the agent's: all of
// it, none where egress filled it, and what is beside the credential where
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
// there twice then: apart, and as one. A Basic pair (RFC 7617) is opened.
func (s *scanner) without(text []byte, slot string) []byte {
	d, known := s.known[bundle.DigestSlot(slot)]
	if !known {
		return text
	}
	parts := d.Split(text)
	if scheme, pair, _ := bytes.Cut(text, []byte(" ")); len(parts) == 1 && bytes.EqualFold(scheme, []byte("Basic")) {
		if plain, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(pair))); err == nil {
			parts = d.Split(plain)
		}
	}
	if len(parts) == 1 {
		return text
	}
	return append(bytes.Join(parts, []byte("\n")), append([]byte("\n"), bytes.Join(parts, nil)...)...)
}

// parameter is one part of a query that is the agent's.
type parameter struct {
	i     int    // which part of the query it is
	own   string // as it is written
	plain string // decoded, where that is something else
}

// query takes a query apart, without what egress put there.
func (s *scanner) query(u *url.URL, to scanContext) (all []parameter) {
	if u.RawQuery == "" {
		return nil
	}
	i := -1
	for part := range strings.SplitSeq(u.RawQuery, "&") {
		i++
		key, value, _ := strings.Cut(part, "=")
		name, err := url.QueryUnescape(key)
		if err != nil {
			name = key
		}
		if len(to.injected) > 0 {
			own, ok := s.own("query:"+url.QueryEscape(name), []byte(value), to.injected)
			if !ok {
				continue
			}
			if string(own) != value {
				part = key + "=" + string(own)
			}
		}
		p := parameter{i: i, own: part}
		if plain, err := url.QueryUnescape(part); err == nil && plain != part {
			p.plain = plain
		}
		all = append(all, p)
	}
	return all
}

// rowsOf is what of a head could be read one after the other: segments of the
// path, parameters, cookies, and the fields by their names; and those names.
func (s *scanner) rowsOf(r *http.Request, to scanContext) [][]string {
	var params, cookies, fields, paramNames, cookieNames, fieldNames []string
	for _, q := range s.query(r.URL, to) {
		text := q.own
		if q.plain != "" {
			text = q.plain
		}
		name, value, found := strings.Cut(text, "=")
		if !found {
			name, value = "", text
		}
		params = append(params, value)
		paramNames = appendName(paramNames, name)
	}
	names := make([]string, 0, len(r.Header))
	for name := range r.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fieldNames = appendName(fieldNames, hexOf(name))
		for _, v := range r.Header[name] {
			own, ok := s.own(name, []byte(v), to.injected)
			switch {
			case !ok:
			case name == "Cookie":
				names, values := pairs(string(own))
				cookies = append(cookies, values...)
				for _, name := range names {
					cookieNames = appendName(cookieNames, name)
				}
			default:
				fields = append(fields, string(own))
			}
		}
	}
	return [][]string{strings.Split(strings.Trim(r.URL.Path, "/"), "/"), params, cookies, fields, paramNames, cookieNames, fieldNames}
}

// appendName adds a name that looks drawn by chance: the others are words of
// the API.
func appendName(all []string, name string) []string {
	if looksRandom(name) {
		all = append(all, name)
	}
	return all
}

// pairs are the names and values of a Cookie field.
func pairs(field string) (names, values []string) {
	for part := range strings.SplitSeq(field, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		names, values = append(names, name), append(values, value)
	}
	return names, values
}

var seed = maphash.MakeSeed()

// prime spreads what is added to a sum.
const prime = 0x9e3779b97f4a7c15

// sum tells heads apart. That two have the same cannot be brought about by
// somebody who does not know the seed.
func (s *scanner) sum(r *http.Request, to scanContext) uint64 {
	total := maphash.String(seed, r.Method)
	for _, text := range [...]string{to.host.String(), r.URL.Path, r.URL.RawPath, r.URL.RawQuery} {
		total = total*prime + maphash.String(seed, text)
	}
	for _, name := range to.injected {
		total = total*prime + maphash.String(seed, name)
	}
	for name, values := range r.Header { // in no order
		one := maphash.String(seed, name)
		for _, v := range values {
			one = one*prime + maphash.String(seed, v)
		}
		total += one
	}
	return total
}
