package gitgate

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"airlock/gitgate/objects"
	"airlock/internal/lab"
	"airlock/internal/metrics"
)

// packs counts those of the mirror.
func (r *rig) packs() int {
	all, _ := filepath.Glob(filepath.Join(r.mirrorDir(), "objects", "pack", "*.pack"))
	return len(all)
}

// TestPacksAreMerged: each fetch and each push brings a pack; many become one, which git finds in order, and from which everything can be had. A
// clone that began before goes on.
func TestPacksAreMerged(t *testing.T) {
	lab.Long(t)
	r := newRig(t)
	r.seed("main", numbered("f%d", 50))
	w := r.clone("git")
	began := r.begin()
	up := t.TempDir()
	r.run(up, "git", "clone", "-q", r.ssh.Dir("app"), "w")
	up = filepath.Join(up, "w")
	for i := range 13 {
		r.commit(up, fmt.Sprint("theirs ", i), map[string]string{"theirs": fmt.Sprint(i), fmt.Sprint("t", i): "x"})
		r.run(up, "git", "push", "-q", "origin", "HEAD:main")
		r.run(w, "git", "pull", "-q", "--rebase")
		r.commit(w, fmt.Sprint("mine ", i), map[string]string{"mine": fmt.Sprint(i), fmt.Sprint("m", i): "x"})
		r.run(w, "git", "push", "-q", "origin", "HEAD:main")
		r.run(up, "git", "pull", "-q", "--rebase")
	}
	for deadline := time.Now().Add(20 * time.Second); r.packs() >= 20; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("there are still %d packs\n%s", r.packs(), r.log)
		}
	}
	r.agree()
	if got, want := r.run(r.clone("http"), "git", "rev-parse", "HEAD"), r.run(w, "git", "rev-parse", "HEAD"); got != want {
		t.Errorf("a clone has %s, want %s", got, want)
	}
	if pack, err := io.ReadAll(began); err != nil || !strings.HasPrefix(string(pack), "PACK") {
		t.Errorf("the clone that began before ends with %v", err)
	}
	families := map[string]float64{}
	for _, f := range metrics.Gather() {
		for _, s := range f.Samples {
			families[f.Name] = s.Value
		}
	}
	if n := families["airlock_git_repo_packs"]; int(n) != r.packs() {
		t.Errorf("the metrics tell of %v packs, there are %d", n, r.packs())
	}
	if families["airlock_git_repo_refreshed_seconds"] == 0 || families["airlock_git_repo_bytes"] == 0 || families["airlock_git_repo_refs"] != 1 {
		t.Errorf("%v", families)
	}
	r.edit(func(*Config) {})
	r.clone("git")
	r.agree()
}

// begin asks for everything and leaves the answer where it is.
func (r *rig) begin() io.Reader {
	r.t.Helper()
	c, err := net.Dial("tcp", r.git)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	head := r.run(r.ssh.Dir("app"), "git", "rev-parse", "main")
	if err := errors.Join(writePkt(c, "git-upload-pack /app.git\x00host=x\x00"), writePkt(c, "want "+head+" ofs-delta\n"), writeFlush(c), writePkt(c, "done\n")); err != nil {
		r.t.Fatal(err)
	}
	in := bufio.NewReaderSize(c, 16)
	for {
		line, err := readPkt(in)
		if err != nil && err != errFlush {
			r.t.Fatal(err)
		}
		if string(line) == "NAK\n" {
			return in
		}
	}
}

// TestMergeIsLeftAlone: a merge that was interrupted, at whatever step, leaves a repository in order.
func TestMergeIsLeftAlone(t *testing.T) {
	r := newRig(t)
	r.seed("main", numbered("f%d", 5))
	w := r.clone("git")
	for i := range 22 {
		r.commit(w, fmt.Sprint(i), map[string]string{"a": fmt.Sprint(i)})
		r.run(w, "git", "push", "-q", "origin", "HEAD:main")
	}
	r.stop()
	dir := filepath.Join(r.mirrorDir(), "objects")
	packs, _ := filepath.Glob(filepath.Join(dir, "pack", "*.pack"))
	stray := filepath.Join(dir, "pack", "pack-"+strings.Repeat("0", 40)+".pack")
	text, err := os.ReadFile(packs[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(stray, text, 0o444), os.Chtimes(stray, time.Time{}, time.Now().Add(-2*time.Hour))); err != nil {
		t.Fatal(err)
	}
	for _, after := range []time.Duration{0, time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond} {
		store, err := objects.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), after)
		_, _ = store.Merge(ctx, t.TempDir(), objects.Limits{PackBytes: 1 << 30, ObjectBytes: 1 << 30, TotalBytes: 1 << 30, Objects: 1 << 20})
		cancel()
		store.Close()
		r.run(r.mirrorDir(), "git", "fsck", "--full", "--strict")
	}
	if _, err := os.Stat(stray); err == nil {
		t.Error("the stray pack is still there")
	}
	r.start()
	r.agree()
}
