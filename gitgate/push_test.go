package gitgate

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ulikunitz/xz"

	"airlock/internal/config"
	"airlock/internal/lab"
)

func TestPushArrivesUpstream(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t)
		r.seed("main", map[string]string{"a": "1"})
		w := r.clone(protocol)
		r.commit(w, "mine", map[string]string{"b": "2", "c/d": "3"})
		r.run(w, "git", "push", "-q", "origin", "HEAD")
		r.agree()
		r.run(w, "git", "tag", "-a", "-m", "one", "v1")
		r.run(w, "git", "notes", "add", "-m", "a note")
		r.run(w, "git", "push", "-q", "origin", "v1", "HEAD:refs/heads/topic", "refs/notes/commits")
		r.agree()
		r.run(w, "git", "push", "-q", "origin", ":topic")
		r.agree()
		r.run(w, "git", "commit", "-q", "--amend", "-m", "other")
		r.fails(w, []string{"rejected"}, "git", "push", "origin", "HEAD")
		r.run(w, "git", "push", "-q", "--force", "origin", "HEAD")
		r.agree()
		r.run(r.clone(protocol), "git", "fsck", "--full")
	})
}

// A secret anywhere in a push changes nothing upstream and leaves nothing in the mirror.
func TestPushWithSecretIsRefused(t *testing.T) {
	k := token(11)
	cases := map[string]struct {
		make  func(r *rig, w string)
		push  []string // default: HEAD
		wants []string // beside the rule
	}{
		"in a file": {
			make:  func(r *rig, w string) { r.commit(w, "x", map[string]string{"conf/app.env": "a=1\nkey=" + k + "\n"}) },
			wants: []string{"conf/app.env:2", "git rebase -i", "ask_operator"},
		},
		"in a commit message": {
			make:  func(r *rig, w string) { r.commit(w, "use "+k, map[string]string{"b": "1"}) },
			wants: []string{"commit "},
		},
		"in an author's name": {
			make: func(r *rig, w string) {
				r.run(w, "git", "commit", "-q", "--allow-empty", "-m", "x", "--author", k+" <a@example.com>")
			},
			wants: []string{"commit "},
		},
		"in a tag message": {
			make:  func(r *rig, w string) { r.run(w, "git", "tag", "-a", "-m", k, "v1") },
			push:  []string{"v1"},
			wants: []string{"tag object "},
		},
		"in a note": {
			make: func(r *rig, w string) { r.run(w, "git", "notes", "add", "-m", k) },
			push: []string{"refs/notes/commits"},
		},
		"in a file's name": {
			make:  func(r *rig, w string) { r.commit(w, "x", map[string]string{"dir/" + k + ".txt": "1"}) },
			wants: []string{"the name of a file"},
		},
		"in a branch's name": {
			make:  func(r *rig, w string) {},
			push:  []string{"HEAD:refs/heads/x-" + k},
			wants: []string{"the name of a reference"},
		},
		"in an intermediate commit": {
			make: func(r *rig, w string) {
				r.commit(w, "add", map[string]string{"b": k})
				r.commit(w, "remove", map[string]string{"b": "nothing"})
			},
			wants: []string{"b:1"},
		},
		"in a merge's own resolution": {
			make: func(r *rig, w string) {
				r.run(w, "git", "checkout", "-q", "-b", "side")
				r.commit(w, "side", map[string]string{"s": "1"})
				r.run(w, "git", "checkout", "-q", "-")
				r.commit(w, "main", map[string]string{"m": "1"})
				r.run(w, "git", "merge", "-q", "--no-commit", "--no-ff", "side")
				r.commit(w, "merge", map[string]string{"m": k})
			},
			wants: []string{"m:1"},
		},
		"beside gitleaks:allow": {
			make: func(r *rig, w string) {
				r.commit(w, "x", map[string]string{"b.go": "k := \"" + k + "\" // gitleaks:allow\n"})
			},
		},
		"with files that would excuse it": {
			make: func(r *rig, w string) {
				r.commit(w, "x", map[string]string{
					".gitleaks.toml": "[allowlist]\npaths = ['''.*''']\n", ".gitleaksignore": "b:github-pat:1\n",
					".gitattributes": "* binary\n", "b": k,
				})
			},
			wants: []string{"b:1"},
		},
		"in a lock file": {make: func(r *rig, w string) { r.commit(w, "x", map[string]string{"package-lock.json": k}) }},
		"in vendor":      {make: func(r *rig, w string) { r.commit(w, "x", map[string]string{"vendor/github.com/x/y.go": k}) }},
		"in an image":    {make: func(r *rig, w string) { r.commit(w, "x", map[string]string{"a.png": "\x89PNG\x00" + k}) }},
		"in a binary":    {make: func(r *rig, w string) { r.commit(w, "x", map[string]string{"a.bin": "\x00\x01\xff" + k + "\x00"}) }},
		"in UTF-16":      {make: func(r *rig, w string) { r.commit(w, "x", map[string]string{"a.txt": wide("k=" + k)}) }},
		"in UTF-16BE": {make: func(r *rig, w string) {
			r.commit(w, "x", map[string]string{"a.txt": spaced("\xfe\xff", "\x00%c", "k="+k)})
		}},
		"in UTF-32": {make: func(r *rig, w string) {
			r.commit(w, "x", map[string]string{"a.txt": spaced("\xff\xfe\x00\x00", "%c\x00\x00\x00", "k="+k)})
		}},
		"in a tar.gz":           {make: func(r *rig, w string) { r.commit(w, "x", map[string]string{"a.tgz": tarred(k)}) }},
		"in three archives":     {make: func(r *rig, w string) { r.commit(w, "x", map[string]string{"a.zip": zipped(tarred(zipped(k)))}) }},
		"in base64, five times": {make: func(r *rig, w string) { r.commit(w, "x", map[string]string{"a.txt": encoded(k, 5)}) }},
		"in a tar.xz":           {make: func(r *rig, w string) { r.commit(w, "x", map[string]string{"a.txz": xzOf(tarred(k))}) }},
		"in a zip":              {make: func(r *rig, w string) { r.commit(w, "x", map[string]string{"a.zip": zipped(k)}) }},
		"behind a clean branch": {make: func(r *rig, w string) { r.commit(w, "x", map[string]string{"b": k}) }, push: []string{"origin/main:refs/heads/clean", "HEAD:refs/heads/dirty"}, wants: []string{"clean", "dirty"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, protocol string) {
				r := newRig(t)
				r.seed("main", map[string]string{"a": "1"})
				w := r.clone(protocol)
				c.make(r, w)
				before := r.refs(r.ssh.Dir("app"))
				push := append([]string{"git", "push", "origin"}, c.push...)
				if c.push == nil {
					push = append(push, "HEAD")
				}
				out := r.fails(w, append(c.wants, "secret found: github-pat"), push...)
				if after := r.refs(r.ssh.Dir("app")); after != before {
					t.Errorf("upstream changed:\n%s\n--\n%s", before, after)
				}
				r.agree()
				if strings.HasPrefix(name, "in a branch") {
					out = "" // git itself prints the name that it pushed
				}
				r.absent(k, out)
			})
		})
	}
}

