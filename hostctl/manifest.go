package hostctl

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"airlock/hostctl/pair"
	"airlock/hostctl/workspace"
	"airlock/internal/bundle"
	"airlock/internal/config"
	"airlock/internal/policy"
)

// Manifest is airlock.yaml: what a person says about a pair.
type Manifest struct {
	Version   int               `yaml:"version"`
	Name      string            `yaml:"name"`
	Agent     ManifestAgent     `yaml:"agent"`
	Egress    ManifestEgress    `yaml:"egress,omitempty"`
	Pipelock  ManifestPipelock  `yaml:"pipelock,omitempty"`
	Git       ManifestGit       `yaml:"git,omitempty"`
	Supervise ManifestSupervise `yaml:"supervise,omitempty"`
	Loader    ManifestLoader    `yaml:"loader,omitempty"`

	path   string // absolute
	digest string
}

// ManifestAgent is the untrusted half.
type ManifestAgent struct {
	Image     string            `yaml:"image,omitempty"` // docker only
	Command   []string          `yaml:"command,omitempty,flow"`
	Workspace ManifestWorkspace `yaml:"workspace,omitempty,flow"`
	Env       map[string]string `yaml:"env,omitempty,flow"` // "${NAME}" is taken from the host's environment
	Resources ManifestResources `yaml:"resources,omitempty,flow"`
}

// ManifestWorkspace is the folder that the agent works on; a relative path
// starts at the manifest's folder.
type ManifestWorkspace struct {
	Path string    `yaml:"path,omitempty"`
	Mode pair.Mode `yaml:"mode,omitempty"` // copy (default with a path), bind, none
	// MaxBytes bounds a copy; zero means the default of pair.Workspace.
	MaxBytes config.Bytes `yaml:"max_bytes,omitempty"`
	// Git is none where git need not work in the workspace; empty: it has to.
	Git string `yaml:"git,omitempty"`
}

// withoutGit is a workspace in which git need not work.
const withoutGit = "none"

// ManifestResources bound the agent; zero means the default of pair.Resources.
type ManifestResources struct {
	Memory config.Bytes `yaml:"memory,omitempty"`
	CPUs   float64      `yaml:"cpus,omitempty"`
	Pids   int          `yaml:"pids,omitempty"`
}

// ManifestEgress are the routes, and what passes without one while the
// operator finds out which are needed.
type ManifestEgress struct {
	Mode   string           `yaml:"mode,omitempty"`       // learn; empty: routes alone decide
	Learn  []policy.Pattern `yaml:"learn,omitempty,flow"` // the hosts that it is for
	CA     string           `yaml:"ca,omitempty"`         // constrained: the pair's authority speaks for the hosts named here alone; empty: for any
	Routes []ManifestRoute  `yaml:"routes"`
}

// constrained is the authority that speaks for its own hosts alone.
const constrained = "constrained"

// ManifestRoute is bundle.Route with references in the place of slots.
type ManifestRoute struct {
	Host    policy.Pattern       `yaml:"host"`
	Methods []string             `yaml:"methods,omitempty,flow"`
	Paths   []policy.PathPattern `yaml:"paths,omitempty,flow"`
	Auth    *ManifestAuth        `yaml:"auth,omitempty,flow"`
	Expires time.Time            `yaml:"expires,omitempty"`
	Git     string               `yaml:"git,omitempty"`
	Kind    string               `yaml:"kind,omitempty"` // bundle.KindLLM, or empty
	// PlainHTTP lets the route pass over http, its credential readable on the way.
	PlainHTTP bool `yaml:"plain_http,omitempty"`
}

// ManifestPipelock adds to what the routes allow.
type ManifestPipelock struct {
	Allow      []bundle.Allowed      `yaml:"allow,omitempty"`
	Hosts      map[string]netip.Addr `yaml:"hosts,omitempty"`
	Addresses  bundle.Addresses      `yaml:"addresses,omitempty"`
	UpstreamCA string                `yaml:"upstream_ca,omitempty"` // a file of the host
	// ClientCertificates are bundle.ClientCertificate with files of the host.
	ClientCertificates []bundle.ClientCertificate `yaml:"client_certificates,omitempty"`
	Secrets            ManifestSecrets            `yaml:"secrets,omitempty"`
	Answers            *bundle.AnswerScan         `yaml:"answers,omitempty"`
	Limits             bundle.PipelockLimits      `yaml:"limits,omitempty"`
	UpstreamProxy      *ManifestProxy             `yaml:"upstream_proxy,omitempty"` // nil: origins are dialled, whatever the host's environment says
}

