package gitgate

import (
	"bufio"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"airlock/gitgate/objects"
	"airlock/internal/lab"
)

// dial opens a git:// connection in one version of the protocol and reads what comes first.
func (r *rig) dial(version string) (net.Conn, *bufio.Reader) {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.git)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	_ = writePkt(conn, "git-upload-pack /app.git\x00host=x\x00\x00version="+version+"\x00")
	in := bufio.NewReader(conn)
	r.lines(in)
	return conn, in
}

// lines reads up to a flush.
func (r *rig) lines(in *bufio.Reader) (all []string) {
	r.t.Helper()
	for {
		line, err := readLine(in)
		if err == errFlush {
			return all
		}
		if err == errDelim {
			line, err = "<delim>", nil
		}
		if err != nil {
			r.t.Fatalf("%v after %q", err, all)
		}
		all = append(all, line)
	}
}

// command sends a request of v2.
func command2(w io.Writer, name string, args ...string) {
	_ = writePkt(w, "command="+name+"\n")
	_ = writeDelim(w)
	for _, a := range args {
		_ = writePkt(w, a+"\n")
	}
	_ = writeFlush(w)
}

// A client that was shown a state gets all of it, whatever becomes of upstream and of the mirror before it asks.
func TestSnapshotOutlivesPruneAndForce(t *testing.T) {
	r := newRig(t)
	old := r.seed("main", map[string]string{"a": "old"})
	gone := r.seed("gone", map[string]string{"b": "gone"})
	v0, in0 := r.dial("0")
	v2, in2 := r.dial("2")
	command2(v2, "ls-refs", "symrefs", "peel")
	if got := strings.Join(r.lines(in2), "\n"); !strings.Contains(got, gone+" refs/heads/gone") {
		t.Fatal(got)
	}

	up := r.ssh.Dir("app")
	r.run(up, "git", "branch", "-q", "-D", "gone")
	dir := t.TempDir()
	r.run(dir, "git", "init", "-q", "-b", "main", "w")
	w := filepath.Join(dir, "w")
	r.commit(w, "another history", map[string]string{"c": "new"})
	r.run(w, "git", "push", "-q", "--force", up, "main")
	r.run(up, "git", "reflog", "expire", "--expire=now", "--all")
	r.run(up, "git", "gc", "-q", "--prune=now")
	r.clone("git") // refreshes
	r.agree()

	for name, c := range map[string]struct {
		conn net.Conn
		in   *bufio.Reader
		ask  func(net.Conn)
	}{
		"v0": {v0, in0, func(c net.Conn) {
			_ = writePktf(c, "want %s ofs-delta\n", old)
			_ = writePktf(c, "want %s\n", gone)
			_ = writeFlush(c)
			_ = writePkt(c, "done\n")
		}},
		"v2": {v2, in2, func(c net.Conn) { command2(c, "fetch", "ofs-delta", "want "+old, "want "+gone, "done") }},
	} {
		t.Run(name, func(t *testing.T) {
			c.ask(c.conn)
			first, err := readLine(c.in)
			if err != nil || first != map[string]string{"v0": "NAK", "v2": "packfile"}[name] {
				t.Fatalf("%q %v", first, err)
			}
			pack := io.Reader(c.in)
			if name == "v2" {
				pack = &demux{r: c.in, say: func(string) {}}
			}
			got, err := objects.Receive(t.Context(), pack, t.TempDir(), objects.Limits{PackBytes: 1 << 20, ObjectBytes: 1 << 20, TotalBytes: 1 << 20, Objects: 100})
			if err != nil {
				t.Fatal(err)
			}
			defer got.Close()
			for _, id := range []string{old, gone} {
				if h, _ := objects.ParseHash(id); !got.Has(h) {
					t.Errorf("%s is missing", id)
				}
			}
		})
	}
}