func wide(s string) string {
	var b strings.Builder
	b.WriteString("\xff\xfe")
	for _, c := range s {
		b.WriteByte(byte(c))
		b.WriteByte(0)
	}
	return b.String()
}

func zipped(s string) string {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, _ := z.Create("inside.txt")
	w.Write([]byte(s))
	z.Close()
	return b.String()
}

func xzOf(s string) string {
	var b bytes.Buffer
	z, err := xz.NewWriter(&b)
	if err == nil {
		_, err = z.Write([]byte(s))
	}
	if err := errors.Join(err, z.Close()); err != nil {
		panic(err)
	}
	return b.String()
}

// encryptedZip has a file that nobody can read.
func encryptedZip() string {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, err := z.CreateRaw(&zip.FileHeader{Name: "inside.txt", Method: zip.Deflate, Flags: 1, CompressedSize64: 12, UncompressedSize64: 30})
	if err == nil {
		_, err = w.Write([]byte("twelve bytes"))
	}
	if err := errors.Join(err, z.Close()); err != nil {
		panic(err)
	}
	return b.String()
}

func tarred(s string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	w.WriteHeader(&tar.Header{Name: "inside.txt", Mode: 0o644, Size: int64(len(s))})
	w.Write([]byte(s))
	w.Close()
	z.Close()
	return b.String()
}