// ManifestProxy is bundle.UpstreamProxy with references in the place of slots.
type ManifestProxy struct {
	URL     string   `yaml:"url"`                     // http://host:port, or "env:NAME" of a variable of the host, whose user and password become the credential
	Auth    string   `yaml:"auth,omitempty"`          // "env:", "file:" or "command:" of user:password
	CA      string   `yaml:"ca,omitempty"`            // a file of the host with roots for the proxy
	NoProxy []string `yaml:"no_proxy,omitempty,flow"` // hosts like "*.internal.example", or "env:NAME" of a list of them
}

// ManifestSecrets is the part of the scan that a person chooses.
type ManifestSecrets struct {
	Action      string                             `yaml:"action,omitempty"`
	Hosts       map[policy.Pattern]bundle.HostScan `yaml:"hosts,omitempty"`
	Wait        config.Duration                    `yaml:"wait,omitempty"`
	Rules       string                             `yaml:"rules,omitempty"` // a gitleaks TOML: a file of the host
	Entropy     bundle.Entropy                     `yaml:"entropy,omitempty"`
	Passthrough []policy.Pattern                   `yaml:"passthrough,omitempty"`
}

// ManifestGit are the mirrors.
type ManifestGit struct {
	Repos   map[string]ManifestRepo `yaml:"repos,omitempty"`
	Hosts   map[string]netip.Addr   `yaml:"hosts,omitempty"`
	Protect []string                `yaml:"protect,omitempty,flow"`
	// UpstreamCA is "file:PATH" of roots for https upstreams, beside the system's.
	UpstreamCA string           `yaml:"upstream_ca,omitempty"`
	Limits     bundle.GitLimits `yaml:"limits,omitempty"`
	Scan       ManifestGitScan  `yaml:"scan,omitempty"`
}

// ManifestGitScan is the part of git-gate's scan that a person chooses.
type ManifestGitScan struct {
	Config string `yaml:"config,omitempty"` // "file:PATH" of a gitleaks TOML; empty: the built-in rules
}

// ManifestRepo is bundle.Repo with references in the place of files and slots.
type ManifestRepo struct {
	URL        string `yaml:"url"`
	Identity   string `yaml:"identity,omitempty"`   // "file:PATH" of a private key
	Passphrase string `yaml:"passphrase,omitempty"` // of the identity: "env:", "file:" or "command:"
	HostKey    string `yaml:"host_key,omitempty"`
	Token      string `yaml:"token,omitempty"` // "env:", "file:" or "command:"
	Push       *bool  `yaml:"push,omitempty"`
}

// ManifestSupervise bounds the asking.
type ManifestSupervise struct {
	Wait   config.Duration        `yaml:"wait,omitempty"`
	Limits bundle.SuperviseLimits `yaml:"limits,omitempty"`
}

// ManifestLoader lists what is fetched before the agent starts.
type ManifestLoader struct {
	Artifacts []Artifact `yaml:"artifacts,omitempty"`
}

// Artifact is one file to fetch.
type Artifact struct {
	URL    string       `yaml:"url"`
	Bytes  config.Bytes `yaml:"bytes"`
	SHA256 string       `yaml:"sha256"`
	To     string       `yaml:"to"`
}

// LoadManifest reads a manifest strictly.
func LoadManifest(path string) (*Manifest, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("reading the manifest: %w", err)
	}
	var m Manifest
	if m.digest, err = config.Load(path, &m); err != nil {
		return nil, err
	}
	m.path = abs
	return &m, nil
}

