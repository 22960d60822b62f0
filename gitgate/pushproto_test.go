package gitgate

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// rawPush is a client of our own: it sends what git would not. The answer is what comes behind the advertisement.
func (r *rig) rawPush(protocol, caps string, commands []string, options []string, pack io.Reader) *bufio.Reader {
	r.t.Helper()
	var b bytes.Buffer
	for i, c := range commands {
		if i == 0 {
			c += "\x00" + caps
		}
		_ = writePkt(&b, c)
	}
	_ = writeFlush(&b)
	if options != nil {
		for _, o := range options {
			_ = writePkt(&b, o)
		}
		_ = writeFlush(&b)
	}
	body := io.MultiReader(&b, pack)
	if protocol == "http" {
		if _, err := http.Get(r.url("http", "app") + "/info/refs?service=git-receive-pack"); err != nil {
			r.t.Fatal(err)
		}
		resp, err := http.Post(r.url("http", "app")+"/git-receive-pack", "application/x-git-receive-pack-request", body)
		if err != nil {
			r.t.Fatal(err)
		}
		r.t.Cleanup(func() { resp.Body.Close() })
		return bufio.NewReader(resp.Body)
	}
	conn, err := net.Dial("tcp", r.git)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	_ = writePkt(conn, "git-receive-pack /app.git\x00host=x\x00")
	answer := bufio.NewReader(conn)
	if _, err := readAdvertisement(answer); err != nil {
		r.t.Fatal(err)
	}
	if _, err := io.Copy(conn, body); err != nil {
		r.t.Logf("sending: %v", err) // the gate may have had enough
	}
	return answer
}

// packOf is the pack that git makes of what some revisions name.
func (r *rig) packOf(dir string, revisions ...string) []byte {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), "git", "pack-objects", "--revs", "--stdout", "-q")
	cmd.Dir, cmd.Env, cmd.Stdin = dir, gitEnv, strings.NewReader(strings.Join(revisions, "\n")+"\n")
	out, err := cmd.Output()
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// pktLines reads packets as text up to a flush or the end.
func pktLines(r *bufio.Reader) (lines []string) {
	for {
		line, err := readLine(r)
		if err != nil {
			return lines
		}
		lines = append(lines, line)
	}
}

const zeros = "0000000000000000000000000000000000000000"

// Both reports are given to those who ask for them, with and without a side band.
func TestReports(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t)
		head := r.seed("main", map[string]string{"a": "1"})
		r.hook("update", `case $1 in refs/heads/bad*) exit 1;; esac`)
		w := r.clone(protocol)
		for i, caps := range []string{"report-status", "report-status-v2", "report-status report-status-v2 quiet"} {
			commands := []string{
				fmt.Sprintf("%s %s refs/heads/good%d", zeros, head, i), fmt.Sprintf("%s %s refs/heads/bad%d", zeros, head, i), fmt.Sprintf("%s %s refs/heads/x..y", zeros, head),
			}
			answer := pktLines(r.rawPush(protocol, caps, commands, nil, bytes.NewReader(r.packOf(w))))
			want := []string{
				"unpack ok", fmt.Sprintf("ok refs/heads/good%d", i), fmt.Sprintf("ng refs/heads/bad%d upstream: hook declined", i), "ng refs/heads/x..y malformed name of a reference",
			}
			if strings.Join(answer, "\n") != strings.Join(want, "\n") {
				t.Errorf("%s: %q, want %q", caps, answer, want)
			}
		}
		r.agree()
	})
}

// An upstream that moves something else than it was asked to, as review servers do, says so to the client, and the mirror
// follows upstream, not the client.
func TestUpstreamMovesAnotherReference(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t)
		r.seed("main", map[string]string{"a": "1"})
		r.run(r.ssh.Dir("app"), "git", "config", "receive.procReceiveRefs", "refs/for")
		report := ""
		for _, line := range []string{"ok refs/for/main", "option refname refs/heads/review", "option forced-update"} {
			report += fmt.Sprintf("%04x%s", len(line)+4, line)
		}
		r.hook("proc-receive", "printf '000dversion=10000"+report+"0000'\ngit update-ref refs/heads/review refs/heads/main\ncat >/dev/null\n")
		w := r.clone(protocol)
		r.commit(w, "mine", map[string]string{"b": "1"})
		out := r.run(w, "git", "push", "origin", "HEAD:refs/for/main")
		if !strings.Contains(out, "HEAD -> review") {
			t.Error(out)
		}
		r.run(w, "git", "fetch", "-q")
		r.run(w, "git", "rev-parse", "origin/review")
		r.agree()
	})
}

