package supervise

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"airlock/internal/activation"
	"airlock/internal/bundle"
	"airlock/internal/policy"
	"airlock/internal/proposal"
)

const (
	maxMethods = 9
	maxChoices = 12
)

var methodForm = regexp.MustCompile(`^[A-Z]{3,16}$`)

// newAccess validates a request for access and returns it in canonical form, so that equal requests
// become the same proposal.
func newAccess(rawURL string, methods []string, why string, textLimit int) (proposal.Proposal, error) {
	u, err := url.Parse(rawURL)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.User != nil {
		return proposal.Proposal{}, errors.New("url: an absolute URL like https://api.example.com/v1/items is needed")
	}
	port := uint16(443)
	if u.Scheme == "http" {
		port = 80
	}
	authority, err := policy.ParseAuthority(u.Host, port)
	if err != nil {
		return proposal.Proposal{}, fmt.Errorf("url: %w", err)
	}
	path, err := policy.CleanPath(u.EscapedPath())
	if err != nil {
		return proposal.Proposal{}, fmt.Errorf("url: %w", err)
	}
	if strings.Contains(path, "*") {
		return proposal.Proposal{}, errors.New("url: a path with a star cannot be asked for; the operator may widen what you ask")
	}
	target := url.URL{Scheme: u.Scheme, Host: authority.HostFor(port), Path: path}
	methods, err = checkMethods(methods)
	if err != nil {
		return proposal.Proposal{}, err
	}
	if why, err = checkText("why", why, textLimit); err != nil {
		return proposal.Proposal{}, err
	}
	return proposal.Proposal{
		Kind: proposal.Access, URL: target.String(), Methods: methods, Why: why,
	}, nil
}

func checkMethods(methods []string) ([]string, error) {
	if len(methods) == 0 {
		methods = []string{"GET"}
	}
	var all []string
	for _, m := range methods {
		m = strings.ToUpper(m)
		if !methodForm.MatchString(m) || m == "CONNECT" {
			return nil, errors.New("methods: names like GET or POST are needed")
		}
		all = append(all, m)
	}
	slices.Sort(all)
	all = slices.Compact(all)
	if len(all) > maxMethods {
		return nil, fmt.Errorf("methods: at most %d", maxMethods)
	}
	return all, nil
}

// checkText bounds text of the agent and removes control and formatting characters, which could mislead
// the operator.
func checkText(name, text string, limit int) (string, error) {
	clean := strings.Map(func(r rune) rune {
		if r != '\n' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r)) {
			return -1
		}
		return r
	}, text)
	switch clean = strings.TrimSpace(clean); {
	case clean == "":
		return "", fmt.Errorf("%s: a text is needed", name)
	case len(clean) > limit:
		return "", fmt.Errorf("%s: %d bytes; at most %d", name, len(clean), limit)
	}
	return clean, nil
}

func newQuestion(question string, choices []string, textLimit int) (proposal.Proposal, error) {
	question, err := checkText("question", question, textLimit)
	if err != nil {
		return proposal.Proposal{}, err
	}
	if len(choices) > maxChoices {
		return proposal.Proposal{}, fmt.Errorf("choices: at most %d", maxChoices)
	}
	for i, c := range choices {
		if choices[i], err = checkText("choices", c, 200); err != nil {
			return proposal.Proposal{}, err
		}
	}
	return proposal.Proposal{Kind: proposal.Question, Question: question, Choices: choices}, nil
}

// hostOf returns the host of a canonical URL, for the audit.
func hostOf(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil {
		return ""
	}
	return u.Host
}

// access lists what the rules allow.
type access struct {
	Routes []routeView `json:"routes"`
	Allow  []string    `json:"allow"` // hosts that pipelock allows
}

type routeView struct {
	Host    string   `json:"host"`
	Methods []string `json:"methods,omitempty"`
	Paths   []string `json:"paths,omitempty"`
	Git     string   `json:"git,omitempty"`
}

