// Package pair holds the nouns that hostctl and its backends share: the plan
// of a pair, the streams of a process in it, and what a backend reports. It
// does no I/O.
package pair

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Errors that a caller branches on.
var (
	ErrExists = errors.New("a pair of that name exists")
	ErrAbsent = errors.New("no pair of that name")
)

// Plan is all that a backend must know to make a pair.
type Plan struct {
	Name     string
	Dir      string            // the pair's folder on the host, 0700; see the folders below
	Sidecars string            // the sidecars binary on the host
	Image    string            // docker: the sidecars image; empty: made from the binary on first use
	Daemons  []string          // empty: all
	Secrets  map[string]string `json:"-"` // slot → value: for the supervisor's standard input and nothing else
	Agent    Agent

	// Tied ends the sidecars, and with them what the agent can reach, when the
	// process that called Create ends, however it ends.
	Tied bool `json:",omitempty"`

	// AllowMissing names layers (LayerLandlock …) that the kernel may lack.
	// Empty: a pair starts with every layer or not at all.
	AllowMissing []string `json:",omitempty"`
}

// Agent is the untrusted half.
type Agent struct {
	Image     string            // docker only
	Command   []string          // what Start and Attach run
	Env       map[string]string // complete: nothing of the host's is added
	Workspace Workspace
	WorkDir   string // empty: /workspace
	Resources Resources
	TTY       bool
	Stdin     bool // Attach connects the caller's input
}

// Workspace is the folder that the agent works on, at /workspace.
type Workspace struct {
	Path     string // on the host; it has no symbolic link in it
	Mode     Mode   // empty: none
	MaxBytes int64  `json:",omitempty"` // of the files in a copy; 16 GiB
	// WithoutGit leaves a git folder that lies outside of the workspace behind.
	WithoutGit bool `json:",omitempty"`
}

// MaxBytesOrDefault is how large the copy may be.
func (w Workspace) MaxBytesOrDefault() int64 {
	if w.MaxBytes == 0 {
		return 16 << 30
	}
	return w.MaxBytes
}

// Mode says how the agent gets the workspace.
type Mode string

// Modes of a workspace.
const (
	Copy Mode = "copy" // a copy, made at the start and gone with the pair
	Bind Mode = "bind" // the folder itself
	None Mode = "none" // an empty one, in memory
)

// Resources bound the agent; zero means the default in the comment.
type Resources struct {
	Memory int64   // bytes; 4 GiB
	CPUs   float64 // 2
	Pids   int     // 512
}

// OrDefaults fills in what is zero.
func (r Resources) OrDefaults() Resources {
	if r.Memory == 0 {
		r.Memory = 4 << 30
	}
	if r.CPUs == 0 {
		r.CPUs = 2
	}
	if r.Pids == 0 {
		r.Pids = 512
	}
	return r
}

// Layers of confinement that a kernel may lack.
const (
	LayerLandlock = "landlock"
	LayerSeccomp  = "seccomp"
)

// Where the agent finds things.
const (
	WorkspaceDir = "/workspace"
	FilesDir     = "/etc/airlock"
	HomeDir      = "/home/agent"
)

// Folders below Dir.

// Etc is the sidecars' configuration, read-only for them.
func (p Plan) Etc() string { return filepath.Join(p.Dir, "etc") }

// Run holds the sockets (local backend).
func (p Plan) Run() string { return filepath.Join(p.Dir, "run") }

// State is what the sidecars keep: audit, proposals, mirrors.
func (p Plan) State() string { return filepath.Join(p.Dir, "state") }

// Files is what the agent sees read-only at FilesDir.
func (p Plan) Files() string { return filepath.Join(p.Dir, "agent") }

// Logs holds sidecars.log and agent.log (local backend).
func (p Plan) Logs() string { return filepath.Join(p.Dir, "logs") }

// WorkDirOrDefault is the folder in which the agent's command starts.
func (a Agent) WorkDirOrDefault() string {
	if a.WorkDir == "" {
		return WorkspaceDir
	}
	return a.WorkDir
}

// Environ is the agent's environment as NAME=value, sorted.
func (a Agent) Environ() []string {
	env := make([]string, 0, len(a.Env))
	for _, k := range slices.Sorted(maps.Keys(a.Env)) {
		env = append(env, k+"="+a.Env[k])
	}
	return env
}

var (
	nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,40}$`)
	envForm  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// CheckName tells whether a pair can have that name: it becomes part of
// folders, networks and containers.
func CheckName(name string) error {
	if !nameForm.MatchString(name) {
		return fmt.Errorf("pair name %q: 1 to 41 lower-case letters, digits and hyphens were wanted, no hyphen first", name)
	}
	return nil
}

// Validate says everything that is wrong with the plan.
func (p Plan) Validate() error {
	errs := []error{CheckName(p.Name), p.Agent.validate()}
	if !filepath.IsAbs(p.Dir) {
		errs = append(errs, fmt.Errorf("the pair's folder %q: an absolute path was wanted", p.Dir))
	}
	for _, l := range p.AllowMissing {
		if l != LayerLandlock && l != LayerSeccomp {
			errs = append(errs, fmt.Errorf("layer %q: only %s and %s may be missing", l, LayerLandlock, LayerSeccomp))
		}
	}
	return errors.Join(errs...)
}

func (a Agent) validate() error {
	var errs []error
	if len(a.Command) == 0 || a.Command[0] == "" {
		errs = append(errs, errors.New("the agent has no command"))
	}
	for name, value := range a.Env {
		if !envForm.MatchString(name) || strings.ContainsRune(value, 0) {
			errs = append(errs, fmt.Errorf("agent variable %q: letters, digits and underscores were wanted, and no zero byte in the value", name))
		}
	}
	if w := a.WorkDir; w != "" && !filepath.IsAbs(w) {
		errs = append(errs, fmt.Errorf("the agent's folder %q: an absolute path was wanted", w))
	}
	if r := a.Resources; r.Memory < 0 || r.CPUs < 0 || r.Pids < 0 {
		errs = append(errs, errors.New("the agent's resources cannot be negative"))
	}
	return errors.Join(append(errs, a.Workspace.validate())...)
}

func (w Workspace) validate() error {
	switch w.Mode {
	case Copy, Bind:
		if !filepath.IsAbs(w.Path) {
			return fmt.Errorf("workspace %q: an absolute path was wanted", w.Path)
		}
	case None, "":
	default:
		return fmt.Errorf("workspace mode %q: one of copy, bind, none was wanted", w.Mode)
	}
	return nil
}

// IO connects a process of the pair to the caller. Nil streams are empty.
type IO struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	TTY            *os.File // the caller's terminal: the process gets one of its own size, and this one goes raw
}

// States of a pair.
const (
	Creating = "creating" // or left over from a start that was killed
	Created  = "created"  // the sidecars serve, the agent's command has not run
	Running  = "running"
	Exited   = "exited" // the agent's command has ended, the sidecars serve
	Broken   = "broken" // a part is gone: delete it
)

// Status is one pair as its backend sees it.
type Status struct {
	Name    string    `json:"name"`
	Backend string    `json:"backend"`
	State   string    `json:"state"`
	Created time.Time `json:"created"`
	Agent   string    `json:"agent"`               // the command
	Exit    *int      `json:"exit_code,omitempty"` // once the command has ended
	Missing []string  `json:"missing_layers,omitempty"`
}
