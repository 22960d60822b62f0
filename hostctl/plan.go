package hostctl

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"airlock/hostctl/pair"
	"airlock/internal/bundle"
	"airlock/internal/config"
	"airlock/internal/policy"
)

// layout is all that a start will write and pass on; making one changes
// nothing.
type layout struct {
	plan    pair.Plan
	etc     map[string][]byte // the sidecars' files, by name below etc
	files   map[string][]byte // the agent's, by name
	secrets map[string]reference
	copies  map[string]reference // files of the host that are copied into etc
	vouches []policy.Pattern     // hosts for which the pair's authority may speak; none: for any

	lookup func(name string) (string, bool) // the host's environment
}

// lay turns a manifest into a layout. The credentials are named, not read.
func lay(m *Manifest, dir string, command []string, lookup func(string) (string, bool)) (layout, error) {
	l := newLayout()
	l.lookup = lookup
	if len(command) == 0 {
		command = m.Agent.Command
	}
	agentEnv, err := agentEnv(m, lookup)
	if err != nil {
		return layout{}, err
	}
	l.plan = pair.Plan{
		Name: m.Name, Dir: dir,
		Agent: pair.Agent{
			Image: m.Agent.Image, Command: command, Env: agentEnv, Workspace: m.workspace(),
			Resources: pair.Resources{Memory: int64(m.Agent.Resources.Memory), CPUs: m.Agent.Resources.CPUs, Pids: m.Agent.Resources.Pids},
		},
	}
	if err := l.plan.Validate(); err != nil {
		return layout{}, &config.Error{Where: m.path, What: err.Error()}
	}
	egress := l.egress(m)
	l.vouches = vouches(m, egress)
	all := map[string]config.Validator{
		bundle.Egress: egress, bundle.Pipelock: l.pipelock(m, egress), bundle.GitGate: l.git(m), bundle.Supervise: supervise(m),
	}
	for name, file := range all {
		data, err := render(m.path, file)
		if err != nil {
			return layout{}, err
		}
		l.etc[name+".yaml"] = data
	}
	l.files["mcp.json"] = mcpConfig()
	l.files[gitConfigFile] = gitConfig(m)
	maps.Copy(l.files, lfsFiles(m))
	return l, nil
}

func newLayout() layout {
	return layout{
		etc: map[string][]byte{}, files: map[string][]byte{},
		secrets: map[string]reference{}, copies: map[string]reference{},
	}
}

func supervise(m *Manifest) bundle.SuperviseFile {
	return bundle.SuperviseFile{Version: 1, Wait: m.Supervise.Wait, Limits: m.Supervise.Limits}
}

// render writes a file of the bundle, once its own rules have accepted it.
func render(where string, file config.Validator) ([]byte, error) {
	if err := file.Validate(); err != nil {
		return nil, &config.Error{Where: where, What: err.Error()}
	}
	return config.Encode(file)
}

var pairCA = bundle.CA{Cert: "/etc/airlock/ca/ca.crt", Key: "/etc/airlock/ca/ca.key"}

// egress gives each credential a slot. A reference that is none has been
// refused by Validate.
func (l *layout) egress(m *Manifest) bundle.EgressFile {
	f := bundle.EgressFile{Version: 1, CA: pairCA, Mode: m.Egress.Mode, Learn: m.Egress.Learn, Routes: []bundle.Route{}}
	for _, r := range m.Egress.Routes {
		route := bundle.Route{Host: r.Host, Methods: r.Methods, Paths: r.Paths, Expires: r.Expires, Git: r.Git, Kind: r.Kind, PlainHTTP: r.PlainHTTP, Auth: l.auth(r.Auth)}
		f.Routes = append(f.Routes, route)
	}
	f.Mirrors = mirrorsOf(m)
	return f
}

