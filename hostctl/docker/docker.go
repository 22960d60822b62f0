// Package docker is the backend on a Docker engine, through the Engine API.
//
// A pair is three containers and one network. The container "net" has no
// network but loopback: it opens the sidecars' listening sockets there and hands
// them to the sidecars, over a unix socket in a volume that only the two have.
// The agent's container shares the network of "net" and nothing else: it has no
// interface that leads to the host or to anybody. The sidecars' container is on
// the network with the way out. Before the agent's container is made, a probe runs in its place: if it
// reaches anything but the sidecars' ports, the pair is not started. The
// credentials go to the sidecars' standard input.
//
// Objects are found by their labels, so a start that was killed leaves nothing
// that Delete does not find.
package docker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"airlock/hostctl/pair"
)

// Name is what Status and --backend call this backend.
const Name = "docker"

// Backend makes pairs on one engine.
type Backend struct {
	root     string // parent of each Plan.Dir
	engine   *client.Client
	promised []string // what the agent must reach beside its daemons; for tests
}

// New returns the backend on the engine that the environment names
// (DOCKER_HOST …), for the pairs below root. It does not speak to it yet.
func New(root string) (*Backend, error) {
	engine, err := client.New(client.FromEnv)
	if err != nil {
		return nil, fmt.Errorf("finding the Docker engine: %w", err)
	}
	return &Backend{root: root, engine: engine}, nil
}

// Labels of ours, beside the ones of compose.
const (
	labelPair = "airlock.pair"
	labelRoot = "airlock.root"
	labelRole = "airlock.role"
	labelMode = "airlock.workspace" // of the agent's container: how it got its workspace
)

// Roles of containers and networks: the last part of their names.
const (
	roleAgent    = "agent"
	roleSidecars = "sidecars"
	roleProbe    = "probe"
	roleNet      = "net"
	roleEgress   = "egress"
)

func objectName(name, role string) string { return "airlock-" + name + "-" + role }

// user is who a container runs as.
type user struct{ uid, gid int }

func (u user) String() string { return strconv.Itoa(u.uid) + ":" + strconv.Itoa(u.gid) }

// users are the sidecars' and the agent's. An ordinary user of an engine can
// hand its files to nobody else, so both run as that user.
func users() (sidecars, agent user) {
	if os.Geteuid() != 0 {
		u := user{os.Getuid(), os.Getgid()}
		return u, u
	}
	return user{65532, 65532}, user{1000, 1000}
}

// filter finds the objects of one pair, or with an empty name of all pairs
// below our root.
func (b *Backend) filter(name string) client.Filters {
	f := make(client.Filters).Add("label", labelRoot+"="+b.root)
	if name != "" {
		f.Add("label", labelPair+"="+name)
	}
	return f
}

// inspect returns the state of a container of the pair, or ErrAbsent.
func (b *Backend) inspect(ctx context.Context, name, role string) (container.InspectResponse, error) {
	if err := pair.CheckName(name); err != nil {
		return container.InspectResponse{}, err
	}
	c, err := b.engine.ContainerInspect(ctx, objectName(name, role), client.ContainerInspectOptions{})
	if errdefs.IsNotFound(err) || err == nil && c.Container.Config.Labels[labelRoot] != b.root {
		return container.InspectResponse{}, fmt.Errorf("pair %s: %w", name, pair.ErrAbsent)
	}
	if err != nil {
		return container.InspectResponse{}, fmt.Errorf("looking at the %s of %s: %w", role, name, err)
	}
	return c.Container, nil
}

// running is inspect for what needs a container that runs.
func (b *Backend) running(ctx context.Context, name, role string) (container.InspectResponse, error) {
	c, err := b.inspect(ctx, name, role)
	if err == nil && !c.State.Running {
		err = fmt.Errorf("the %s of %s is not running (%s)", role, name, c.State.Status)
	}
	return c, err
}

// gone makes "it was not there" a success.
func gone(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

func (b *Backend) dir(name string) string { return filepath.Join(b.root, name) }

func (b *Backend) check(p pair.Plan) error {
	errs := []error{p.Validate()}
	if p.Dir != b.dir(p.Name) {
		errs = append(errs, fmt.Errorf("the pair's folder must be %s", b.dir(p.Name)))
	}
	if p.Agent.Image == "" {
		errs = append(errs, errors.New("the agent has no image: the docker backend needs one"))
	}
	if !filepath.IsAbs(p.Sidecars) {
		errs = append(errs, fmt.Errorf("the sidecars binary %q: an absolute path was wanted", p.Sidecars))
	}
	return errors.Join(errs...)
}
