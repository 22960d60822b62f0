//go:build e2e

package docker

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"airlock/hostctl/pair"
	"airlock/hostctl/pair/pairtest"
)

// sidecars is the real binary, built once; agentRef an image of busybox.
var (
	sidecars string
	agentRef = "airlock-test-agent:busybox"
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if root := os.Getenv("TEST_START_IN"); root != "" {
		return startOnly(root)
	}
	dir, err := os.MkdirTemp("", "sidecars")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	sidecars = filepath.Join(dir, "sidecars")
	build := exec.Command("go", "build", "-o", sidecars, "airlock/cmd/sidecars")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
		return 1
	}
	b, err := New(dir)
	if err == nil {
		err = b.importImage(context.Background(), agentRef, []string{`ENTRYPOINT ["/bin/env", "FROM_ENTRYPOINT=1"]`}, busybox)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "making the agent's image:", err)
		return 1
	}
	return m.Run()
}

// busybox is the smallest system that an agent can live in.
func busybox(w *tar.Writer) error {
	const path = "/bin/busybox"
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("the package busybox-static is needed: %w", err)
	}
	list, err := exec.Command(path, "--list").Output()
	if err != nil {
		return err
	}
	for _, dir := range []string{"bin/", "tmp/", "etc/", "proc/", "dev/", "sys/"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}); err != nil {
			return err
		}
	}
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755, Size: int64(len(data))}); err != nil {
		return err
	}
	if _, err := w.Write(data); err != nil {
		return err
	}
	for _, name := range strings.Fields(string(list)) {
		if name == "busybox" {
			continue
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "busybox", Mode: 0o777}); err != nil {
			return err
		}
	}
	return nil
}

func suite(t *testing.T) (pairtest.Suite, *Backend) {
	t.Helper()
	root := t.TempDir()
	b, err := New(root)
	must(t, err)
	return pairtest.Suite{Backend: b, Root: root, Sidecars: sidecars, Image: agentRef}, b
}

func TestContract(t *testing.T) {
	s, _ := suite(t)
	s.Run(t)
}

// TestNetworks shows both directions: on networks of the engine the agent
// reaches the host, by connections or by datagrams past the routing table, and
// from our place it does not.
func TestNetworks(t *testing.T) {
	s, b := suite(t)
	p := s.Plan(t, "networks", "sleep", "1000")
	s.Create(t, p)
	m := &making{Backend: b, plan: p}
	m.sidecars, m.ours = users()
	var err error
	m.image, err = b.sidecarsImage(t.Context(), p)
	must(t, err)
	found, err := m.probeFrom(t.Context(), agentsPlace(p.Name), nil)
	must(t, err)
	if found != "" {
		t.Errorf("from the agent's place:\n%s", found)
	}
	for kind, tt := range map[string]struct {
		options map[string]string
		want    []string
	}{
		"plain":      {nil, []string{"OPEN forbidden", "connected", "OPEN datagram"}},
		"no-address": {map[string]string{"com.docker.network.bridge.inhibit_ipv4": "true"}, []string{"SO_DONTROUTE SO_BINDTODEVICE", "PKTINFO", "255.255.255.255", "224.0.0.1"}},
	} {
		name := "airlock-networks-" + kind
		_, err = b.engine.NetworkCreate(t.Context(), name, client.NetworkCreateOptions{Driver: "bridge", Internal: true, Options: tt.options, Labels: networkLabels(p, b.root, kind)})
		must(t, err)
		t.Cleanup(func() { _, _ = b.engine.NetworkRemove(context.Background(), name, client.NetworkRemoveOptions{}) })
		found, err = m.probeFrom(t.Context(), container.NetworkMode(name), nil)
		must(t, err)
		for _, want := range tt.want {
			if !strings.Contains(found, want) {
				t.Errorf("a network of the kind %s: expected %q to be found, got:\n%s", kind, want, found)
			}
		}
		t.Logf("a network of the kind %s:\n%.2000s", kind, found)
	}
}

// TestAgentHasNothingButLoopback looks at the interfaces themselves, and at
// what Delete leaves of the pair's volume.
func TestAgentHasNothingButLoopback(t *testing.T) {
	s, b := suite(t)
	volumes := func() int {
		found, err := b.engine.VolumeList(t.Context(), client.VolumeListOptions{})
		must(t, err)
		return len(found.Items)
	}
	before := volumes()
	p := s.Plan(t, "loopback", "sleep", "1000")
	s.Create(t, p)
	must(t, s.Backend.Start(t.Context(), p.Name))
	for script, want := range map[string]string{
		"tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '": "lo",
		"tail -n +2 /proc/net/route":                         "",
		"hostname":                                           p.Name,
		"grep -c 127.0.0.1 /etc/hosts":                       "6", // localhost, the four, and its own name
		"grep nameserver /etc/resolv.conf":                   "nameserver 127.0.0.1",
		"ip addr show lo | grep -c 127.0.0.2":                "1",
		"ls -d /run/airlock-net 2>/dev/null":                 "",
	} {
		if _, got := s.Sh(t, p.Name, script); got != want {
			t.Errorf("%s: expected %q, got %q", script, want, got)
		}
	}
	must(t, b.Delete(t.Context(), p.Name))
	if after := volumes(); after != before {
		t.Errorf("expected %d volumes, as before, got %d", before, after)
	}
}

