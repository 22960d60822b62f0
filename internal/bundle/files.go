package bundle

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"airlock/internal/config"
	"airlock/internal/hostkey"
	"airlock/internal/policy"
)

// PipelockFile is pipelock.yaml: where anything may go at all, and what may
// not leave.
type PipelockFile struct {
	Version    int                   `yaml:"version"`
	Listen     string                `yaml:"listen,omitempty"` // default 0.0.0.0:8888
	Socket     string                `yaml:"socket,omitempty"` // default /run/airlock/pipelock.sock
	CA         CA                    `yaml:"ca,omitempty"`     // none: only egress is served, an agent is not
	Allow      []Allowed             `yaml:"allow"`            // none: everything is refused
	Hosts      map[string]netip.Addr `yaml:"hosts,omitempty"`  // instead of DNS
	Addresses  Addresses             `yaml:"addresses,omitempty"`
	UpstreamCA string                `yaml:"upstream_ca,omitempty"` // extra roots for origins
	// ClientCertificates prove to origins that want it who is there (mutual TLS).
	ClientCertificates []ClientCertificate `yaml:"client_certificates,omitempty"`
	Secrets            SecretScan          `yaml:"secrets,omitempty"`
	Answers            *AnswerScan         `yaml:"answers,omitempty"` // nil: answers are not looked at
	Limits             PipelockLimits      `yaml:"limits,omitempty"`
	UpstreamProxy      *UpstreamProxy      `yaml:"upstream_proxy,omitempty"` // nil: origins are dialled

	Lines []int `yaml:"-"` // where each entry of allow stands in the file that was read
}

// Locate implements config.Locator.
func (f *PipelockFile) Locate(line func(key string) int) {
	f.Lines = linesOf("allow", len(f.Allow), line)
}

// ClientCertificate is shown to the hosts that the pattern names, and to
// nobody else.
type ClientCertificate struct {
	Host policy.Pattern `yaml:"host"` // 443 without a port
	Cert string         `yaml:"cert"` // file: PEM, with the certificates between it and the root
	Key  string         `yaml:"key"`  // file: PEM, not encrypted
}

// Addresses are exceptions to the ranges that are refused.
type Addresses struct {
	Allow []netip.Prefix `yaml:"allow,omitempty,flow"`
}

// SecretScan says what is looked for in what leaves.
type SecretScan struct {
	Action      string                      `yaml:"action,omitempty"` // block (default), redact, ask, warn
	Hosts       map[policy.Pattern]HostScan `yaml:"hosts,omitempty"`  // instead, for these hosts; the narrowest pattern counts
	Wait        config.Duration             `yaml:"wait,omitempty"`   // 60s; how long a request waits for the answer to an ask
	Rules       string                      `yaml:"rules,omitempty"`  // a gitleaks TOML of the operator's; empty: the built-in rules
	Entropy     Entropy                     `yaml:"entropy,omitempty"`
	Values      []string                    `yaml:"values,omitempty,flow"` // slots that hold keyed digests of exact values
	Passthrough []policy.Pattern            `yaml:"passthrough,omitempty"` // hosts whose content is not read
}

// Entropy makes a finding of what looks drawn by chance. The zero value finds
// nothing.
type Entropy struct {
	Bits   float64 `yaml:"bits"`   // at least so many a character, as Shannon counts them
	Length int     `yaml:"length"` // at least so many characters
}

func (e Entropy) validate() error {
	if e == (Entropy{}) {
		return nil
	}
	var errs []error
	if e.Bits < 3 || e.Bits > 6 {
		errs = append(errs, config.At("secrets.entropy.bits", "%v: a number from 3 to 6 was wanted, like 4.5", e.Bits))
	}
	if e.Length < 16 || e.Length > 200 {
		errs = append(errs, config.At("secrets.entropy.length", "%d: a number from 16 to 200 was wanted, like 32", e.Length))
	}
	return errors.Join(errs...)
}

// HostScan is what differs for some hosts.
type HostScan struct {
	Action string `yaml:"action"` // block, redact, ask, warn
}

var scanActions = []string{"block", "redact", "ask", "warn"}

