// Package docker is the backend on a Docker engine, through the Engine API.
package docker

import (
	"context"
	"errors"
	"io"

	"airlock/hostctl/pair"
)

// Backend makes pairs on one engine.
type Backend struct{ root string }

// Name is what Status and --backend call this backend.
const Name = "docker"

// New returns the backend on the engine of the environment (DOCKER_HOST …).
// It does not speak to it yet.
func New(root string) (*Backend, error) { return nil, errors.New("the docker backend is not there yet") }

func (b *Backend) Create(context.Context, pair.Plan) error                     { return nil }
func (b *Backend) Start(context.Context, string) error                         { return nil }
func (b *Backend) Attach(context.Context, string, pair.IO) (int, error)         { return 0, nil }
func (b *Backend) Exec(context.Context, string, []string, pair.IO) (int, error) { return 0, nil }
func (b *Backend) Ctl(context.Context, string, []string, pair.IO) (int, error)  { return 0, nil }
func (b *Backend) Logs(context.Context, string, bool, io.Writer) error         { return nil }
func (b *Backend) List(context.Context) ([]pair.Status, error)                 { return nil, nil }
func (b *Backend) Delete(context.Context, string) error                        { return nil }