// vouches are the hosts that a constrained authority speaks for: those of the
// routes, those to learn about, and egress itself.
func vouches(m *Manifest, egress bundle.EgressFile) []policy.Pattern {
	if m.Egress.CA != constrained {
		return nil
	}
	self, _ := policy.ParsePattern("_egress.local") // it is one
	all := append([]policy.Pattern{self}, egress.Learn...)
	for _, r := range egress.Routes {
		all = append(all, r.Host)
	}
	for _, name := range slices.Sorted(maps.Keys(m.Git.Repos)) { // git asks for them over https, too
		if _, id, err := identityOf(m.Git.Repos[name].URL); err == nil {
			if host, err := policy.ParsePattern(id.At.Host.String()); err == nil {
				all = append(all, host)
			}
		}
	}
	return all
}

// slot is the slot of a reference: the same credential has the same one.
func (l *layout) slot(prefix string, ref reference) string {
	n := 0
	for name, have := range l.secrets {
		if strings.HasPrefix(name, prefix) {
			if have == ref {
				return name
			}
			n++
		}
	}
	name := prefix + strconv.Itoa(n)
	l.secrets[name] = ref
	return name
}

// pipelock allows the hosts of the routes and what the manifest adds. The
// port for agents stays shut: past egress, no route would bind the agent.
func (l *layout) pipelock(m *Manifest, egress bundle.EgressFile) bundle.PipelockFile {
	p := m.Pipelock
	f := bundle.PipelockFile{
		Version: 1, Allow: []bundle.Allowed{}, Hosts: p.Hosts, Addresses: p.Addresses, Limits: p.Limits, Answers: p.Answers,
		Secrets: bundle.SecretScan{Action: p.Secrets.Action, Hosts: p.Secrets.Hosts, Wait: p.Secrets.Wait, Entropy: p.Secrets.Entropy, Passthrough: p.Secrets.Passthrough},
	}
	for _, r := range egress.Routes {
		f.Allow = allow(f.Allow, bundle.Allowed{Host: r.Host})
		if host, ok := tokenHost(r.Auth); ok {
			f.Allow = allow(f.Allow, bundle.Allowed{Host: host})
		}
	}
	for _, host := range egress.Learn {
		f.Allow = allow(f.Allow, bundle.Allowed{Host: host})
	}
	for _, a := range p.Allow {
		f.Allow = allow(f.Allow, a)
	}
	for _, slot := range slices.Sorted(maps.Keys(l.secrets)) {
		if number, ok := strings.CutPrefix(slot, "EGRESS_TOKEN_"); ok {
			f.Secrets.Values = append(f.Secrets.Values, "EGRESS_DIGEST_"+number)
		}
	}
	if p.Secrets.Rules != "" {
		l.copies["scan.toml"] = reference{"file", p.Secrets.Rules}
		f.Secrets.Rules = "/etc/airlock/scan.toml"
	}
	f.UpstreamProxy = l.upstreamProxy(p.UpstreamProxy)
	if p.UpstreamCA != "" {
		l.copies["ca/upstream.crt"] = reference{"file", p.UpstreamCA}
		f.UpstreamCA = "/etc/airlock/ca/upstream.crt"
	}
	for i, c := range p.ClientCertificates {
		name := fmt.Sprintf("ca/client-%d", i)
		l.copies[name+".crt"], l.copies[name+".key"] = reference{"file", c.Cert}, reference{"file", c.Key}
		f.ClientCertificates = append(f.ClientCertificates, bundle.ClientCertificate{Host: c.Host, Cert: "/etc/airlock/" + name + ".crt", Key: "/etc/airlock/" + name + ".key"})
	}
	return f
}

// allow adds a pattern to a list that does not have it.
func allow(list []bundle.Allowed, a bundle.Allowed) []bundle.Allowed {
	if slices.ContainsFunc(list, func(have bundle.Allowed) bool {
		return have.Equal(a) || have.Equal(bundle.Allowed{Host: a.Host})
	}) {
		return list
	}
	return append(list, a)
}

