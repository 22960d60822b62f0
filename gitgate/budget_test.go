package gitgate

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"airlock/gitgate/objects"
)

// What clients of v2 have us keep of their requests has an end for all of them together, is counted until they are answered, and given back then.
func TestArgumentsOfAllClientsAreBounded(t *testing.T) {
	src := source{snap: &snapshot{head: "refs/heads/main"}, reach: objects.NewReach(), offers: anyObject, allows: mirrorAllows}
	load := func(context.Context) (source, error) { return src, nil }
	shared := newBudget(100 * keepOne)
	speak := func(name string, args ...string) (string, error) {
		var in, out bytes.Buffer
		command2(&in, name, args...)
		s := &speaker{in: bufio.NewReader(&in), out: bufio.NewWriter(&out), list: load, recent: load, budget: shared}
		err := s.serve(t.Context(), true)
		s.out.Flush()
		return out.String(), err
	}
	many := func(n int, format string) (lines []string) {
		for i := range n {
			lines = append(lines, fmt.Sprintf(format, i))
		}
		return append(lines, "wait-for-done")
	}
	if out, err := speak("fetch", many(90, "have %040x")...); err != nil || !strings.Contains(out, "NAK") {
		t.Errorf("%v, %q", err, out)
	}
	for _, word := range []string{"have", "want", "shallow"} {
		if _, err := speak("fetch", many(101, word+" %040x")...); err != errCrowded {
			t.Errorf("%s: %v, want %v", word, err, errCrowded)
		}
	}
	if _, err := speak("ls-refs", many(70, "ref-prefix refs/heads/"+strings.Repeat("x", 40)+"%d")...); err != errCrowded {
		t.Errorf("prefixes: %v, want %v", err, errCrowded)
	}
	another := shared.open()
	if err := another.take(50 * keepOne); err != nil {
		t.Fatal(err)
	}
	if _, err := speak("fetch", many(60, "have %040x")...); err != errCrowded {
		t.Errorf("beside another client: %v, want %v", err, errCrowded)
	}
	another.settle()
	if left := shared.left.Load(); left != 100*keepOne {
		t.Errorf("%d bytes are left, want %d: a client has not given back what it took", left, 100*keepOne)
	}
}

// What all pushes bring shares one room on the disk, and gives it back whatever becomes of a push.
func TestQuarantinesShareRoom(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		const room = 200 << 10
		r := newRig(t, func(c *Config) { c.File.Limits.QuarantineBytes = room })
		head := r.seed("main", map[string]string{"a": "1"})
		r.hook("update", `case $1 in refs/heads/bad) exit 1;; esac`)
		w := r.clone(protocol)
		noise := func(seed uint64, n int) string {
			b := make([]byte, n)
			_, _ = rand.NewChaCha8([32]byte{byte(seed)}).Read(b)
			return string(b)
		}
		fits := uint64(0)
		most := func() string { // a commit that takes most of the room
			fits++
			r.commit(w, "most", map[string]string{"most": noise(fits, room*3/4)})
			return r.run(w, "git", "rev-parse", "HEAD")
		}
		push := func(ref string) []string { return []string{"git", "push", "-q", "origin", "HEAD:refs/heads/" + ref} }
		r.run(w, "git", "checkout", "-q", "-b", "large")
		r.commit(w, "too much", map[string]string{"large": noise(100, room+1)})
		base := head
		for what, refused := range map[string]func(){
			"too much":            func() { r.fails(w, []string{"no room in quarantine"}, push("large")...) },
			"refused by upstream": func() { r.fails(w, []string{"[remote rejected]"}, push("bad")...) },
			"with a secret": func() {
				r.commit(w, "secret", map[string]string{"s": token(120)})
				r.fails(w, []string{"secret found"}, push("secret")...)
			},
			"no pack": func() {
				pktLines(r.rawPush(protocol, "report-status", []string{zeros + " " + head + " refs/heads/x"}, nil, strings.NewReader(noise(101, 40<<10))))
			},
		} {
			if what == "too much" {
				r.run(w, "git", "checkout", "-q", "large")
			} else {
				r.run(w, "git", "checkout", "-q", "--detach", base)
				most()
			}
			refused()
			r.run(w, "git", "checkout", "-q", "--detach", base)
			base = most()
			if out, err := r.try(w, push("main")...); err != nil {
				t.Errorf("after a push %s: %v\n%s", what, err, out)
			}
			r.agree()
		}
	})
}