func spaced(mark, form, s string) string {
	var b strings.Builder
	b.WriteString(mark)
	for i := range len(s) {
		fmt.Fprintf(&b, form, s[i])
	}
	return b.String()
}

func encoded(s string, times int) string {
	for range times {
		s = base64.StdEncoding.EncodeToString([]byte(s))
	}
	return s
}

func TestOldSecretUpstreamDoesNotMatter(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t)
		r.seed("main", map[string]string{"old": token(12)})
		w := r.clone(protocol)
		r.commit(w, "clean", map[string]string{"new": "1"})
		r.run(w, "git", "push", "-q", "origin", "HEAD", "HEAD:refs/heads/topic")
		r.agree()
	})
}

// A file that holds an old secret can be edited; the secret cannot be changed, moved to another file, or joined by another one.
func TestFileWithAnOldSecret(t *testing.T) {
	old, other := token(13), token(14)
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t)
		r.seed("main", map[string]string{"conf/old": "a\nkey = " + old + "\nb\n"})
		w := r.clone(protocol)
		r.commit(w, "edit", map[string]string{"conf/old": "a\nmore\nkey = " + old + "\nc\n"})
		r.run(w, "git", "push", "-q", "origin", "HEAD")
		r.agree()
		for name, files := range map[string]map[string]string{
			"another secret beside it": {"conf/old": "key = " + old + "\nkey = " + other + "\n"},
			"another secret instead":   {"conf/old": "key = " + other + "\n"},
			"the same one elsewhere":   {"conf/new": "key = " + old + "\n"},
		} {
			r.commit(w, name, files)
			r.fails(w, []string{"secret found: github-pat in conf/"}, "git", "push", "origin", "HEAD")
			r.run(w, "git", "reset", "-q", "--hard", "origin/main")
			r.agree()
		}
		// An own commit in between does not make its secret an old one.
		r.commit(w, "first", map[string]string{"conf/mine": other})
		r.commit(w, "second", map[string]string{"conf/mine": "x " + other})
		r.fails(w, []string{"secret found: github-pat in conf/mine"}, "git", "push", "origin", "HEAD")
		r.agree()
	})
}

func TestProtectedReferences(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t, func(c *Config) { c.File.Protect = []string{"refs/heads/main", "refs/tags/*"} })
		r.seed("main", map[string]string{"a": "1"})
		w := r.clone(protocol)
		r.commit(w, "forward", map[string]string{"a": "2"})
		r.run(w, "git", "tag", "v1")
		r.run(w, "git", "push", "-q", "origin", "HEAD", "v1")
		r.run(w, "git", "commit", "-q", "--amend", "-m", "other")
		r.fails(w, []string{"protected: may not be forced"}, "git", "push", "--force", "origin", "HEAD:main")
		r.fails(w, []string{"protected: may not be deleted"}, "git", "push", "origin", ":main")
		r.fails(w, []string{"protected: may not be deleted"}, "git", "push", "origin", ":v1")
		r.fails(w, []string{"protected: may not be forced", "[new branch]"}, "git", "push", "--force", "origin", "HEAD:main", "HEAD:topic")
		r.agree()
	})
}

func TestReadOnlyMirror(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		no := false
		r := newRig(t, func(c *Config) { repo(c, func(x *repoT) { x.Push = &no }) })
		r.seed("main", map[string]string{"a": "1"})
		w := r.clone(protocol)
		r.commit(w, "mine", map[string]string{"b": "1"})
		out := r.fails(w, nil, "git", "push", "origin", "HEAD")
		if !strings.Contains(out, "read-only") && !strings.Contains(out, "403") {
			t.Error(out)
		}
		r.agree()
	})
}

// hook puts a script into upstream.
func (r *rig) hook(name, script string) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.ssh.Dir("app"), "hooks", name), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		r.t.Fatal(err)
	}
}

