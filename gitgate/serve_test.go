package gitgate

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"airlock/internal/audit"
	"airlock/internal/bundle"
	"airlock/internal/lab"
)

// raw sends bytes to the HTTP side and returns all of the answer.
func (r *rig) raw(request string) string {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.http)
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, request); err != nil {
		r.t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(answer)
}

func TestOddPathsOverHTTP(t *testing.T) {
	r := newRig(t)
	r.seed("main", map[string]string{"a": "1"})
	for _, path := range []string{
		"/../app.git/info/refs?service=git-upload-pack", "/x/../app.git/info/refs?service=git-upload-pack", "/%2e%2e/app.git/info/refs?service=git-upload-pack",
		"/app.git%00/info/refs?service=git-upload-pack", "//app.git/info/refs?service=git-upload-pack", "/app.git/../../etc/passwd",
		"/app.git/info/refs", "/app.git/info/refs?service=git-upload-archive", "/app.git/HEAD", "/app.git/objects/info/packs", "/",
	} {
		answer := r.raw("GET " + path + " HTTP/1.1\r\nHost: git-gate\r\nConnection: close\r\n\r\n")
		if status, _, _ := strings.Cut(answer, "\r\n"); !strings.Contains(status, "404") {
			t.Errorf("%s: %s", path, status)
		}
	}
	if answer := r.raw("GET /app.git/info/refs?service=git-upload-pack HTTP/1.1\r\nHost: git-gate\r\nConnection: close\r\n\r\n"); !strings.Contains(answer, "refs/heads/main") {
		t.Error(answer)
	}
}

// Clients with many haves compress what they send; a bomb is only read as far as it makes sense.
func TestGzipBodies(t *testing.T) {
	r := newRig(t)
	head := r.seed("main", map[string]string{"a": "1"})
	post := func(body string) string {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = io.WriteString(z, body)
		z.Close()
		req, err := http.NewRequest(http.MethodPost, "http://"+r.http+"/app.git/git-upload-pack", &b)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Encoding", "gzip")
		req.Header.Set("Content-Type", "application/x-git-upload-pack-request")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(answer)
	}
	var b strings.Builder
	_ = writePktf(&b, "want %s side-band-64k\n", head)
	_ = writeFlush(&b)
	_ = writePkt(&b, "done\n")
	if answer := post(b.String()); !strings.HasPrefix(answer, "0008NAK\n") || !strings.Contains(answer, "PACK") {
		t.Errorf("%.100q", answer)
	}
	if answer := post(strings.Repeat("\x00", 50<<20)); !strings.Contains(answer, "airlock") && len(answer) > 100 {
		t.Errorf("%.100q", answer)
	}
	if answer := post(strings.Replace(b.String(), head, strings.Repeat("1", 40), 1)); !strings.Contains(answer, "not our ref") {
		t.Errorf("%.100q", answer)
	}
}

func TestAuditOfFetchAndPush(t *testing.T) {
	r := newRig(t, func(c *Config) { c.File.Protect = []string{"refs/heads/main"} })
	r.seed("main", map[string]string{"a": "1"})
	w := r.clone("git")
	r.commit(w, "mine", map[string]string{"b": "1"})
	r.run(w, "git", "push", "-q", "origin", "HEAD:topic")
	r.fails(w, nil, "git", "push", "origin", ":main")
	r.commit(w, "leak", map[string]string{"c": token(31)})
	r.fails(w, nil, "git", "push", "origin", "HEAD:topic")
	r.fails(w, nil, "git", "push", "origin", "HEAD:refs/heads/"+token(32))
	r.fails(w, nil, "git", "ls-remote", r.url("git", "nope"))
	r.stop()
	text, err := os.ReadFile(r.config.Dirs.Audit(bundle.GitGate))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := audit.Verify(bytes.NewReader(text)); err != nil {
		t.Errorf("chain: %v", err)
	}
	var got []string
	for line := range strings.Lines(string(text)) {
		var e audit.Entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		got = append(got, strings.Join([]string{e.Verdict, e.Method, e.Repo, e.Ref, e.Rule}, " "))
	}
	want := []string{
		"allow fetch app  repos.app",
		"allow push app refs/heads/topic push",
		"deny push app refs/heads/main protect: refs/heads/main",
		"deny push app refs/heads/topic github-pat",
		"deny push app (withheld: the secret is in the name) github-pat",
		"deny fetch   repos",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// No entry, no act.
func TestNothingWithoutAudit(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("no /dev/full here")
	}
	r := newRig(t)
	r.seed("main", map[string]string{"a": "1"})
	r.stop()
	path := r.config.Dirs.Audit(bundle.GitGate)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(path)
	if err := os.Symlink("/dev/full", path); err != nil {
		t.Fatal(err)
	}
	r.start()
	out := r.fails(t.TempDir(), nil, "git", "ls-remote", r.url("git", "app"))
	if !strings.Contains(out, "audit cannot be written") {
		t.Error(out)
	}
}

// Many at once: every clone is whole, every push arrives, and both sides agree in the end.
func TestManyAtOnce(t *testing.T) {
	r := newRig(t)
	r.seed("main", numbered("f%d", 50))
	var all sync.WaitGroup
	for i := range 6 {
		protocol := []string{"git", "http"}[i%2]
		w := r.clone(protocol)
		r.commit(w, "mine", map[string]string{fmt.Sprint("own", i): "1"})
		all.Go(func() {
			if out, err := r.try(w, "git", "push", "-q", "origin", fmt.Sprintf("HEAD:refs/heads/b%d", i)); err != nil {
				t.Errorf("push %d: %v\n%s", i, err, out)
			}
		})
		all.Go(func() {
			dir := t.TempDir()
			if out, err := r.try(dir, "git", "clone", "-q", r.url(protocol, "app"), "x"); err != nil {
				t.Errorf("clone %d: %v\n%s", i, err, out)
			} else if out, err := r.try(filepath.Join(dir, "x"), "git", "fsck", "--full"); err != nil {
				t.Errorf("clone %d: %v\n%s", i, err, out)
			}
		})
	}
	all.Wait()
	r.clone("git")
	r.agree()
}

// A client that came before the end is served to its own end; a new one is not let in.
func TestDrain(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Drain = 20_000_000_000 })
	head := r.seed("main", map[string]string{"a": "1"})
	conn, err := net.Dial("tcp", r.git)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = writePkt(conn, "git-upload-pack /app.git\x00host=x\x00")
	buf := make([]byte, 4096)
	if n, err := conn.Read(buf); err != nil || !strings.Contains(string(buf[:n]), head) {
		t.Fatalf("%v %q", err, buf[:n])
	}
	stopped := make(chan struct{})
	stop := r.stop
	r.stop = func() {}
	go func() { stop(); close(stopped) }()
	for { // until the listener is gone
		c, err := net.Dial("tcp", r.git)
		if err != nil {
			break
		}
		c.Close()
	}
	_ = writePktf(conn, "want %s\n", head)
	_ = writeFlush(conn)
	_ = writePkt(conn, "done\n")
	answer, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(answer), "0008NAK\nPACK") {
		t.Errorf("%v %.60q", err, answer)
	}
	conn.Close()
	lab.Receive(t, stopped, "the daemon stops")
}

// A client that never comes to an end is cut when the drain is over.
func TestDrainEnds(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Drain = 100_000_000 })
	r.seed("main", map[string]string{"a": "1"})
	conn, err := net.Dial("tcp", r.git)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = writePkt(conn, "git-upload-pack /app.git\x00host=x\x00")
	if _, err := conn.Read(make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r.stop()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("took %s", took)
	}
}
