package gitgate

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"airlock/gitgate/objects"
	"airlock/internal/lab"
)

// Those who come while upstream is being asked wait for one more answer, which they share: it must be younger than they are.
func TestJoinersShareARefresh(t *testing.T) {
	r := newRig(t)
	r.seed("main", map[string]string{"a": "1"})
	up, err := newTransport(r.config, r.config.File.Repos["app"])
	if err != nil {
		t.Fatal(err)
	}
	ssh := up.(*sshTransport)
	dial := ssh.dial
	var dials atomic.Int64
	begun, goOn := make(chan struct{}), make(chan struct{})
	ssh.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		if dials.Add(1) == 1 {
			close(begun)
			lab.Receive(t, goOn, "the test goes on")
		}
		return dial(ctx, network, address)
	}
	limits := objects.Limits{PackBytes: 1 << 20, ObjectBytes: 1 << 20, TotalBytes: 1 << 20, Objects: 1000}
	m, err := openMirror("app", filepath.Join(t.TempDir(), "app.git"), ssh, limits, times{answer: 20 * time.Second, report: 20 * time.Second, transfer: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer m.store.Close()
	var all sync.WaitGroup
	snaps := make(chan *snapshot, 9)
	refresh := func() {
		s, err := m.refresh(t.Context())
		if err != nil {
			t.Error(err)
		}
		snaps <- s
	}
	all.Go(refresh)
	lab.Receive(t, begun, "the request begins")
	late := r.seed("late", map[string]string{"b": "1"})
	for range 8 {
		all.Go(refresh)
	}
	for m.waiting.Load() < 9 {
		runtime.Gosched()
	}
	close(goOn)
	all.Wait()
	if n := dials.Load(); n != 2 {
		t.Errorf("upstream was asked %d times, want 2", n)
	}
	close(snaps)
	for s := range snaps {
		if got := s.get("refs/heads/late").String(); got != late {
			t.Errorf("late is %s, want %s", got, late)
		}
	}
}

// A refresh that changes nothing costs one connection, and writes nothing.
func TestRefreshOfNothing(t *testing.T) {
	r := newRig(t)
	r.seed("main", map[string]string{"a": "1"})
	r.clone("git")
	before := r.run(r.mirrorDir(), "stat", "-c", "%i %z", "packed-refs", "HEAD")
	r.clone("http")
	if after := r.run(r.mirrorDir(), "stat", "-c", "%i %z", "packed-refs", "HEAD"); after != before {
		t.Errorf("files were written: %s, before %s", after, before)
	}
}

// An upstream that names its objects in another way is not an empty one.
func TestUpstreamOfAnotherFormat(t *testing.T) {
	r := newRig(t)
	r.seed("main", map[string]string{"a": "1"})
	w := r.clone("git")
	up := r.ssh.Dir("app")
	if err := os.RemoveAll(up); err != nil {
		t.Fatal(err)
	}
	r.run(r.ssh.Root, "git", "init", "-q", "--bare", "--object-format=sha256", "app.git")
	r.fails(w, []string{"upstream names its objects by sha256; sha1 was wanted"}, "git", "fetch", "--prune")
	r.run(w, "git", "rev-parse", "origin/main")
}
