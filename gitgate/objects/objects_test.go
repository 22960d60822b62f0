package objects

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/klauspost/compress/zlib"
)

var roomy = Limits{PackBytes: 1 << 30, ObjectBytes: 100 << 20, TotalBytes: 4 << 30, Objects: 1_000_000}

func git(t testing.TB, dir, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1"}
	cmd.Stdin = strings.NewReader(stdin)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, errs.String())
	}
	return strings.TrimSpace(string(out))
}

// history makes a bare repository with n commits on main, a side branch that is merged, and a tag, packed with deltas.
func history(t testing.TB, n int) string {
	t.Helper()
	dir := t.TempDir()
	git(t, dir, "", "init", "-q", "--bare", "-b", "main")
	var s strings.Builder
	for i := 1; i <= n; i++ {
		body := fmt.Sprintf("content %d\n%s", i, strings.Repeat("much the same text in every version of it\n", 60))
		fmt.Fprintf(&s, "commit refs/heads/main\nmark :%d\ncommitter A <a@example.com> %d +0000\ndata 2\nhi\nM 100644 inline d%d/f%d\ndata %d\n%s\n", i, 1_700_000_000+i, i%5, i%11, len(body), body)
	}
	fmt.Fprintf(&s, "commit refs/heads/side\nmark :%d\ncommitter A <a@example.com> 1700000002 +0000\ndata 4\nside\nfrom :%d\nM 100644 inline side\ndata 1\ns\n", n+1, n/2)
	fmt.Fprintf(&s, "commit refs/heads/main\nmark :%d\ncommitter A <a@example.com> 1800000000 +0000\ndata 5\nmerge\nfrom :%d\nmerge :%d\n\n", n+2, n, n+1)
	fmt.Fprintf(&s, "tag v1\nfrom :%d\ntagger A <a@example.com> 1800000000 +0000\ndata 3\none\n", n+2)
	git(t, dir, s.String(), "fast-import", "--quiet")
	git(t, dir, "", "repack", "-adfq", "--depth=50")
	return dir
}

