package hostctl

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"airlock/hostctl/pair"
	"airlock/internal/bundle"
	"airlock/internal/config"
	"airlock/internal/lab"
	"airlock/internal/proposal"
)

func load(t *testing.T, text string) *Manifest {
	t.Helper()
	path := filepath.Join(t.TempDir(), "airlock.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := LoadManifest(path)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestManifestSamples(t *testing.T) {
	load := func(path string) error {
		m, err := LoadManifest(path)
		if err == nil {
			_, err = lay(m, "/state/demo", nil, func(string) (string, bool) { return "", false })
		}
		return err
	}
	if err := lab.CheckSamples("testdata/config", 10, load); err != nil {
		t.Error(err)
	}
}

// TestCredentialsOfRoutes has a manifest with each type that takes more than
// one credential.
func TestCredentialsOfRoutes(t *testing.T) {
	m := load(t, `version: 1
name: demo
agent: {image: an-image, command: [bash]}
egress:
  routes:
    - {host: s3.example.com, auth: {type: sigv4, region: eu-central-1, service: s3, id: "env:ID", secret: "env:SECRET", session: "env:SESSION"}}
    - {host: api.example.com, auth: {type: oauth, token_url: "https://login.example.com:8443/token", client_id: "env:ID", client_secret: "file:secret", scopes: [read]}}
    - {host: git.example.com, git: fetch, auth: {type: github_app, app_id: "12", installation_id: "34", from: "file:app.pem"}}
    - {host: "inside.example.com:80", plain_http: true, auth: {type: bearer, from: "env:INSIDE"}}
pipelock:
  client_certificates: [{host: api.example.com, cert: client.crt, key: client.key}]
`)
	l := newLayout()
	egress := l.egress(m)
	lock := l.pipelock(m, egress)
	if err := errors.Join(egress.Validate(), lock.Validate()); err != nil {
		t.Fatal(err)
	}
	for i, want := range [][]reference{
		{{"env", "ID"}, {"env", "SECRET"}, {"env", "SESSION"}}, {{"env", "ID"}, {"file", "secret"}}, {{"file", "app.pem"}}, {{"env", "INSIDE"}},
	} {
		var got []reference
		for _, slot := range egress.Routes[i].Auth.Slots() {
			got = append(got, l.secrets[slot])
		}
		if !slices.Equal(got, want) {
			t.Errorf("routes[%d]: %v, want %v", i, got, want)
		}
	}
	var allowed []string
	for _, p := range lock.Allow {
		allowed = append(allowed, p.Host.String())
	}
	if got := strings.Join(allowed, " "); got != "s3.example.com api.example.com login.example.com:8443 git.example.com api.github.com inside.example.com:80" {
		t.Error(got)
	}
	if c := lock.ClientCertificates[0]; l.copies[strings.TrimPrefix(c.Key, "/etc/airlock/")] != (reference{"file", "client.key"}) {
		t.Errorf("%+v, %v", c, l.copies)
	}
}

// TestScanOfTheManifest: what a person chooses reaches pipelock.
func TestScanOfTheManifest(t *testing.T) {
	var m Manifest
	if err := config.Decode("airlock.yaml", []byte(`version: 1
name: demo
agent: {command: [bash]}
pipelock:
  secrets:
    action: ask
    wait: 90s
    rules: rules.toml
    entropy: {bits: 4.5, length: 32}
    hosts: {"*.pkgs.example": {action: redact}}
`), &m); err != nil {
		t.Fatal(err)
	}
	l := newLayout()
	lock := l.pipelock(&m, l.egress(&m))
	s := lock.Secrets
	if err := lock.Validate(); err != nil || s.Action != "ask" || s.Wait.Or(0) != 90*time.Second || s.Entropy.Length != 32 || len(s.Hosts) != 1 || l.copies[strings.TrimPrefix(s.Rules, "/etc/airlock/")] != (reference{"file", "rules.toml"}) {
		t.Errorf("%+v, %v, %v", s, l.copies, err)
	}
}

const full = `version: 1
name: demo
agent:
  image: an-image
  command: [bash]
  workspace: {path: ., mode: copy}
  env: {LOG_LEVEL: info, ISSUE: "number ${ISSUE}"}
  resources: {memory: 4GiB, cpus: 2, pids: 512}
egress:
  routes:
    - {host: api.example.com, auth: {type: bearer, from: "env:EXAMPLE_TOKEN"}}
    - {host: "*.api.example.com", auth: {type: bearer, from: "env:EXAMPLE_TOKEN"}}
    - {host: other.example.com:8443, methods: [GET], auth: {type: header, name: X-Key, from: "file:key"}}
pipelock: {allow: [files.example.com]}
git:
  repos:
    app: {url: "ssh://git@git.example.com:2222/acme/app.git", identity: "file:~/.ssh/app", host_key: "ssh-ed25519 AAAA"}
    lib: {url: "https://git.example.com/acme/lib.git", token: "env:GIT_TOKEN", push: false}
supervise: {wait: 30s}
`

func TestLay(t *testing.T) {
	m := load(t, full)
	lookup := func(name string) (string, bool) {
		return map[string]string{"ISSUE": "7", "EXAMPLE_TOKEN": "the value"}[name], name == "ISSUE"
	}
	l, err := lay(m, "/state/demo", nil, lookup)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]reference{"EGRESS_TOKEN_0": {"env", "EXAMPLE_TOKEN"}, "EGRESS_TOKEN_1": {"file", "key"}, "GIT_TOKEN_0": {"env", "GIT_TOKEN"}}
	if len(l.secrets) != len(want) {
		t.Errorf("slots: %v", l.secrets)
	}
	for slot, ref := range want {
		if l.secrets[slot] != ref {
			t.Errorf("%s is %v, want %v", slot, l.secrets[slot], ref)
		}
	}
	var lock bundle.PipelockFile
	if err := config.Decode("pipelock.yaml", l.etc["pipelock.yaml"], &lock); err != nil {
		t.Fatal(err)
	}
	if len(lock.Allow) != 4 || lock.CA != (bundle.CA{}) || strings.Join(lock.Secrets.Values, " ") != "EGRESS_DIGEST_0 EGRESS_DIGEST_1" {
		t.Errorf("pipelock.yaml: %s", l.etc["pipelock.yaml"])
	}
	env := l.plan.Agent.Env
	for name, value := range map[string]string{"ISSUE": "number 7", "HTTPS_PROXY": "http://egress:9099", "NODE_EXTRA_CA_CERTS": "/etc/airlock/ca.crt"} {
		if env[name] != value {
			t.Errorf("%s is %q, want %q", name, env[name], value)
		}
	}
	if _, leaked := env["EXAMPLE_TOKEN"]; leaked {
		t.Error("a variable of the host reached the agent")
	}
	if l.plan.Agent.Workspace.Path != filepath.Dir(m.path) || l.plan.Agent.Resources.Memory != 4<<30 {
		t.Errorf("%+v", l.plan.Agent)
	}
	for name, data := range l.etc {
		if strings.Contains(string(data), "the value") {
			t.Errorf("a credential stands in %s", name)
		}
	}
}

