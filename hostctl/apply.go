package hostctl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"airlock/hostctl/pair"
	"airlock/internal/audit"
	"airlock/internal/bundle"
	"airlock/internal/ca"
	"airlock/internal/config"
	"airlock/internal/control"
	"airlock/internal/policy"
	"airlock/internal/proposal"
)

// grant is how an operator widens or narrows what a proposal asks for.
type grant struct {
	paths   []string      // empty: the path that was asked for
	methods []string      // empty: the methods that were asked for
	length  time.Duration // 0: until the pair ends
}

// widen is the pure half of an approval: the two files as they shall be. A
// proposal gives a host, methods and a path, and nothing else: no credential.
func widen(p proposal.Proposal, g grant, e bundle.EgressFile, l bundle.PipelockFile, now time.Time) (bundle.EgressFile, bundle.PipelockFile, error) {
	u, err := url.Parse(p.URL)
	if err != nil {
		return e, l, fmt.Errorf("the proposal's URL: %w", err)
	}
	port := uint16(443)
	if u.Scheme == "http" {
		port = 80
	}
	authority, err := policy.ParseAuthority(u.Host, port)
	if err != nil {
		return e, l, err
	}
	host, err := policy.ParsePattern(authority.HostFor(443))
	if err != nil {
		return e, l, err
	}
	route := bundle.Route{Host: host, Methods: p.Methods, Paths: []policy.PathPattern{policy.PathPattern(u.Path)}}
	if len(g.methods) > 0 {
		route.Methods = g.methods
	}
	if len(g.paths) > 0 {
		route.Paths = nil
		for _, path := range g.paths {
			route.Paths = append(route.Paths, policy.PathPattern(path))
		}
	}
	if g.length > 0 {
		route.Expires = now.Add(g.length).UTC().Truncate(time.Second)
	}
	e.Routes = append(slices.Clone(e.Routes), route)
	l.Allow = allow(slices.Clone(l.Allow), bundle.Allowed{Host: host})
	return e, l, nil
}

// change is one file on its way.
type change struct {
	daemon   string
	path     string
	old, new []byte
}

// approve applies a proposal, tells the agent, and writes both down. When the
// new policy does not come into force the old one is put back.
func (c *controller) approve(ctx context.Context, name, id, note string, g grant) error {
	card, b, err := c.of(ctx, name)
	if err != nil {
		return err
	}
	unlock, err := c.store.lock(name)
	if err != nil {
		return err
	}
	defer unlock()
	p, err := c.find(ctx, b, name, id)
	if err != nil {
		return err
	}
	switch p.Kind {
	case proposal.Question:
		return usagef("%s is a question: answer it with: hostctl answer %s TEXT", id, id)
	case proposal.Overwritten:
		return usagef("%s is a notice and needs no approval: hostctl deny %s takes it off the list", id, id)
	case proposal.Fault:
		return c.restart(ctx, b, card.Plan, p)
	case proposal.Leak:
		return c.release(ctx, b, card.Plan, p, note, g)
	}
	changes, err := planned(card.Plan, p, note, g)
	if err != nil {
		return err
	}
	if err := c.record(card.Plan, audit.Entry{Verdict: "allow", Rule: "approve", Why: added(changes), Host: hostOf(p.URL), Proposal: id, By: operator()}); err != nil {
		return err
	}
	if err := c.apply(ctx, b, name, changes); err != nil {
		return fmt.Errorf("the old policy stays and %s is still open: %w", id, err)
	}
	if err := ctl(ctx, b, name, nil, "answer", id, proposal.Approved, note); err != nil {
		err = errors.Join(err, c.apply(context.WithoutCancel(ctx), b, name, reversed(changes)))
		return fmt.Errorf("the agent could not be told, so the old policy is back: %w", err)
	}
	fmt.Fprint(c.out, added(changes))
	return nil
}

// planned says how the files shall be when a proposal is approved.
func planned(p pair.Plan, prop proposal.Proposal, note string, g grant) ([]change, error) {
	if prop.Kind == proposal.GitAllow {
		return planGitAllow(p, prop, note, g, time.Now())
	}
	if err := mayVouch(p, prop.URL); err != nil {
		return nil, err
	}
	return plan(p, prop, g)
}