func packOf(t testing.TB, repo, revs string, flags ...string) []byte {
	t.Helper()
	cmd := exec.Command("git", append([]string{"pack-objects", "--stdout", "--revs", "-q"}, flags...)...)
	cmd.Dir = repo
	cmd.Stdin = strings.NewReader(revs + "\n")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// oneByte gives a byte at a time, and an error to whoever reads on.
type oneByte struct {
	data []byte
	t    testing.TB
}

func (r *oneByte) Read(p []byte) (int, error) {
	if len(r.data) == 0 {
		r.t.Error("read beyond the pack")
		return 0, io.ErrUnexpectedEOF
	}
	p[0] = r.data[0]
	r.data = r.data[1:]
	return 1, nil
}

func TestReceiveMakesGitsOwnIndex(t *testing.T) {
	repo := history(t, 200)
	for _, flags := range [][]string{nil, {"--delta-base-offset"}} {
		data := packOf(t, repo, "main\nv1", flags...)
		dir := t.TempDir()
		p, err := Receive(t.Context(), &oneByte{data, t}, dir, roomy)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		ours, err := os.ReadFile(p.base + ".idx")
		if err != nil {
			t.Fatal(err)
		}
		ref := filepath.Join(t.TempDir(), "x.pack")
		if err := os.WriteFile(ref, data, 0o600); err != nil {
			t.Fatal(err)
		}
		git(t, repo, "", "index-pack", ref)
		theirs, err := os.ReadFile(strings.TrimSuffix(ref, ".pack") + ".idx")
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(ours, theirs) {
			t.Errorf("flags %v: the index differs from git's", flags)
		}
		for _, h := range p.Hashes() {
			o, err := p.Get(h)
			if err != nil || plumbing.ComputeHash(o.Type, o.Data) != h {
				t.Fatalf("reading %s: %v", h, err)
			}
		}
	}
}

// store opens a repository that git made.
func storeOf(t *testing.T, repo string) Set {
	t.Helper()
	s, err := Open(filepath.Join(repo, "objects"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s.Packs()
}

func named(t *testing.T, repo, rev string) Hash {
	t.Helper()
	return plumbing.NewHash(git(t, repo, "", "rev-parse", rev))
}

func TestMissingAndWriteAgreeWithGit(t *testing.T) {
	repo := history(t, 100)
	set := storeOf(t, repo)
	cases := []struct{ wants, haves []string }{
		{[]string{"main"}, nil},
		{[]string{"v1"}, nil},
		{[]string{"main"}, []string{"main~20"}},
		{[]string{"main", "side"}, []string{"side"}},
		{[]string{"main"}, []string{"main"}},
		{[]string{"main~50"}, []string{"main"}},
		{[]string{"v1"}, []string{"main"}},
		{[]string{"main:d1"}, nil},
		{[]string{"main:d1/f1"}, nil},
	}
	for _, c := range cases {
		t.Run(strings.Join(c.wants, "+")+" not "+strings.Join(c.haves, "+"), func(t *testing.T) {
			var wants, haves []Hash
			revs := []string{"rev-list", "--objects", "--no-object-names"}
			for _, w := range c.wants {
				wants = append(wants, named(t, repo, w))
				revs = append(revs, w)
			}
			for _, h := range c.haves {
				haves = append(haves, named(t, repo, h))
				revs = append(revs, "^"+h)
			}
			send, _, err := set.Missing(t.Context(), Ask{Wants: wants, Haves: haves})
			if err != nil {
				t.Fatal(err)
			}
			got := map[Hash]bool{}
			for h := range send.All() {
				got[h] = true
			}
			want := map[Hash]bool{}
			for _, line := range strings.Fields(git(t, repo, "", revs...)) {
				want[plumbing.NewHash(line)] = true
			}
			if !maps.Equal(got, want) {
				t.Fatalf("%d objects, git lists %d", len(got), len(want))
			}
			for _, offsets := range []bool{true, false} {
				var b bytes.Buffer
				if err := set.WritePack(t.Context(), &b, got, offsets); err != nil {
					t.Fatal(err)
				}
				verify(t, b.Bytes(), got)
			}
		})
	}
}

// verify lets git and ourselves read a pack.
func verify(t *testing.T, pack []byte, want map[Hash]bool) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "x.pack")
	if err := os.WriteFile(path, pack, 0o600); err != nil {
		t.Fatal(err)
	}
	git(t, dir, "", "index-pack", path)
	p, err := Receive(t.Context(), bytes.NewReader(pack), dir, roomy)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.Len() != len(want) {
		t.Errorf("pack of %d objects, want %d", p.Len(), len(want))
	}
	for h := range want {
		if !p.Has(h) {
			t.Errorf("pack lacks %s", h)
		}
	}
}

func TestAncestors(t *testing.T) {
	repo := history(t, 30)
	set := storeOf(t, repo)
	for _, c := range []struct {
		old, new string
		want     bool
	}{{"main~3", "main", true}, {"main", "main~3", false}, {"side", "main", true}, {"main", "main", true}, {"main~1", "side", false}} {
		got, err := set.IsAncestor(t.Context(), named(t, repo, c.old), named(t, repo, c.new))
		if err != nil || got != c.want {
			t.Errorf("%s in %s: %v, %v", c.old, c.new, got, err)
		}
	}
}

// raw builds packs that git would not.
type raw struct {
	buf bytes.Buffer
	n   uint32
}

func (r *raw) entry(head, data []byte) {
	r.n++
	r.buf.Write(head)
	z := zlib.NewWriter(&r.buf)
	z.Write(data)
	z.Close()
}

func (r *raw) bytes() []byte {
	b := binary.BigEndian.AppendUint32([]byte("PACK\x00\x00\x00\x02"), r.n)
	b = append(b, r.buf.Bytes()...)
	sum := sha1.Sum(b)
	return append(b, sum[:]...)
}

func size(n int64) (b []byte) {
	for ; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}

// bomb makes a delta that copies its base over and over: `total` bytes out of few.
func bomb(base, total int64) []byte {
	d := append(size(base), size(total)...)
	for n := int64(0); n < total; n += base {
		d = append(d, 0x80|0x10|0x20|0x40, byte(base), byte(base>>8), byte(base>>16))
	}
	return d
}

func TestReceiveRefuses(t *testing.T) {
	blob := []byte("hello")
	good := func() *raw {
		r := &raw{}
		r.entry(entryHead(plumbing.BlobObject, int64(len(blob))), blob)
		return r
	}
	with := func(change func(r *raw)) []byte {
		r := good()
		change(r)
		return r.bytes()
	}
	small := Limits{PackBytes: 1 << 20, ObjectBytes: 1 << 20, TotalBytes: 8 << 20, Objects: 100}
	missing := plumbing.NewHash(strings.Repeat("1", 40))
	whole := good().bytes()
	flipped := bytes.Clone(whole)
	flipped[len(flipped)-1] ^= 1
	cases := map[string]struct {
		data []byte
		want error
	}{
		"nothing":        {nil, io.ErrUnexpectedEOF},
		"no pack":        {[]byte("HTTP/1.1 200 OK\r\n\r\n"), ErrCorrupt},
		"cut in half":    {whole[:len(whole)/2], io.ErrUnexpectedEOF},
		"no checksum":    {whole[:len(whole)-20], io.ErrUnexpectedEOF},
		"wrong checksum": {flipped, ErrCorrupt},
		"version 3":      {append([]byte("PACK\x00\x00\x00\x03"), whole[8:]...), ErrCorrupt},
		"too many":       {[]byte("PACK\x00\x00\x00\x02\xff\xff\xff\xff"), ErrLimit},
		"type 0":         {with(func(r *raw) { r.entry(entryHead(0, 5), blob) }), ErrCorrupt},
		"type 5":         {with(func(r *raw) { r.entry(entryHead(5, 5), blob) }), ErrCorrupt},
		"longer than it says": {with(func(r *raw) {
			r.entry(entryHead(plumbing.BlobObject, 3), blob)
		}), ErrCorrupt},
		"shorter than it says": {with(func(r *raw) { r.entry(entryHead(plumbing.BlobObject, 9), blob) }), ErrCorrupt},
		"twice":                {with(func(r *raw) { r.entry(entryHead(plumbing.BlobObject, 5), blob) }), ErrCorrupt},
		"thin": {with(func(r *raw) {
			d := bomb(5, 5)
			r.entry(append(entryHead(plumbing.REFDeltaObject, int64(len(d))), missing[:]...), d)
		}), ErrCorrupt},
		"base outside": {with(func(r *raw) {
			d := bomb(5, 5)
			r.entry(append(entryHead(plumbing.OFSDeltaObject, int64(len(d))), 0x7f), d)
		}), ErrCorrupt},
		"base is itself": {with(func(r *raw) {
			d := bomb(5, 5)
			r.entry(append(entryHead(plumbing.OFSDeltaObject, int64(len(d))), 0), d)
		}), ErrCorrupt},
		"wrong base size": {with(func(r *raw) {
			d := bomb(6, 6)
			r.entry(append(entryHead(plumbing.OFSDeltaObject, int64(len(d))), backwards(int64(r.buf.Len()))...), d)
		}), ErrCorrupt},
		"object over the limit": {with(func(r *raw) { r.entry(entryHead(plumbing.BlobObject, 2<<20), make([]byte, 2<<20)) }), ErrLimit},
		"delta bomb": {with(func(r *raw) {
			d := append(append(size(5), size(1<<40)...), bytes.Repeat([]byte{0x80 | 0x10, 5}, 1000)...)
			r.entry(append(entryHead(plumbing.OFSDeltaObject, int64(len(d))), backwards(int64(r.buf.Len()))...), d)
		}), ErrLimit},
		"many deltas, much in total": {func() []byte {
			r := &raw{}
			base := make([]byte, 512<<10)
			r.entry(entryHead(plumbing.BlobObject, int64(len(base))), base)
			start := int64(0)
			for i := range 40 {
				d := append(append(size(512<<10), size(512<<10+1)...), 0x80|0x40, 8, 1, byte(i))
				at := int64(r.buf.Len())
				r.entry(append(entryHead(plumbing.OFSDeltaObject, int64(len(d))), backwards(at-start)...), d)
			}
			return r.bytes()
		}(), ErrLimit},
		"more bytes than allowed": {func() []byte {
			r := &raw{}
			for i := range 80 {
				noise := bytes.Repeat([]byte{byte(i)}, 10)
				for range 1200 {
					sum := sha1.Sum(noise)
					noise = append(noise, sum[:]...)
				}
				r.entry(entryHead(plumbing.BlobObject, int64(len(noise))), noise)
			}
			return r.bytes()
		}(), ErrLimit},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			p, err := Receive(t.Context(), bytes.NewReader(c.data), t.TempDir(), small)
			if p != nil || !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	if _, err := Receive(t.Context(), bytes.NewReader(whole), t.TempDir(), small); err != nil {
		t.Errorf("the good one: %v", err)
	}
}

// TestTooLargeIsLocated: an object over the limit is named, and found in trees that come before it or behind it. A delta is not named.
func TestTooLargeIsLocated(t *testing.T) {
	const limit = 1 << 20
	content := make([]byte, limit+1)
	name := func(typ Type, data []byte) Hash { return plumbing.ComputeHash(typ, data) }
	blob := name(plumbing.BlobObject, content)
	entry := func(mode, file string, h Hash) []byte { return append([]byte(mode+" "+file+"\x00"), h[:]...) }
	inner := entry("100644", "large.bin", blob)
	outer := entry("40000", "folder", name(plumbing.TreeObject, inner))
	commit := []byte("tree " + name(plumbing.TreeObject, outer).String() + "\nauthor A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\nx\n")
	type part struct {
		typ  Type
		data []byte
	}
	large, trees := []part{{plumbing.BlobObject, content}}, []part{{plumbing.CommitObject, commit}, {plumbing.TreeObject, outer}, {plumbing.TreeObject, inner}}
	limits := Limits{PackBytes: 4 << 20, ObjectBytes: limit, TotalBytes: 16 << 20, Objects: 100}
	for what, parts := range map[string][]part{"before": append(slices.Clone(large), trees...), "behind": append(slices.Clone(trees), large...), "alone": large} {
		r := &raw{}
		for _, p := range parts {
			r.entry(entryHead(p.typ, int64(len(p.data))), p.data)
		}
		_, err := Receive(t.Context(), bytes.NewReader(r.bytes()), t.TempDir(), limits)
		var e *TooLargeError
		if !errors.As(err, &e) || e.Hash != blob || e.Size != limit+1 || e.More != 0 {
			t.Fatalf("%s: expected the object %s, got %+v, %v", what, blob, e, err)
		}
		path, at := "folder/large.bin", name(plumbing.CommitObject, commit)
		if what == "alone" {
			path, at = "", Hash{}
		}
		if e.Path != path || e.Commit != at {
			t.Errorf("%s: expected %q in %s, got %q in %s", what, path, at, e.Path, e.Commit)
		}
	}
	r := &raw{}
	r.entry(entryHead(plumbing.BlobObject, 5), []byte("hello"))
	d := bomb(5, 5<<20)
	r.entry(append(entryHead(plumbing.OFSDeltaObject, int64(len(d))), backwards(int64(r.buf.Len()))...), d)
	_, err := Receive(t.Context(), bytes.NewReader(r.bytes()), t.TempDir(), limits)
	var e *TooLargeError
	if !errors.As(err, &e) || !e.Hash.IsZero() || e.Size < 5<<20 {
		t.Errorf("expected a delta's size without a name, got %+v, %v", e, err)
	}
	// What is over the limit counts towards all, so that a small pack cannot buy endless work.
	r = &raw{}
	for i := range 20 {
		content[0] = byte(i)
		r.entry(entryHead(plumbing.BlobObject, int64(len(content))), content)
	}
	if _, err = Receive(t.Context(), bytes.NewReader(r.bytes()), t.TempDir(), limits); !errors.As(err, &e) || e.More != 15 {
		t.Errorf("expected to stop at the limit of all objects, got %v, %+v", err, e)
	}
}

func TestClosed(t *testing.T) {
	repo := history(t, 50)
	p, err := Receive(t.Context(), bytes.NewReader(packOf(t, repo, "main\n^main~5")), t.TempDir(), roomy)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := p.Closed(t.Context(), nil, nil); !errors.Is(err, ErrCorrupt) {
		t.Errorf("alone: %v", err)
	}
	for rev, want := range map[string]bool{"main": true, "main~1": false} {
		all, err := p.Closed(t.Context(), storeOf(t, repo), []Hash{named(t, repo, rev)})
		if err != nil || all != want {
			t.Errorf("with the rest, from %s: %v, %v", rev, all, err)
		}
	}
}

func TestReceiveStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Receive(ctx, bytes.NewReader(packOf(t, history(t, 5), "main")), t.TempDir(), roomy); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestTrees(t *testing.T) {
	for _, data := range []string{"100644 a", "100644 a\x00short", " a\x00" + strings.Repeat("x", 20), "9 a\x00" + strings.Repeat("x", 20), "100644\x00" + strings.Repeat("x", 20)} {
		if _, err := ParseTree([]byte(data)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%q: %v", data, err)
		}
	}
}

// Whatever comes in: no panic, no pack that contradicts itself, and git agrees about what is whole.
func FuzzReceive(f *testing.F) {
	repo := history(f, 4)
	f.Add(packOf(f, repo, "main"))
	f.Add(packOf(f, repo, "main", "--delta-base-offset"))
	f.Add([]byte("PACK\x00\x00\x00\x02\x00\x00\x00\x00\x02\x9d\x08\x82\x3b\xd8\xa8\xea\xb5\x10\xad\x6a\xc7\x5c\x82\x3c\xfd\x3e\xd3\x1e"))
	limits := Limits{PackBytes: 1 << 20, ObjectBytes: 1 << 20, TotalBytes: 4 << 20, Objects: 1000}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Receive(t.Context(), bytes.NewReader(data), t.TempDir(), limits)
		if err != nil {
			return
		}
		defer p.Close()
		for _, h := range p.Hashes() {
			o, err := p.Get(h)
			if err != nil || plumbing.ComputeHash(o.Type, o.Data) != h {
				t.Fatalf("object %s reads back wrong: %v", h, err)
			}
			_, _ = References(o)
		}
	})
}