func (s SecretScan) validate() error {
	var errs []error
	if s.Action != "" && !slices.Contains(scanActions, s.Action) {
		errs = append(errs, config.At("secrets.action", "%q: one of block, redact, ask, warn was wanted", s.Action))
	}
	errs = append(errs, s.Entropy.validate())
	for p, h := range s.Hosts {
		if !slices.Contains(scanActions, h.Action) {
			errs = append(errs, config.At("secrets.hosts."+p.String(), "action %q: one of block, redact, ask, warn was wanted", h.Action))
		}
	}
	return errors.Join(errs...)
}

// AnswerScan says what is done about answers with text that gives an agent
// orders, or that a person does not see.
type AnswerScan struct {
	Action string           `yaml:"action,omitempty"`    // warn (default), block
	Skip   []policy.Pattern `yaml:"skip,omitempty,flow"` // hosts whose answers are not looked at
}

func (a *AnswerScan) validate() error {
	if a != nil && a.Action != "" && a.Action != "warn" && a.Action != "block" {
		return config.At("answers.action", "%q: warn or block was wanted", a.Action)
	}
	return nil
}

// PipelockLimits are budgets; zero means the default in the comment.
type PipelockLimits struct {
	RequestsPerMinute int             `yaml:"requests_per_minute,omitempty"` // a host; 0: unlimited
	BodyBytes         config.Bytes    `yaml:"body_bytes,omitempty"`          // 100MiB
	TunnelIdle        config.Duration `yaml:"tunnel_idle,omitempty"`         // 10m
	BytesPerHour      config.Bytes    `yaml:"bytes_per_hour,omitempty"`      // sent to a host; 0: unlimited
	Tunnels           int             `yaml:"tunnels,omitempty"`             // open at once to a host; 0: unlimited
	// Hosts replaces budgets for the hosts that a pattern names.
	Hosts map[string]HostLimits `yaml:"hosts,omitempty"`
}

// HostLimits replace budgets. What is nil stays as it is for all hosts; 0 is
// unlimited.
type HostLimits struct {
	RequestsPerMinute *int             `yaml:"requests_per_minute,omitempty"`
	BytesPerHour      *config.Bytes    `yaml:"bytes_per_hour,omitempty"`
	Tunnels           *int             `yaml:"tunnels,omitempty"`
	TunnelIdle        *config.Duration `yaml:"tunnel_idle,omitempty"` // of WebSockets
}

func (l PipelockLimits) validate() error {
	var errs []error
	number := func(at string, n int) {
		if n < 0 {
			errs = append(errs, config.At("limits."+at, "a number above zero was wanted"))
		}
	}
	number("requests_per_minute", l.RequestsPerMinute)
	number("tunnels", l.Tunnels)
	for name, h := range l.Hosts {
		if _, err := policy.ParsePattern(name); err != nil {
			errs = append(errs, config.At("limits.hosts."+name, "%v", err))
		}
		if h.RequestsPerMinute != nil {
			number("hosts."+name+".requests_per_minute", *h.RequestsPerMinute)
		}
		if h.Tunnels != nil {
			number("hosts."+name+".tunnels", *h.Tunnels)
		}
	}
	return errors.Join(errs...)
}

// Validate says everything that is wrong with the file.
func (f PipelockFile) Validate() error {
	errs := []error{checkVersion(f.Version)}
	if f.CA != (CA{}) {
		errs = append(errs, f.CA.validate())
	}
	for i, p := range f.Allow {
		if p.Host == (policy.Pattern{}) {
			errs = append(errs, config.At(fmt.Sprintf("allow[%d]", i), "a host is needed"))
		}
	}
	for i, c := range f.ClientCertificates {
		if c.Host == (policy.Pattern{}) || c.Cert == "" || c.Key == "" {
			errs = append(errs, config.At(fmt.Sprintf("client_certificates[%d]", i), "a host and the files cert and key are needed"))
		}
	}
	errs = append(errs, CheckHosts(HostTable{"hosts", f.Hosts}, nil))
	for i, p := range f.Addresses.Allow {
		if p.Bits() == 0 {
			errs = append(errs, config.At(fmt.Sprintf("addresses.allow[%d]", i), "%s exempts everything: the ranges that are needed were wanted", p))
		}
	}
	errs = append(errs, f.Secrets.validate())
	for i, v := range f.Secrets.Values {
		if !slotName.MatchString(v) {
			errs = append(errs, config.At(fmt.Sprintf("secrets.values[%d]", i), "%q: a name like EGRESS_DIGEST_0 was wanted, never a value", "…"))
		}
	}
	errs = append(errs, f.Limits.validate(), f.Answers.validate(), f.UpstreamProxy.validate())
	return errors.Join(errs...)
}

