package supervisor

import (
	"cmp"
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"airlock/internal/bundle"
	"airlock/internal/confine"
	"airlock/internal/control"
)

// systemFiles are what every daemon may read of the system: the number of processors and the share of
// the bundle in them, time zones, and its own process. /proc shows the command lines of other
// processes, too; Landlock's rule on ptrace protects their memory and environment.
var systemFiles = []string{"/proc", "/sys/fs/cgroup", "/sys/kernel/mm/transparent_hugepage", "/sys/devices/system/cpu",
	"/etc/localtime", "/usr/share/zoneinfo", "/dev/null", "/dev/urandom"}

// networkFiles are what daemons that dial read in addition: name resolution and root certificates, in
// the places where Go looks for them and to which the links there point. Not all of /etc/ssl, which
// holds private keys of the host.
var networkFiles = []string{"/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/services", "/etc/protocols", "/etc/gai.conf",
	"/run/systemd/resolve", "/run/NetworkManager", "/run/resolvconf",
	"/etc/ssl/certs", "/etc/ssl/cert.pem", "/etc/ssl/ca-bundle.pem", "/etc/pki/tls/certs", "/etc/pki/tls/cacert.pem", "/etc/pki/ca-trust/extracted",
	"/etc/ca-certificates", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates"}

// profile returns what a daemon may do, by its name and its own configuration. An invalid
// configuration grants nothing more; the daemon refuses it itself.
func profile(daemon string, dirs bundle.Dirs) confine.Profile {
	p := confine.Profile{
		Read:    append([]string{dirs.File(daemon)}, systemFiles...),
		Change:  []string{dirs.Audit(daemon)},
		Write:   []string{os.DevNull},
		Dynamic: dynamic(),
	}
	if dir := os.Getenv("GOCOVERDIR"); dir != "" {
		p.Change = append(p.Change, dir)
	}
	switch daemon {
	case bundle.Egress:
		forEgress(&p, dirs)
	case bundle.Pipelock:
		forPipelock(&p, dirs)
	case bundle.GitGate:
		forGitGate(&p, dirs)
	case bundle.Supervise:
		forSupervise(&p, dirs)
	}
	return p
}

// forEgress adds the pair's certificate authority and local sockets, for pipelock. egress opens its
// own configuration, which is replaced while it runs, through the supervisor.
func forEgress(p *confine.Profile, dirs bundle.Dirs) {
	f := loadOrZero[bundle.EgressFile](dirs, bundle.Egress)
	p.Read = append(p.Read, authority(f.CA, dirs)...)
	p.Unix = true
}

// forPipelock adds the network, the operator's rules, client certificates for origins, and the pair's
// certificate authority if agents are its clients.
func forPipelock(p *confine.Profile, dirs bundle.Dirs) {
	f := loadOrZero[bundle.PipelockFile](dirs, bundle.Pipelock)
	p.Read = append(p.Read, authority(f.CA, dirs)...)
	if f.UpstreamCA != "" {
		p.Read = append(p.Read, dirs.Path(f.UpstreamCA))
	}
	if f.Secrets.Rules != "" {
		p.Read = append(p.Read, dirs.Path(f.Secrets.Rules))
	}
	if f.UpstreamProxy != nil && f.UpstreamProxy.CA != "" {
		p.Read = append(p.Read, dirs.Path(f.UpstreamProxy.CA))
	}
	for _, c := range f.ClientCertificates {
		p.Read = append(p.Read, dirs.Path(c.Cert), dirs.Path(c.Key))
	}
	network(p)
}

// forGitGate adds the network, the mirrors, and the keys of the repositories, which git-gate reads for
// each connection. Their default folder is allowed as a whole, so that a key can be replaced.
func forGitGate(p *confine.Profile, dirs bundle.Dirs) {
	f := loadOrZero[bundle.GitGateFile](dirs, bundle.GitGate)
	own := filepath.Join(dirs.Etc, "git")
	p.Read = append(p.Read, own)
	for _, r := range f.Repos {
		if r.Identity != "" {
			p.Read = append(p.Read, dirs.Path(r.Identity))
		}
	}
	if f.Scan.Config != "" {
		p.Read = append(p.Read, dirs.Path(f.Scan.Config))
	}
	if f.UpstreamCA != "" {
		p.Read = append(p.Read, dirs.Path(f.UpstreamCA))
	}
	root := filepath.Join(dirs.State, "git")
	if f.Root != "" {
		root = dirs.Path(f.Root)
	}
	p.Change, p.Moves = append(p.Change, root), true // out of the quarantine
	network(p)
}

// forSupervise adds the folder of the proposals. supervise has no sockets but the inherited ones.
func forSupervise(p *confine.Profile, dirs bundle.Dirs) {
	f := loadOrZero[bundle.SuperviseFile](dirs, bundle.Supervise)
	p.Change = append(p.Change, dirs.Path(cmp.Or(f.Store, "/var/lib/airlock/proposals")))
}

// brokeredFiles returns the files that a daemon may open through the supervisor. They are replaced
// while the daemon runs, and its profile covers only the file that existed at its start. supervise
// shows the agent the rules, none of which are secret.
func brokeredFiles(daemon string, dirs bundle.Dirs) []string {
	own := dirs.File(daemon)
	if daemon == bundle.Supervise {
		return []string{own, dirs.File(bundle.Egress), dirs.File(bundle.Pipelock)}
	}
	return []string{own}
}

// loadOrZero returns the configuration of a daemon, or the zero value if it is invalid.
func loadOrZero[T any](dirs bundle.Dirs, daemon string) T {
	f, _, err := bundle.Load[T](dirs.File(daemon))
	if err != nil {
		var none T
		return none
	}
	return f
}

// authority returns the files of a certificate authority, if there is one.
func authority(ca bundle.CA, dirs bundle.Dirs) []string {
	if ca == (bundle.CA{}) {
		return nil
	}
	return []string{dirs.Path(ca.Cert), dirs.Path(ca.Key)}
}

// network adds internet sockets and the files that are needed to use them.
func network(p *confine.Profile) {
	p.Inet = true
	p.Read = append(p.Read, networkFiles...)
	if file := os.Getenv("SSL_CERT_FILE"); file != "" {
		p.Read = append(p.Read, file)
	}
	if list := os.Getenv("SSL_CERT_DIR"); list != "" {
		p.Read = append(p.Read, strings.Split(list, ":")...)
	}
}

// createPaths creates the paths that a profile allows to change, if they do not exist: Landlock rules
// apply to existing files. The daemon reports what cannot be created.
func createPaths(daemon string, p confine.Profile, dirs bundle.Dirs) {
	for _, path := range p.Change {
		dir := path
		if path == dirs.Audit(daemon) {
			dir = filepath.Dir(path)
		}
		_ = os.MkdirAll(dir, 0o700) // the daemon says why
		if dir != path {
			if f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NONBLOCK, 0o600); err == nil {
				f.Close()
			}
		}
	}
}

