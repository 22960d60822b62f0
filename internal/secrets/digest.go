package secrets

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strconv"
	"strings"
)

// Digest lets its holder recognise a secret without holding it: for each form of the secret its
// length, a short tag of how it begins, and an HMAC-SHA256 of the whole. The tag finds candidates
// in one pass over the data, the HMAC decides.
//
// A digest is no protection for a guessable secret: its key travels with it. A tag has 16 bits, and
// covers 16 characters of the secret wherever it has that many: tags of fewer, of hex say, could be
// solved one after the other.
type Digest struct {
	key   []byte
	forms []form
}

// form is one derived form of the secret.
type form struct {
	length int
	tag    uint16
	mac    [sha256.Size]byte
}

const digestVersion = "d2"

// NewDigest digests value under key (at least 16 bytes, fresh for each pair). The text fits an
// environment variable.
func NewDigest(value, key string) (string, error) {
	if len(value) < MinLength {
		return "", fmt.Errorf("digesting a secret: shorter than %d bytes", MinLength)
	}
	if len(key) < 16 {
		return "", errors.New("digesting a secret: the key is shorter than 16 bytes")
	}
	b64 := base64.RawURLEncoding
	parts := []string{digestVersion, b64.EncodeToString([]byte(key))}
	for _, f := range digestEncodings(value) {
		mac := sum([]byte(key), f)
		m := mix([]byte(key))
		tag := m.tag(string(f[:window(len(f))]))
		parts = append(parts, fmt.Sprintf("%d-%04x-%s", len(f), tag, b64.EncodeToString(mac[:])))
	}
	return strings.Join(parts, "."), nil
}

// ParseDigest reads what NewDigest wrote. Its errors do not quote the text.
func ParseDigest(text string) (Digest, error) {
	parts := strings.Split(text, ".")
	if len(parts) < 3 || parts[0] != digestVersion {
		return Digest{}, errors.New("parsing digest: want " + digestVersion + ".KEY.FORM…")
	}
	key, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || len(key) < 16 {
		return Digest{}, errors.New("parsing digest: bad key")
	}
	d := Digest{key: key}
	for i, part := range parts[2:] {
		f, err := parseForm(part)
		if err != nil {
			return Digest{}, fmt.Errorf("parsing digest: form %d: %w", i+1, err)
		}
		d.forms = append(d.forms, f)
	}
	return d, nil
}

func parseForm(text string) (f form, err error) {
	length, rest, _ := strings.Cut(text, "-")
	tag, mac, ok := strings.Cut(rest, "-")
	if !ok {
		return f, errors.New("want LENGTH-TAG-MAC")
	}
	if f.length, err = strconv.Atoi(length); err != nil || f.length < MinLength || f.length > 1<<20 {
		return f, errors.New("bad length")
	}
	t, err := strconv.ParseUint(tag, 16, 16)
	if err != nil {
		return f, errors.New("bad tag")
	}
	f.tag = uint16(t)
	sum, err := base64.RawURLEncoding.DecodeString(mac)
	if err != nil || copy(f.mac[:], sum) != sha256.Size || len(sum) != sha256.Size {
		return f, errors.New("bad mac")
	}
	return f, nil
}

// Find returns the first position of any form of the secret in data.
func (d Digest) Find(data []byte) (start, end int, ok bool) {
	m := newMatcher(map[string]Digest{"": d})
	m.find(string(data), func(s span) bool {
		start, end, ok = s.start, s.end, true
		return false
	})
	return start, end, ok
}

// Split returns what is around the places where a form of the secret is: one part more than there
// are places, and data itself when there is none.
func (d Digest) Split(data []byte) (parts [][]byte) {
	spans := newMatcher(map[string]Digest{"": d}).findAll(string(data))
	slices.SortFunc(spans, func(a, b span) int { return cmp.Or(a.start-b.start, b.end-a.end) })
	from := 0
	for _, s := range spans {
		if s.start >= from {
			parts = append(parts, data[from:s.start])
		}
		from = max(from, s.end)
	}
	return append(parts, data[from:])
}

func sum(key, data []byte) (out [sha256.Size]byte) {
	h := hmac.New(sha256.New, key)
	h.Write(data)
	h.Sum(out[:0])
	return out
}

// window is how many bytes of a form of this length its tag covers.
func window(length int) int {
	if length >= 16 {
		return 16
	}
	return 8
}

// mixer tags 8 or 16 bytes under a key. It need not be strong, only spread well: the HMAC decides.
type mixer struct{ a, b uint64 }

