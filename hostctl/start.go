package hostctl

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"airlock/hostctl/pair"
	"airlock/hostctl/workspace"
	"airlock/internal/ca"
)

// backend makes pairs and reaches into them. hostctl knows no more of one.
type backend interface {
	Create(ctx context.Context, p pair.Plan) error // sidecars ready, way out proven shut, agent not started
	Start(ctx context.Context, name string) error
	Attach(ctx context.Context, name string, streams pair.IO) (exit int, err error)
	Exec(ctx context.Context, name string, argv []string, streams pair.IO) (exit int, err error)
	Ctl(ctx context.Context, name string, argv []string, streams pair.IO) (exit int, err error)
	Logs(ctx context.Context, name string, follow bool, w io.Writer) error
	List(ctx context.Context) ([]pair.Status, error)
	Delete(ctx context.Context, name string) error // deleting what is absent succeeds
}

// controller is hostctl at work.
type controller struct {
	store    store
	backends map[string]func() (backend, error)
	out      io.Writer
	err      io.Writer
	json     bool
}

// backendOf opens the backend of that name; without one, docker where an
// engine answers, else local.
func (c *controller) backendOf(ctx context.Context, name string) (string, backend, error) {
	if name != "" {
		open, ok := c.backends[name]
		if !ok {
			return "", nil, usagef("backend %q: local or docker was wanted", name)
		}
		b, err := open()
		return name, b, err
	}
	if b, err := c.backends["docker"](); err == nil {
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		if _, err := b.List(ctx); err == nil {
			return "docker", b, nil
		}
	}
	b, err := c.backends["local"]()
	return "local", b, err
}

// of opens a pair's own backend.
func (c *controller) of(ctx context.Context, name string) (card, backend, error) {
	card, err := c.store.read(name)
	if err != nil {
		return card, nil, err
	}
	_, b, err := c.backendOf(ctx, card.Backend)
	return card, b, err
}

// options of a start.
type options struct {
	manifest, backend, name string
	trust                   bool
	dryRun                  bool
	tied                    bool // the pair ends with this process
	command                 []string
	sidecars, image         string
	allowMissing            []string
	streams                 pair.IO
}

// create makes a pair up to the point where its agent could start. What it
// made is undone when a step fails.
func (c *controller) create(ctx context.Context, o options) (name string, b backend, err error) {
	m, err := LoadManifest(o.manifest)
	if err != nil {
		return "", nil, err
	}
	if o.name != "" {
		m.Name = o.name
		if err := m.Validate(); err != nil {
			return "", nil, err
		}
	}
	l, err := lay(m, c.store.dir(m.Name), o.command, osLookup)
	if err != nil {
		return "", nil, err
	}
	l.plan.Sidecars, l.plan.Image, l.plan.AllowMissing = o.sidecars, o.image, o.allowMissing
	l.plan.Tied = o.tied
	l.plan.Agent.Stdin, l.plan.Agent.TTY = o.streams.Stdin != nil, o.streams.TTY != nil
	if o.dryRun {
		return "", nil, c.printPlan(l)
	}
	if err := os.MkdirAll(c.store.pairs(), 0o700); err != nil {
		return "", nil, fmt.Errorf("making the state folder: %w", err)
	}
	if err := c.findWorkspace(&l.plan); err != nil {
		return "", nil, err
	}
	if m.workspaceHas(c.store.root) {
		return "", nil, fmt.Errorf("the state folder %s lies in the workspace %s: its keys would be the agent's; set XDG_STATE_HOME to another place, or name a smaller workspace", c.store.root, m.workspace().Path)
	}
	if err := l.read(ctx, filepath.Dir(m.path)); err != nil {
		return "", nil, err
	}
	if err := c.store.trust(m, l.digest(m), o.trust); err != nil {
		return "", nil, err
	}
	which, b, err := c.backendOf(ctx, o.backend)
	if err != nil {
		return "", nil, err
	}
	unlock, err := c.store.lock(m.Name)
	if err != nil {
		return "", nil, err
	}
	defer unlock()
	if _, err := c.store.read(m.Name); err == nil {
		return "", nil, fmt.Errorf("%q: %w; stop it with: hostctl stop %s", m.Name, pair.ErrExists, m.Name)
	}
	if err := c.build(ctx, l, m, which, b); err != nil {
		return "", nil, errors.Join(err, c.store.remove(context.WithoutCancel(ctx), m.Name))
	}
	return m.Name, b, nil
}

// findWorkspace replaces the workspace's path by one without links. An agent
// that has, or had, a folder above it can have put links there, and must not
// choose what the next agent gets.
func (c *controller) findWorkspace(p *pair.Plan) error {
	w := &p.Agent.Workspace
	if w.Path == "" || w.Mode == pair.None {
		return nil
	}
	path, err := workspace.Resolve(w.Path)
	if err != nil {
		return fmt.Errorf("the workspace cannot be used: %w", err)
	}
	if workspace.InState(path, c.store.root) {
		return fmt.Errorf("the workspace %s is in a state folder of hostctl's, where keys and other agents' work are kept: name another folder", path)
	}
	w.Path = path
	if w.WithoutGit {
		return nil
	}
	return workspace.CheckGit(path, w.Mode == pair.Bind)
}