// mayVouch refuses a grant that could not take effect: the authority of the
// pair is constrained to other hosts, and the agent has read it already.
func mayVouch(p pair.Plan, rawURL string) error {
	target, err := policy.ParseTarget(rawURL)
	if err != nil {
		return fmt.Errorf("the proposal's URL: %w", err)
	}
	authority, err := ca.Read(filepath.Join(p.Etc(), "ca", "ca.crt"))
	if err != nil {
		return err
	}
	if target.TLS && !ca.Permits(authority, target.Authority.Host) {
		return fmt.Errorf("the pair's authority is constrained and may not speak for %s: add the host to the manifest and start the pair anew", target.Authority.Host)
	}
	return nil
}

// restart starts a daemon again that has failed. The supervisor closes its
// question when the daemon serves.
func (c *controller) restart(ctx context.Context, b backend, plan pair.Plan, p proposal.Proposal) error {
	if err := c.record(plan, audit.Entry{Verdict: "allow", Rule: "restart", Why: p.Daemon, Proposal: p.ID, By: operator()}); err != nil {
		return err
	}
	if err := ctl(ctx, b, plan.Name, nil, "restart", p.Daemon); err != nil {
		return fmt.Errorf("%s is still down: %w", p.Daemon, err)
	}
	fmt.Fprintf(c.out, "%s serves again\n", p.Daemon)
	return nil
}

// release lets one request pass that waits. It changes no policy: the next one
// like it is asked about again.
func (c *controller) release(ctx context.Context, b backend, plan pair.Plan, p proposal.Proposal, note string, g grant) error {
	if g.length != 0 || len(g.paths) > 0 || len(g.methods) > 0 {
		return usagef("%s is about one request: --for, --path and --method make no sense for it", p.ID)
	}
	if err := c.record(plan, audit.Entry{Verdict: "allow", Rule: "release", Why: p.Why, Host: hostOf(p.URL), Method: strings.Join(p.Methods, ","), Proposal: p.ID, By: operator()}); err != nil {
		return err
	}
	var after proposal.Proposal
	if err := ctl(ctx, b, plan.Name, &after, "answer", p.ID, proposal.Approved, note); err != nil {
		return err
	}
	if after.State != proposal.Approved {
		return fmt.Errorf("%s: %s", p.ID, after.Answer)
	}
	fmt.Fprintln(c.out, "that request passes, and no other one")
	return nil
}

// reversed are the changes that undo these.
func reversed(changes []change) []change {
	var all []change
	for _, ch := range slices.Backward(changes) {
		all = append(all, change{ch.daemon, ch.path, ch.new, ch.old})
	}
	return all
}

// added are the new lines of all files, for the audit.
func added(changes []change) string {
	var b strings.Builder
	for _, ch := range changes {
		b.WriteString(diff(ch))
	}
	return b.String()
}

// plan reads the files as they are and says how they shall be.
func plan(p pair.Plan, prop proposal.Proposal, g grant) ([]change, error) {
	egress, lock := change{daemon: bundle.Egress, path: filepath.Join(p.Etc(), "egress.yaml")}, change{daemon: bundle.Pipelock, path: filepath.Join(p.Etc(), "pipelock.yaml")}
	var e bundle.EgressFile
	var l bundle.PipelockFile
	var err error
	if egress.old, err = readInto(egress.path, &e); err != nil {
		return nil, err
	}
	if lock.old, err = readInto(lock.path, &l); err != nil {
		return nil, err
	}
	if e, l, err = widen(prop, g, e, l, time.Now()); err != nil {
		return nil, err
	}
	if egress.new, err = render("the new route", e); err != nil {
		return nil, err
	}
	if lock.new, err = render("the new allowlist", l); err != nil {
		return nil, err
	}
	// The allowlist first: a route to where nothing may go would mislead.
	all := []change{lock, egress}
	return slices.DeleteFunc(all, func(ch change) bool { return bytes.Equal(ch.old, ch.new) }), nil
}

func readInto(path string, file any) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the policy: %w", err)
	}
	return data, config.Decode(path, data, file)
}

