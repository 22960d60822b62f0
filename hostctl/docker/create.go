package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"airlock/hostctl/pair"
	"airlock/hostctl/workspace"
	"airlock/internal/probe"
)

const (
	readyWithin = 20 * time.Second // for the sidecars
	probeWithin = 20 * time.Second // container and all
)

// making is one Create on its way.
type making struct {
	*Backend
	plan           pair.Plan
	image          string // of the sidecars
	agent          agentImage
	sidecars, ours user
	shown          shownFolder // the workspace, if it is bound
}

// Create makes a pair whose sidecars serve and whose agent's container has not
// started. Any error leaves nothing behind.
func (b *Backend) Create(ctx context.Context, p pair.Plan) (err error) {
	if err := b.check(p); err != nil {
		return err
	}
	if _, err := b.engine.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		return fmt.Errorf("reaching the Docker engine: %w", err)
	}
	if err := b.mustBeNew(ctx, p.Name); err != nil {
		return err
	}
	defer func() {
		if err != nil && !errors.Is(err, pair.ErrExists) {
			// Deleting is the undoing of every step, in reverse.
			err = errors.Join(err, b.Delete(context.WithoutCancel(ctx), p.Name))
		}
	}()
	m := &making{Backend: b, plan: p}
	m.sidecars, m.ours = users()
	for _, step := range []func(context.Context) error{m.images, m.folders, m.networks, m.startNet, m.startSidecars, m.waitReady, m.probe, m.makeAgent} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// mustBeNew refuses a name that any pair of this engine has, ours or not.
func (b *Backend) mustBeNew(ctx context.Context, name string) error {
	found, err := b.engine.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: make(client.Filters).Add("label", labelPair+"="+name)})
	if err != nil {
		return fmt.Errorf("looking for pairs: %w", err)
	}
	if len(found.Items) > 0 {
		return fmt.Errorf("pair %s: %w", name, pair.ErrExists)
	}
	return nil
}

func (m *making) images(ctx context.Context) (err error) {
	if m.agent, err = m.Backend.image(ctx, m.plan.Agent.Image); err != nil {
		return err
	}
	m.image, err = m.sidecarsImage(ctx, m.plan)
	return err
}

// folders hands each half of the pair what it may see.
func (m *making) folders(ctx context.Context) error {
	p := m.plan
	for _, dir := range []string{p.Etc(), p.Run(), p.State(), p.Files()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("making the pair's folders: %w", err)
		}
	}
	if err := giveToSidecars(ctx, p.Dir, m.sidecars); err != nil {
		return err
	}
	if err := workspace.MakeReadable(ctx, p.Files()); err != nil {
		return fmt.Errorf("opening the agent's files to it: %w", err)
	}
	if err := copyGuard(p.Sidecars, guardFile(p)); err != nil {
		return fmt.Errorf("copying the sidecars binary for the agent's container: %w", err)
	}
	return m.workspace(ctx)
}

// workspace copies the agent's folder, or looks at the one that is to be bound.
func (m *making) workspace(ctx context.Context) error {
	w := m.plan.Agent.Workspace
	if w.Mode != pair.Copy && w.Mode != pair.Bind {
		return nil
	}
	if w.Mode == pair.Bind {
		return m.bound(ctx)
	}
	o := workspace.CopyOptions{LeaveOut: m.root, MaxBytes: w.MaxBytesOrDefault(), WithoutGit: w.WithoutGit}
	if err := workspace.CopyWithGit(ctx, w.Path, workspaceCopy(m.plan), o); err != nil {
		return fmt.Errorf("copying the workspace: %w", err)
	}
	return m.giveWorkspace(ctx)
}

// bound looks at the folder that is to be bound.
func (m *making) bound(ctx context.Context) error {
	dir, err := workspace.Open(m.plan.Agent.Workspace.Path)
	if err != nil {
		return err
	}
	defer dir.Close()
	u, known := numeric(agentUser(m.agent, m.ours))
	if !known {
		u = user{-1, -1} // an unknown user: only what every user may write is found
	}
	if m.shown.doors, err = workspace.Doors(ctx, dir); err == nil {
		m.shown.identity, err = workspace.Identity(dir)
	}
	if err != nil {
		return fmt.Errorf("looking at the workspace: %w", err)
	}
	return workspace.CheckBound(ctx, dir, u.uid, u.gid)
}

