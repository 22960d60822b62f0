package bundle

import (
	"errors"
	"net/url"
	"regexp"
	"strings"

	"airlock/internal/config"
	"airlock/internal/policy"
)

// scpForm is the short form of an ssh URL (git-clone(1), GIT URLS): no slash
// before the first colon.
var scpForm = regexp.MustCompile(`^([A-Za-z0-9._-]+)@(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([^\s:][^\s]*)$`)

// ParseGitURL reads the URL of an upstream: https://host/path, ssh://user@host/path
// (or git+ssh, ssh+git), or user@host:path, whose path is relative to the
// user's home and has no slash before it.
func ParseGitURL(text string) (*url.URL, error) {
	if m := scpForm.FindStringSubmatch(text); m != nil && !strings.Contains(text, "://") {
		return &url.URL{Scheme: "ssh", User: url.User(m[1]), Host: m[2], Path: m[3]}, nil
	}
	u, err := url.Parse(text)
	if err == nil && (u.Scheme == "git+ssh" || u.Scheme == "ssh+git") {
		u.Scheme = "ssh"
	}
	if err != nil || u.Host == "" || strings.Trim(u.Path, "/") == "" || (u.Scheme != "ssh" && u.Scheme != "https") {
		return nil, errors.New("ssh://user@host/path or https://host/path was wanted, or user@host:path")
	}
	return u, nil
}

// GitIdentity is what makes two spellings of a URL the same repository: the host,
// with the port of its https, and the path without .git and slashes at the end.
type GitIdentity struct {
	At   policy.Authority
	Path string
}

const gitHTTPS = 443

// IdentityOf is the identity of an upstream. Of an upstream by ssh it is the one that
// the same host's https has at its usual port.
func IdentityOf(u *url.URL) (GitIdentity, error) {
	a, err := policy.ParseAuthority(u.Host, gitHTTPS)
	if err != nil {
		return GitIdentity{}, err
	}
	if u.Scheme != "https" {
		a.Port = gitHTTPS
	}
	path := RepositoryPath(u.Path)
	if path == "" {
		return GitIdentity{}, errors.New("the URL names no repository")
	}
	return GitIdentity{a, path}, nil
}

// RepositoryPath is a decoded path without the slashes around it and without .git.
func RepositoryPath(path string) string {
	return strings.TrimSuffix(strings.Trim(path, "/"), ".git")
}

// Mirror is a repository that the agent reaches through git-gate alone: a client of
// git that asks egress for it is sent there.
type Mirror struct {
	URL string `yaml:"url"` // https://host/path
	To  string `yaml:"to"`  // where git-gate has it: http://git-gate:9420/name.git
}

func (m Mirror) validate(at string) error {
	var errs []error
	u, err := ParseGitURL(m.URL)
	if err == nil {
		_, err = IdentityOf(u)
	}
	if err != nil || u.Scheme != "https" || u.User != nil {
		errs = append(errs, config.At(at+".url", "%q: expected https://host/path", m.URL))
	}
	if to, err := url.Parse(m.To); err != nil || to.Scheme != "http" || to.Host == "" || to.RawQuery != "" || !strings.HasSuffix(to.Path, ".git") {
		errs = append(errs, config.At(at+".to", "%q: expected http://git-gate:9420/name.git", m.To))
	}
	return errors.Join(errs...)
}