// A clone that is stopped in the middle of its pack ends whole when upstream and the mirror have changed meanwhile.
func TestRunningCloneOutlivesForce(t *testing.T) {
	r := newRig(t)
	r.history()
	r.clone("git")
	port := r.git[strings.LastIndexByte(r.git, ':')+1:]
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	started, goOn := make(chan struct{}), make(chan struct{})
	go func() { // between the client and the gate, and in no hurry
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		up, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			return
		}
		defer up.Close()
		go func() { _, _ = io.Copy(up, conn) }()
		buf := make([]byte, 100)
		for seen := ""; !strings.Contains(seen, "PACK"); {
			n, err := up.Read(buf)
			if err != nil {
				return
			}
			seen += string(buf[:n])
			_, _ = conn.Write(buf[:n])
		}
		close(started)
		lab.Receive(t, goOn, "the test goes on")
		_, _ = io.Copy(conn, up)
	}()
	dir := t.TempDir()
	want := r.run(r.ssh.Dir("app"), "git", "rev-parse", "main")
	cmd := exec.CommandContext(t.Context(), "git", "clone", "-q", "git://"+l.Addr().String()+"/app.git", "w")
	cmd.Dir, cmd.Env = dir, gitEnv
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lab.Receive(t, started, "the other side starts")
	up := r.ssh.Dir("app")
	r.run(up, "git", "update-ref", "refs/heads/main", "main~9")
	r.run(up, "git", "tag", "-d", "v1", "nested", "light", "tree", "blob")
	r.run(up, "git", "update-ref", "-d", "refs/notes/commits")
	r.run(up, "git", "gc", "-q", "--prune=now")
	r.clone("http")
	r.agree()
	close(goOn)
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := r.run(filepath.Join(dir, "w"), "git", "rev-parse", "HEAD"); got != want {
		t.Errorf("HEAD is %s, want %s", got, want)
	}
	r.run(filepath.Join(dir, "w"), "git", "fsck", "--full")
}

// What only lies in the store is no client's business: a commit that upstream has dropped can be had while somebody may still work with it, and not
// by its name alone afterwards.
func TestLeftoversAreNotOffered(t *testing.T) {
	r := newRig(t)
	r.seed("main", map[string]string{"a": "1"})
	gone := r.seed("gone", map[string]string{"b": "secret plans"})
	blob := r.run(r.ssh.Dir("app"), "git", "rev-parse", "gone:b")
	r.clone("git")
	r.run(r.ssh.Dir("app"), "git", "branch", "-q", "-D", "gone")
	r.clone("git")
	r.edit(func(*Config) {}) // a new process remembers no old snapshots
	for _, version := range []string{"0", "2"} {
		for _, id := range []string{gone, blob} {
			w := t.TempDir()
			r.run(w, "git", "init", "-q")
			r.fails(w, []string{"not our ref"}, "git", "-c", "protocol.version="+version, "fetch", r.url("git", "app"), id)
		}
	}
	main := r.run(r.ssh.Dir("app"), "git", "rev-parse", "main:a")
	w := t.TempDir()
	r.run(w, "git", "init", "-q")
	r.run(w, "git", "fetch", "-q", r.url("git", "app"), main)
	if got := r.run(w, "git", "cat-file", "-p", main); got != "1" {
		t.Errorf("got %q", got)
	}
}

// HEAD is followed onto no branch, and onto one that does not exist yet.
func TestFetchFollowsDetachedHead(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t)
		first := r.seed("main", map[string]string{"a": "1"})
		r.seed("main", map[string]string{"a": "2"})
		r.run(r.ssh.Dir("app"), "git", "update-ref", "--no-deref", "HEAD", first)
		for range 2 {
			w := r.clone(protocol)
			if got := r.run(w, "git", "rev-parse", "HEAD"); got != first {
				t.Errorf("HEAD is %s, want %s", got, first)
			}
			r.edit(func(*Config) {}) // what was written down is read again
		}
		if text, err := os.ReadFile(filepath.Join(r.mirrorDir(), "HEAD")); err != nil || strings.TrimSpace(string(text)) != first {
			t.Errorf("%q %v", text, err)
		}
	})
}