// GitGateFile is git-gate.yaml: the mirrors that the agent may use.
type GitGateFile struct {
	Version int                   `yaml:"version"`
	Listen  GitListen             `yaml:"listen,omitempty"`
	Root    string                `yaml:"root,omitempty"`  // default /var/lib/airlock/git
	Hosts   map[string]netip.Addr `yaml:"hosts,omitempty"` // instead of DNS
	Repos   map[string]Repo       `yaml:"repos"`
	Protect []string              `yaml:"protect,omitempty,flow"` // refs never forced, never deleted
	// UpstreamCA is a file with roots for https upstreams, beside the system's.
	UpstreamCA string    `yaml:"upstream_ca,omitempty"`
	Limits     GitLimits `yaml:"limits,omitempty"`
	Scan       GitScan   `yaml:"scan,omitempty"`
}

// GitListen are the addresses of the two protocols.
type GitListen struct {
	Git  string `yaml:"git,omitempty"`  // default 0.0.0.0:9418
	HTTP string `yaml:"http,omitempty"` // default 0.0.0.0:9420
}

// Repo is one mirror.
type Repo struct {
	URL        string `yaml:"url"`                  // ssh://, user@host:path or https://
	Identity   string `yaml:"identity,omitempty"`   // ssh: file of the private key
	Passphrase string `yaml:"passphrase,omitempty"` // ssh: slot; of an identity that is encrypted
	HostKey    string `yaml:"host_key,omitempty"`   // ssh: pinned; without it nothing is fetched
	Token      string `yaml:"token,omitempty"`      // https: slot
	Push       *bool  `yaml:"push,omitempty"`       // default true
}

// MayPush tells whether pushes are forwarded at all.
func (r Repo) MayPush() bool { return r.Push == nil || *r.Push }

// GitLimits bound a push; zero means the default in the comment.
type GitLimits struct {
	ObjectBytes config.Bytes `yaml:"object_bytes,omitempty"` // 100MiB
	PushBytes   config.Bytes `yaml:"push_bytes,omitempty"`   // 1GiB
	Refs        int          `yaml:"refs,omitempty"`         // 1000

	QuarantineBytes config.Bytes `yaml:"quarantine_bytes,omitempty"` // of all pushes together: 4GiB, or 4 times push_bytes

	LFSDownloadBytes config.Bytes `yaml:"lfs_download_bytes,omitempty"` // an object of Git LFS that is fetched: 5GiB
}

// GitScan names the rules of the scan, and what they find in vain.
type GitScan struct {
	Config string       `yaml:"config"`          // a gitleaks TOML of the operator's; empty: the built-in rules
	Allow  []GitAllowed `yaml:"allow,omitempty"` // values that an operator has looked at and that are no secrets
}

// GitAllowed is one value in one repository. hostctl approve writes it: the
// digest is git-gate's own, and means nothing to anybody else.
type GitAllowed struct {
	Repo    string    `yaml:"repo"`
	Rule    string    `yaml:"rule"`
	Digest  string    `yaml:"digest"` // HMAC-SHA256 in hexadecimal digits
	Reason  string    `yaml:"reason,omitempty"`
	Expires time.Time `yaml:"expires,omitempty"` // zero: never
}

func (a GitAllowed) validate(at string, repos map[string]Repo) error {
	var errs []error
	if _, ok := repos[a.Repo]; !ok {
		errs = append(errs, config.At(at+".repo", "%q is none of the repositories here", a.Repo))
	}
	if a.Rule == "" || slotName.MatchString(a.Rule) {
		errs = append(errs, config.At(at+".rule", "%q: the name of a rule like github-pat was wanted; a credential of the bundle is never let through", a.Rule))
	}
	if !allowDigest.MatchString(a.Digest) {
		errs = append(errs, config.At(at+".digest", "64 hexadecimal digits were wanted, as a proposal of git-gate's has them"))
	}
	return errors.Join(errs...)
}

var allowDigest = regexp.MustCompile(`^[0-9a-f]{64}$`)

var repoName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)

