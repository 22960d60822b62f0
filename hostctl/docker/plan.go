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
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/moby/moby/client/pkg/versions"

	"airlock/hostctl/pair"
)

// Places inside the containers.
const (
	binary    = "/sidecars"             // in the sidecars image
	guardPath = "/run/airlock/sidecars" // the same binary, in the agent's container
)

// Bounds of the sidecars' container.
const (
	sidecarsMemory = 512 << 20
	sidecarsPids   = 512
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

// internalNetwork has no way out: a plain internal one would still lead to
// every service of the host, by the address that the bridge has on it. api is
// the version that the engine speaks.
func internalNetwork(p pair.Plan, root, api string) client.NetworkCreateOptions {
	off := false
	options := map[string]string{"com.docker.network.bridge.inhibit_ipv4": "true"}
	if versions.GreaterThanOrEqualTo(api, "1.48") { // the first that knows the word
		options["com.docker.network.bridge.gateway_mode_ipv4"] = "isolated"
		options["com.docker.network.bridge.gateway_mode_ipv6"] = "isolated"
	}
	return client.NetworkCreateOptions{Driver: "bridge", Internal: true, EnableIPv6: &off, Options: options, Labels: networkLabels(p, root, roleInternal)}
}

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

// sidecarsContainer begins on the network with the way out; the internal one
// is connected before it starts.
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
	command := []string{"supervisor", "-secrets-stdin"}
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

// sidecarsEndpoint gives the sidecars their names on the internal network.
func sidecarsEndpoint() *network.EndpointSettings {
	return &network.EndpointSettings{Aliases: []string{"egress", "pipelock", "git-gate", "supervise"}}
}

// insideHost is what the agent's container and the probe have in common: the
// same place, seen the same way.
func insideHost(network string, dns netip.Addr) *container.HostConfig {
	h := hardened()
	h.NetworkMode = container.NetworkMode(network)
	h.DNS = []netip.Addr{dns}
	h.DNSOptions = []string{"timeout:1", "attempts:1"}
	return h
}

// probeContainer runs the probe under the filter that the agent will have.
func probeContainer(p pair.Plan, root, image, network string, dns netip.Addr, want, forbid []string, u user) client.ContainerCreateOptions {
	h := insideHost(network, dns)
	bound(h, 128<<20, 0, 64)
	return client.ContainerCreateOptions{
		Name: objectName(p.Name, roleProbe),
		Config: &container.Config{
			Image: image, User: u.String(), Labels: containerLabels(p, root, roleProbe),
			Entrypoint: []string{binary, "cage", "-confine"},
			Cmd:        []string{"probe", "-want", strings.Join(want, ","), "-forbid", strings.Join(forbid, ",")},
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

// agentContainer starts the command under the guard: see internal/cage.
func agentContainer(p pair.Plan, root string, image agentImage, dns netip.Addr, ours user, doors []string) client.ContainerCreateOptions {
	a := p.Agent
	r := a.Resources.OrDefaults()
	h := insideHost(objectName(p.Name, roleInternal), dns)
	bound(h, r.Memory, r.CPUs, r.Pids)
	h.Mounts = []mount.Mount{bind(p.Files(), pair.FilesDir, true), bind(guardFile(p), guardPath, true)}
	h.Tmpfs = map[string]string{"/tmp": inMemory(image, ours), pair.HomeDir: inMemory(image, ours)}
	if source := workspaceSource(p); source != "" {
		h.Mounts = append(h.Mounts, bind(source, pair.WorkspaceDir, false))
	} else {
		h.Tmpfs[pair.WorkspaceDir] = inMemory(image, ours)
	}
	for _, path := range doors { // at the other end of each is a process of the host
		h.Mounts = append(h.Mounts, bind("/dev/null", pair.WorkspaceDir+"/"+path, true))
	}
	l := containerLabels(p, root, roleAgent)
	l[labelMode] = string(a.Workspace.Mode)
	return client.ContainerCreateOptions{
		Name: objectName(p.Name, roleAgent),
		Config: &container.Config{
			Image: a.Image, User: agentUser(image, ours), Env: a.Environ(), WorkingDir: a.WorkDirOrDefault(), Hostname: p.Name,
			Labels:     l,
			Entrypoint: guarded(), Cmd: append(slices.Clone(image.entrypoint), a.Command...),
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
