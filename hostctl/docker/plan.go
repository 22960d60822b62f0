package docker

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"

	"airlock/hostctl/pair"
	"airlock/internal/bundle"
	"airlock/internal/probe"
)

// Places inside the containers.
const (
	binary    = "/sidecars"             // in the sidecars image
	guardPath = "/run/airlock/sidecars" // the same binary, in the agent's container
	netDir    = "/run/airlock-net"      // the volume of "net" and the sidecars
	netSocket = netDir + "/net.sock"
)

// Bounds of the sidecars' container.
const (
	sidecarsMemory = 512 << 20
	sidecarsPids   = 512
	netMemory      = 64 << 20
	netPids        = 32
)

func labels(p pair.Plan, root, role string) map[string]string {
	return map[string]string{
		labelPair: p.Name, labelRoot: root, labelRole: role,
		"com.docker.compose.project":             "airlock-" + p.Name,
		"com.docker.compose.project.working_dir": p.Dir,
		"com.docker.compose.version":             "2",
	}
}

func containerLabels(p pair.Plan, root, role string) map[string]string {
	l := labels(p, root, role)
	l["com.docker.compose.service"] = role
	l["com.docker.compose.oneoff"] = "False"
	l["com.docker.compose.container-number"] = "1"
	return l
}

// egressNetwork is the sidecars' way out.
func egressNetwork(p pair.Plan, root string) client.NetworkCreateOptions {
	return client.NetworkCreateOptions{Driver: "bridge", Labels: networkLabels(p, root, roleEgress)}
}

func networkLabels(p pair.Plan, root, role string) map[string]string {
	l := labels(p, root, role)
	l["com.docker.compose.network"] = role
	return l
}

// hardened is what every container of ours has.
func hardened() *container.HostConfig {
	return &container.HostConfig{
		ReadonlyRootfs: true,
		CapDrop:        []string{"ALL"},
		SecurityOpt:    []string{"no-new-privileges"},
		LogConfig:      container.LogConfig{Type: "json-file", Config: map[string]string{"max-size": "16m", "max-file": "2"}},
		Resources:      container.Resources{Ulimits: []*container.Ulimit{{Name: "core"}}},
	}
}

func bound(h *container.HostConfig, memory int64, cpus float64, pids int) {
	n := int64(pids)
	h.Memory, h.MemorySwap, h.PidsLimit = memory, memory, &n
	h.NanoCPUs = int64(cpus * 1e9)
}

func bind(source, target string, readOnly bool) mount.Mount {
	return mount.Mount{Type: mount.TypeBind, Source: source, Target: target, ReadOnly: readOnly}
}

// sidecarsContainer is on the network with the way out, and has the sockets in
// the agent's network from the container "net", whose volume it shares.
func sidecarsContainer(p pair.Plan, root, image string, u user) client.ContainerCreateOptions {
	h := hardened()
	bound(h, sidecarsMemory, 0, sidecarsPids)
	h.NetworkMode = container.NetworkMode(objectName(p.Name, roleEgress))
	h.Mounts = []mount.Mount{bind(p.Etc(), "/etc/airlock", true), bind(p.State(), "/var/lib/airlock", false)}
	h.Tmpfs = map[string]string{
		"/run/airlock": fmt.Sprintf("mode=0700,uid=%d,gid=%d,noexec,nosuid,nodev,size=16m", u.uid, u.gid),
		"/tmp":         "mode=1777,noexec,nosuid,nodev,size=64m",
	}
	env := []string{"AIRLOCK_PAIR=" + p.Name}
	if len(p.Daemons) > 0 {
		env = append(env, "SIDECAR_DAEMONS="+strings.Join(p.Daemons, ","))
	}
	h.VolumesFrom = []string{objectName(p.Name, roleNet)}
	command := []string{"cage", "-take", netSocket, "supervisor", "-secrets-stdin"}
	if p.Tied {
		command = append(command, "-end-with-stdin")
	}
	return client.ContainerCreateOptions{
		Name: objectName(p.Name, roleSidecars),
		Config: &container.Config{
			Image: image, User: u.String(), Env: env, Labels: containerLabels(p, root, roleSidecars),
			Entrypoint: []string{binary}, Cmd: command,
			// The credentials come in by it, once.
			OpenStdin: true, StdinOnce: true, AttachStdin: true,
		},
		HostConfig: h,
	}
}

// netContainer holds the agent's network. It begins as root, with the rights to
// give loopback a second address in a network of its own and to give that right up.
func netContainer(p pair.Plan, root, image string) client.ContainerCreateOptions {
	h := hardened()
	bound(h, netMemory, 0, netPids)
	h.NetworkMode = "none"
	h.CapAdd = []string{"NET_ADMIN", "SETPCAP"}
	h.DNS = []netip.Addr{netip.MustParseAddr("127.0.0.1")} // where nobody answers: the proxies look names up
	h.DNSOptions = []string{"timeout:1", "attempts:1"}
	for _, name := range append(bundle.AgentNames(), p.Name) {
		h.ExtraHosts = append(h.ExtraHosts, name+":127.0.0.1")
	}
	h.Mounts = []mount.Mount{{Type: mount.TypeVolume, Target: netDir}}
	var sockets []string
	for _, l := range bundle.Listeners(p.Daemons) {
		sockets = append(sockets, l.Name+"="+strconv.Itoa(l.Port))
	}
	return client.ContainerCreateOptions{
		Name: objectName(p.Name, roleNet),
		Config: &container.Config{
			Image: image, User: "0:0", Hostname: p.Name, Labels: containerLabels(p, root, roleNet),
			Entrypoint: []string{binary}, Cmd: []string{"cage", "-network", "-listen", strings.Join(sockets, ","), netSocket},
		},
		HostConfig: h,
	}
}