func mix(key []byte) mixer {
	s := sum(key, []byte("airlock digest tag"))
	le := binary.LittleEndian
	return mixer{le.Uint64(s[:]), le.Uint64(s[8:]) | 1}
}

func word(s string) uint64 {
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 | uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

func (m mixer) short(s string) uint16 { return uint16((word(s[:8]) ^ m.a) * m.b >> 48) }

func (m mixer) long(s string) uint16 {
	return uint16((word(s[:8]) ^ bits.RotateLeft64(word(s[8:16]), 29) ^ m.a) * m.b >> 48)
}

func (m mixer) tag(s string) uint16 {
	if len(s) >= 16 {
		return m.long(s)
	}
	return m.short(s)
}

// matcher looks for the forms of many digests at once. Digests under one key share a pass.
type matcher struct{ groups []digestGroup }

// digestGroup is one key and one window.
type digestGroup struct {
	mixer  mixer
	key    []byte
	window int
	hit    [1 << 10]uint64 // bit set of tags
	byTag  map[uint16][]named
}

type named struct {
	name string
	form form
}

func newMatcher(known map[string]Digest) *matcher {
	m := &matcher{}
	for _, name := range slices.Sorted(maps.Keys(known)) {
		for _, f := range known[name].forms {
			m.groupFor(known[name].key, window(f.length)).add(named{name, f})
		}
	}
	return m
}

func (m *matcher) groupFor(key []byte, window int) *digestGroup {
	for i := range m.groups {
		if p := &m.groups[i]; p.window == window && string(p.key) == string(key) {
			return p
		}
	}
	m.groups = append(m.groups, digestGroup{mixer: mix(key), key: key, window: window, byTag: map[uint16][]named{}})
	return &m.groups[len(m.groups)-1]
}

func (p *digestGroup) add(n named) {
	p.hit[n.form.tag>>6] |= 1 << (n.form.tag & 63)
	p.byTag[n.form.tag] = append(p.byTag[n.form.tag], n)
}

func (m *matcher) findAll(text string) (spans []span) {
	m.find(text, func(s span) bool {
		spans = append(spans, s)
		return true
	})
	return spans
}

// find calls yield for each known value in a text until it returns false.
func (m *matcher) find(text string, yield func(span) bool) {
	for i := range m.groups {
		p := &m.groups[i]
		tag := p.mixer.short
		if p.window == 16 {
			tag = p.mixer.long
		}
		for at := p.next(text, 0); at >= 0; at = p.next(text, at+1) {
			for _, n := range p.byTag[tag(text[at:])] {
				if p.is(n.form, text[at:]) && !yield(span{rule: n.name, start: at, end: at + n.form.length}) {
					return
				}
			}
		}
	}
}

// next is the first place from at on whose tag is known, or -1.
func (p *digestGroup) next(text string, at int) int {
	if p.window == 16 {
		return p.nextLong(text, at)
	}
	for ; at+8 <= len(text); at++ {
		if p.has(p.mixer.short(text[at:])) {
			return at
		}
	}
	return -1
}

// nextLong is next for windows of 16 bytes, four at a time.
func (p *digestGroup) nextLong(text string, at int) int {
	m, hit := p.mixer, &p.hit
	for ; at+19 <= len(text); at += 4 {
		t := text[at : at+19]
		// As in long, which is too long to be inlined.
		x0 := (word(t[0:8]) ^ bits.RotateLeft64(word(t[8:16]), 29) ^ m.a) * m.b
		x1 := (word(t[1:9]) ^ bits.RotateLeft64(word(t[9:17]), 29) ^ m.a) * m.b
		x2 := (word(t[2:10]) ^ bits.RotateLeft64(word(t[10:18]), 29) ^ m.a) * m.b
		x3 := (word(t[3:11]) ^ bits.RotateLeft64(word(t[11:19]), 29) ^ m.a) * m.b
		if (hit[x0>>54]>>(x0>>48&63)|hit[x1>>54]>>(x1>>48&63)|hit[x2>>54]>>(x2>>48&63)|hit[x3>>54]>>(x3>>48&63))&1 != 0 {
			break
		}
	}
	for ; at+16 <= len(text); at++ {
		if p.has(p.mixer.long(text[at:])) {
			return at
		}
	}
	return -1
}

func (p *digestGroup) has(tag uint16) bool { return p.hit[tag>>6]>>(tag&63)&1 != 0 }

func (p *digestGroup) is(f form, text string) bool {
	return f.length <= len(text) && sum(p.key, []byte(text[:f.length])) == f.mac
}