// giveToSidecars is repeated before each use of ctl: hostctl replaces files
// under etc, and they are the sidecars' to read.
func giveToSidecars(ctx context.Context, dir string, u user) error {
	p := pair.Plan{Dir: dir}
	if err := errors.Join(workspace.Give(ctx, p.Etc(), u.uid, u.gid), workspace.Give(ctx, p.State(), u.uid, u.gid)); err != nil {
		return fmt.Errorf("handing the sidecars their files: %w", err)
	}
	return nil
}

// giveWorkspace makes the copy the agent's. Who a name of the image's is,
// only the image knows: then everybody may write, within the pair's folder,
// which nobody else can enter.
func (m *making) giveWorkspace(ctx context.Context) error {
	dir := workspaceCopy(m.plan)
	u, known := numeric(agentUser(m.agent, m.ours))
	err := workspace.Give(ctx, dir, u.uid, u.gid)
	if !known {
		err = workspace.MakeWritable(ctx, dir)
	}
	if err != nil {
		return fmt.Errorf("giving the workspace to the agent: %w", err)
	}
	return nil
}

// copyGuard makes a copy that can be executed and not be read, not even by
// its owner: no process can be traced that was executed from it.
func copyGuard(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := os.Remove(to); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o111)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Chmod(0o111), out.Close())
}

func (m *making) networks(ctx context.Context) error {
	if _, err := m.engine.NetworkCreate(ctx, objectName(m.plan.Name, roleEgress), egressNetwork(m.plan, m.root)); err != nil {
		return fmt.Errorf("making the egress network: %w", err)
	}
	return nil
}

func (m *making) startNet(ctx context.Context) error {
	if err := m.makeContainer(ctx, netContainer(m.plan, m.root, m.image)); err != nil {
		return err
	}
	if _, err := m.engine.ContainerStart(ctx, objectName(m.plan.Name, roleNet), client.ContainerStartOptions{}); err != nil {
		return fmt.Errorf("starting the agent's network: %w", err)
	}
	return nil
}

func (m *making) startSidecars(ctx context.Context) error {
	name := objectName(m.plan.Name, roleSidecars)
	if err := m.makeContainer(ctx, sidecarsContainer(m.plan, m.root, m.image, m.sidecars)); err != nil {
		return err
	}
	stdin, err := m.engine.ContainerAttach(ctx, name, client.ContainerAttachOptions{Stream: true, Stdin: true})
	if err != nil {
		return fmt.Errorf("attaching to the sidecars: %w", err)
	}
	held := false
	defer func() {
		if !held {
			stdin.Close()
		}
	}()
	if _, err := m.engine.ContainerStart(ctx, name, client.ContainerStartOptions{}); err != nil {
		return fmt.Errorf("starting the sidecars: %w", err)
	}
	secrets := m.plan.Secrets
	if secrets == nil {
		secrets = map[string]string{}
	}
	err = json.NewEncoder(stdin.Conn).Encode(secrets)
	if held = err == nil && m.plan.Tied; held {
		go func() { // holds their input open until they have ended, or this process has
			_, _ = io.Copy(io.Discard, stdin.Reader)
			stdin.Close()
		}()
		return nil
	}
	if err = errors.Join(err, stdin.CloseWrite()); err != nil {
		return fmt.Errorf("handing the secrets to the sidecars: %w", err)
	}
	return nil
}

// makeContainer creates a container; a name that is taken is a pair's.
func (b *Backend) makeContainer(ctx context.Context, options client.ContainerCreateOptions) error {
	_, err := b.engine.ContainerCreate(ctx, options)
	if errdefs.IsConflict(err) {
		return fmt.Errorf("container %s: %w", options.Name, pair.ErrExists)
	}
	if err != nil {
		return fmt.Errorf("making container %s: %w", options.Name, err)
	}
	return nil
}

func (m *making) waitReady(ctx context.Context) error {
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := m.inspect(ctx, m.plan.Name, roleSidecars)
		if err != nil {
			return err
		}
		if !c.State.Running {
			return m.withLog(ctx, errors.New("the sidecars ended instead of serving"))
		}
		var out bytes.Buffer
		code, err := m.exec(ctx, c.ID, []string{binary, "ctl", "health"}, pair.IO{Stdout: &out, Stderr: &out})
		if err == nil && code == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			if err := caller.Err(); err != nil {
				return fmt.Errorf("waiting for the sidecars to serve: %w", err)
			}
			return m.withLog(context.WithoutCancel(ctx), fmt.Errorf("the sidecars are not ready after %v: %s", readyWithin, strings.TrimSpace(out.String())))
		case <-tick.C:
		}
	}
}