func TestReferences(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("A_TOKEN", "from the environment")
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{"env:A_TOKEN": "from the environment", "file:token": "from a file", "file:" + dir + "/token": "from a file", "command:echo from a command": "from a command"} {
		ref, err := parseReference(in)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ref.resolve(t.Context(), dir); err != nil || got != want {
			t.Errorf("%s: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{"env:NOT_SET_AT_ALL", "file:absent", "command:false", "command:true"} {
		ref, err := parseReference(in)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ref.resolve(t.Context(), dir); err == nil {
			t.Errorf("%s: %q", in, got)
		}
	}
	for _, in := range []string{"", "ghs-something-secret", "env:", "vault:x"} {
		if _, err := parseReference(in); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestTrust(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "airlock.yaml")
	s := store{filepath.Join(t.TempDir(), "airlock")}
	use := func(text string, accept bool) error {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := LoadManifest(path)
		if err != nil {
			t.Fatal(err)
		}
		l, err := lay(m, "/state/demo", nil, osLookup)
		if err == nil {
			err = l.read(t.Context(), filepath.Dir(path))
		}
		if err != nil {
			t.Fatal(err)
		}
		return s.trust(m, l.digest(m), accept)
	}
	base := "version: 1\nname: demo\nagent: {command: [bash], workspace: {path: ., mode: bind}}\n"
	if err := use(base, false); err != nil {
		t.Errorf("the first use: %v", err)
	}
	if err := use(base, false); err != nil {
		t.Errorf("unchanged: %v", err)
	}
	if err := use(base+"# changed\n", false); err == nil {
		t.Error("a changed manifest in the workspace was taken")
	}
	if err := use(base+"# changed\n", true); err != nil {
		t.Errorf("a change that the operator takes: %v", err)
	}
	outside := "version: 1\nname: demo\nagent: {command: [bash], workspace: {path: " + t.TempDir() + "}}\n"
	if err := use(outside, false); err != nil {
		t.Errorf("outside the workspace: %v", err)
	}
	rules := filepath.Join(dir, "rules.toml")
	named := base + "git: {scan: {config: \"file:rules.toml\"}}\n"
	for i, c := range []struct {
		rules  string
		accept bool
		good   bool
	}{{"title = \"a\"\n", true, true}, {"title = \"a\"\n", false, true}, {"title = \"b\"\n", false, false}, {"title = \"b\"\n", true, true}, {"title = \"b\"\n", false, true}} {
		if err := os.WriteFile(rules, []byte(c.rules), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := use(named, c.accept); (err == nil) != c.good {
			t.Errorf("a file in the workspace, step %d: %v", i, err)
		}
	}
}

// TestFilesOfGit: the operator's rules and roots reach git-gate, as the daemon reads them.
func TestFilesOfGit(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"rules.toml": "title = \"rules\"\n", "roots.pem": "roots\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m := load(t, "version: 1\nname: demo\nagent: {command: [sh]}\ngit: {upstream_ca: \"file:"+dir+"/roots.pem\", scan: {config: \"file:"+dir+"/rules.toml\"}}\n")
	l, err := lay(m, filepath.Join(dir, "demo"), nil, osLookup)
	if err == nil {
		err = l.read(t.Context(), filepath.Dir(m.path))
	}
	if err == nil {
		err = l.write(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	dirs := bundle.Dirs{Etc: l.plan.Etc()}
	f, _, err := bundle.Load[bundle.GitGateFile](dirs.File(bundle.GitGate))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{f.UpstreamCA: "roots\n", f.Scan.Config: "title = \"rules\"\n"} {
		if got, err := os.ReadFile(dirs.Path(path)); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v", path, got, err)
		}
	}
}

func TestWiden(t *testing.T) {
	now := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	e, l := bundle.EgressFile{Version: 1, CA: pairCA}, bundle.PipelockFile{Version: 1}
	p := proposal.Proposal{Kind: proposal.Access, URL: "https://new.example.com/a/b", Methods: []string{"GET"}}
	for _, c := range []struct {
		name, url string
		g         grant
		want      string
		allow     string
	}{
		{"as asked", p.URL, grant{}, "{host: new.example.com, methods: [GET], paths: [/a/b]}", "new.example.com"},
		{"with a port", "https://new.example.com:8443/", grant{}, "{host: new.example.com:8443, methods: [GET], paths: [/]}", "new.example.com:8443"},
		{"plain http", "http://new.example.com/x", grant{}, "{host: new.example.com:80, methods: [GET], paths: [/x]}", "new.example.com:80"},
		{"wider", p.URL, grant{paths: []string{"/a/*"}, methods: []string{"GET", "POST"}, length: time.Hour},
			"{host: new.example.com, methods: [GET, POST], paths: [/a/*], expires: 2026-06-01T13:00:00Z}", "new.example.com"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := p
			p.URL = c.url
			gotE, gotL, err := widen(p, c.g, e, l, now)
			if err != nil {
				t.Fatal(err)
			}
			var want bundle.Route
			if err := config.Decode("want", []byte(c.want), &want); err != nil {
				t.Fatal(err)
			}
			a, _ := config.Encode(gotE.Routes[0])
			b, _ := config.Encode(want)
			if string(a) != string(b) || gotL.Allow[0].Host.String() != c.allow || gotE.Routes[0].Auth != nil {
				t.Errorf("%s%v", a, gotL.Allow)
			}
			if len(e.Routes) != 0 || len(l.Allow) != 0 {
				t.Error("the old policy was changed in place")
			}
		})
	}
	if _, _, err := widen(proposal.Proposal{URL: "https://*.com/"}, grant{}, e, l, now); err == nil {
		t.Error("a pattern came through a proposal")
	}
}

// What the operator's audit says is what was granted, not what was asked for.
func TestAddedIsWhatWasGranted(t *testing.T) {
	changes := []change{{"egress", "", []byte("routes:\n  - host: a.test\n"), []byte("routes:\n  - host: a.test\n  - host: b.test\n    methods: [GET]\n")}}
	if got := added(changes); got != "egress.yaml:\n+   - host: b.test\n+     methods: [GET]\n" {
		t.Errorf("%q", got)
	}
	back := reversed([]change{{"pipelock", "p", []byte("1"), []byte("2")}, {"egress", "e", []byte("3"), []byte("4")}})
	if back[0].daemon != "egress" || string(back[0].new) != "3" || string(back[1].new) != "1" {
		t.Errorf("%+v", back)
	}
}

func TestPlanIsWritten(t *testing.T) {
	dir := t.TempDir()
	m := load(t, "version: 1\nname: demo\nagent: {command: [bash]}\n")
	l, err := lay(m, filepath.Join(dir, "demo"), nil, func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	if err := l.write(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"etc/ca/ca.key": 0o600, "etc/egress.yaml": 0o600, "agent/ca.crt": 0o644, "etc": 0o700 | os.ModeDir, "": 0o700 | os.ModeDir} {
		info, err := os.Stat(filepath.Join(dir, "demo", name))
		if err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v; want %v", name, info.Mode(), err, mode)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "demo", "agent", "ca.key")); err == nil {
		t.Error("the authority's key is where the agent can read it")
	}
	if l.plan.Agent.Workspace.Mode != pair.None {
		t.Errorf("workspace %v", l.plan.Agent.Workspace)
	}
}
