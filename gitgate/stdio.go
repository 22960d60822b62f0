package gitgate

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
)

// stdioUsage is what UploadPack wants.
const stdioUsage = "usage: git-gate upload-pack [--strict] [--stateless-rpc] [--http-backend-info-refs] DIR"

// usageErr ends the process with code 2.
type usageErr string

func (e usageErr) Error() string { return string(e) }

// ExitCode is that of usage errors.
func (usageErr) ExitCode() int { return 2 }

// brokenErr ends the process as git's own programs do; what went wrong has been said.
type brokenErr struct{}

func (brokenErr) Error() string { return "" }

// ExitCode is git's for a fatal error.
func (brokenErr) ExitCode() int { return 128 }

// fatal says what went wrong in git's way.
func fatal(stderr io.Writer, err error) error {
	fmt.Fprintf(stderr, "fatal: %v\n", err)
	return brokenErr{}
}

// UploadPack serves an ordinary repository on standard input and output as git-upload-pack does, so that scripts which are written for git's own
// program can drive ours. It has no upstream, and reads no configuration but the repository's.
func UploadPack(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var strict, stateless, greeting bool
	flags := flag.NewFlagSet("upload-pack", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.BoolVar(&strict, "strict", false, "")
	flags.BoolVar(new(bool), "no-strict", false, "")
	flags.Int("timeout", 0, "")
	flags.BoolVar(&stateless, "stateless-rpc", false, "")
	flags.BoolVar(&greeting, "http-backend-info-refs", false, "")
	flags.BoolVar(&greeting, "advertise-refs", false, "")
	if err := flags.Parse(args); err != nil || flags.NArg() != 1 {
		return usageErr(stdioUsage)
	}
	o, err := openOrdinary(flags.Arg(0), strict)
	if err != nil {
		return fatal(stderr, err)
	}
	in, out := bufio.NewReaderSize(os.Stdin, 64<<10), bufio.NewWriterSize(stdout, 64<<10)
	s := &stdio{repository: o, version: versionOf(os.Getenv("GIT_PROTOCOL")), stateless: stateless, in: in, out: out}
	err = s.serve(ctx, greeting)
	var refused errRefused
	if errors.As(err, &refused) {
		_ = writePkt(out, "ERR "+refused.Error()) // the client may be gone; it is said on the other side too
	}
	if err = errors.Join(err, out.Flush()); err != nil {
		return fatal(stderr, err)
	}
	return nil
}

// stdio is one client on standard input and output.
type stdio struct {
	repository *ordinary
	version    int
	stateless  bool
	in         *bufio.Reader
	out        *bufio.Writer
}

func (s *stdio) serve(ctx context.Context, greeting bool) error {
	if s.version == 2 {
		return s.serveV2(ctx, greeting)
	}
	src, err := s.repository.load()
	if err != nil {
		return err
	}
	if greeting || !s.stateless {
		if s.version == 1 {
			if err := writePkt(s.out, "version 1\n"); err != nil {
				return err
			}
		}
		if err := errors.Join(advertiseFetch(s.out, src, s.stateless || greeting), s.out.Flush()); err != nil || greeting {
			return err
		}
	}
	f := &fetching{source: src, in: s.in, out: s.out, stateless: s.stateless}
	return f.run(ctx)
}

func (s *stdio) serveV2(ctx context.Context, greeting bool) error {
	if greeting || !s.stateless {
		if err := errors.Join(advertiseV2(s.out, s.repository.features()), s.out.Flush()); err != nil || greeting {
			return err
		}
	}
	load := func(context.Context) (source, error) {
		src, err := s.repository.load()
		src.allows.anything = true // as git does in v2
		src.offers = anyObject
		return src, err
	}
	return (&speaker{in: s.in, out: s.out, list: load, recent: load}).serve(ctx, s.stateless)
}

// service is the part of Main that is no daemon.
func service(ctx context.Context, args []string, stdout, stderr io.Writer) (served bool, err error) {
	if len(args) == 0 {
		return false, nil
	}
	switch args[0] {
	case "upload-pack":
		return true, UploadPack(ctx, args[1:], stdout, stderr)
	case "receive-pack":
		return true, ReceivePack(ctx, args[1:], stdout, stderr)
	}
	return false, nil
}