func (l *layout) git(m *Manifest) bundle.GitGateFile {
	f := bundle.GitGateFile{Version: 1, Hosts: m.Git.Hosts, Repos: map[string]bundle.Repo{}, Protect: m.Git.Protect, Limits: m.Git.Limits}
	for _, name := range slices.Sorted(maps.Keys(m.Git.Repos)) {
		r := m.Git.Repos[name]
		repo := bundle.Repo{URL: r.URL, HostKey: r.HostKey, Push: r.Push}
		if ref, err := parseReference(r.Identity); err == nil {
			l.copies["git/"+name+".key"] = ref
			repo.Identity = "/etc/airlock/git/" + name + ".key"
		}
		if ref, err := parseReference(r.Token); err == nil {
			repo.Token = l.slot("GIT_TOKEN_", ref)
		}
		if ref, err := parseReference(r.Passphrase); err == nil {
			repo.Passphrase = l.slot("GIT_PASS_", ref)
		}
		f.Repos[name] = repo
	}
	if ref, err := parseReference(m.Git.UpstreamCA); err == nil {
		l.copies["ca/git-upstream.crt"] = ref
		f.UpstreamCA = "/etc/airlock/ca/git-upstream.crt"
	}
	if ref, err := parseReference(m.Git.Scan.Config); err == nil {
		l.copies["git-scan.toml"] = ref
		f.Scan.Config = "/etc/airlock/git-scan.toml"
	}
	return f
}

// agentEnv is the agent's whole environment: how to reach the sidecars, and
// what the manifest says. Nothing of the host's is in it by itself.
func agentEnv(m *Manifest, lookup func(string) (string, bool)) (map[string]string, error) {
	proxy := fmt.Sprintf("http://egress:%d", bundle.PortEgress)
	ca := pair.FilesDir + "/ca.crt"
	env := map[string]string{
		"HOME": pair.HomeDir, "USER": "agent", "LANG": "C.UTF-8",
		"NO_PROXY": noProxy + m.Name, "no_proxy": noProxy + m.Name,
		"AIRLOCK_MCP_URL": fmt.Sprintf("http://supervise:%d/mcp", bundle.PortSupervise),
		"GIT_SSL_CAINFO":  ca,
	}
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"} {
		env[name] = proxy
	}
	// One variable a family: OpenSSL and Go, curl, Node, Python's requests
	// and pip, cargo, the AWS tools, Deno.
	for _, name := range []string{"SSL_CERT_FILE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "PIP_CERT", "CARGO_HTTP_CAINFO", "AWS_CA_BUNDLE", "DENO_CERT"} {
		env[name] = ca
	}
	if term, ok := lookup("TERM"); ok {
		env["TERM"] = term
	}
	maps.Copy(env, gitEnv(m))
	for name, text := range m.Agent.Env {
		value, err := expandEnv(text, lookup)
		if err != nil {
			return nil, &config.Error{Where: m.path, What: "agent.env." + name + ": " + err.Error()}
		}
		env[name] = value
	}
	return env, nil
}

// noProxy are the sidecars and what means the agent's own machine, in the forms
// of as many clients as there is one value for: curl, Go and Python's requests
// know ranges, others compare names. An address in brackets, which Python's
// urllib and Node would need for IPv6, is left out: httpx, and with it many
// clients of models, fails on it.
const noProxy = "egress,pipelock,git-gate,supervise,localhost,127.0.0.1,127.0.0.0/8,0.0.0.0,::1,::,"

// mcpConfig registers the MCP server with agents that read such a file.
func mcpConfig() []byte {
	data, _ := json.MarshalIndent(map[string]any{"mcpServers": map[string]any{"supervise": map[string]string{
		"type": "http", "url": fmt.Sprintf("http://supervise:%d/mcp", bundle.PortSupervise),
	}}}, "", "  ") // strings only: it cannot fail
	return append(data, '\n')
}

func osLookup(name string) (string, bool) { return os.LookupEnv(name) }
