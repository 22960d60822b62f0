package gitgate

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"airlock/gitgate/objects"
)

func TestVersionOf(t *testing.T) {
	for text, want := range map[string]int{
		"": 0, "version=2": 2, "version=1": 1, "version=0": 0, "version=3": 0, "version=1:version=2": 2, "version=2:version=1": 2, "key=value:version=2:x": 2,
		"version=22": 0, " version=2": 0,
	} {
		if got := versionOf(text); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}

func TestFilters(t *testing.T) {
	for spec, ok := range map[string]bool{
		"blob:none": true, "blob:limit=0": true, "blob:limit=1k": true, "blob:limit=2M": true, "blob:limit=3g": true, "tree:0": true, "tree:7": true,
		"object:type=tag": true, "combine:blob:none+tree:1": true, "combine:combine%3Ablob%3Anone+tree:1": true,
		"": false, "blob:limit=": false, "blob:limit=k": false, "blob:limit=-1": false, "blob:limit=99999999999g": false, "blob:some": false, "tree:": false, "tree:-1": false,
		"tree:99999999999": false, "object:type=x": false, "object:type=ofs-delta": false, "combine:": false, "combine:+": false, "combine:%zz": false, "sparse:oid=main:x": false,
		"sparse:path=x": false, "combine:blob:none+sparse:oid=x": false, strings.Repeat("combine:", 20) + "blob:none": false, "combine:" + strings.Repeat("tree:1+", 500) + "tree:1": false,
	} {
		f, err := objects.ParseFilter(spec)
		if (err == nil) != ok || f.On() != ok {
			t.Errorf("%.40q: %v", spec, err)
		}
	}
}

// Whatever a client sends is a command whose arguments have been checked, or an error that says what is wrong.
func FuzzCommandsOfV2(f *testing.F) {
	var b bytes.Buffer
	command2(&b, "fetch", "want "+strings.Repeat("a", 40), "have "+strings.Repeat("b", 40), "deepen 1", "deepen-since 7", "deepen-not v1", "shallow "+strings.Repeat("c", 40), "filter tree:1", "done")
	f.Add(b.Bytes())
	b.Reset()
	command2(&b, "ls-refs", "peel", "symrefs", "unborn", "ref-prefix refs/heads/")
	f.Add(b.Bytes())
	f.Add([]byte("0014command=ls-refs\n00010001"))
	snap := &snapshot{head: "refs/heads/main", refs: []ref{{name: "refs/heads/main", hash: id("a")}, {name: "refs/tags/v1", hash: id("b"), peeled: id("a")}}}
	src := source{snap: snap, reach: objects.NewReach(), offers: func(context.Context, objects.Set) offer { return func(objects.Hash) (bool, error) { return true, nil } }, allows: mirrorAllows}
	f.Fuzz(func(t *testing.T, data []byte) {
		var out bytes.Buffer
		load := func(context.Context) (source, error) { return src, nil }
		s := &speaker{in: bufio.NewReader(bytes.NewReader(data)), out: bufio.NewWriter(&out), list: load, recent: load}
		if err := s.serve(t.Context(), false); err == nil && s.out.Flush() != nil {
			t.Fatal("the answer cannot be written")
		}
		// The store is empty: no pack can come of anything.
		if bytes.Contains(out.Bytes(), []byte("packfile")) {
			t.Fatalf("%q gives a pack", data)
		}
		answer := bufio.NewReader(&out)
		for {
			_, err := readPkt(answer)
			if err == io.EOF {
				return
			}
			if err != nil && err != errFlush && err != errDelim {
				t.Fatalf("the answer to %q is malformed: %v", data, err)
			}
		}
	})
}

func FuzzFetchOfV0(f *testing.F) {
	var b bytes.Buffer
	_ = writePkt(&b, "want "+strings.Repeat("a", 40)+" side-band-64k multi_ack_detailed")
	_ = writePkt(&b, "deepen 3")
	_ = writePkt(&b, "filter blob:limit=1k")
	_ = writeFlush(&b)
	_ = writePkt(&b, "have "+strings.Repeat("b", 40))
	_ = writeFlush(&b)
	_ = writePkt(&b, "done")
	f.Add(b.Bytes(), false)
	snap := &snapshot{head: "refs/heads/main", refs: []ref{{name: "refs/heads/main", hash: id("a")}}}
	src := source{snap: snap, reach: objects.NewReach(), offers: anyObject, allows: mirrorAllows}
	f.Fuzz(func(t *testing.T, data []byte, stateless bool) {
		var out bytes.Buffer
		c := &fetching{source: src, in: bufio.NewReader(bytes.NewReader(data)), out: bufio.NewWriter(&out), stateless: stateless}
		_ = c.run(t.Context())
		_ = c.out.Flush()
		if bytes.Contains(out.Bytes(), []byte("PACK")) {
			t.Fatalf("%q gives a pack", data)
		}
	})
}

func FuzzFilter(f *testing.F) {
	for _, s := range []string{"blob:none", "blob:limit=1k", "combine:blob:none+tree:1", "combine:combine%3Atree:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		filter, err := objects.ParseFilter(spec)
		if filter.On() != (err == nil) {
			t.Fatalf("%q: %v", spec, err)
		}
		if err == nil && strings.Contains(spec, "sparse") {
			t.Fatalf("%q is taken", spec)
		}
	})
}

// A client whose many commits are unknown here costs one look at the history, not one for each.
func TestManyUnknownHaves(t *testing.T) {
	r := newRig(t)
	r.seed("main", map[string]string{"a": "1"})
	w := r.clone("git")
	var own strings.Builder
	for i := range 300 {
		fmt.Fprintf(&own, "commit refs/heads/main\ncommitter A <a@example.com> %d +0000\ndata 3\nown\n", 1_700_000_000+i)
		if i == 0 {
			own.WriteString("from refs/heads/main^0\n")
		}
	}
	path := filepath.Join(t.TempDir(), "own")
	if err := os.WriteFile(path, []byte(own.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	r.run(w, "sh", "-c", "git fast-import --quiet <"+path)
	later := r.seed("main", map[string]string{"a": "2"})
	for _, version := range []string{"0", "2"} {
		for _, protocol := range []string{"git", "http"} {
			r.run(w, "git", "update-ref", "-d", "refs/remotes/origin/main")
			r.run(w, "git", "-c", "protocol.version="+version, "fetch", "-q", r.url(protocol, "app"), "+main:refs/remotes/origin/main")
			if got := r.run(w, "git", "rev-parse", "origin/main"); got != later {
				t.Errorf("%s v%s: %s, want %s", protocol, version, got, later)
			}
		}
	}
}