// readAccess reads the rules from the configuration files. A daemon without a file has no rules.
func readAccess(dirs bundle.Dirs) (access, error) {
	list := access{Routes: []routeView{}, Allow: []string{}}
	routes, _, err := bundle.LoadBy[bundle.EgressFile](activation.Open, dirs.File(bundle.Egress))
	if err != nil && !notExist(dirs.File(bundle.Egress)) {
		return access{}, err
	}
	for _, r := range routes.Routes {
		v := routeView{Host: r.Host.String(), Methods: r.Methods, Git: r.Git}
		for _, p := range r.Paths {
			v.Paths = append(v.Paths, string(p))
		}
		list.Routes = append(list.Routes, v)
	}
	allow, _, err := bundle.LoadBy[bundle.PipelockFile](activation.Open, dirs.File(bundle.Pipelock))
	if err != nil && !notExist(dirs.File(bundle.Pipelock)) {
		return access{}, err
	}
	for _, a := range allow.Allow {
		if a.At(time.Now()) {
			list.Allow = append(list.Allow, a.Host.String())
		}
	}
	return list, nil
}

func notExist(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, os.ErrNotExist)
}

func (a access) text() string {
	var b strings.Builder
	for _, r := range a.Routes {
		fmt.Fprintf(&b, "%s %s %s %s\n", r.Host, joinOr(r.Methods, "any method"), joinOr(r.Paths, "any path"), r.Git)
	}
	if len(a.Routes) == 0 {
		b.WriteString("no routes\n")
	}
	return b.String()
}

func joinOr(list []string, word string) string {
	if len(list) == 0 {
		return word
	}
	return strings.Join(list, ",")
}

// allowedBy returns the rule by which the configuration files already allow the requested access: all
// its methods, through egress and pipelock where they have a file. It returns "" if no rule does, or
// if the files cannot be read.
func allowedBy(dirs bundle.Dirs, p proposal.Proposal, now time.Time) (rule string) {
	u, err := url.Parse(p.URL)
	if err != nil {
		return ""
	}
	port := uint16(443)
	if u.Scheme == "http" {
		port = 80
	}
	authority, err := policy.ParseAuthority(u.Host, port)
	if err != nil {
		return ""
	}
	routes, _, err := bundle.LoadBy[bundle.EgressFile](activation.Open, dirs.File(bundle.Egress))
	switch {
	case err == nil:
		i := slices.IndexFunc(routes.Routes, func(r bundle.Route) bool {
			return routeAllows(&r, authority, u.Scheme == "https", u.EscapedPath(), p.Methods, now)
		})
		if i < 0 {
			return ""
		}
		rule = fmt.Sprintf("routes[%d] %s", i, routes.Routes[i].Host)
	case !notExist(dirs.File(bundle.Egress)):
		return ""
	}
	allow, _, err := bundle.LoadBy[bundle.PipelockFile](activation.Open, dirs.File(bundle.Pipelock))
	switch {
	case err == nil:
		i := slices.IndexFunc(allow.Allow, func(e bundle.Allowed) bool { return e.Host.MatchesAuthority(authority, 443, 80) && e.At(now) })
		if i < 0 {
			return ""
		}
		return cmp.Or(rule, fmt.Sprintf("allow[%d] %s", i, allow.Allow[i].Host))
	case !notExist(dirs.File(bundle.Pipelock)):
		return ""
	}
	return rule
}

// routeAllows reports whether the route allows requests with all the methods, as far as that depends on
// host, port, path and method. Routes for git alone do not count, because a URL was requested.
func routeAllows(r *bundle.Route, a policy.Authority, tls bool, path string, methods []string, now time.Time) bool {
	ports := []uint16{443}
	if r.PlainHTTP && !tls {
		ports = []uint16{80}
	}
	switch {
	case r.Git != "", !r.Host.MatchesAuthority(a, ports...):
		return false
	case !tls && !r.PlainHTTP && (r.Auth != nil || r.Host.MatchesAuthority(policy.Authority{Host: a.Host, Port: 443}, 443)):
		return false
	case !r.Expires.IsZero() && !now.Before(r.Expires):
		return false
	case len(r.Paths) > 0 && !policy.Names(r.Paths, path):
		return false
	}
	return len(r.Methods) == 0 || !slices.ContainsFunc(methods, func(m string) bool { return !slices.Contains(r.Methods, m) })
}