// Validate says everything that is wrong with the manifest.
func (m *Manifest) Validate() error {
	var errs []error
	if m.Version != 1 {
		errs = append(errs, config.At("version", "1 was wanted, this is %d", m.Version))
	}
	if err := pair.CheckName(m.Name); err != nil {
		errs = append(errs, config.At("name", "%v", err))
	}
	if mode := m.Agent.Workspace.Mode; mode != "" && mode != pair.Copy && mode != pair.Bind && mode != pair.None {
		errs = append(errs, config.At("agent.workspace.mode", "%q: one of copy, bind, none was wanted", mode))
	}
	if git := m.Agent.Workspace.Git; git != "" && git != withoutGit {
		errs = append(errs, config.At("agent.workspace.git", "%q: none is the only value", git))
	}
	if ca := m.Egress.CA; ca != "" && ca != constrained {
		errs = append(errs, config.At("egress.ca", "%q: constrained is the only value", ca))
	}
	for i, r := range m.Egress.Routes {
		errs = append(errs, r.Auth.validate(fmt.Sprintf("egress.routes[%d].auth", i)))
	}
	for i, c := range m.Pipelock.ClientCertificates {
		if c.Cert == "" || c.Key == "" {
			errs = append(errs, config.At(fmt.Sprintf("pipelock.client_certificates[%d]", i), "the files cert and key are needed"))
		}
	}
	for name, r := range m.Git.Repos {
		errs = append(errs, r.validate("git.repos."+name))
	}
	for at, file := range map[string]string{"git.upstream_ca": m.Git.UpstreamCA, "git.scan.config": m.Git.Scan.Config} {
		if ref, err := parseReference(file); file != "" && (err != nil || ref.kind != "file") {
			errs = append(errs, config.At(at, "file:PATH of a file of the host was wanted"))
		}
	}
	errs = append(errs, config.Under("pipelock", m.Pipelock.UpstreamProxy.validate()))
	l := newLayout()
	l.lookup = anyVariable
	egress := l.egress(m)
	errs = append(errs, bundle.CheckHostTables(l.git(m).Repos, bundle.HostTable{Key: "pipelock.hosts", Hosts: m.Pipelock.Hosts}, bundle.HostTable{Key: "git.hosts", Hosts: m.Git.Hosts}))
	errs = append(errs, config.Under("egress", egress.Validate()), config.Under("pipelock", l.pipelock(m, egress).Validate()),
		config.Under("git", l.git(m).Validate()), config.Under("supervise", supervise(m).Validate()))
	if len(m.Loader.Artifacts) > 0 {
		errs = append(errs, config.At("loader.artifacts", "the loader is not built yet"))
	}
	return errors.Join(errs...)
}

func (r ManifestRepo) validate(at string) error {
	var errs []error
	if r.Identity != "" {
		if ref, err := parseReference(r.Identity); err != nil || ref.kind != "file" {
			errs = append(errs, config.At(at+".identity", "file:PATH of a private key was wanted"))
		}
	}
	for key, ref := range map[string]string{".token": r.Token, ".passphrase": r.Passphrase} {
		if ref == "" {
			continue
		}
		if _, err := parseReference(ref); err != nil {
			errs = append(errs, config.At(at+key, "%v", err))
		}
	}
	return errors.Join(errs...)
}

// expandEnv replaces "${NAME}" from the host's environment; a variable that
// is not set is an error, and so is any other use of the dollar sign's braces.
func expandEnv(text string, lookup func(string) (string, bool)) (string, error) {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(text, "${")
		b.WriteString(before)
		if !found {
			return b.String(), nil
		}
		name, after, closed := strings.Cut(rest, "}")
		value, set := lookup(name)
		if !closed || !set {
			return "", fmt.Errorf("${%s} is not set in the environment of hostctl", name)
		}
		b.WriteString(value)
		text = after
	}
}

// workspace is the folder, made absolute from the manifest's.
func (m *Manifest) workspace() pair.Workspace {
	w := pair.Workspace{Path: m.Agent.Workspace.Path, Mode: m.Agent.Workspace.Mode, MaxBytes: int64(m.Agent.Workspace.MaxBytes), WithoutGit: m.Agent.Workspace.Git == withoutGit}
	if w.Path == "" {
		return pair.Workspace{Mode: pair.None}
	}
	if w.Mode == "" {
		w.Mode = pair.Copy
	}
	w.Path = filepath.Join(filepath.Dir(m.path), w.Path)
	if filepath.IsAbs(m.Agent.Workspace.Path) {
		w.Path = filepath.Clean(m.Agent.Workspace.Path)
	}
	return w
}

// inWorkspace tells whether the agent (or whoever wrote the workspace) could
// have written the manifest.
func (m *Manifest) inWorkspace() bool {
	return m.workspaceHas(m.path)
}

// workspaceHas reports whether a path of the host is in the workspace, or leads
// through it by links, which an agent could have put there; one that cannot be
// followed counts as if it were.
func (m *Manifest) workspaceHas(path string) bool {
	w := m.workspace()
	if w.Mode == pair.None {
		return false
	}
	root, err := filepath.EvalSymlinks(w.Path)
	if err != nil {
		return true
	}
	steps, err := workspace.Steps(path)
	if err != nil {
		return true
	}
	return slices.ContainsFunc(steps, func(step string) bool {
		rel, err := filepath.Rel(root, step)
		return err != nil || (rel != ".." && !strings.HasPrefix(rel, ".."+string(os.PathSeparator)))
	})
}
