package gitgate

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/klauspost/compress/zlib"
)

// hostile is an upstream that says whatever a test wants: what it advertises, and what it answers to a request for a pack or to a push.
type hostile struct {
	advertise func(w io.Writer, service string) error
	answer    func(w io.Writer) error // nil: with nothing
}

func (h hostile) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	service := r.URL.Query().Get("service")
	kind, speak := "advertisement", func() error {
		_ = writePkt(w, "# service="+service+"\n")
		_ = writeFlush(w)
		return h.advertise(w, service)
	}
	if r.Method == http.MethodPost {
		_, _ = io.Copy(io.Discard, r.Body)
		service, kind = strings.TrimPrefix(r.URL.Path[strings.LastIndexByte(r.URL.Path, '/'):], "/"), "result"
		speak = func() error {
			if h.answer == nil {
				return nil
			}
			return h.answer(w)
		}
	}
	w.Header().Set("Content-Type", "application/x-"+service+"-"+kind)
	_ = speak() // who asked may be gone
	_ = http.NewResponseController(w).Flush()
}

// endless writes until nobody listens.
func endless(w io.Writer, line func(i int) string) error {
	for i := 0; ; i++ {
		if err := writePkt(w, line(i)); err != nil {
			return err
		}
	}
}

func refs(lines ...string) func(io.Writer, string) error {
	return func(w io.Writer, _ string) error {
		for i, l := range lines {
			if i == 0 {
				l += "\x00side-band-64k report-status delete-refs"
			}
			if err := writePkt(w, l); err != nil {
				return err
			}
		}
		return writeFlush(w)
	}
}

const someID = "1234567890123456789012345678901234567890"