// Mistakes of clients are told.
func TestCommandsOfV2(t *testing.T) {
	r := newRig(t)
	head := r.seed("main", map[string]string{"a": "1"})
	cases := map[string]struct {
		send func(w io.Writer)
		want string
	}{
		"unknown command":  {func(w io.Writer) { command2(w, "object-info") }, "ERR invalid command 'object-info': ls-refs and fetch are here"},
		"unknown argument": {func(w io.Writer) { command2(w, "fetch", "want "+head, "packfile-uris https") }, "ERR unexpected line: 'packfile-uris https' in fetch"},
		"ls-refs argument": {func(w io.Writer) { command2(w, "ls-refs", "everything") }, "ERR unexpected line 'everything' in ls-refs: symrefs, peel, unborn and ref-prefix are here"},
		"no command":       {func(w io.Writer) { _ = writePkt(w, "agent=x"); _ = writeFlush(w) }, "ERR no command requested: ls-refs and fetch are here"},
		"two commands": {func(w io.Writer) {
			_ = writePkt(w, "command=fetch")
			_ = writePkt(w, "command=ls-refs")
			_ = writeFlush(w)
		}, "ERR command 'ls-refs' requested after already requesting command 'fetch'"},
		"object format":      {func(w io.Writer) { _ = writePkt(w, "command=fetch"); _ = writePkt(w, "object-format=sha256") }, "ERR mismatched object format: server sha1; client sha256"},
		"capability":         {func(w io.Writer) { _ = writePkt(w, "command=fetch"); _ = writePkt(w, "wings=2") }, "ERR unknown capability 'wings=2': agent, server-option and object-format are here"},
		"second delimiter":   {func(w io.Writer) { _ = writePkt(w, "command=fetch"); _ = writeDelim(w); _ = writeDelim(w) }, "ERR expected flush after fetch arguments"},
		"sparse filter":      {func(w io.Writer) { command2(w, "fetch", "want "+head, "filter sparse:oid=main:x") }, "ERR filter 'sparse:oid=main:x' is not served: blob:none, blob:limit=N, tree:N, object:type=T and combine: of these are here"},
		"odd depth":          {func(w io.Writer) { command2(w, "fetch", "want "+head, "deepen 0") }, "ERR deepen wants a number above 0"},
		"two ways to deepen": {func(w io.Writer) { command2(w, "fetch", "want "+head, "deepen 1", "deepen-since 5") }, "ERR deepen and deepen-since (or deepen-not) cannot be used together"},
		"nothing that young": {func(w io.Writer) { command2(w, "fetch", "want "+head, "deepen-since 9999999999") }, "ERR no commits selected for shallow requests"},
		"unknown tag":        {func(w io.Writer) { command2(w, "fetch", "want "+head, "deepen-not v7") }, "ERR ambiguous deepen-not: v7"},
		"unknown object":     {func(w io.Writer) { command2(w, "fetch", "want "+strings.Repeat("1", 40)) }, "ERR upload-pack: not our ref " + strings.Repeat("1", 40)},
		"no object":          {func(w io.Writer) { command2(w, "fetch", "want main") }, "ERR want without an object name: 40 hexadecimal digits were wanted"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			r := r.in(t)
			conn, in := r.dial("2")
			c.send(conn)
			if got, err := readLine(in); err != nil || got != c.want {
				t.Errorf("%q %v, want %q", got, err, c.want)
			}
		})
	}
}

// Sections of an answer come in the order of gitprotocol-v2(5), with delimiters between them.
func TestSectionsOfV2(t *testing.T) {
	r := newRig(t)
	first := r.seed("main", map[string]string{"a": "1"})
	head := r.seed("main", map[string]string{"a": "2"})
	conn, in := r.dial("2")
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"want " + head, "have " + strings.Repeat("1", 40)}, []string{"acknowledgments", "NAK"}},
		{[]string{"want " + head, "have " + first, "wait-for-done"}, []string{"acknowledgments", "ACK " + first}},
		{[]string{"have " + first, "wait-for-done"}, []string{"acknowledgments", "ACK " + first}},
		{[]string{"no-progress", "want " + head, "have " + first}, []string{"acknowledgments", "ACK " + first, "ready", "<delim>", "packfile", "pack"}},
		{[]string{"no-progress", "want " + head, "have " + first, "done"}, []string{"packfile", "pack"}},
		{[]string{"no-progress", "want " + head, "deepen 1", "done"}, []string{"shallow-info", "shallow " + head, "<delim>", "packfile", "pack"}},
		{[]string{"no-progress", "want " + head, "shallow " + head, "deepen 2147483647", "done"}, []string{"shallow-info", "unshallow " + head, "<delim>", "packfile", "pack"}},
		{[]string{"no-progress", "want " + head, "shallow " + head, "done"}, []string{"shallow-info", "<delim>", "packfile", "pack"}},
	} {
		command2(conn, "fetch", c.args...)
		got := r.lines(in)
		for i, line := range got {
			if strings.HasPrefix(line, "\x01PACK") {
				got = append(got[:i:i], "pack")
				break
			}
		}
		if strings.Join(got, "\n") != strings.Join(c.want, "\n") {
			t.Errorf("%q: got %q, want %q", c.args, got, c.want)
		}
	}
}
