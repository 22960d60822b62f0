// Sidecars is the one binary inside the sidecars image. Under the name of a
// daemon, or with it as the first argument, it is that daemon; as PID 1 it is
// the supervisor.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"airlock/egress"
	"airlock/gitgate"
	"airlock/internal/activation"
	"airlock/internal/cage"
	"airlock/internal/confine"
	"airlock/internal/control"
	"airlock/internal/pid1"
	"airlock/internal/probe"
	"airlock/pipelock"
	"airlock/supervise"
	"airlock/supervisor"
)

type applet struct {
	name  string
	main  func(ctx context.Context, args []string, stdout, stderr io.Writer) error
	help  string // empty: hidden
	raw   bool   // handles its own signals
	roots bool   // verifies servers
	hide  bool   // holds secrets: nobody else of its user may look into it
}

// applets is the table of everything that this binary can be.
var applets = []applet{
	{name: "supervisor", main: supervisor.Main, help: "start and watch the daemons; what PID 1 is", raw: true, hide: true},
	{name: "egress", main: egress.Main, help: "intercepting proxy that injects credentials", hide: true},
	{name: "pipelock", main: pipelock.Main, help: "allowlist, secret scan, and the one outbound dial", roots: true, hide: true},
	{name: "git-gate", main: gitgate.Main, help: "git mirror that scans every push", roots: true, hide: true},
	{name: "supervise", main: supervise.Main, help: "MCP server through which the agent asks", hide: true},
	{name: "ctl", main: control.Main, help: "ask the supervisor of this bundle"},
	{name: "probe", main: probe.Main, help: "try to get out, and report what could"},
	{name: "digest", main: supervisor.Digest, hide: true},
	{name: "git-upload-pack", main: gitgate.UploadPack},
	{name: "git-receive-pack", main: gitgate.ReceivePack},
	{name: "init", main: pid1.Main, raw: true},
	{name: "cage", main: cage.Main, raw: true},
}

func main() {
	if len(os.Args) == 2 && slices.Contains([]string{"help", "-h", "--help"}, os.Args[1]) {
		fmt.Println(usage())
		return
	}
	a, args, err := choose(os.Args, os.Getpid())
	if err == nil {
		err = run(a, args)
	}
	if errors.Is(err, flag.ErrHelp) {
		return // it has been given
	}
	if err != nil && err.Error() != "" { // empty: how a command of init ended
		fmt.Fprintf(os.Stderr, "sidecars: %v\n", err)
		activation.Notify(activation.KeyError, err.Error()) // the status says why, not the log alone
	}
	os.Exit(exitCode(err))
}

// choose finds the applet: by the name that we were called by, else by the
// first argument, else, as PID 1, the supervisor.
func choose(argv []string, pid int) (applet, []string, error) {
	name := filepath.Base(argv[0])
	if a, ok := find(name); ok {
		return a, argv[1:], nil
	}
	if len(argv) > 1 {
		if a, ok := find(argv[1]); ok {
			return a, argv[2:], nil
		}
	}
	if pid == 1 && len(argv) == 1 {
		return applets[0], nil, nil
	}
	return applet{}, nil, usageError(argv[1:])
}

func find(name string) (applet, bool) {
	i := slices.IndexFunc(applets, func(a applet) bool { return a.name == name })
	if i < 0 {
		return applet{}, false
	}
	return applets[i], true
}

func run(a applet, args []string) error {
	if a.hide {
		if err := confine.Hide(); err != nil {
			return err
		}
	}
	ctx := context.Background()
	if a.roots {
		fallbackRoots()
	}
	if !a.raw {
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
		defer stop()
	}
	return a.main(ctx, args, os.Stdout, os.Stderr)
}

type usageErr struct{ text string }

func (e usageErr) Error() string { return e.text }
func (e usageErr) ExitCode() int { return 2 }

func usageError(args []string) error {
	if len(args) > 0 {
		return usageErr{fmt.Sprintf("no applet is named %q; %s", args[0], usage())}
	}
	return usageErr{usage()}
}

func usage() string {
	var b strings.Builder
	b.WriteString("usage: sidecars APPLET [ARGUMENT...], or a link named like one:")
	for _, a := range applets {
		if a.help != "" {
			fmt.Fprintf(&b, "\n  %-11s %s", a.name, a.help)
		}
	}
	return b.String()
}

// exitCode is 0, the code that the error carries, or 1.
func exitCode(err error) int {
	var coded interface{ ExitCode() int }
	switch {
	case err == nil:
		return 0
	case errors.As(err, &coded):
		return coded.ExitCode()
	}
	return 1
}
