package hostctl

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"airlock/hostctl/pair"
	"airlock/internal/audit"
	"airlock/internal/config"
	"airlock/internal/control"
	"airlock/internal/policy"
)

const (
	exactPaths = 4 // a route lists up to this many paths as they are
	manyPaths  = 8 // from this many first segments on, any path is meant
	manyHosts  = 3 // from this many hosts below one domain on, a person is told
)

// suggestion is what covers the requests that learn mode let pass.
type suggestion struct {
	requests int
	routes   []ManifestRoute
	notes    []string // what a person may want to widen
}

// seen is what was asked of one authority: methods by path.
type seen struct {
	git   map[string]bool // repositories that were fetched from
	paths map[string]map[string]bool
}

// suggest finds the smallest routes for what learn mode let pass.
func suggest(entries []audit.Entry) suggestion {
	s := suggestion{routes: []ManifestRoute{}}
	hosts := map[policy.Authority]seen{}
	for _, e := range entries {
		a, err := policy.ParseAuthority(e.Host, 0)
		if err != nil || e.Rule != "learn" || e.Verdict != "allow" {
			continue
		}
		s.requests++
		if _, known := hosts[a]; !known {
			hosts[a] = seen{map[string]bool{}, map[string]map[string]bool{}}
		}
		hosts[a].add(e.Method, e.Path)
	}
	order := slices.SortedFunc(maps.Keys(hosts), func(a, b policy.Authority) int {
		return cmp.Or(strings.Compare(a.Host.String(), b.Host.String()), cmp.Compare(a.Port, b.Port))
	})
	for _, a := range order {
		if host, err := policy.ParsePattern(a.HostFor(443)); err == nil {
			s.routes = append(s.routes, hosts[a].routes(host)...)
		}
	}
	s.notes = families(order)
	return s
}

// add takes one request. git's fetch over HTTPS is known by its two paths
// (gitprotocol-http).
func (s seen) add(method, escaped string) {
	for service, by := range map[string]string{"/info/refs": "GET", "/git-upload-pack": "POST"} {
		if repo, ok := strings.CutSuffix(escaped, service); ok && method == by {
			s.git[strings.TrimSuffix(learnt(repo), "/*")+"/*"] = true
			return
		}
	}
	path := learnt(escaped)
	if s.paths[path] == nil {
		s.paths[path] = map[string]bool{}
	}
	s.paths[path][method] = true
}

// learnt is a path of the audit as a rule would be written. The audit
// shortens what could hold a secret: there the rule ends in a star, and so it
// does before a character that a rule cannot name.
func learnt(escaped string) string {
	before, _, cut := strings.Cut(escaped, "…")
	path, err := policy.CleanPath(before)
	if star := strings.IndexAny(path, "*%"); err == nil && star >= 0 {
		path, cut = path[:star], true
	}
	if err != nil {
		path, cut = "/", true
	}
	if cut {
		return path[:strings.LastIndexByte(path, '/')+1] + "*"
	}
	return path
}

// routes are up to three: for git, for what is only read, and for the rest, so
// that a method which was used on one path is not allowed on all.
func (s seen) routes(host policy.Pattern) (all []ManifestRoute) {
	if len(s.git) > 0 {
		all = append(all, ManifestRoute{Host: host, Git: "fetch", Paths: fold(slices.Sorted(maps.Keys(s.git)))})
	}
	var paths [2][]string
	methods := [2]map[string]bool{{}, {}}
	for path, used := range s.paths {
		kind := 0
		for m := range used {
			if m != "GET" && m != "HEAD" && m != "OPTIONS" {
				kind = 1
			}
		}
		paths[kind] = append(paths[kind], path)
		maps.Copy(methods[kind], used)
	}
	for kind := range paths {
		if len(paths[kind]) > 0 {
			slices.Sort(paths[kind])
			all = append(all, ManifestRoute{Host: host, Methods: slices.Sorted(maps.Keys(methods[kind])), Paths: fold(paths[kind])})
		}
	}
	return all
}

// fold makes a few patterns of sorted paths: as they are while they are few,
// else one for each first segment that has several, the largest first. None
// means any path.
func fold(paths []string) []policy.PathPattern {
	paths = uncovered(paths)
	groups := map[string][]string{}
	for _, p := range paths {
		first, _, deeper := strings.Cut(strings.TrimPrefix(p, "/"), "/")
		if !deeper {
			first = p // stands for itself
		}
		groups[first] = append(groups[first], p)
	}
	order := slices.SortedFunc(maps.Keys(groups), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(groups[b]), len(groups[a])), strings.Compare(a, b))
	})
	for lines := len(paths); len(order) > 0 && lines > exactPaths && len(groups[order[0]]) > 1; order = order[1:] {
		lines -= len(groups[order[0]]) - 1
		groups[order[0]] = []string{commonFolder(groups[order[0]]) + "*"}
	}
	if len(groups) > manyPaths {
		return nil
	}
	var all []policy.PathPattern
	for _, p := range slices.Sorted(maps.Keys(groups)) {
		for _, path := range groups[p] {
			all = append(all, policy.PathPattern(path))
		}
	}
	slices.Sort(all)
	if len(all) == 1 && all[0] == "/*" {
		return nil
	}
	return all
}