// build writes the pair's folder and lets the backend make the rest.
func (c *controller) build(ctx context.Context, l layout, m *Manifest, which string, b backend) error {
	// An image has a PATH of its own; this system's, seen from the cage, is the usual one.
	if _, set := l.plan.Agent.Env["PATH"]; !set && which == "local" {
		l.plan.Agent.Env["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	c.progress("pair %s: writing its policy and its own certificate authority", m.Name)
	if err := l.write(ctx); err != nil {
		return err
	}
	if err := c.store.write(card{Name: m.Name, Backend: which, Manifest: m.path, Digest: m.digest, Plan: l.plan}); err != nil {
		return err
	}
	var err error
	if l.plan.Secrets, err = l.credentials(ctx, filepath.Dir(m.path)); err != nil {
		return err
	}
	c.progress("pair %s: starting the sidecars (%s) and proving that nothing else can be reached", m.Name, which)
	return b.Create(ctx, l.plan)
}

// read takes the files of the host that the sidecars get.
func (l layout) read(ctx context.Context, base string) (err error) {
	for name, ref := range l.copies {
		if l.etc[name], err = ref.read(ctx, base); err != nil {
			return fmt.Errorf("reading %s for the sidecars: %w", ref.where, err)
		}
	}
	return nil
}

// digest is that of what the agent could have written: the manifest, and the files in the workspace that it names for the sidecars. It is empty
// where all of it lies elsewhere.
func (l layout) digest(m *Manifest) string {
	h := sha256.New()
	files := 0
	for _, name := range slices.Sorted(maps.Keys(l.copies)) {
		if ref := l.copies[name]; ref.kind == "file" && m.workspaceHas(expandPath(ref.where, filepath.Dir(m.path))) {
			files++
			fmt.Fprintf(h, "%s %x\n", name, sha256.Sum256(l.etc[name]))
		}
	}
	switch {
	case files > 0:
		return m.digest + " " + hex.EncodeToString(h.Sum(nil))
	case m.inWorkspace():
		return m.digest
	}
	return ""
}

// write makes the folders and files of the pair.
func (l layout) write(ctx context.Context) error {
	p := l.plan
	if err := workspace.Remove(ctx, p.Dir); err != nil { // the rest of a start that was killed
		return fmt.Errorf("making the pair's folder: %w", err)
	}
	for _, dir := range []string{p.Etc() + "/ca", p.Etc() + "/git", p.Run(), p.State(), p.Files(), p.Logs()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("making the pair's folder: %w", err)
		}
	}
	cert, key, err := ca.New(p.Name, time.Now(), l.vouches...)
	if err != nil {
		return err
	}
	l.etc["ca/ca.crt"], l.etc["ca/ca.key"], l.files["ca.crt"] = cert, key, cert
	for name, data := range l.etc {
		if err := writeFile(filepath.Join(p.Etc(), name), data, 0o600); err != nil {
			return err
		}
	}
	for name, data := range l.files {
		if err := writeFile(filepath.Join(p.Files(), name), data, 0o644); err != nil {
			return err
		}
	}
	return os.Chmod(p.Files(), 0o755)
}

// credentials reads the values behind the references.
func (l layout) credentials(ctx context.Context, base string) (map[string]string, error) {
	values := map[string]string{}
	var errs []error
	for slot, ref := range l.secrets {
		value, err := ref.resolve(ctx, base)
		errs = append(errs, err)
		values[slot] = value
	}
	return values, errors.Join(errs...)
}

// remove takes a pair's folder away.
func (s store) remove(ctx context.Context, name string) error {
	if err := pair.CheckName(name); err != nil {
		return err
	}
	if err := workspace.Remove(ctx, s.dir(name)); err != nil {
		return fmt.Errorf("removing the pair's folder: %w", err)
	}
	return nil
}

// run is start, attach, stop.
func (c *controller) run(ctx context.Context, o options) (exit int, err error) {
	name, b, err := c.create(ctx, o)
	if err != nil || b == nil {
		return 0, err
	}
	exit, err = b.Attach(ctx, name, o.streams)
	return exit, errors.Join(err, c.stop(context.WithoutCancel(ctx), name))
}

// start leaves the agent running.
func (c *controller) start(ctx context.Context, o options) error {
	name, b, err := c.create(ctx, o)
	if err != nil || b == nil {
		return err
	}
	if err := b.Start(ctx, name); err != nil {
		return errors.Join(err, c.stop(context.WithoutCancel(ctx), name))
	}
	if c.json {
		return c.print(map[string]string{"name": name})
	}
	fmt.Fprintf(c.out, "pair %s runs\n  look:  hostctl logs %s -f\n  enter: hostctl exec %s -- sh\n  stop:  hostctl stop %s\n", name, name, name, name)
	return nil
}

// stop ends a pair and keeps its audit: the folder moves to "ended".
func (c *controller) stop(ctx context.Context, name string) error {
	_, b, err := c.of(ctx, name)
	if err != nil {
		return err
	}
	unlock, err := c.store.lock(name)
	if err != nil {
		return err
	}
	defer unlock()
	if err := b.Delete(ctx, name); err != nil {
		return err
	}
	if err := c.store.keepAudit(name, time.Now()); err != nil {
		return err
	}
	return c.store.remove(ctx, name)
}

// endedForm is the time in the name of a folder of what is kept.
const endedForm = "20060102T150405.000Z"

// keepAudit moves what a person may want to read later out of the folder.
func (s store) keepAudit(name string, now time.Time) error {
	kept := filepath.Join(s.ended(), name+"-"+now.UTC().Format(endedForm))
	for from, to := range map[string]string{
		filepath.Join(s.dir(name), "state", "audit"): filepath.Join(kept, "audit"),
		filepath.Join(s.dir(name), "audit"):          filepath.Join(kept, "host"),
	} {
		if _, err := os.Stat(from); err != nil {
			continue // there was none
		}
		if err := os.MkdirAll(kept, 0o700); err != nil {
			return fmt.Errorf("keeping the audit: %w", err)
		}
		if err := os.Rename(from, to); err != nil {
			return fmt.Errorf("keeping the audit: %w", err)
		}
	}
	return nil
}
