package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"airlock/hostctl/pair"
	"airlock/hostctl/workspace"
)

// Seconds that a container has between SIGTERM and SIGKILL; the sidecars give
// their daemons eight.
const (
	agentGrace    = 3
	sidecarsGrace = 10
)

// Start starts the agent's container, detached.
func (b *Backend) Start(ctx context.Context, name string) error {
	c, err := b.inspect(ctx, name, roleAgent)
	if err != nil {
		return err
	}
	if c.State.Running {
		return errors.New("the agent's command runs already")
	}
	if err := checkSource(c); err != nil {
		return err
	}
	if _, err := b.engine.ContainerStart(ctx, c.ID, client.ContainerStartOptions{}); err != nil {
		return fmt.Errorf("starting the agent: %w", err)
	}
	return nil
}

// Attach starts the agent's container with the caller's streams and returns
// the exit code of its command. When ctx ends the command gets SIGTERM, and
// SIGKILL three seconds later.
func (b *Backend) Attach(ctx context.Context, name string, streams pair.IO) (int, error) {
	c, err := b.inspect(ctx, name, roleAgent)
	if err != nil {
		return 1, err
	}
	if c.State.Running {
		return 1, errors.New("the agent's command runs already")
	}
	if err := checkSource(c); err != nil {
		return 1, err
	}
	if !c.Config.OpenStdin {
		streams.Stdin = nil
	}
	whole := context.WithoutCancel(ctx)
	conn, err := b.engine.ContainerAttach(whole, c.ID, client.ContainerAttachOptions{Stream: true, Stdin: c.Config.OpenStdin, Stdout: true, Stderr: true})
	if err != nil {
		return 1, fmt.Errorf("attaching to the agent: %w", err)
	}
	wait := b.engine.ContainerWait(whole, c.ID, client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
	if _, err := b.engine.ContainerStart(ctx, c.ID, client.ContainerStartOptions{}); err != nil {
		conn.Close()
		return 1, fmt.Errorf("starting the agent: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = b.stop(whole, c.ID, agentGrace) }) // waiting tells how it went
	defer stop()
	err = stream(conn.HijackedResponse, c.Config.Tty, streams, func(rows, cols uint) {
		_, _ = b.engine.ContainerResize(whole, c.ID, client.ContainerResizeOptions{Height: rows, Width: cols}) // a wrong size hurts nobody
	})
	if err != nil {
		return 1, err
	}
	code, err := ended(wait)
	if err != nil {
		return 1, fmt.Errorf("waiting for the agent: %w", err)
	}
	return code, nil
}

// checkSource looks again for links on the way to a bound workspace, at the
// last moment before the engine follows the path.
func checkSource(c container.InspectResponse) error {
	for _, m := range c.HostConfig.Mounts {
		if m.Target != pair.WorkspaceDir || c.Config.Labels[labelMode] != string(pair.Bind) {
			continue
		}
		dir, err := workspace.Open(m.Source)
		if err != nil {
			return err
		}
		dir.Close()
	}
	return nil
}

// Exec runs one more command in the agent's container, which must run.
func (b *Backend) Exec(ctx context.Context, name string, argv []string, streams pair.IO) (int, error) {
	c, err := b.running(ctx, name, roleAgent)
	if err != nil {
		return 1, err
	}
	return b.exec(ctx, c.ID, append(guarded(), argv...), streams)
}

// Ctl runs the applet ctl in the sidecars and returns its exit code.
func (b *Backend) Ctl(ctx context.Context, name string, argv []string, streams pair.IO) (int, error) {
	c, err := b.running(ctx, name, roleSidecars)
	if err != nil {
		return 1, err
	}
	sidecars, _ := users()
	if err := giveToSidecars(ctx, b.dir(name), sidecars); err != nil {
		return 1, err
	}
	return b.exec(ctx, c.ID, append([]string{binary, "ctl"}, argv...), streams)
}

// Logs writes what the sidecars and the agent have printed, each line with the
// name of its half, and with follow what they go on to print, until ctx ends
// or both have ended.
func (b *Backend) Logs(ctx context.Context, name string, follow bool, w io.Writer) error {
	var all sync.WaitGroup
	var one sync.Mutex
	errs := make([]error, 2)
	for i, role := range []string{roleSidecars, roleAgent} {
		c, err := b.inspect(ctx, name, role)
		if errors.Is(err, pair.ErrAbsent) && role == roleAgent {
			continue // the start did not get so far
		}
		if err != nil {
			return errors.Join(err, b.settle(&all, errs))
		}
		all.Go(func() {
			errs[i] = b.logsOf(ctx, c, follow, &prefixer{mu: &one, w: w, prefix: fmt.Sprintf("%-8s | ", role)})
		})
		if !follow {
			all.Wait() // one after the other
		}
	}
	return b.settle(&all, errs)
}

func (b *Backend) settle(all *sync.WaitGroup, errs []error) error {
	all.Wait()
	return errors.Join(errs...)
}

func (b *Backend) logsOf(ctx context.Context, c container.InspectResponse, follow bool, w *prefixer) error {
	logs, err := b.engine.ContainerLogs(ctx, c.ID, client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Follow: follow})
	if err != nil {
		return fmt.Errorf("reading the log: %w", err)
	}
	defer logs.Close()
	if c.Config.Tty {
		_, err = io.Copy(w, logs)
	} else {
		_, err = stdcopy.StdCopy(w, w, logs)
	}
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("reading the log: %w", err)
	}
	return w.flush()
}

// prefixer puts a name before each line. Lines of several of them that share
// the lock do not mix.
type prefixer struct {
	mu     *sync.Mutex
	w      io.Writer
	prefix string
	rest   []byte
}

func (p *prefixer) Write(data []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rest = append(p.rest, data...)
	for {
		i := bytes.IndexByte(p.rest, '\n')
		if i < 0 {
			return len(data), nil
		}
		if _, err := fmt.Fprintf(p.w, "%s%s\n", p.prefix, bytes.TrimRight(p.rest[:i], "\r")); err != nil {
			return 0, err
		}
		p.rest = p.rest[i+1:]
	}
}

func (p *prefixer) flush() error {
	if len(p.rest) == 0 {
		return nil
	}
	_, err := p.Write([]byte("\n"))
	return err
}

// List finds every pair of ours on the engine, whole or not.
func (b *Backend) List(ctx context.Context) ([]pair.Status, error) {
	found, err := b.engine.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: b.filter("")})
	if err != nil {
		return nil, fmt.Errorf("listing containers: %w", err)
	}
	networks, err := b.engine.NetworkList(ctx, client.NetworkListOptions{Filters: b.filter("")})
	if err != nil {
		return nil, fmt.Errorf("listing networks: %w", err)
	}
	pairs := map[string]map[string]container.Summary{}
	for _, n := range networks.Items {
		pairs[n.Labels[labelPair]] = map[string]container.Summary{}
	}
	for _, c := range found.Items {
		if pairs[c.Labels[labelPair]] == nil {
			pairs[c.Labels[labelPair]] = map[string]container.Summary{}
		}
		pairs[c.Labels[labelPair]][c.Labels[labelRole]] = c
	}
	var all []pair.Status
	for _, name := range slices.Sorted(maps.Keys(pairs)) {
		s, err := b.status(ctx, name, pairs[name])
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

func (b *Backend) status(ctx context.Context, name string, roles map[string]container.Summary) (pair.Status, error) {
	s := pair.Status{Name: name, Backend: Name, State: pair.Creating}
	sidecars, agent := roles[roleSidecars], roles[roleAgent]
	if sidecars.ID != "" {
		s.Created = time.Unix(sidecars.Created, 0).UTC()
	}
	if agent.ID == "" {
		return s, nil // the last thing that Create makes
	}
	c, err := b.inspect(ctx, name, roleAgent)
	if errors.Is(err, pair.ErrAbsent) {
		return s, nil // deleted while we looked
	}
	if err != nil {
		return s, err
	}
	s.Agent = strings.Join(c.Config.Cmd, " ")
	switch {
	case sidecars.State != container.StateRunning || roles[roleNet].State != container.StateRunning:
		s.State = pair.Broken
	case c.State.Running:
		s.State = pair.Running
	case c.State.Status == container.StateCreated:
		s.State = pair.Created
	default:
		s.State, s.Exit = pair.Exited, &c.State.ExitCode
	}
	return s, nil
}

// Delete removes what Create made, the agent first, but for what the sidecars
// keep. Deleting what is absent succeeds.
func (b *Backend) Delete(ctx context.Context, name string) error {
	if err := pair.CheckName(name); err != nil {
		return err
	}
	found, err := b.engine.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: b.filter(name)})
	if err != nil {
		return fmt.Errorf("looking for the containers of %s: %w", name, err)
	}
	order := []string{roleAgent, roleProbe, roleSidecars, roleNet}
	slices.SortFunc(found.Items, func(a, b container.Summary) int {
		return slices.Index(order, a.Labels[labelRole]) - slices.Index(order, b.Labels[labelRole])
	})
	for _, c := range found.Items {
		if err := b.remove(ctx, c); err != nil {
			return fmt.Errorf("removing the %s of %s: %w", c.Labels[labelRole], name, err)
		}
	}
	if err := b.removeNetworks(ctx, name); err != nil {
		return err
	}
	p := pair.Plan{Dir: b.dir(name)}
	if err := errors.Join(workspace.Remove(ctx, workspaceCopy(p)), workspace.Remove(ctx, p.Run())); err != nil {
		return fmt.Errorf("removing the folders of %s: %w", name, err)
	}
	return nil
}

func (b *Backend) remove(ctx context.Context, c container.Summary) error {
	grace := agentGrace
	if c.Labels[labelRole] == roleSidecars {
		grace = sidecarsGrace
	}
	if c.State == container.StateRunning {
		if err := gone(b.stop(ctx, c.ID, grace)); err != nil {
			return err
		}
	}
	_, err := b.engine.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	if errdefs.IsConflict(err) {
		return nil // somebody removes it already
	}
	return gone(err)
}

func (b *Backend) stop(ctx context.Context, id string, seconds int) error {
	_, err := b.engine.ContainerStop(ctx, id, client.ContainerStopOptions{Timeout: &seconds})
	return err
}

func (b *Backend) removeNetworks(ctx context.Context, name string) error {
	found, err := b.engine.NetworkList(ctx, client.NetworkListOptions{Filters: b.filter(name)})
	if err != nil {
		return fmt.Errorf("looking for the networks of %s: %w", name, err)
	}
	for _, n := range found.Items {
		if _, err := b.engine.NetworkRemove(ctx, n.ID, client.NetworkRemoveOptions{}); gone(err) != nil {
			return fmt.Errorf("removing network %s: %w", n.Name, err)
		}
	}
	return nil
}