func TestPushOptions(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t)
		r.seed("main", map[string]string{"a": "1"})
		w := r.clone(protocol)
		r.commit(w, "mine", map[string]string{"b": "1"})
		r.fails(w, []string{"upstream does not take push options"}, "git", "push", "-o", "ci.skip", "origin", "HEAD")
		r.agree()
		r.run(r.ssh.Dir("app"), "git", "config", "receive.advertisePushOptions", "true")
		r.hook("pre-receive", `echo "options: $GIT_PUSH_OPTION_COUNT $GIT_PUSH_OPTION_0 $GIT_PUSH_OPTION_1" >&2`)
		out := r.run(w, "git", "push", "-o", "ci.skip", "-o", "topic=a b", "origin", "HEAD")
		if !strings.Contains(out, "options: 2 ci.skip topic=a b") {
			t.Error(out)
		}
		r.agree()
		r.commit(w, "more", map[string]string{"c": "1"})
		k := token(31)
		out = r.fails(w, []string{"secret found: github-pat in push option:2"}, "git", "push", "-o", "fine", "-o", "note="+k, "origin", "HEAD")
		r.agree()
		r.absent(k, out)
	})
}

func TestBadCommands(t *testing.T) {
	r := newRig(t)
	head := r.seed("main", map[string]string{"a": "1"})
	good := zeros + " " + head + " refs/heads/x"
	for want, push := range map[string]struct {
		caps     string
		commands []string
		options  []string
	}{
		"object format sha256":           {caps: "object-format=sha256", commands: []string{good}},
		"stands in the push twice":       {commands: []string{good, good}},
		"malformed command":              {commands: []string{"push-cert"}},
		"a push option with a line":      {caps: "push-options", commands: []string{good}, options: []string{"a\nb"}},
		"more than 1000 push options":    {caps: "push-options", commands: []string{good}, options: make([]string, 1001)},
		"malformed name of a reference":  {commands: []string{zeros + " " + head + " HEAD"}},
		"not pushed":                     {commands: []string{zeros + " " + head + " refs/replace/" + head}},
		"or change what others see":      {commands: []string{zeros + " " + head + " refs/pull/1/head"}},
		"the reference has moved: fetch": {commands: []string{head + " " + zeros + " refs/heads/none"}},
	} {
		answer := r.rawPush("git", "report-status side-band-64k "+push.caps, push.commands, push.options, bytes.NewReader(emptyPack()))
		said, _ := io.ReadAll(answer)
		if !strings.Contains(string(said), want) {
			t.Errorf("want %q, got %q", want, said)
		}
	}
	r.agree()
}

func emptyPack() []byte {
	b := binary.BigEndian.AppendUint32([]byte("PACK\x00\x00\x00\x02"), 0)
	sum := sha1.Sum(b)
	return append(b, sum[:]...)
}

// beats counts the signs of life until there are enough of them.
func beats(r *bufio.Reader, enough int) error {
	for range enough {
		for {
			pkt, err := readPkt(r)
			if err != nil {
				return err
			}
			if len(pkt) == 1 && pkt[0] == bandMessage {
				break
			}
		}
	}
	return nil
}

// A client hears from the gate while its push is looked at, over both protocols.
func TestKeepAlive(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t, func(c *Config) { c.KeepAlive = 5 * time.Millisecond })
		r.seed("main", map[string]string{"a": "1"})
		goOn := filepath.Join(t.TempDir(), "go-on")
		r.run(r.state, "mkfifo", goOn)
		r.hook("pre-receive", "read line <"+goOn+"\n")
		w := r.clone(protocol)
		r.commit(w, "mine", map[string]string{"b": "1"})
		head := r.run(w, "git", "rev-parse", "HEAD")
		answer := r.rawPush(protocol, "report-status side-band-64k", []string{zeros + " " + head + " refs/heads/x"}, nil, bytes.NewReader(r.packOf(w, "HEAD", "^origin/main")))
		if err := beats(answer, 5); err != nil {
			t.Error(err)
		}
		if err := os.WriteFile(goOn, []byte("x\n"), 0); err != nil {
			t.Fatal(err)
		}
		rest, err := io.ReadAll(&demux{r: answer, say: func(string) {}})
		if err != nil || !strings.Contains(string(rest), "ok refs/heads/x") {
			t.Errorf("%q, %v", rest, err)
		}
		r.agree()
	})
}

