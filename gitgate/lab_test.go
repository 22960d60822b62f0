package gitgate

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"airlock/internal/bundle"
	"airlock/internal/lab"
)

// token makes a provider-shaped token at run time, so that this file holds none.
func token(seed uint64) string {
	const alnum = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	r := rand.New(rand.NewPCG(seed, 7))
	b := []byte("gh" + "p_")
	for range 36 {
		b = append(b, alnum[r.IntN(len(alnum))])
	}
	return string(b)
}

// rig is a gate between the real git client and a real upstream.
type rig struct {
	t      *testing.T
	ssh    *lab.GitSSH
	config Config
	state  string
	git    string // address of git://
	http   string
	stop   func()
	log    *bytes.Buffer
}

type option func(*Config)

func newRig(t *testing.T, options ...option) *rig {
	t.Helper()
	root := t.TempDir()
	server, err := lab.NewGitSSH(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	r := &rig{t: t, ssh: server, state: t.TempDir()}
	r.run(root, "git", "init", "-q", "--bare", "-b", "main", "app.git")
	identity := filepath.Join(r.state, "app.key")
	if err := os.WriteFile(identity, server.Identity(), 0o600); err != nil {
		t.Fatal(err)
	}
	r.config = Config{
		File: bundle.GitGateFile{
			Version: 1,
			Hosts:   map[string]netip.Addr{"upstream.test": netip.MustParseAddr("127.0.0.1")},
			Repos: map[string]bundle.Repo{
				"app": {URL: server.URL("upstream.test", "app"), Identity: identity, HostKey: server.HostKey()},
			},
		},
		Dirs:   bundle.Dirs{Etc: r.state, Run: r.state, State: r.state},
		Answer: 10 * time.Second,
		Drain:  time.Second,
	}
	for _, o := range options {
		o(&r.config)
	}
	r.start()
	t.Cleanup(func() { r.stop() })
	return r
}

// start runs the daemon; stop ends it and waits.
func (r *rig) start() {
	r.t.Helper()
	c := r.config
	r.log = &bytes.Buffer{}
	c.Log = slog.New(slog.NewTextHandler(r.log, nil))
	var err error
	if c.Git, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		r.t.Fatal(err)
	}
	if c.HTTP, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		r.t.Fatal(err)
	}
	r.git, r.http = c.Git.Addr().String(), c.HTTP.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, c) }()
	r.stop = func() {
		cancel()
		if err := lab.Receive(r.t, done, "what runs beside the test ends"); err != nil {
			r.t.Errorf("Run: %v", err)
		}
		r.stop = func() {}
	}
}

// url is how the agent names a repository.
func (r *rig) url(protocol, name string) string {
	if protocol == "git" {
		return "git://" + r.git + "/" + name + ".git"
	}
	return "http://" + r.http + "/" + name + ".git"
}

var gitEnv = []string{
	"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C",
	"GIT_AUTHOR_NAME=A", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=A", "GIT_COMMITTER_EMAIL=a@example.com",
	"GIT_AUTHOR_DATE=1700000000 +0000", "GIT_COMMITTER_DATE=1700000000 +0000",
}