func TestUpstreamRefusesOneOfTwo(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t)
		r.seed("main", map[string]string{"a": "1"})
		r.hook("update", `case $1 in refs/heads/bad) echo "not this one" >&2; exit 1;; esac`)
		w := r.clone(protocol)
		r.commit(w, "mine", map[string]string{"b": "1"})
		r.fails(w, []string{"not this one", "[remote rejected] HEAD -> bad (upstream: hook declined)", "[new branch]      HEAD -> good"},
			"git", "push", "origin", "HEAD:good", "HEAD:bad")
		r.agree()
		r.commit(w, "more", map[string]string{"b": "2"})
		out := r.fails(w, []string{"[remote rejected] HEAD -> bad"}, "git", "push", "--atomic", "origin", "HEAD:other", "HEAD:bad")
		if strings.Contains(out, "[new branch]") {
			t.Error(out)
		}
		r.agree()
		r.run(w, "git", "push", "-q", "--atomic", "origin", "HEAD:good", "HEAD:other")
		r.agree()
	})
}

func TestAtomicStopsAtTheGate(t *testing.T) {
	r := newRig(t, func(c *Config) { c.File.Protect = []string{"refs/heads/main"} })
	r.seed("main", map[string]string{"a": "1"})
	w := r.clone("git")
	r.commit(w, "mine", map[string]string{"b": "1"})
	r.fails(w, []string{"protected"}, "git", "push", "--atomic", "origin", ":main", "HEAD:topic")
	r.agree()
	if refs := r.refs(r.ssh.Dir("app")); strings.Contains(refs, "topic") {
		t.Error("topic went upstream")
	}
}

func TestPushRace(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t)
		r.seed("main", map[string]string{"a": "1"})
		w := r.clone(protocol)
		r.commit(w, "mine", map[string]string{"b": "1"})
		r.seed("main", map[string]string{"c": "1"})
		r.fails(w, []string{"fetch first"}, "git", "push", "origin", "HEAD")
		r.run(w, "git", "fetch", "-q")
		r.agree()
		r.run(w, "git", "pull", "-q", "--rebase")
		r.run(w, "git", "push", "-q", "origin", "HEAD")
		r.agree()
	})
}

func TestPushLimits(t *testing.T) {
	noise := strings.Builder{}
	for i := range 60_000 {
		fmt.Fprintf(&noise, "%d ", i*i*7919)
	}
	cases := map[string]option{
		"bytes of a push":    func(c *Config) { c.File.Limits.PushBytes = config.Bytes(50_000) },
		"bytes of an object": func(c *Config) { c.File.Limits.ObjectBytes = config.Bytes(100_000) },
	}
	for name, limit := range cases {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, protocol string) {
				r := newRig(t, limit)
				r.seed("main", map[string]string{"a": "1"})
				w := r.clone(protocol)
				r.commit(w, "big", map[string]string{"b": noise.String()})
				r.fails(w, []string{"over a limit"}, "git", "push", "origin", "HEAD")
				r.agree()
			})
		})
	}
	t.Run("archive", func(t *testing.T) {
		lab.Long(t)
		each(t, func(t *testing.T, protocol string) {
			r := newRig(t)
			r.seed("main", map[string]string{"a": "1"})
			w := r.clone(protocol)
			r.commit(w, "bomb", map[string]string{"bomb.zip": zipped(strings.Repeat("\x00", 70<<20))})
			r.fails(w, []string{"cannot be looked at", "bomb.zip", "inflates to more"}, "git", "push", "origin", "HEAD")
			r.agree()
		})
	})
	t.Run("unreadable archive", func(t *testing.T) {
		each(t, func(t *testing.T, protocol string) {
			r := newRig(t)
			r.seed("main", map[string]string{"a": "1"})
			w := r.clone(protocol)
			r.commit(w, "encrypted", map[string]string{"a.zip": encryptedZip()})
			r.fails(w, []string{"unreadable-archive", "a.zip", "nobody here can read it"}, "git", "push", "origin", "HEAD")
			r.agree()
		})
	})
	t.Run("references", func(t *testing.T) {
		each(t, func(t *testing.T, protocol string) {
			r := newRig(t, func(c *Config) { c.File.Limits.Refs = 3 })
			r.seed("main", map[string]string{"a": "1"})
			w := r.clone(protocol)
			out := r.fails(w, nil, "git", "push", "origin", "HEAD:b1", "HEAD:b2", "HEAD:b3", "HEAD:b4")
			if !strings.Contains(out, "more than 3 references") {
				t.Error(out)
			}
			r.agree()
		})
	})
}

