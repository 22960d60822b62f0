package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"airlock/hostctl/pair"
	"airlock/hostctl/workspace"
	"airlock/internal/cage"
)

// stopGrace is how long the sidecars may drain; they give their daemons 8 s.
const stopGrace = 10 * time.Second

// Start runs the agent's command, detached: its output goes into the log.
func (b *Backend) Start(_ context.Context, name string) error {
	r, err := b.loadReady(name)
	if err != nil {
		return err
	}
	return cage.Detach(r.Plan.Run(), r.agentCommand())
}

// Attach runs the agent's command with the caller's streams and returns its
// exit code.
func (b *Backend) Attach(ctx context.Context, name string, streams pair.IO) (int, error) {
	r, err := b.loadReady(name)
	if err != nil {
		return 1, err
	}
	if !r.Plan.Agent.Stdin && streams.TTY == nil {
		streams.Stdin = nil
	}
	cmd := r.agentCommand()
	cmd.Tied = r.Plan.Tied
	return cage.Exec(ctx, r.Plan.Run(), cmd, streams)
}

// Exec runs one more command in the agent's cage and returns its exit code.
func (b *Backend) Exec(ctx context.Context, name string, argv []string, streams pair.IO) (int, error) {
	r, err := b.loadReady(name)
	if err != nil {
		return 1, err
	}
	cmd := r.agentCommand()
	cmd.Argv, cmd.Main = argv, false
	return cage.Exec(ctx, r.Plan.Run(), cmd, streams)
}

func (r *record) agentCommand() cage.Command {
	a := r.Plan.Agent
	env := a.Environ()
	for _, d := range [][2]string{{"HOME", pair.HomeDir}, {"PATH", "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"}, {"USER", "agent"}} {
		if _, set := a.Env[d[0]]; !set {
			env = append(env, d[0]+"="+d[1])
		}
	}
	return cage.Command{Argv: a.Command, Env: env, Dir: a.WorkDirOrDefault(), Main: true}
}

// Ctl runs the applet ctl against the sidecars and returns its exit code.
func (b *Backend) Ctl(ctx context.Context, name string, argv []string, streams pair.IO) (int, error) {
	r, err := b.loadReady(name)
	if err != nil {
		return 1, err
	}
	return r.ctl(ctx, argv, streams)
}

// List finds every pair that has a record, whole or not.
func (b *Backend) List(context.Context) ([]pair.Status, error) {
	found, err := filepath.Glob(filepath.Join(b.root, "*", recordName))
	if err != nil {
		return nil, fmt.Errorf("looking for pairs: %w", err)
	}
	slices.Sort(found)
	var all []pair.Status
	var errs []error
	for _, path := range found {
		r, err := b.load(filepath.Base(filepath.Dir(path)))
		if errors.Is(err, pair.ErrAbsent) {
			continue // deleted while we looked
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		all = append(all, r.status())
	}
	return all, errors.Join(errs...)
}

func (r *record) status() pair.Status {
	s := pair.Status{Name: r.Plan.Name, Backend: Name, Created: r.Created, Agent: strings.Join(r.Plan.Agent.Command, " "), Missing: r.Missing}
	switch {
	case !r.Ready:
		s.State = pair.Creating
	case !r.Cage.alive() || !r.Supervisor.alive():
		s.State = pair.Broken
	default:
		s.State, s.Exit = r.agentState()
	}
	return s
}

func (r *record) agentState() (string, *int) {
	a, err := cage.Ask(r.Plan.Run())
	switch {
	case err != nil:
		return pair.Broken, nil
	case a.Exited:
		return pair.Exited, &a.Exit
	case a.Started:
		return pair.Running, nil
	}
	return pair.Created, nil
}

// Delete ends the pair's processes and removes what Create made, but for the
// logs and what the sidecars keep. Deleting what is absent succeeds.
func (b *Backend) Delete(ctx context.Context, name string) error {
	r, err := b.load(name)
	if errors.Is(err, pair.ErrAbsent) {
		return nil
	}
	if err != nil {
		return err
	}
	// The agent first: then there is nobody left whom the sidecars could serve.
	if r.Cage.alive() {
		_ = cage.Stop(r.Plan.Run()) // what does not listen is killed next
	}
	if err := r.Cage.end(ctx, unix.SIGKILL, stopGrace); err != nil {
		return err
	}
	if err := r.Supervisor.end(ctx, unix.SIGTERM, stopGrace); err != nil {
		return err
	}
	err = errors.Join(workspace.Remove(ctx, workspaceCopy(r.Plan)), workspace.Remove(ctx, r.Plan.Run()))
	if err != nil {
		return fmt.Errorf("removing the pair's folders: %w", err)
	}
	if err := os.Remove(recordPath(r.Plan.Dir)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing the pair's record: %w", err)
	}
	return nil
}