// apply writes the files one after another and waits until each daemon
// reports that it runs the new one.
func (c *controller) apply(ctx context.Context, b backend, name string, changes []change) error {
	for i, ch := range changes {
		if err := put(ctx, b, name, ch.daemon, ch.path, ch.new); err != nil {
			for _, done := range slices.Backward(changes[:i+1]) {
				err = errors.Join(err, put(context.WithoutCancel(ctx), b, name, done.daemon, done.path, done.old))
			}
			return err
		}
	}
	return nil
}

// put brings one file into force.
func put(ctx context.Context, b backend, name, daemon, path string, data []byte) error {
	if err := writeFile(path, data, 0o600); err != nil {
		return err
	}
	verb := "restart"
	if daemon == bundle.Egress {
		verb = "reload"
	}
	if err := ctl(ctx, b, name, nil, verb, daemon); err != nil {
		return fmt.Errorf("%s: %w", daemon, err)
	}
	var st control.Status
	if err := ctl(ctx, b, name, &st, "status", "--json"); err != nil {
		return err
	}
	d, _ := st.Find(daemon)
	if want := config.Digest(data); d.Digest != want {
		return fmt.Errorf("%s does not run the new file: %s", daemon, d.Error)
	}
	return nil
}

// ctl runs a command in the sidecars and decodes what it prints into out.
func ctl(ctx context.Context, b backend, name string, out any, argv ...string) error {
	var stdout, stderr bytes.Buffer
	exit, err := b.Ctl(ctx, name, argv, pair.IO{Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		return err
	}
	if exit != 0 {
		return errors.New(strings.TrimPrefix(strings.TrimSpace(stderr.String()), "sidecars: "))
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(stdout.Bytes(), out); err != nil {
		return fmt.Errorf("reading what ctl %s printed: %w", argv[0], err)
	}
	return nil
}

// find reads one proposal that is still open.
func (c *controller) find(ctx context.Context, b backend, name, id string) (proposal.Proposal, error) {
	var all []proposal.Proposal
	if err := ctl(ctx, b, name, &all, "proposals"); err != nil {
		return proposal.Proposal{}, err
	}
	i := slices.IndexFunc(all, func(p proposal.Proposal) bool { return p.ID == id })
	if i < 0 {
		return proposal.Proposal{}, fmt.Errorf("%s: %w; see: hostctl proposals", id, proposal.ErrAbsent)
	}
	if all[i].State != proposal.Pending {
		return proposal.Proposal{}, fmt.Errorf("%s: %w: %s", id, proposal.ErrAnswered, all[i].State)
	}
	return all[i], nil
}

// answer closes a proposal without changing a policy.
func (c *controller) answer(ctx context.Context, name, id, state, note string) error {
	card, b, err := c.of(ctx, name)
	if err != nil {
		return err
	}
	unlock, err := c.store.lock(name)
	if err != nil {
		return err
	}
	defer unlock()
	p, err := c.find(ctx, b, name, id)
	if err != nil {
		return err
	}
	verdict := "deny"
	if state == proposal.Answered {
		verdict = "answer"
		if p.Kind != proposal.Question {
			return usagef("%s is no question: approve or deny it", id)
		}
	}
	if err := c.record(card.Plan, audit.Entry{Verdict: verdict, Rule: state, Host: hostOf(p.URL), Proposal: id, By: operator()}); err != nil {
		return err
	}
	return ctl(ctx, b, name, nil, "answer", id, state, note)
}

// record writes a line into the host's own chain of the pair.
func (c *controller) record(p pair.Plan, e audit.Entry) error {
	log, err := audit.Open(filepath.Join(p.Dir, "audit", "hostctl.jsonl"), "hostctl", p.Name)
	if err != nil {
		return err
	}
	defer log.Close()
	return log.Record(e)
}

func operator() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return fmt.Sprintf("uid %d", os.Getuid())
}

func hostOf(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil {
		return ""
	}
	return u.Host
}

// diff shows which lines of a file are new.
func diff(ch change) string {
	old := strings.Split(string(ch.old), "\n")
	var b strings.Builder
	fmt.Fprintf(&b, "%s.yaml:\n", ch.daemon)
	for _, line := range strings.Split(string(ch.new), "\n") {
		if i := slices.Index(old, line); i >= 0 {
			old = slices.Delete(old, i, i+1)
			continue
		}
		fmt.Fprintf(&b, "+ %s\n", line)
	}
	return b.String()
}
