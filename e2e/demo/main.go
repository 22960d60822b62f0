// Demo tells what Airlock does as a story on this machine alone: it makes an
// origin, a git upstream and a pair, and lets an agent try things. Each step
// is checked; one that goes another way ends the demonstration with an error.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"airlock/internal/lab"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "agent" {
		os.Exit(agent(os.Args[2:]))
	}
	var c cast
	flag.StringVar(&c.bin, "bin", "bin", "folder of hostctl and sidecars")
	flag.StringVar(&c.backend, "backend", "local", "local or docker")
	flag.StringVar(&c.image, "image", "", "docker: the agent's image; it needs git and a shell")
	flag.StringVar(&c.address, "address", "127.0.0.1", "address of this machine at which the sidecars find the origin and the git upstream")
	flag.Parse()
	if err := run(c); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		os.Exit(1)
	}
}

// cast says who plays.
type cast struct{ bin, backend, image, address string }

// stage is everything that the story plays on.
type stage struct {
	cast
	hostctl   string
	dir       string
	token     string // the real credential
	origin    *lab.Origin
	git       *lab.GitSSH
	workspace string
}

func run(c cast) (err error) {
	s, err := build(c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	fmt.Println("Airlock: an agent works unattended, and nothing gets out that should not.")
	steps := []struct {
		title string
		play  func() error
	}{
		{"The operator starts a pair: the agent in a cage, the sidecars beside it", s.start},
		{"The agent calls an API that the manifest allows; it holds no credential", s.allowed},
		{"The agent calls a host that nobody allowed", s.refused},
		{"The agent (or what took it over) tries to carry a token out in a request", s.leak},
		{"The agent clones, commits and pushes; one commit holds a token", s.push},
		{"The agent asks; the operator approves; the same request passes", s.ask},
		{"What remains: an audit that nobody can change unnoticed", s.audit},
	}
	for i, step := range steps {
		fmt.Printf("\n%d. %s\n", i+1, step.title)
		if err := step.play(); err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
	}
	fmt.Println("\nThat was the whole story; the pair is stopped and removed.")
	return nil
}

// build makes the origin, the upstream and the manifest.
func build(c cast) (*stage, error) {
	dir, err := os.MkdirTemp("", "airlock-demo-")
	if err != nil {
		return nil, err
	}
	abs, err := filepath.Abs(c.bin)
	if err != nil {
		return nil, err
	}
	s := &stage{cast: c, hostctl: filepath.Join(abs, "hostctl"), dir: dir, token: "demo-credential-" + lab.Token()[4:], workspace: filepath.Join(dir, "work")}
	authority, err := lab.NewCA()
	if err != nil {
		return nil, err
	}
	if s.origin, err = lab.NewOriginAt(c.address+":0", authority, http.HandlerFunc(echo), "api.demo.test", "docs.demo.test"); err != nil {
		return nil, err
	}
	if s.git, err = lab.NewGitSSHAt(filepath.Join(dir, "upstream"), c.address+":0"); err != nil {
		return nil, err
	}
	return s, errors.Join(s.seed(), s.manifest(authority.PEM))
}

// echo answers with what a careless API would: the credential that it got.
func echo(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "hello from %s%s\n", r.Host, r.URL.Path)
	if auth := r.Header.Get("Authorization"); auth != "" {
		fmt.Fprintf(w, "you sent the credential %q\n", auth)
	}
}

// seed makes an upstream repository with one commit.
func (s *stage) seed() error {
	script := `set -e
git init -q -b main seed && cd seed
echo "# app" > README.md && git add . && git -c user.name=seed -c user.email=seed@demo.test commit -qm "begin"
git clone -q --bare . "$1"`
	cmd := exec.Command("sh", "-c", script, "sh", s.git.Dir("app"))
	cmd.Dir = s.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("making the git upstream: %w\n%s", err, out)
	}
	return nil
}