// A pack that comes in chunks over HTTP is not answered before it is here, and a hook may think longer than a client may be silent.
func TestLongUpload(t *testing.T) {
	r := newRig(t, func(c *Config) { c.KeepAlive, c.Idle = time.Millisecond, 4*time.Second })
	r.seed("main", map[string]string{"a": "1"})
	r.hook("pre-receive", "sleep 5\n")
	w := r.clone("http")
	noise := make([]byte, 3<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(noise)
	r.commit(w, "mine", map[string]string{"noise": string(noise)})
	r.run(w, "git", "-c", "http.postBuffer=65536", "push", "-q", "origin", "HEAD")
	r.agree()
}

// An upstream that hangs up after it took a push is listed again, and the client is told what became of it.
func TestUpstreamHangsUpAfterTakingThePush(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t)
		r.seed("main", map[string]string{"a": "1"})
		w := r.clone(protocol)
		// The hook runs when the references have moved, and before that is reported.
		r.hook("reference-transaction", `[ "$1" = committed ] && kill -9 $PPID; exit 0`)
		r.commit(w, "mine", map[string]string{"b": "1"})
		out := r.fails(w, []string{"HEAD -> main\n", "HEAD -> topic (the connection to upstream broke off: the outcome is unknown, fetch to see"}, "git", "push", "origin", "HEAD", "HEAD:topic")
		if strings.Contains(out, "rejected] HEAD -> main") {
			t.Error(out)
		}
		r.agree()
		r.commit(w, "more", map[string]string{"c": "1"})
		r.run(w, "git", "push", "--atomic", "origin", "HEAD", "HEAD:topic")
		r.agree()
	})
}

// Upstream's words come line by line, so that a credential in pieces is seen; they steer no terminal and have an end.
func TestSpeech(t *testing.T) {
	var said strings.Builder
	s := &speech{hide: func(s string) string { return strings.ReplaceAll(s, "hidden", "[redacted]") }, say: func(text string) { said.WriteString(text) }}
	for _, text := range []string{"Counting 1\rCounting 2\r", "it is hid", "den\nan\x1b[2Jd\x9b31m\x07 more", "\xff\n", "open"} {
		s.add(text)
	}
	s.end()
	if got, want := said.String(), "Counting 1\rCounting 2\rit is [redacted]\nan[2Jd?31m more?\nopen"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	said.Reset()
	for range 100_000 {
		s.add("again and again\n")
	}
	s.add(strings.Repeat("x", 1<<20))
	s.end()
	if said.Len() > maxSpeech+100 || !strings.HasSuffix(said.String(), "(and more)\n") {
		t.Errorf("%d bytes are told", said.Len())
	}
}

func TestQuietAndOptionsAreAskedForOnlyWhereOffered(t *testing.T) {
	f := &forwarding{order: order{quiet: true, withOptions: true, atomic: true}}
	caps, err := f.wanted(strings.Fields("report-status report-status-v2 quiet atomic push-options side-band-64k ofs-delta object-format=sha1"))
	if want := "report-status-v2 side-band-64k object-format=sha1 quiet atomic push-options agent=airlock"; err != nil || strings.Join(caps, " ") != want {
		t.Errorf("%q, %v", caps, err)
	}
	for _, offered := range []string{"", "report-status push-options", "report-status-v2 atomic"} {
		if caps, err := f.wanted(strings.Fields(offered)); err == nil {
			t.Errorf("%q: %q", offered, caps)
		}
	}
}

// Who pushes is answered in version 1 if it asks for that, and in version 0 if it asks for version 2, in which nobody pushes.
func TestPushVersions(t *testing.T) {
	r := newRig(t)
	for asked, want := range map[string]string{"": zeros, "version=1": "version 1", "version=2": zeros} {
		conn, err := net.Dial("tcp", r.git)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		_ = writePkt(conn, "git-receive-pack /app.git\x00host=x\x00\x00"+asked+"\x00")
		if first, err := readLine(bufio.NewReader(conn)); err != nil || !strings.HasPrefix(first, want) {
			t.Errorf("%q: %v, %q", asked, err, first)
		}
	}
}