// TestAnotherFolderIsNotShown exchanges the workspace after it was looked at:
// the engine mounts what is at its path, and the agent does not run on it.
func TestAnotherFolderIsNotShown(t *testing.T) {
	s, b := suite(t)
	parent, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	dir := filepath.Join(parent, "work")
	for _, d := range []string{dir, filepath.Join(parent, "other")} {
		must(t, os.Mkdir(d, 0o777))
		must(t, os.Chmod(d, 0o777))
	}
	p := s.Plan(t, "exchanged", "sh", "-c", "echo agent >/workspace/was-here")
	p.Agent.Workspace = pair.Workspace{Path: dir, Mode: pair.Bind}
	s.Create(t, p)
	must(t, os.Rename(dir, filepath.Join(parent, "away")))
	must(t, os.Rename(filepath.Join(parent, "other"), dir))
	must(t, b.Start(t.Context(), p.Name))
	pairtest.Eventually(t, func() bool {
		c, err := b.inspect(t.Context(), p.Name, roleAgent)
		must(t, err)
		return !c.State.Running
	})
	var out strings.Builder
	must(t, b.Logs(t.Context(), p.Name, false, &out))
	if !strings.Contains(out.String(), "another folder") {
		t.Errorf("expected the guard to say why, got:\n%s", &out)
	}
	if _, err := os.Lstat(filepath.Join(dir, "was-here")); err == nil {
		t.Error("the agent has run on the other folder")
	}
	must(t, os.Remove(dir))
	must(t, os.Symlink(filepath.Join(parent, "away"), dir))
	if err := b.Start(t.Context(), p.Name); err == nil || !strings.Contains(err.Error(), "symbolic link") {
		t.Errorf("expected an error about the link, got %v", err)
	}
}

