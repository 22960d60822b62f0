package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"
	"golang.org/x/term"

	"airlock/hostctl/pair"
)

// stream connects the caller's streams to an attached process until its
// output ends. With a terminal the caller's goes raw, and resize is told its
// size now and whenever that changes.
func stream(conn client.HijackedResponse, tty bool, streams pair.IO, resize func(rows, cols uint)) error {
	defer conn.Close()
	in, out, errs := streams.Stdin, orDiscard(streams.Stdout), orDiscard(streams.Stderr)
	if streams.TTY != nil && tty {
		restore, err := raw(streams.TTY)
		if err != nil {
			return err
		}
		defer restore()
		defer followSize(streams.TTY, resize)()
		if in == nil {
			in = streams.TTY
		}
		if streams.Stdout == nil {
			out = streams.TTY
		}
	}
	go feed(conn, in) // not waited for: a read of the caller's input cannot be cut short
	var err error
	if tty {
		_, err = io.Copy(out, conn.Reader)
	} else {
		_, err = stdcopy.StdCopy(out, errs, conn.Reader)
	}
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		return fmt.Errorf("reading the output: %w", err)
	}
	return nil
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}

func feed(conn client.HijackedResponse, in io.Reader) {
	if in != nil {
		_, _ = io.Copy(conn.Conn, in) // it ends when the process does
	}
	_ = conn.CloseWrite() // gone already
}

func raw(tty *os.File) (restore func(), err error) {
	state, err := term.MakeRaw(int(tty.Fd()))
	if err != nil {
		return nil, fmt.Errorf("making the terminal raw: %w", err)
	}
	return func() { _ = term.Restore(int(tty.Fd()), state) }, nil
}

// followSize tells the size of the terminal now and at every change, until
// the function it returns is called.
func followSize(tty *os.File, resize func(rows, cols uint)) (stop func()) {
	tell := func() {
		if cols, rows, err := term.GetSize(int(tty.Fd())); err == nil {
			resize(uint(rows), uint(cols))
		}
	}
	tell()
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, syscall.SIGWINCH)
	var following sync.WaitGroup
	following.Go(func() {
		for range changes {
			tell()
		}
	})
	return func() {
		signal.Stop(changes)
		close(changes)
		following.Wait()
	}
}

// exec runs one process in a container and returns its exit code. When ctx
// ends we leave; the engine has no way to end the process.
func (b *Backend) exec(ctx context.Context, id string, argv []string, streams pair.IO) (int, error) {
	tty := streams.TTY != nil
	created, err := b.engine.ExecCreate(ctx, id, client.ExecCreateOptions{
		Cmd: argv, TTY: tty, AttachStdin: streams.Stdin != nil || tty, AttachStdout: true, AttachStderr: true,
	})
	if err != nil {
		return 1, fmt.Errorf("preparing to run %s: %w", argv[0], err)
	}
	conn, err := b.engine.ExecAttach(ctx, created.ID, client.ExecAttachOptions{TTY: tty})
	if err != nil {
		return 1, fmt.Errorf("running %s: %w", argv[0], err)
	}
	defer context.AfterFunc(ctx, conn.Close)()
	err = stream(conn.HijackedResponse, tty, streams, func(rows, cols uint) {
		_, _ = b.engine.ExecResize(ctx, created.ID, client.ExecResizeOptions{Height: rows, Width: cols}) // a wrong size hurts nobody
	})
	if err = errors.Join(ctx.Err(), err); err != nil {
		return 1, err
	}
	result, err := b.engine.ExecInspect(ctx, created.ID, client.ExecInspectOptions{})
	if err != nil {
		return 1, fmt.Errorf("asking how %s ended: %w", argv[0], err)
	}
	return result.ExitCode, nil
}