// try runs a command in dir and returns what it printed.
func (r *rig) try(dir string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Env = dir, gitEnv
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (r *rig) run(dir string, args ...string) string {
	r.t.Helper()
	out, err := r.try(dir, args...)
	if err != nil {
		r.t.Fatalf("%s: %v\n%s\n%s", strings.Join(args, " "), err, out, r.log)
	}
	return out
}

// fails runs a command that must fail and say all of what is wanted.
func (r *rig) fails(dir string, wants []string, args ...string) string {
	r.t.Helper()
	out, err := r.try(dir, args...)
	if err == nil {
		r.t.Fatalf("%s: succeeded\n%s", strings.Join(args, " "), out)
	}
	for _, want := range wants {
		if !strings.Contains(out, want) {
			r.t.Errorf("%s: output lacks %q:\n%s", strings.Join(args, " "), want, out)
		}
	}
	return out
}

// seed commits files to upstream directly, as other people do.
func (r *rig) seed(branch string, files map[string]string) string {
	r.t.Helper()
	dir := r.t.TempDir()
	r.run(dir, "git", "clone", "-q", r.ssh.Dir("app"), "w")
	w := filepath.Join(dir, "w")
	if _, err := r.try(w, "git", "checkout", "-q", branch); err != nil {
		r.run(w, "git", "checkout", "-q", "-b", branch)
	}
	r.commit(w, "seed", files)
	r.run(w, "git", "push", "-q", "origin", branch)
	return r.run(w, "git", "rev-parse", "HEAD")
}

func (r *rig) write(dir, name, text string) {
	r.t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) commit(dir, message string, files map[string]string) {
	r.t.Helper()
	for name, text := range files {
		r.write(dir, name, text)
	}
	r.run(dir, "git", "add", "-A")
	r.run(dir, "git", "commit", "-q", "--allow-empty", "-m", message)
}

// clone makes the agent's working copy.
func (r *rig) clone(protocol string) string {
	r.t.Helper()
	dir := r.t.TempDir()
	r.run(dir, "git", "clone", "-q", r.url(protocol, "app"), "w")
	return filepath.Join(dir, "w")
}

// refs lists what a bare repository has.
func (r *rig) refs(dir string) string {
	return r.run(dir, "git", "for-each-ref", "--format=%(objectname) %(refname)")
}

func (r *rig) mirrorDir() string { return filepath.Join(r.state, "git", "app.git") }

// agree checks that upstream and mirror have the same references, that git finds nothing wrong with the mirror, and that no
// quarantine is left.
func (r *rig) agree() {
	r.t.Helper()
	up, mirror := r.refs(r.ssh.Dir("app")), r.refs(r.mirrorDir())
	if up != mirror {
		r.t.Errorf("upstream and mirror differ:\n%s\n--\n%s", up, mirror)
	}
	r.run(r.mirrorDir(), "git", "fsck", "--full", "--strict")
	r.noLeftovers()
}

func (r *rig) noLeftovers() {
	r.t.Helper()
	left, _ := filepath.Glob(filepath.Join(r.mirrorDir(), "quarantine", "*"))
	if len(left) > 0 {
		r.t.Errorf("left in quarantine: %v", left)
	}
}

// absent checks that a secret is nowhere: not in upstream's objects, the mirror's, the audit or the log.
func (r *rig) absent(secret string, outputs ...string) {
	r.t.Helper()
	for _, dir := range []string{r.ssh.Dir("app"), r.mirrorDir()} {
		out := r.run(dir, "git", "cat-file", "--batch-all-objects", "--batch")
		if strings.Contains(out, secret) || strings.Contains(r.refs(dir), secret) {
			r.t.Errorf("%s holds the secret", dir)
		}
	}
	_ = filepath.WalkDir(filepath.Join(r.state, "audit"), func(path string, d fs.DirEntry, err error) error {
		if text, err := os.ReadFile(path); err == nil && bytes.Contains(text, []byte(secret)) {
			r.t.Errorf("the audit holds the secret")
		}
		return nil
	})
	r.stop() // the log is complete only then
	if strings.Contains(r.log.String(), secret) {
		r.t.Error("the log holds the secret")
	}
	for _, out := range outputs {
		if strings.Contains(out, secret) {
			r.t.Error("the output tells the secret")
		}
	}
}

// each runs a test over both protocols, side by side.
func each(t *testing.T, test func(t *testing.T, protocol string)) {
	for _, protocol := range []string{"git", "http"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			test(t, protocol)
		})
	}
}

func numbered(format string, n int) map[string]string {
	files := map[string]string{}
	for i := range n {
		files[fmt.Sprintf(format, i)] = fmt.Sprintf("line %d\n", i)
	}
	return files
}

type repoT = bundle.Repo

// repo changes the configuration of the one repository.
func repo(c *Config, change func(*repoT)) {
	x := c.File.Repos["app"]
	change(&x)
	c.File.Repos = map[string]repoT{"app": x}
}

// edit restarts the daemon with another configuration on the same state.
func (r *rig) edit(change func(*Config)) {
	r.stop()
	change(&r.config)
	r.start()
}
