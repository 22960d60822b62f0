// Package local is the backend that needs no engine: the agent lives in a
// cage of namespaces (internal/cage), the sidecars run beside it as ordinary
// processes of the caller, serving the sockets that the cage opened on its own
// loopback. Both live on when hostctl ends; everything that is needed to find
// them again is in the pair's folder. It works on Linux, as root and as an
// ordinary user.
package local

import (
	"errors"
	"runtime"
)

// Backend keeps its pairs in one folder, which is the parent of each Plan.Dir.
type Backend struct{ root string }

// Name is what Status and --backend call this backend.
const Name = "local"

// New returns the backend for the pairs below root. It fails where there is
// no such backend: on anything but Linux.
func New(root string) (*Backend, error) {
	if runtime.GOOS != "linux" {
		return nil, errLinux
	}
	return &Backend{root}, nil
}

var errLinux = errors.New("the local backend needs Linux: use --backend docker")