// uncovered leaves out what a pattern among the paths names anyway.
func uncovered(paths []string) []string {
	return slices.DeleteFunc(slices.Clone(paths), func(p string) bool {
		return slices.ContainsFunc(paths, func(other string) bool {
			return other != p && policy.PathPattern(other).Matches(strings.TrimSuffix(p, "*")) && strings.HasSuffix(other, "*")
		})
	})
}

// commonFolder is the deepest folder in which all the paths lie, with a slash
// at the end.
func commonFolder(paths []string) string {
	common := paths[0]
	for _, p := range paths {
		for !strings.HasPrefix(p, common) {
			common = common[:strings.LastIndexByte(strings.TrimSuffix(common, "/"), '/')+1]
		}
		common = common[:strings.LastIndexByte(common, '/')+1]
	}
	return common
}

// families names the domains below which many hosts were seen. A wildcard is
// never suggested by itself: it names hosts that nobody has seen.
func families(hosts []policy.Authority) (notes []string) {
	members := map[string]map[policy.Host]bool{}
	for _, a := range hosts {
		if _, parent, ok := strings.Cut(a.HostFor(443), "."); ok && !a.Host.Addr().IsValid() {
			if members["*."+parent] == nil {
				members["*."+parent] = map[policy.Host]bool{}
			}
			members["*."+parent][a.Host] = true
		}
	}
	for _, wide := range slices.Sorted(maps.Keys(members)) {
		if _, err := policy.ParsePattern(wide); err == nil && len(members[wide]) >= manyHosts {
			notes = append(notes, fmt.Sprintf("%d hosts were seen that %q would name; it names all others there, too", len(members[wide]), wide))
		}
	}
	return notes
}

// text is the suggestion as a part of a manifest.
func (s suggestion) text() (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "# learn mode let %d requests pass that no route names\n", s.requests)
	for _, n := range s.notes {
		fmt.Fprintf(&b, "# %s\n", n)
	}
	data, err := config.Encode(struct {
		Egress ManifestEgress `yaml:"egress"`
	}{ManifestEgress{Routes: s.routes}})
	b.Write(data)
	return b.String(), err
}

// suggestionView is a suggestion as JSON.
type suggestionView struct {
	Requests int             `json:"requests"`
	Routes   []control.Route `json:"routes"`
	Notes    []string        `json:"notes,omitempty"`
}

func (s suggestion) view() suggestionView {
	v := suggestionView{s.requests, []control.Route{}, s.notes}
	for _, r := range s.routes {
		route := control.Route{Host: r.Host.String(), Methods: r.Methods, Git: r.Git}
		for _, p := range r.Paths {
			route.Paths = append(route.Paths, string(p))
		}
		v.Routes = append(v.Routes, route)
	}
	return v
}

// readAudit reads the entries of a chain that are not older than since.
func readAudit(r io.Reader, since time.Time) (all []audit.Entry, err error) {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil { // a last line without its end is still being written
			return all, ignoreEOF(err)
		}
		var e audit.Entry
		if err := json.Unmarshal(bytes.TrimSpace(line), &e); err != nil {
			return nil, fmt.Errorf("reading the audit: a line is no entry: %w", err)
		}
		if e.Rule == "learn" && !e.Time.Before(since) {
			all = append(all, e)
		}
	}
}

func ignoreEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return fmt.Errorf("reading the audit: %w", err)
}

func (c *controller) suggestCommand() *cobra.Command {
	var since time.Duration
	cmd := &cobra.Command{
		Use: "suggest NAME", Short: "Print the smallest routes for what learn mode let pass", Args: exactly(1, "the name of a pair"),
		Example: "  hostctl routes suggest demo --since 2h",
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := c.suggest(args[0], since)
			if err != nil {
				return err
			}
			if c.json {
				return c.print(s.view())
			}
			text, err := s.text()
			fmt.Fprint(c.out, text)
			return err
		},
	}
	cmd.Flags().DurationVar(&since, "since", 0, "only of the last time, like 2h (default: all that the audit has)")
	return cmd
}

func (c *controller) suggest(name string, since time.Duration) (suggestion, error) {
	path, err := c.store.egressAudit(name)
	if err != nil {
		return suggestion{}, err
	}
	f, err := os.Open(path)
	if err != nil {
		return suggestion{}, fmt.Errorf("reading the audit: %w", err)
	}
	defer f.Close()
	var from time.Time
	if since > 0 {
		from = time.Now().Add(-since)
	}
	entries, err := readAudit(f, from)
	return suggest(entries), err
}

// egressAudit is where a pair's requests are written down, or were: of a pair
// that has ended, the audit of its last life.
func (s store) egressAudit(name string) (string, error) {
	card, err := s.read(name)
	if err == nil {
		return filepath.Join(card.Plan.State(), "audit", "egress.jsonl"), nil
	}
	if !errors.Is(err, pair.ErrAbsent) {
		return "", err
	}
	entries, _ := os.ReadDir(s.ended()) // none: no pair has ended
	for _, e := range slices.Backward(entries) {
		when, found := strings.CutPrefix(e.Name(), name+"-")
		if _, bad := time.Parse(endedForm, when); found && bad == nil {
			return filepath.Join(s.ended(), e.Name(), "audit", "egress.jsonl"), nil
		}
	}
	return "", err
}
