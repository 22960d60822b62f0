// Hostctl starts and runs pairs of an agent and its sidecars, from the host.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"airlock/hostctl"
)

// endWithin bounds how long hostctl may take to undo what it has begun, after
// a signal. Ending a pair takes up to 25 seconds.
const endWithin = 30 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	context.AfterFunc(ctx, func() {
		stop() // a second signal ends the process at once
		time.AfterFunc(endWithin, func() {
			fmt.Fprintf(os.Stderr, "hostctl: interrupted, and not done after %v; what is left is shown by hostctl list\n", endWithin)
			os.Exit(1)
		})
	})
	err := hostctl.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(report(err))
}

// report prints an error of ours and returns the exit code. The agent's own
// exit code is passed on in silence.
func report(err error) int {
	if err == nil {
		return 0
	}
	var agent *hostctl.ExitError
	if !errors.As(err, &agent) {
		if errors.Is(err, context.Canceled) { // only a signal does that
			err = fmt.Errorf("interrupted: %w", err)
		}
		// An error may quote what an agent has named or printed.
		fmt.Fprintf(os.Stderr, "hostctl: %s\n", hostctl.Printable(err.Error()))
	}
	var coded interface{ ExitCode() int }
	if errors.As(err, &coded) {
		return coded.ExitCode()
	}
	return 1
}