// banded sends data on a band.
func banded(w io.Writer, channel byte, data string) error {
	for len(data) > 0 {
		n := min(len(data), 60_000)
		if err := writePkt(w, string(channel)+data[:n]); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// bombPack is a blob of 64 KiB and deltas upon deltas, each of which doubles it.
func bombPack(t *testing.T) string {
	var entries bytes.Buffer
	entry := func(head, data []byte) {
		entries.Write(head)
		z := zlib.NewWriter(&entries)
		_, _ = z.Write(data)
		_ = z.Close()
	}
	size := func(n int) (b []byte) {
		for ; n >= 0x80; n >>= 7 {
			b = append(b, byte(n)|0x80)
		}
		return append(b, byte(n))
	}
	head := func(typ plumbing.ObjectType, n int) []byte {
		b := []byte{byte(typ)<<4 | byte(n&15)}
		for n >>= 4; n > 0; n >>= 7 {
			b[len(b)-1] |= 0x80
			b = append(b, byte(n&0x7f))
		}
		return b
	}
	base := make([]byte, 1<<16)
	name := plumbing.ComputeHash(plumbing.BlobObject, base)
	entry(head(plumbing.BlobObject, len(base)), base)
	for n := 1 << 16; n < 1<<40; n *= 2 {
		d := append(size(n), size(2*n)...)
		for copied := 0; copied < 2*n && copied < 1<<25; copied += 1 << 16 {
			d = append(d, 0x80) // 64 KiB from the beginning
		}
		entry(append(head(plumbing.REFDeltaObject, len(d)), name[:]...), d)
		if n >= 1<<30 {
			break
		}
		base = append(base, base...)
		if len(base) > 1<<22 {
			break
		}
		name = plumbing.ComputeHash(plumbing.BlobObject, base)
	}
	return entries.String()
}

// An upstream that means harm is refused with a reason, within the bounds, and leaves nothing behind.
func TestHostileUpstreams(t *testing.T) {
	one := refs(someID + " refs/heads/main")
	nak := func(w io.Writer) error { return writePkt(w, "NAK\n") }
	cases := map[string]struct {
		hostile
		want string
	}{
		"endless advertisement": {hostile{advertise: func(w io.Writer, _ string) error {
			return endless(w, func(int) string { return "shallow " + someID })
		}}, "upstream"},
		"millions of references": {hostile{advertise: func(w io.Writer, _ string) error {
			return endless(w, func(i int) string { return fmt.Sprintf("%s refs/heads/%d", someID, i) })
		}}, "upstream"},
		"a word now and then": {hostile{advertise: func(w io.Writer, _ string) error {
			for i := range 1000 {
				if err := writePkt(w, fmt.Sprintf("%s refs/heads/%d", someID, i)); err != nil {
					return err
				}
				_ = http.NewResponseController(w.(http.ResponseWriter)).Flush()
				time.Sleep(50 * time.Millisecond) // it is what this upstream does
			}
			return nil
		}}, "said nothing for"},
		"steering a terminal":  {hostile{advertise: func(w io.Writer, _ string) error { return writePkt(w, "ERR \x1b[2J\x9b0mno\x07\r\nsuch thing") }}, "no   such thing"},
		"names that lead away": {hostile{advertise: refs(someID+" refs/heads/../../x", someID+" ../x", someID+" refs/heads/a\x1bb", someID+" refs/heads/x.lock")}, ""},
		"HEAD that goes round": {hostile{refs(someID + " HEAD\x00symref=HEAD:HEAD"), nak}, "upstream"},
		"endless chatter": {hostile{one, func(w io.Writer) error {
			_ = nak(w)
			return endless(w, func(int) string { return string(rune(bandMessage)) + "still counting\r" })
		}}, "upstream"},
		"a pack without an end": {hostile{one, func(w io.Writer) error {
			_ = nak(w)
			_ = banded(w, bandData, "PACK\x00\x00\x00\x02\x00\xff\xff\xff")
			return endless(w, func(int) string { return string(rune(bandData)) + "\x30\x78\x9c\x03\x00\x00\x00\x00\x01" })
		}}, "upstream"},
		"a bomb": {hostile{one, func(w io.Writer) error {
			_ = nak(w)
			return banded(w, bandData, "PACK\x00\x00\x00\x02\x00\x00\x00\x09"+bombPack(t))
		}}, "upstream"},
		"half a pack": {hostile{one, func(w io.Writer) error {
			_ = nak(w)
			return banded(w, bandData, "PACK\x00\x00\x00\x02\x00\x00\x00\x09\x30")
		}}, "upstream"},
		"an error of its own": {hostile{one, func(w io.Writer) error {
			_ = nak(w)
			return banded(w, bandError, "\x1b[31mno more\n")
		}}, "no more"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := viaHTTPS(t, token(41), token(41), func(http.Handler) http.Handler { return c.hostile })
			r.edit(func(c *Config) { c.Answer, c.Transfer = 3*time.Second, 6*time.Second })
			began := time.Now()
			out, err := r.try(r.state, "git", "ls-remote", r.url("git", "app"))
			if c.want == "" && (err != nil || out != "") || c.want != "" && (err == nil || !strings.Contains(out, c.want)) || strings.ContainsAny(out, "\x1b\x07\u009b") {
				t.Errorf("%v, %q, want %q", err, out, c.want)
			}
			if took := time.Since(began); took > 45*time.Second {
				t.Errorf("took %s", took)
			}
			r.noLeftovers()
		})
	}
}

// What an upstream says of a push is bounded, too, and its words are tame.
func TestHostileReports(t *testing.T) {
	line := func(text string) string { return fmt.Sprintf("%04x%s", len(text)+4, text) }
	for name, c := range map[string]struct {
		answer func(w io.Writer) error
		want   string
	}{
		"nothing": {func(io.Writer) error { return nil }, "outcome is unknown"},
		"endless report": {func(w io.Writer) error {
			return endless(w, func(int) string { return string(rune(bandData)) + line("ok refs/heads/other\n") })
		}, "outcome is unknown"},
		"endless chatter": {func(w io.Writer) error {
			return endless(w, func(int) string { return string(rune(bandMessage)) + "again\n" })
		}, "outcome is unknown"},
		"another one": {func(w io.Writer) error {
			return banded(w, bandData, line("unpack ok\n")+line("ok refs/heads/main\n")+"0000")
		}, "rejected"},
		"terminal": {func(w io.Writer) error {
			_ = banded(w, bandMessage, "\x1b[2Jhello\x07\n")
			return banded(w, bandData, line("unpack ok\n")+line("ng refs/heads/x \x1b[1mno\n")+"0000")
		}, "[remote rejected]"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bad := hostile{answer: c.answer, advertise: func(w io.Writer, service string) error {
				caps := "side-band-64k report-status delete-refs"
				if service == uploadPack {
					caps = "side-band-64k"
				}
				return errorsOf(writePkt(w, zeros+" capabilities^{}\x00"+caps), writeFlush(w))
			}}
			r := viaHTTPS(t, token(42), token(42), func(http.Handler) http.Handler { return bad })
			r.edit(func(c *Config) { c.Answer, c.Report, c.Transfer = 3*time.Second, 2*time.Second, 6*time.Second })
			w := t.TempDir()
			r.run(w, "git", "init", "-q")
			r.commit(w, "mine", map[string]string{"a": "1"})
			began := time.Now()
			out := r.fails(w, []string{c.want}, "git", "push", r.url("git", "app"), "HEAD:refs/heads/x")
			if took := time.Since(began); took > 45*time.Second || strings.ContainsAny(out, "\x1b\x07") || len(out) > 4*maxSpeech {
				t.Errorf("took %s, said %d bytes: %.300q", took, len(out), out)
			}
			if all := r.refs(r.mirrorDir()); all != "" {
				t.Errorf("the mirror has %s", all)
			}
			r.noLeftovers()
		})
	}
}

func errorsOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