// One that breaks off gives it back, too; beside one that does not there is less.
func TestRoomBesideOthers(t *testing.T) {
	shared := newBudget(100)
	one, other := &quarantine{dir: t.TempDir(), room: shared.open()}, &quarantine{dir: t.TempDir(), room: shared.open()}
	if err := errors.Join(one.take(60), other.take(40)); err != nil {
		t.Fatal(err)
	}
	if err := other.take(1); err != errNoRoom {
		t.Errorf("%v, want %v", err, errNoRoom)
	}
	if err := errors.Join(one.remove(), other.take(60)); err != nil {
		t.Error(err)
	}
	if err := errors.Join(other.remove(), other.remove()); err != nil || shared.left.Load() != 100 {
		t.Errorf("%v, %d is left of 100", err, shared.left.Load())
	}
}

// Kilobytes of gzip are no hundreds of megabytes of arguments: a line has a length, and the rest is not read.
func TestArgumentsAreShort(t *testing.T) {
	r := newRig(t)
	r.seed("main", map[string]string{"a": "1"})
	var b bytes.Buffer
	command2(&b, "ls-refs", "ref-prefix refs/heads/main", "ref-prefix "+strings.Repeat("x", 60000))
	req, err := http.NewRequest(http.MethodPost, r.url("http", "app")+"/git-upload-pack", &b)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-git-upload-pack-request")
	req.Header.Set("Git-Protocol", "version=2")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if answer, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(answer), "an argument of 60011 bytes") {
		t.Errorf("%v, %.100q", err, answer)
	}
}

// A push's commands are counted, too.
func TestCommandsAreCounted(t *testing.T) {
	var b bytes.Buffer
	for i := range 20 {
		_ = writePkt(&b, fmt.Sprintf("%s %040x refs/heads/%d", zeros, i+1, i))
	}
	_ = writeFlush(&b)
	if _, err := readCommands(bufio.NewReader(&b), newBudget(2000).open()); err == nil || !strings.Contains(err.Error(), errCrowded.Error()) {
		t.Errorf("%v, want %v", err, errCrowded)
	}
}

// A file may be asked for any number of times; it is looked up by its name, and read once.
func TestTheSameWantAgain(t *testing.T) {
	r := newRig(t)
	head := r.seed("main", map[string]string{"large": strings.Repeat("the same line again and again\n", 1<<20), "small": "1"})
	blob := r.run(r.ssh.Dir("app"), "git", "rev-parse", "main:large")
	r.run(r.state, "git", "ls-remote", r.url("git", "app"))
	for version, request := range map[string]func(io.Writer){
		"2": func(w io.Writer) {
			args := []string{"have " + head}
			for range 20_000 {
				args = append(args, "want "+blob)
			}
			command2(w, "fetch", args...)
		},
		"0": func(w io.Writer) {
			_ = writePkt(w, "want "+blob+" multi_ack_detailed side-band-64k")
			for range 20_000 {
				_ = writePkt(w, "want "+blob)
			}
			_ = writeFlush(w)
			_ = writePkt(w, "have "+head)
			_ = writePkt(w, "have "+blob)
			_ = writeFlush(w)
		},
	} {
		var b bytes.Buffer
		request(&b)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url("http", "app")+"/git-upload-pack", &b)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-git-upload-pack-request")
		req.Header.Set("Git-Protocol", "version="+version)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Errorf("version %s: %v", version, err)
			continue
		}
		defer resp.Body.Close()
		if answer, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(answer), "ACK "+head) {
			t.Errorf("version %s: %v, %.200q", version, err, answer)
		}
	}
}