// A client that dies in the middle of its pack leaves nothing, and the next one is served.
func TestKilledClient(t *testing.T) {
	r := newRig(t)
	head := r.seed("main", map[string]string{"a": "1"})
	w := r.clone("git")
	r.commit(w, "mine", map[string]string{"b": "1"})
	conn, err := net.Dial("tcp", r.git)
	if err != nil {
		t.Fatal(err)
	}
	_ = writePkt(conn, "git-receive-pack /app.git\x00host=x\x00")
	buf := make([]byte, 4096)
	if _, err := conn.Read(buf); err != nil {
		t.Fatal(err)
	}
	_ = writePktf(conn, "%s %s refs/heads/main\x00report-status side-band-64k", head, strings.Repeat("1", 40))
	_ = writeFlush(conn)
	_, _ = conn.Write([]byte("PACK\x00\x00\x00\x02\x00\x00\x00\x09\x95\x0a"))
	conn.Close()
	r.run(w, "git", "push", "-q", "origin", "HEAD")
	r.edit(func(*Config) {}) // ends every client
	r.agreeRefs()
	r.noLeftovers()
}

func (r *rig) agreeRefs() {
	r.t.Helper()
	if up, mirror := r.refs(r.ssh.Dir("app")), r.refs(r.mirrorDir()); up != mirror {
		r.t.Errorf("upstream and mirror differ:\n%s\n--\n%s", up, mirror)
	}
}

// What a killed gate leaves is removed when the next one starts.
func TestLeftoverQuarantineIsRemoved(t *testing.T) {
	r := newRig(t)
	r.seed("main", map[string]string{"a": "1"})
	r.clone("git")
	r.stop()
	left := filepath.Join(r.mirrorDir(), "quarantine", "in-left")
	if err := os.MkdirAll(left, 0o755); err != nil {
		t.Fatal(err)
	}
	r.write(left, "incoming-1.pack", "half a pack")
	r.start()
	r.clone("git")
	r.noLeftovers()
	r.agree()
}

func TestUpstreamThatHangs(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t, func(c *Config) {
			c.Answer = 300 * time.Millisecond
			repo(c, func(x *repoT) {
				x.URL = "ssh://git@upstream.test:" + fmt.Sprint(silent.Addr().(*net.TCPAddr).Port) + "/app.git"
			})
		})
		began := time.Now()
		r.fails(t.TempDir(), []string{"said nothing for 300ms"}, "git", "ls-remote", r.url(protocol, "app"))
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

// A client that hangs up while upstream judges its push does not change what becomes of it.
func TestClientLeavesDuringThePush(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t)
		r.seed("main", map[string]string{"a": "1"})
		w := r.clone(protocol)
		dir := t.TempDir()
		begun, goOn := filepath.Join(dir, "begun"), filepath.Join(dir, "go-on")
		r.run(w, "mkfifo", begun, goOn)
		r.hook("pre-receive", "echo x >"+begun+"\nread line <"+goOn+"\n")
		r.commit(w, "mine", map[string]string{"b": "1"})
		push := exec.Command("git", "push", "-q", "origin", "HEAD")
		push.Dir, push.Env = w, gitEnv
		if err := push.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.ReadFile(begun); err != nil { // returns when the hook runs
			t.Fatal(err)
		}
		_ = push.Process.Kill()
		_ = push.Wait()
		if err := os.WriteFile(goOn, []byte("x\n"), 0); err != nil {
			t.Fatal(err)
		}
		r.run(r.clone(protocol), "git", "cat-file", "-e", "HEAD:b") // waits for its turn behind the push
		r.agreeRefs()
	})
}