// TestKilledCallerTakesTheSidecarsAlong kills what has made a tied pair.
func TestKilledCallerTakesTheSidecarsAlong(t *testing.T) {
	s, b := suite(t)
	p := s.Plan(t, "tied", "true")
	p.Tied = true
	data, err := json.Marshal(p)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(s.Root, "plan.json"), data, 0o600))
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "TEST_START_IN="+s.Root)
	cmd.Stdout = os.Stderr
	out, err := cmd.StderrPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { must(t, b.Delete(context.Background(), p.Name)) })
	if text, err := io.ReadAll(io.LimitReader(out, 5)); string(text) != "made\n" {
		t.Fatalf("expected the pair to be made, got %q, %v", text, err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // killed
	pairtest.Eventually(t, func() bool {
		c, err := b.inspect(t.Context(), p.Name, roleSidecars)
		must(t, err)
		return !c.State.Running
	})
}

// TestAgentReachesTheSidecarsAndNobodyElse looks from the agent itself, with
// tools of its own.
func TestAgentReachesTheSidecarsAndNobodyElse(t *testing.T) {
	s, _ := suite(t)
	l, err := net.Listen("tcp", ":0")
	must(t, err)
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	p := s.Plan(t, "reach", "sleep", "1000")
	s.Create(t, p)
	must(t, s.Backend.Start(t.Context(), p.Name))
	for _, at := range []string{"egress 9099", "git-gate 9418", "git-gate 9420", "supervise 9100"} {
		if code, out := s.Sh(t, p.Name, "nc -w 2 "+at+" -e /bin/true"); code != 0 {
			t.Errorf("%s: %d %s", at, code, out)
		}
	}
	addrs, err := net.InterfaceAddrs()
	must(t, err)
	for _, a := range addrs {
		ip, _, _ := net.ParseCIDR(a.String())
		if ip.IsLoopback() || ip.To4() == nil {
			continue
		}
		if code, _ := s.Sh(t, p.Name, fmt.Sprintf("nc -w 1 %s %s -e /bin/true", ip, port)); code == 0 {
			t.Errorf("the host was reached at %s", ip)
		}
	}
	if code, out := s.Sh(t, p.Name, "nslookup -timeout=1 example.com"); code == 0 {
		t.Errorf("a name of the outside was found: %s", out)
	}
	if _, out := s.Sh(t, p.Name, "echo $FROM_ENTRYPOINT; cat /proc/1/cmdline | tr '\\0' ' '"); !strings.Contains(out, "cage -guard-init /bin/env FROM_ENTRYPOINT=1 sleep 1000") {
		t.Errorf("the image's entry point is lost: %s", out)
	}
	for _, path := range []string{"/proc/1/exe", "/proc/1/environ", guardPath} {
		if code, _ := s.Sh(t, p.Name, "cat "+path+" >/dev/null 2>&1"); code == 0 {
			t.Errorf("%s can be read", path)
		}
	}
}

func TestKilledStart(t *testing.T) {
	s, b := suite(t)
	p := s.Plan(t, "killed", "true")
	m := &making{Backend: b, plan: p}
	m.sidecars, m.ours = users()
	must(t, m.images(t.Context()))
	must(t, m.folders(t.Context()))
	must(t, m.networks(t.Context()))
	must(t, m.startNet(t.Context()))
	status := func() string {
		all, err := b.List(t.Context())
		must(t, err)
		if len(all) == 0 {
			return ""
		}
		return all[0].Name + " " + all[0].State
	}
	if got := status(); got != "killed "+pair.Creating {
		t.Errorf("after the networks: %q", got)
	}
	must(t, m.startSidecars(t.Context()))
	if got := status(); got != "killed "+pair.Creating {
		t.Errorf("after the sidecars: %q", got)
	}
	must(t, b.Delete(t.Context(), p.Name))
	if got := status(); got != "" {
		t.Errorf("after the deletion: %q", got)
	}
}

// startOnly is hostctl in its own process, which can be killed.
func startOnly(root string) int {
	data, err := os.ReadFile(filepath.Join(root, "plan.json"))
	if err != nil {
		return 1
	}
	var p pair.Plan
	if err := json.Unmarshal(data, &p); err != nil {
		return 1
	}
	b, err := New(root)
	if err != nil || b.Create(context.Background(), p) != nil {
		return 1
	}
	if p.Tied {
		fmt.Fprintln(os.Stderr, "made")
		select {} // until it is killed
	}
	return 0
}

// TestStartKilledAtAnyMoment spreads SIGKILL over the whole of a start: what
// is left is found and removed.
func TestStartKilledAtAnyMoment(t *testing.T) {
	s, b := suite(t)
	for i := range 7 {
		p := s.Plan(t, fmt.Sprintf("moment-%d", i), "true")
		data, err := json.Marshal(p)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(s.Root, "plan.json"), data, 0o600))
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), "TEST_START_IN="+s.Root)
		must(t, cmd.Start())
		after := time.AfterFunc(time.Duration(50+i*350)*time.Millisecond, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait() // killed, or just done
		after.Stop()
		// What the engine was doing when its client died, it brings to an end.
		pairtest.Eventually(t, func() bool {
			must(t, b.Delete(t.Context(), p.Name))
			containers, err := b.engine.ContainerList(t.Context(), client.ContainerListOptions{All: true, Filters: b.filter(p.Name)})
			must(t, err)
			networks, err := b.engine.NetworkList(t.Context(), client.NetworkListOptions{Filters: b.filter(p.Name)})
			must(t, err)
			return len(containers.Items) == 0 && len(networks.Items) == 0
		})
	}
	for i := range 7 { // the engine may have gone on after the last look
		must(t, b.Delete(t.Context(), fmt.Sprintf("moment-%d", i)))
	}
}

func TestAnotherRootsPairIsLeftAlone(t *testing.T) {
	s, _ := suite(t)
	other, _ := suite(t)
	s.Create(t, s.Plan(t, "shared", "true"))
	if err := other.Backend.Create(t.Context(), other.Plan(t, "shared", "true")); err == nil {
		t.Error("two pairs have one name")
	}
	must(t, other.Backend.Delete(t.Context(), "shared"))
	all, err := s.Backend.List(t.Context())
	must(t, err)
	if len(all) != 1 || all[0].State != pair.Created {
		t.Errorf("%+v", all)
	}
}

func TestRefusedPlaceLeavesNothing(t *testing.T) {
	s, b := suite(t)
	p := s.Plan(t, "refused", "true")
	p.Daemons = []string{"egress", "pipelock"}
	b.promised = []string{"supervise:9100"} // a port that the agent does not get
	err := b.Create(t.Context(), p)
	if err == nil || !strings.Contains(err.Error(), "refusing to make the agent") || !strings.Contains(err.Error(), "OPEN wanted supervise:9100") {
		t.Errorf("got %v", err)
	}
	all, err := b.List(t.Context())
	must(t, err)
	if len(all) != 0 {
		t.Errorf("left over: %+v", all)
	}
}

func TestMissingImageIsNamed(t *testing.T) {
	s, b := suite(t)
	p := s.Plan(t, "no-image", "true")
	p.Image = "airlock-no-such-image:1"
	err := b.Create(t.Context(), p)
	if err == nil || !strings.Contains(err.Error(), "airlock-no-such-image:1") {
		t.Errorf("got %v", err)
	}
}
