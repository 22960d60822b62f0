// Package local is the backend that needs no engine: the agent lives in a
// cage of namespaces (internal/cage), the sidecars run beside it as ordinary
// processes of the caller, serving the sockets that the cage opened on its own
// loopback. Both live on when hostctl ends; everything that is needed to find
// them again is in the pair's folder. It works on Linux, as root and as an
// ordinary user.
package local

// Backend keeps its pairs in one folder, which is the parent of each Plan.Dir.
type Backend struct{ root string }

// New returns the backend for the pairs below root.
func New(root string) *Backend { return &Backend{root} }
