//go:build !linux

package local

import (
	"context"
	"io"

	"airlock/hostctl/pair"
)

// Create fails: this is not Linux.
func (b *Backend) Create(context.Context, pair.Plan) error { return errLinux }

// Start fails: this is not Linux.
func (b *Backend) Start(context.Context, string) error { return errLinux }

// Attach fails: this is not Linux.
func (b *Backend) Attach(context.Context, string, pair.IO) (int, error) { return 1, errLinux }

// Exec fails: this is not Linux.
func (b *Backend) Exec(context.Context, string, []string, pair.IO) (int, error) { return 1, errLinux }

// Ctl fails: this is not Linux.
func (b *Backend) Ctl(context.Context, string, []string, pair.IO) (int, error) { return 1, errLinux }

// Logs fails: this is not Linux.
func (b *Backend) Logs(context.Context, string, bool, io.Writer) error { return errLinux }

// List finds nothing: this is not Linux.
func (b *Backend) List(context.Context) ([]pair.Status, error) { return nil, nil }

// Delete has nothing to do: this is not Linux.
func (b *Backend) Delete(context.Context, string) error { return nil }

// Doctor says that this is not Linux.
func (b *Backend) Doctor(context.Context) []pair.Check {
	return []pair.Check{{Name: "local", State: pair.Bad, Says: errLinux.Error()}}
}
