package docker

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/client"

	"airlock/hostctl/pair"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func plan() pair.Plan {
	return pair.Plan{
		Name: "demo", Dir: "/state/demo", Sidecars: "/bin/sidecars", Daemons: []string{"egress", "pipelock"},
		Secrets: map[string]string{"EGRESS_TOKEN_0": "sesame"},
		Agent: pair.Agent{Image: "agent:1", Command: []string{"bash", "-l"}, Env: map[string]string{"A": "b"},
			Workspace: pair.Workspace{Path: "/home/me/work", Mode: pair.Bind}, Resources: pair.Resources{Pids: 99}},
	}
}

func containers() map[string]client.ContainerCreateOptions {
	p := plan()
	return map[string]client.ContainerCreateOptions{
		"agent":    agentContainer(p, "/state", agentImage{entrypoint: []string{"/entry"}}, user{1000, 1000}, shownFolder{identity: "1:2:boot"}),
		"sidecars": sidecarsContainer(p, "/state", "image", user{65532, 65532}),
		"probe":    probeContainer(p, "/state", "image", agentsPlace(p.Name), []string{"egress:9099"}, nil, user{1000, 1000}),
		"net":      netContainer(p, "/state", "image"),
	}
}

// TestEveryContainerIsHardened holds for any container that is ever added.
func TestEveryContainerIsHardened(t *testing.T) {
	for name, c := range containers() {
		h := c.HostConfig
		if name == "net" { // the exception: root, until it has set up loopback of a network of its own
			if c.Config.User != "0:0" || !slices.Equal(h.CapAdd, []string{"NET_ADMIN", "SETPCAP"}) || h.NetworkMode != "none" {
				t.Errorf("%s: %+v", name, h)
			}
			c.Config.User, h.CapAdd = "65532", nil
		}
		if !h.ReadonlyRootfs || !slices.Equal(h.CapDrop, []string{"ALL"}) || len(h.CapAdd) > 0 || h.Privileged ||
			!slices.Contains(h.SecurityOpt, "no-new-privileges") || h.PidsLimit == nil || *h.PidsLimit <= 0 || h.Memory <= 0 ||
			h.MemorySwap != h.Memory || strings.HasPrefix(c.Config.User, "0") || c.Config.User == "" || len(h.PortBindings) > 0 || h.PidMode != "" || h.IpcMode != "" {
			t.Errorf("%s: %+v", name, h)
		}
		for _, m := range h.Mounts {
			if strings.Contains(m.Source, "docker.sock") || m.Source == "/" {
				t.Errorf("%s mounts %s", name, m.Source)
			}
		}
		data, err := json.Marshal(c)
		must(t, err)
		if strings.Contains(string(data), "sesame") || strings.Contains(string(data), "EGRESS_TOKEN") {
			t.Errorf("%s: a secret is in its configuration", name)
		}
		if c.Config.Labels["airlock.pair"] != "demo" || c.Config.Labels["com.docker.compose.project"] != "airlock-demo" {
			t.Errorf("%s: labels %v", name, c.Config.Labels)
		}
	}
}

func TestAgentContainer(t *testing.T) {
	c := containers()["agent"]
	if got := strings.Join(append(c.Config.Entrypoint, c.Config.Cmd...), " "); got != "/run/airlock/sidecars cage -guard -workspace 1:2:boot /entry bash -l" {
		t.Error(got)
	}
	h := c.HostConfig
	if h.NetworkMode != "container:airlock-demo-net" || *h.PidsLimit != 99 || h.NanoCPUs != 2e9 || h.Memory != 4<<30 {
		t.Errorf("%+v", h)
	}
	var mounts []string
	for _, m := range h.Mounts {
		mode := "rw"
		if m.ReadOnly {
			mode = "ro"
		}
		mounts = append(mounts, m.Source+" "+m.Target+" "+mode)
	}
	want := []string{"/state/demo/agent /etc/airlock ro", "/state/demo/run/sidecars /run/airlock/sidecars ro", "/home/me/work /workspace rw"}
	if !slices.Equal(mounts, want) {
		t.Errorf("%q, want %q", mounts, want)
	}
}

func TestProbeHasTheAgentsPlace(t *testing.T) {
	all := containers()
	agent, probe := all["agent"].HostConfig, all["probe"].HostConfig
	if agent.NetworkMode != probe.NetworkMode || !slices.Equal(agent.CapDrop, probe.CapDrop) || !slices.Equal(agent.SecurityOpt, probe.SecurityOpt) {
		t.Errorf("%+v, %+v", agent, probe)
	}
}

func TestAgentUser(t *testing.T) {
	for image, want := range map[string]string{"": "1000:1000", "root": "1000:1000", "0": "1000:1000", "root:root": "1000:1000", "0:0": "1000:1000", "node": "node", "33:33": "33:33", "33": "33"} {
		if got := agentUser(agentImage{user: image}, user{1000, 1000}); got != want {
			t.Errorf("%q: %q, want %q", image, got, want)
		}
	}
	for name, want := range map[string]string{"33": "33:33", "33:44": "33:44", "node": "", "33:www": ""} {
		u, ok := numeric(name)
		if ok != (want != "") || ok && u.String() != want {
			t.Errorf("%q: %v %v, want %q", name, u, ok, want)
		}
	}
}

func TestGuardCanBeExecutedAndNotRead(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	must(t, os.WriteFile(from, []byte("binary"), 0o755))
	for range 2 { // the second one replaces the first
		must(t, copyGuard(from, to))
		if info, err := os.Stat(to); err != nil || info.Mode() != 0o111 || info.Size() != 6 {
			t.Errorf("%v, %v", info, err)
		}
	}
}

func TestCheck(t *testing.T) {
	b := &Backend{root: "/state"}
	must(t, b.check(plan()))
	for name, change := range map[string]func(*pair.Plan){
		"image":  func(p *pair.Plan) { p.Agent.Image = "" },
		"folder": func(p *pair.Plan) { p.Dir = "/elsewhere/demo" },
		"binary": func(p *pair.Plan) { p.Sidecars = "sidecars" },
		"name":   func(p *pair.Plan) { p.Name, p.Dir = "x/y", "/state/x/y" },
	} {
		p := plan()
		change(&p)
		if err := b.check(p); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
