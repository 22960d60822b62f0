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

// What every daemon may read of the system: how many processors there are and
// how much of them is ours, time zones, and itself. /proc shows the command
// lines of other processes, too; their memory and environment are behind
// Landlock's rule on ptrace.
var systemFiles = []string{"/proc", "/sys/fs/cgroup", "/sys/kernel/mm/transparent_hugepage", "/sys/devices/system/cpu",
	"/etc/localtime", "/usr/share/zoneinfo", "/dev/null", "/dev/urandom"}

// What those that dial need besides: names and root certificates, in the
// places where Go looks for them and where the links there lead. Not all of
// /etc/ssl: private keys of the host lie there.
var networkFiles = []string{"/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/services", "/etc/protocols", "/etc/gai.conf",
	"/run/systemd/resolve", "/run/NetworkManager", "/run/resolvconf",
	"/etc/ssl/certs", "/etc/ssl/cert.pem", "/etc/ssl/ca-bundle.pem", "/etc/pki/tls/certs", "/etc/pki/tls/cacert.pem", "/etc/pki/ca-trust/extracted",
	"/etc/ca-certificates", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates"}

// profile is what a daemon may do, by its name and its own configuration. A
// file that is wrong opens nothing: to refuse it is the daemon's business.
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

// forEgress: the pair's authority, and a connection to pipelock, by a local
// socket. Its own file, which is replaced while it runs, it opens through us.
func forEgress(p *confine.Profile, dirs bundle.Dirs) {
	f := loadOrZero[bundle.EgressFile](dirs, bundle.Egress)
	p.Read = append(p.Read, authority(f.CA, dirs)...)
	p.Unix = true
	if f.Upstream == "direct" {
		network(p)
	}
}

// forPipelock: the network, the operator's rules, what it proves itself with
// to origins, and the pair's authority only where an agent is its client.
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

// forGitGate: the network, its mirrors, and the keys of its repositories,
// which it reads for each connection. Where they lie in the folder that is
// theirs alone, the folder is allowed, so that a key can be replaced.
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

// forSupervise: the folder of the proposals, and no socket at all but those
// that it is given.
func forSupervise(p *confine.Profile, dirs bundle.Dirs) {
	f := loadOrZero[bundle.SuperviseFile](dirs, bundle.Supervise)
	p.Change = append(p.Change, dirs.Path(cmp.Or(f.Store, "/var/lib/airlock/proposals")))
}

// brokeredFiles lists the files that a daemon may open through us: they are replaced
// while it runs, and what it was allowed is the file of the time of its start.
// supervise shows the agent the rules, none of which are secret.
func brokeredFiles(daemon string, dirs bundle.Dirs) []string {
	own := dirs.File(daemon)
	if daemon == bundle.Supervise {
		return []string{own, dirs.File(bundle.Egress), dirs.File(bundle.Pipelock)}
	}
	return []string{own}
}

func loadOrZero[T any](dirs bundle.Dirs, daemon string) T {
	f, _, err := bundle.Load[T](dirs.File(daemon))
	if err != nil {
		var none T
		return none
	}
	return f
}

func authority(ca bundle.CA, dirs bundle.Dirs) []string {
	if ca == (bundle.CA{}) {
		return nil
	}
	return []string{dirs.Path(ca.Cert), dirs.Path(ca.Key)}
}

// network adds internet sockets, and what it takes to use them.
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

// createPaths creates what a profile allows to change, where it is not there:
// Landlock knows files, not names. What cannot be made the daemon will report.
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

// dynamic tells whether this binary needs a loader: builds with cgo, as with
// the race detector, do.
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

// isDescendant tells whether a process descends from this one: a daemon, or what one
// has started. Nobody else who may ask the supervisor does. One that is gone
// is taken for ours; 0 is a process of another namespace.
func isDescendant(pid int32) bool {
	for pid != 0 {
		if int(pid) == os.Getpid() {
			return true
		}
		data, err := os.ReadFile("/proc/" + strconv.Itoa(int(pid)) + "/stat")
		_, rest, ok := strings.Cut(string(data), ") ")
		if i := strings.LastIndex(rest, ") "); i >= 0 {
			rest = rest[i+2:] // the command's name may hold anything
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

// isolationStatus says which layers are in force when some could not be put on.
func isolationStatus(missing []string, b *memLimit) control.Isolation {
	in := slices.DeleteFunc(confine.Layers(), func(l string) bool { return slices.Contains(missing, l) })
	if b.kind == "" {
		return control.Isolation{Layers: in, Missing: append(missing, "memory")}
	}
	return control.Isolation{Layers: in, Missing: missing, Memory: b.kind, MemoryLimit: b.limit}
}