// dynamic reports whether this binary is linked dynamically, as builds with cgo and the race detector
// are.
var dynamic = sync.OnceValue(func() bool {
	f, err := elf.Open("/proc/self/exe")
	if err != nil {
		return false
	}
	defer f.Close()
	for _, part := range f.Progs {
		if part.Type == elf.PT_INTERP {
			return true
		}
	}
	return false
})

// isDescendant reports whether a process descends from this one, as the daemons and their children do
// and the operator's processes do not. A process that has exited counts as a descendant. pid 0, a
// process of another namespace, does not.
func isDescendant(pid int32) bool {
	for pid != 0 {
		if int(pid) == os.Getpid() {
			return true
		}
		data, err := os.ReadFile("/proc/" + strconv.Itoa(int(pid)) + "/stat")
		_, rest, ok := strings.Cut(string(data), ") ")
		if i := strings.LastIndex(rest, ") "); i >= 0 {
			rest = rest[i+2:] // the command name may contain any byte
		}
		if err != nil || !ok {
			return true
		}
		if _, err := fmt.Sscanf(rest, "%c %d", new(rune), &pid); err != nil {
			return true
		}
	}
	return false
}

// isolationStatus returns the layers in force, given those that could not be applied.
func isolationStatus(missing []string, b *memLimit) control.Isolation {
	in := slices.DeleteFunc(confine.Layers(), func(l string) bool { return slices.Contains(missing, l) })
	if b.kind == "" {
		return control.Isolation{Layers: in, Missing: append(missing, "memory")}
	}
	return control.Isolation{Layers: in, Missing: missing, Memory: b.kind, MemoryLimit: b.limit}
}