func (s *stage) manifest(roots []byte) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	program, err := os.ReadFile(self)
	if err != nil {
		return err
	}
	text := fmt.Sprintf(`version: 1
name: airlock-demo
agent:
  image: "%[5]s"
  command: [/workspace/agent, agent, idle]
  workspace: {path: work, mode: copy}
egress:
  routes:
    - host: api.demo.test:%[1]d
      methods: [GET, POST]
      paths: ["/v1/*"]
      auth: {type: bearer, from: "file:token"}
pipelock:
  hosts: {api.demo.test: %[4]s, docs.demo.test: %[4]s}
  addresses: {allow: [%[4]s/32]}
  upstream_ca: roots.crt
git:
  hosts: {git.demo.test: %[4]s}
  repos:
    app: {url: "%[2]s", identity: "file:key", host_key: "%[3]s"}
supervise: {wait: 60s}
`, s.origin.Port(), s.git.URL("git.demo.test", "app"), s.git.HostKey(), s.address, s.image)
	return errors.Join(
		os.MkdirAll(s.workspace, 0o755),
		os.WriteFile(filepath.Join(s.workspace, "agent"), program, 0o755),
		os.WriteFile(filepath.Join(s.dir, "airlock.yaml"), []byte(text), 0o600),
		os.WriteFile(filepath.Join(s.dir, "token"), []byte(s.token+"\n"), 0o600),
		os.WriteFile(filepath.Join(s.dir, "key"), s.git.Identity(), 0o600),
		os.WriteFile(filepath.Join(s.dir, "roots.crt"), roots, 0o600),
	)
}

func (s *stage) close() error {
	_, _ = s.host("stop", "airlock-demo") // it may never have started
	s.origin.Close()
	return errors.Join(s.git.Close(), os.RemoveAll(s.dir))
}

// host runs hostctl and returns what it printed.
func (s *stage) host(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.hostctl, args...)
	cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+filepath.Join(s.dir, "state"))
	cmd.Dir = s.dir
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// inside runs a command in the agent's place and shows it.
func (s *stage) inside(argv ...string) (string, error) {
	fmt.Printf("   agent$ %s\n", strings.ReplaceAll(shown(argv), "/workspace/agent agent ", ""))
	out, err := s.host(append([]string{"exec", "airlock-demo", "--"}, argv...)...)
	for line := range strings.Lines(strings.TrimSpace(out)) {
		fmt.Printf("     %s\n", strings.TrimRight(line, "\n"))
	}
	return out, err
}

// shown is a command as a person would type it; a token is not repeated.
func shown(argv []string) string {
	text := strings.Join(argv, " ")
	if i := strings.Index(text, "ghp"+"_"); i >= 0 {
		text = text[:i+8] + "…" + text[min(len(text), i+40):]
	}
	return text
}

func (s *stage) url(host, path string) string {
	return fmt.Sprintf("https://%s:%d%s", host, s.origin.Port(), path)
}

// expect is a check of a step.
func expect(what string, ok bool) error {
	if !ok {
		return fmt.Errorf("this should be so and is not: %s", what)
	}
	fmt.Printf("   ✓ %s\n", what)
	return nil
}

func (s *stage) start() error {
	fmt.Printf("   host$ hostctl start -f airlock.yaml --backend %s\n", s.backend)
	began := time.Now()
	out, err := s.host("start", "-f", "airlock.yaml", "--backend", s.backend)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	took := time.Since(began).Round(time.Millisecond)
	list, err := s.host("list")
	for line := range strings.Lines(list) {
		fmt.Printf("     %s", line)
	}
	return errors.Join(err, expect(fmt.Sprintf("the pair runs, after %v; a probe in the agent's place found no way out", took), strings.Contains(list, "running")))
}

func (s *stage) allowed() error {
	out, err := s.inside("/workspace/agent", "agent", "get", s.url("api.demo.test", "/v1/hello"))
	if err != nil {
		return err
	}
	env, err := s.host("exec", "airlock-demo", "--", "sh", "-c", "env; cat /proc/*/environ /proc/*/cmdline /etc/airlock/* 2>/dev/null; true")
	if err != nil {
		return err
	}
	seen := s.origin.Seen()
	return errors.Join(
		expect("the origin got the real credential", len(seen) == 1 && seen[0].Header.Get("Authorization") == "Bearer "+s.token),
		expect("the agent did not, although the origin echoed it", strings.Contains(out, "[redacted:EGRESS_TOKEN_0]") && !strings.Contains(out+env, s.token)),
	)
}

func (s *stage) refused() error {
	before := s.origin.Dials()
	out, _ := s.inside("/workspace/agent", "agent", "get", s.url("docs.demo.test", "/guide"))
	return expect("it was refused with a reason and a hint, and nobody was dialled", strings.Contains(out, "no route") && s.origin.Dials() == before)
}

func (s *stage) leak() error {
	before := len(s.origin.Seen())
	token := lab.Token()
	out, _ := s.inside("/workspace/agent", "agent", "post", s.url("api.demo.test", "/v1/notes"), "my notes: "+token)
	return expect("the request was stopped before it left, and the refusal does not repeat the token", strings.Contains(out, "secret") && !strings.Contains(out, token) && len(s.origin.Seen()) == before)
}

