// Package bundle describes what a sidecars bundle is made of: its folders,
// its ports, its slots, and the four configuration files under /etc/airlock.
// The daemons read those files and the host's controller writes them, so both
// use the types of this package. It opens nothing but the files it is asked
// to read.
package bundle

import (
	"cmp"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"

	"airlock/internal/config"
)

// Ports that the agent sees.
const (
	PortEgress    = 9099
	PortPipelock  = 8888
	PortGit       = 9418
	PortGitHTTP   = 9420
	PortSupervise = 9100
)

// Names of the listening sockets as they stand in LISTEN_FDNAMES.
const (
	FDEgress         = "egress"
	FDPipelock       = "pipelock"
	FDPipelockSocket = "pipelock-socket"
	FDGit            = "git"
	FDGitHTTP        = "git-http"
	FDSupervise      = "supervise"
)

// Names of the daemons, in the order in which they start.
const (
	Pipelock  = "pipelock"
	Egress    = "egress"
	GitGate   = "git-gate"
	Supervise = "supervise"
)

// Daemons lists every daemon in start order: what egress needs comes first.
func Daemons() []string { return []string{Pipelock, Egress, GitGate, Supervise} }

// Dirs are the three folders of a bundle.
type Dirs struct {
	Etc   string // configuration, read-only
	Run   string // sockets
	State string // mirrors, proposals, audit
}

var wellKnown = Dirs{Etc: "/etc/airlock", Run: "/run/airlock", State: "/var/lib/airlock"}

// DirsFromEnv takes AIRLOCK_ETC, AIRLOCK_RUN and AIRLOCK_STATE, each of which
// stands for its well-known folder.
func DirsFromEnv() Dirs {
	return Dirs{
		Etc:   cmp.Or(os.Getenv("AIRLOCK_ETC"), wellKnown.Etc),
		Run:   cmp.Or(os.Getenv("AIRLOCK_RUN"), wellKnown.Run),
		State: cmp.Or(os.Getenv("AIRLOCK_STATE"), wellKnown.State),
	}
}

// Env is the environment that makes DirsFromEnv return these folders.
func (d Dirs) Env() []string {
	return []string{"AIRLOCK_ETC=" + d.Etc, "AIRLOCK_RUN=" + d.Run, "AIRLOCK_STATE=" + d.State}
}

// Path maps a path of the configuration that begins with a well-known folder
// to the folder that stands for it; other paths are as they are.
func (d Dirs) Path(p string) string {
	for _, m := range [][2]string{{wellKnown.Etc, d.Etc}, {wellKnown.Run, d.Run}, {wellKnown.State, d.State}} {
		if rest, ok := strings.CutPrefix(p, m[0]); ok && (rest == "" || rest[0] == '/') {
			return m[1] + rest
		}
	}
	return p
}

// Address maps "unix:/path" as Path does; "host:port" is as it is.
func (d Dirs) Address(a string) string {
	if path, ok := strings.CutPrefix(a, "unix:"); ok {
		return "unix:" + d.Path(path)
	}
	return a
}

// File is the path of a daemon's configuration.
func (d Dirs) File(daemon string) string { return filepath.Join(d.Etc, daemon+".yaml") }

// Control is the path of the supervisor's control socket.
func (d Dirs) Control() string { return filepath.Join(d.Run, "control.sock") }

// Audit is the path of a daemon's audit chain.
func (d Dirs) Audit(daemon string) string { return filepath.Join(d.State, "audit", daemon+".jsonl") }

// Args reads the arguments of a daemon's applet: where its configuration is,
// and the folders from the environment. It is flag.ErrHelp when help was asked
// for and given.
func Args(daemon string, args []string, stderr io.Writer) (file string, dirs Dirs, err error) {
	dirs = DirsFromEnv()
	flags := flag.NewFlagSet(daemon, flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&file, "config", dirs.File(daemon), "configuration `file`")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return "", dirs, err
	} else if err != nil {
		return "", dirs, config.Usagef("%s: %v", daemon, err)
	}
	if flags.NArg() > 0 {
		return "", dirs, config.Usagef("%s: unexpected argument %q", daemon, flags.Arg(0))
	}
	return file, dirs, nil
}

// Load reads a configuration file of the bundle and returns its digest.
func Load[T any](path string) (file T, digest string, err error) {
	digest, err = config.Load(path, &file)
	return file, digest, err
}

// LoadBy is Load for who opens files in another way, as a daemon does that
// asks the supervisor for them.
func LoadBy[T any](open func(string) (*os.File, error), path string) (file T, digest string, err error) {
	digest, err = config.LoadBy(open, path, &file)
	return file, digest, err
}

func checkVersion(v int) error {
	if v != 1 {
		return config.At("version", "1 was wanted, this is %d", v)
	}
	return nil
}
