//go:build linux

package probe_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"airlock/internal/config"
	"airlock/internal/probe"
)

// The test binary is the applet, too.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "probe" {
		if os.Getenv("PROBE_NO_VSOCK") != "" {
			refuseVsock()
		}
		if err := probe.Main(context.Background(), os.Args[2:], os.Stdout, os.Stderr); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// inEmptyNet runs the applet where there is an interface lo, which is down.
func inEmptyNet(t *testing.T, args ...string) (probe.Report, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", append([]string{"probe", "-json"}, args...)...)
	cmd.Env = append(os.Environ(), "PROBE_NO_VSOCK=1", "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 1000, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 1000, HostID: os.Getgid(), Size: 1}},
	}
	out, runErr := cmd.Output()
	var r probe.Report
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%v: %q (%v)", err, out, runErr)
	}
	return r, runErr
}

func TestEmptyNetworkIsClosed(t *testing.T) {
	canary, err := probe.NewCanary()
	if err != nil {
		t.Fatal(err)
	}
	defer canary.Close()
	begin := time.Now()
	r, err := inEmptyNet(t, "-datagram", canary.Token(), "-forbid", strings.Join(append(canary.Addresses(), "192.0.2.1:80"), ","))
	if err != nil || !r.Closed {
		t.Fatalf("%v: %v", err, r.Wrong())
	}
	if d := time.Since(begin); d > 2*time.Second {
		t.Errorf("it took %v", d)
	}
	for _, check := range []string{"dns", "metadata", "internet", "forbidden", "default-route", "raw-socket", "raw-socket6", "packet-socket", "vsock", "datagram"} {
		if !slices.ContainsFunc(r.Findings, func(f probe.Finding) bool { return f.Check == check }) {
			t.Errorf("%s was not tried", check)
		}
	}
}

func TestMissingWantedPortIsAFault(t *testing.T) {
	r, err := inEmptyNet(t, "-want", "127.0.0.1:9099")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Fatalf("exit: %v", err)
	}
	if w := r.Wrong(); len(w) != 1 || w[0].Check != "wanted" {
		t.Fatalf("%v", w)
	}
}

// TestHostIsNotClosed is the other direction: from the plain machine the
// probe must find what there is.
func TestHostIsNotClosed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	r := probe.Run(t.Context(), probe.Config{Want: []string{l.Addr().String()}, Forbid: []string{l.Addr().String(), closed.Addr().String()}})
	got := map[string]probe.Finding{}
	for _, f := range r.Findings {
		got[f.Check+" "+f.Target] = f
	}
	for _, want := range []probe.Finding{
		{Check: "wanted", Target: l.Addr().String(), Good: true, Detail: "answers"},
		{Check: "forbidden", Target: l.Addr().String(), Good: false, Detail: "connected"},
		{Check: "forbidden", Target: closed.Addr().String(), Good: false, Detail: "reached, though the port is closed"},
	} {
		if got[want.Check+" "+want.Target] != want {
			t.Errorf("got %+v, want %+v", got[want.Check+" "+want.Target], want)
		}
	}
	if r.Closed || r.Err() == nil {
		t.Error("the host was reported closed")
	}
}

func TestCanaryIsReachableOnTheHost(t *testing.T) {
	canary, err := probe.NewCanary()
	if err != nil {
		t.Fatal(err)
	}
	defer canary.Close()
	if len(canary.Addresses()) == 0 {
		t.Skip("this machine has no address but loopback")
	}
	r := probe.Run(t.Context(), probe.Config{Forbid: canary.Addresses(), Datagram: canary.Token()})
	for _, f := range r.Findings {
		if f.Check == "forbidden" && f.Good {
			t.Errorf("%s was not found: %s", f.Target, f.Detail)
		}
	}
}

func TestLines(t *testing.T) {
	var out bytes.Buffer
	err := probe.Main(t.Context(), []string{"-want", "127.0.0.1:1"}, &out, &out)
	if err == nil || !strings.Contains(err.Error(), "wanted 127.0.0.1:1: no answer") {
		t.Errorf("got %v", err)
	}
	if !strings.Contains(out.String(), "OPEN wanted 127.0.0.1:1: no answer") {
		t.Errorf("got %s", &out)
	}
}

func TestArguments(t *testing.T) {
	for _, args := range [][]string{{"-want", "egress"}, {"-forbid", ":80"}, {"-want", "a:0"}, {"-want", "a:http"}, {"more"}, {"-no"}} {
		var usage *config.Error
		if err := probe.Main(t.Context(), args, new(bytes.Buffer), new(bytes.Buffer)); !errors.As(err, &usage) {
			t.Errorf("%q: %v, want a usage error", args, err)
		}
	}
}

func TestWant(t *testing.T) {
	if got := strings.Join(probe.Want(nil), " "); got != "egress:9099 git-gate:9418 git-gate:9420 supervise:9100" {
		t.Error(got)
	}
	if got := strings.Join(probe.Want([]string{"pipelock"}), " "); got != "pipelock:8888" {
		t.Error(got)
	}
}