func FuzzDelta(f *testing.F) {
	f.Add([]byte("hello"), bomb(5, 10))
	f.Fuzz(func(t *testing.T, base, delta []byte) {
		if n, err := deltaTarget(delta); err != nil || n > 1<<20 {
			return
		}
		_, _ = applyDelta(base, delta)
	})
}

// A damaged index is refused, or finds nothing outside of itself.
func FuzzIndex(f *testing.F) {
	repo := history(f, 3)
	p, err := Receive(f.Context(), bytes.NewReader(packOf(f, repo, "main")), f.TempDir(), roomy)
	if err != nil {
		f.Fatal(err)
	}
	defer p.Close()
	good, err := os.ReadFile(p.base + ".idx")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good[:len(good)-20])
	f.Fuzz(func(t *testing.T, body []byte) {
		sum := sha1.Sum(body)
		path := filepath.Join(t.TempDir(), "x.idx")
		if err := os.WriteFile(path, append(body, sum[:]...), 0o600); err != nil {
			t.Fatal(err)
		}
		x, err := readIndex(path)
		if err != nil {
			return
		}
		for _, i := range x.byOffset() {
			_, _ = x.find(x.hash(int(i)))
			_ = x.offset(int(i))
		}
		_, _ = x.find(Hash{})
	})
}