func (s *stage) push() error {
	const identity = "git config --global user.name agent && git config --global user.email agent@demo.test"
	clone := fmt.Sprintf("cd /workspace && %s && git clone -q %s app && cd app && git log --oneline", identity, s.git.URL("git.demo.test", "app"))
	if _, err := s.inside("sh", "-c", clone); err != nil {
		return err
	}
	before, err := s.upstream()
	if err != nil {
		return err
	}
	token := lab.Token()
	out, _ := s.inside("sh", "-c", "cd /workspace/app && echo 'token = \""+token+"\"' > config.toml && git add . && git commit -qm 'add config' && git push -q origin main")
	after, err := s.upstream()
	if err := errors.Join(err, expect("the push was refused with file, line and rule, and the upstream is as it was", after == before && strings.Contains(out, "config.toml") && !strings.Contains(strings.ReplaceAll(out, "token = ", ""), token))); err != nil {
		return err
	}
	if _, err := s.inside("sh", "-c", "cd /workspace/app && git reset -q --hard origin/main && echo 'hello' > hello.txt && git add . && git commit -qm 'say hello' && git push -q origin main && git log --oneline"); err != nil {
		return err
	}
	after, err = s.upstream()
	return errors.Join(err, expect("a clean push arrived upstream, with a key that the agent never saw", strings.Contains(after, "say hello")))
}

// upstream is the log of the upstream's main branch.
func (s *stage) upstream() (string, error) {
	out, err := exec.Command("git", "--git-dir", s.git.Dir("app"), "log", "--oneline", "main").CombinedOutput()
	return string(out), err
}

func (s *stage) ask() error {
	target := s.url("docs.demo.test", "/guide")
	type outcome struct {
		out string
		err error
	}
	asked := make(chan outcome, 1)
	go func() {
		out, err := s.host("exec", "airlock-demo", "--", "/workspace/agent", "agent", "ask", target, "to read the guide")
		asked <- outcome{out, err}
	}()
	fmt.Printf("   agent$ ask %s \"to read the guide\"      (an MCP call, it waits)\n", target)
	id, err := s.proposal()
	if err != nil {
		return err
	}
	fmt.Println("   host$ hostctl proposals")
	out, err := s.host("proposals")
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		fmt.Printf("     %s", line)
	}
	fmt.Printf("   host$ hostctl approve %s --for 1h\n", id)
	out, err = s.host("approve", id, "--for", "1h")
	for line := range strings.Lines(out) {
		fmt.Printf("     %s", line)
	}
	if err != nil {
		return err
	}
	got := <-asked
	if got.err != nil {
		return fmt.Errorf("%w: %s", got.err, got.out)
	}
	fmt.Printf("   the agent hears: %s\n", strings.TrimSpace(got.out))
	out, err = s.inside("/workspace/agent", "agent", "get", target)
	return errors.Join(err, expect("the very request that was refused has passed; no connection was dropped for it", strings.Contains(out, "hello from docs.demo.test")))
}

// proposal waits until the agent's request is there.
func (s *stage) proposal() (string, error) {
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		out, err := s.host("proposals", "--json")
		if err != nil {
			return "", fmt.Errorf("%w: %s", err, out)
		}
		var all []struct{ ID, State, URL string }
		if err := json.Unmarshal([]byte(out), &all); err != nil {
			return "", err
		}
		for _, p := range all {
			if p.State == "pending" && p.URL != "" { // the push that was refused has become another one
				return p.ID, nil
			}
		}
		time.Sleep(50 * time.Millisecond) // the operator looks again
	}
	return "", errors.New("no proposal came")
}

func (s *stage) audit() error {
	files, err := filepath.Glob(filepath.Join(s.dir, "state/airlock/pairs/airlock-demo/state/audit/*.jsonl"))
	if err != nil || len(files) == 0 {
		return errors.Join(err, errors.New("there is no audit"))
	}
	out, err := s.host(append([]string{"audit"}, files...)...)
	for line := range strings.Lines(out) {
		fmt.Printf("     %s", filepath.Base(line))
	}
	if err != nil {
		return err
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		return err
	}
	forged := filepath.Join(s.dir, "forged.jsonl")
	if err := os.WriteFile(forged, bytes.Replace(data, []byte(`"allow"`), []byte(`"deny"`), 1), 0o600); err != nil {
		return err
	}
	out, err = s.host("audit", forged)
	fmt.Printf("     and with one word changed: %s", filepath.Base(out))
	return expect("a change is noticed", err != nil)
}