// Validate says everything that is wrong with the file.
func (f GitGateFile) Validate() error {
	errs := []error{checkVersion(f.Version)}
	for name, r := range f.Repos {
		at := "repos." + name
		if !repoName.MatchString(name) || strings.HasSuffix(name, ".git") {
			errs = append(errs, config.At(at, "a repository's name has letters, digits, dot, hyphen and underscore, and no .git at the end"))
		}
		errs = append(errs, r.validate(at))
	}
	errs = append(errs, CheckHosts(HostTable{"hosts", f.Hosts}, f.Repos))
	for i, ref := range f.Protect {
		if !strings.HasPrefix(ref, "refs/") {
			errs = append(errs, config.At(fmt.Sprintf("protect[%d]", i), "%q: a full name like refs/heads/main was wanted", ref))
		}
	}
	if f.Limits.Refs < 0 {
		errs = append(errs, config.At("limits.refs", "a number above zero was wanted"))
	}
	for i, a := range f.Scan.Allow {
		errs = append(errs, a.validate(fmt.Sprintf("scan.allow[%d]", i), f.Repos))
	}
	return errors.Join(errs...)
}

func (r Repo) validate(at string) error {
	u, err := ParseGitURL(r.URL)
	if err != nil {
		return config.At(at+".url", "%v", err)
	}
	var errs []error
	if _, has := u.User.Password(); has {
		errs = append(errs, config.At(at+".url", "a password does not belong into a URL; name a slot with token"))
	}
	if _, err := policy.ParseAuthority(u.Host, 22); err != nil {
		errs = append(errs, config.At(at+".url", "%v", err))
	}
	errs = append(errs, r.validateHostKey(at+".host_key", u))
	if r.Passphrase != "" && !slotName.MatchString(r.Passphrase) {
		errs = append(errs, config.At(at+".passphrase", "the name of a slot like GIT_PASS_0 was wanted, never a value"))
	}
	if r.Passphrase != "" && r.Identity == "" {
		errs = append(errs, config.At(at+".passphrase", "it opens an identity, and there is none"))
	}
	if u.Scheme == "ssh" && r.Token != "" {
		errs = append(errs, config.At(at+".token", "a token is for https; ssh takes identity and host_key"))
	}
	if u.Scheme == "https" && (r.Identity != "" || r.HostKey != "" || r.Passphrase != "") {
		errs = append(errs, config.At(at, "identity and host_key are for ssh; https takes token"))
	}
	if r.Token != "" && !slotName.MatchString(r.Token) {
		errs = append(errs, config.At(at+".token", "the name of a slot like GIT_TOKEN_0 was wanted, never a value"))
	}
	return errors.Join(errs...)
}

func (r Repo) validateHostKey(at string, u *url.URL) error {
	keys, err := hostkey.Parse(r.HostKey)
	if err != nil {
		return config.At(at, "%v", err)
	}
	if len(keys) > 0 && !slices.ContainsFunc(keys, func(k hostkey.Key) bool { return !k.Revoked && k.For(u.Hostname(), u.Port()) }) {
		return config.At(at, "none of the lines is about %s", u.Host)
	}
	return nil
}

// SuperviseFile is supervise.yaml: the MCP server through which the agent asks.
type SuperviseFile struct {
	Version int             `yaml:"version"`
	Listen  string          `yaml:"listen,omitempty"` // default 0.0.0.0:9100
	Wait    config.Duration `yaml:"wait,omitempty"`   // 30s; how long a call waits before it answers "pending"
	Store   string          `yaml:"store,omitempty"`  // default /var/lib/airlock/proposals
	Limits  SuperviseLimits `yaml:"limits,omitempty"`
}

// SuperviseLimits bound what an agent can leave behind; zero means the
// default in the comment.
type SuperviseLimits struct {
	OpenProposals      int          `yaml:"open_proposals,omitempty"`      // 50
	JustificationBytes config.Bytes `yaml:"justification_bytes,omitempty"` // 4KiB
}

// Validate says everything that is wrong with the file.
func (f SuperviseFile) Validate() error {
	errs := []error{checkVersion(f.Version)}
	if f.Limits.OpenProposals < 0 {
		errs = append(errs, config.At("limits.open_proposals", "a number above zero was wanted"))
	}
	return errors.Join(errs...)
}