// insideHost is what the agent's container and the probe have in common: the
// same place, seen the same way.
func insideHost(place container.NetworkMode) *container.HostConfig {
	h := hardened()
	h.NetworkMode = place
	return h
}

// agentsPlace is the network of the pair's agent.
func agentsPlace(name string) container.NetworkMode {
	return container.NetworkMode("container:" + objectName(name, roleNet))
}

// probeContainer runs the probe under the filter that the agent will have.
func probeContainer(p pair.Plan, root, image string, place container.NetworkMode, want []string, canary *probe.Canary, u user) client.ContainerCreateOptions {
	h := insideHost(place)
	bound(h, 128<<20, 0, 64)
	return client.ContainerCreateOptions{
		Name: objectName(p.Name, roleProbe),
		Config: &container.Config{
			Image: image, User: u.String(), Labels: containerLabels(p, root, roleProbe),
			Entrypoint: []string{binary, "cage", "-confine"},
			Cmd:        append([]string{"probe", "-want", strings.Join(want, ",")}, canary.Args()...),
		},
		HostConfig: h,
	}
}

// agentImage is what of the image's configuration the agent keeps.
type agentImage struct {
	entrypoint []string
	user       string
}

// agentUser is the image's own user, unless that is root, or ours.
func agentUser(image agentImage, ours user) string {
	name, _, _ := strings.Cut(image.user, ":")
	if slices.Contains([]string{"", "0", "root"}, name) {
		return ours.String()
	}
	return image.user
}

// numeric returns the ids of a user that the image gives by number.
func numeric(name string) (user, bool) {
	u, g, both := strings.Cut(name, ":")
	uid, err := strconv.Atoi(u)
	if err != nil {
		return user{}, false
	}
	gid, err := strconv.Atoi(g)
	if !both {
		return user{uid, uid}, true
	}
	return user{uid, gid}, err == nil
}

// shownFolder is what hostctl has seen of a workspace that is bound.
type shownFolder struct {
	doors    []string // its sockets and pipes, which are hidden
	identity string   // for the guard; empty: not known
}

// agentContainer starts the command under the guard: see internal/cage.
func agentContainer(p pair.Plan, root string, image agentImage, ours user, shown shownFolder) client.ContainerCreateOptions {
	a := p.Agent
	r := a.Resources.OrDefaults()
	h := insideHost(agentsPlace(p.Name))
	bound(h, r.Memory, r.CPUs, r.Pids)
	h.Mounts = []mount.Mount{bind(p.Files(), pair.FilesDir, true), bind(guardFile(p), guardPath, true)}
	h.Tmpfs = map[string]string{"/tmp": inMemory(image, ours), pair.HomeDir: inMemory(image, ours)}
	if source := workspaceSource(p); source != "" {
		h.Mounts = append(h.Mounts, bind(source, pair.WorkspaceDir, false))
	} else {
		h.Tmpfs[pair.WorkspaceDir] = inMemory(image, ours)
	}
	for _, path := range shown.doors { // at the other end of each is a process of the host
		h.Mounts = append(h.Mounts, bind("/dev/null", pair.WorkspaceDir+"/"+path, true))
	}
	start := guarded()
	if shown.identity != "" {
		start = append(start, "-workspace", shown.identity)
	}
	l := containerLabels(p, root, roleAgent)
	l[labelMode] = string(a.Workspace.Mode)
	return client.ContainerCreateOptions{
		Name: objectName(p.Name, roleAgent),
		Config: &container.Config{
			Image: a.Image, User: agentUser(image, ours), Env: a.Environ(), WorkingDir: a.WorkDirOrDefault(),
			Labels:     l,
			Entrypoint: start, Cmd: append(slices.Clone(image.entrypoint), a.Command...),
			Tty: a.TTY, OpenStdin: a.Stdin, StdinOnce: a.Stdin, AttachStdin: a.Stdin, AttachStdout: true, AttachStderr: true,
		},
		HostConfig: h,
	}
}

// inMemory are the options of a folder in memory that the agent can write. The
// runtime gives it the mode of a folder that the image has there, whatever mode
// is asked for; the owner it leaves alone.
func inMemory(image agentImage, ours user) string {
	options := "mode=1777,exec,nosuid,nodev"
	if u, ok := numeric(agentUser(image, ours)); ok {
		options += fmt.Sprintf(",uid=%d,gid=%d", u.uid, u.gid)
	}
	return options
}

// guarded is how every process of ours in the agent's container begins.
func guarded() []string { return []string{guardPath, "cage", "-guard"} }

func guardFile(p pair.Plan) string { return filepath.Join(p.Run(), "sidecars") }

func workspaceCopy(p pair.Plan) string { return filepath.Join(p.Dir, "workspace") }

// workspaceSource is the folder of the host that becomes /workspace; empty:
// none.
func workspaceSource(p pair.Plan) string {
	switch p.Agent.Workspace.Mode {
	case pair.Copy:
		return workspaceCopy(p)
	case pair.Bind:
		return p.Agent.Workspace.Path
	}
	return ""
}