// withLog adds the last lines of the sidecars to the error.
func (m *making) withLog(ctx context.Context, err error) error {
	for _, role := range []string{roleNet, roleSidecars} {
		if text, logErr := m.output(ctx, objectName(m.plan.Name, role), "1000"); logErr == nil && text != "" {
			err = fmt.Errorf("%w; the last lines of %s:\n%s", err, role, lastLines(text, 20))
		}
	}
	return err
}

// crash is how the report of a crash by Go's runtime begins: the reason is in its first lines.
var crash = regexp.MustCompile(`(?m)^(?:fatal error: |panic: |runtime: |SIG[A-Z]+: )`)

// lastLines returns the last n lines of a log, or the first n of a crash in it.
func lastLines(text string, n int) string {
	lines := strings.SplitAfter(text, "\n")
	if at := crash.FindStringIndex(text); at != nil {
		lines = strings.SplitAfter(text[at[0]:], "\n")
		return strings.Join(lines[:min(n, len(lines))], "")
	}
	return strings.Join(lines[max(0, len(lines)-n-1):], "")
}

// output is what a container without a terminal has printed.
func (b *Backend) output(ctx context.Context, name, tail string) (string, error) {
	logs, err := b.engine.ContainerLogs(ctx, name, client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Tail: tail})
	if err != nil {
		return "", err
	}
	defer logs.Close()
	var out bytes.Buffer
	_, err = stdcopy.StdCopy(&out, &out, logs)
	return strings.TrimSpace(out.String()), err
}

// probe refuses a place from which the agent could reach more than it should.
func (m *making) probe(ctx context.Context) error {
	found, err := m.probeFrom(ctx, agentsPlace(m.plan.Name), append(probe.Want(m.plan.Daemons), m.promised...))
	if err != nil {
		return err
	}
	if found != "" {
		return fmt.Errorf("refusing to make the agent: from its place\n%s", found)
	}
	return nil
}

// probeFrom runs the probe in the place and returns what it complains of.
func (m *making) probeFrom(ctx context.Context, place container.NetworkMode, want []string) (complaint string, err error) {
	ctx, cancel := context.WithTimeout(ctx, probeWithin)
	defer cancel()
	gateways, err := m.gateways(ctx)
	if err != nil {
		return "", err
	}
	canary, err := probe.NewCanary(gateways...)
	if err != nil {
		return "", err
	}
	defer canary.Close()
	o := probeContainer(m.plan, m.root, m.image, place, want, canary, m.ours)
	if err := m.makeContainer(ctx, o); err != nil {
		return "", err
	}
	defer func() {
		_, rmErr := m.engine.ContainerRemove(context.WithoutCancel(ctx), o.Name, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		err = errors.Join(err, gone(rmErr))
	}()
	code, err := m.runToEnd(ctx, o.Name)
	if err != nil {
		return "", fmt.Errorf("probing from the agent's place: %w", err)
	}
	out, err := m.output(ctx, o.Name, "all")
	if err != nil {
		return "", fmt.Errorf("probing from the agent's place: %w", err)
	}
	arrived, err := canary.Arrived()
	if err != nil || code == 0 && len(arrived) == 0 {
		return "", err
	}
	for _, way := range arrived {
		out += "\nOPEN datagram: " + way
	}
	return out + fmt.Sprintf("\n(exit code %d)", code), nil
}

func (b *Backend) runToEnd(ctx context.Context, name string) (int, error) {
	wait := b.engine.ContainerWait(ctx, name, client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
	if _, err := b.engine.ContainerStart(ctx, name, client.ContainerStartOptions{}); err != nil {
		return 0, err
	}
	return ended(wait)
}

func ended(wait client.ContainerWaitResult) (int, error) {
	select {
	case r := <-wait.Result:
		if r.Error != nil {
			return 1, errors.New(r.Error.Message)
		}
		return int(r.StatusCode), nil
	case err := <-wait.Error:
		return 1, err
	}
}

// gateways are the addresses that the engine keeps for itself on the network
// of the pair: the host has them.
func (m *making) gateways(ctx context.Context) ([]string, error) {
	n, err := m.engine.NetworkInspect(ctx, objectName(m.plan.Name, roleEgress), client.NetworkInspectOptions{})
	if err != nil {
		return nil, fmt.Errorf("looking at the network: %w", err)
	}
	var all []string
	for _, c := range n.Network.IPAM.Config {
		if c.Gateway.IsValid() {
			all = append(all, c.Gateway.String())
		}
	}
	return all, nil
}

func (m *making) makeAgent(ctx context.Context) error {
	return m.makeContainer(ctx, agentContainer(m.plan, m.root, m.agent, m.ours, m.shown))
}
