package local

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"airlock/hostctl/pair"
	"airlock/internal/bundle"
	"airlock/internal/cage"
	"airlock/internal/probe"
)

// readyWithin bounds how long the sidecars may take to serve.
const readyWithin = 15 * time.Second

// Create makes a pair whose sidecars serve and whose agent's command has not
// run. Any error leaves nothing behind but logs.
func (b *Backend) Create(ctx context.Context, p pair.Plan) (err error) {
	if err := b.check(p); err != nil {
		return err
	}
	if err := makeFolders(p); err != nil {
		return err
	}
	r := record{Plan: p, Created: time.Now().UTC()}
	if err := claim(r); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			// Deleting is the undoing of every step, in reverse.
			err = errors.Join(err, b.Delete(context.WithoutCancel(ctx), p.Name))
		}
	}()
	if err := fillFolders(ctx, p, b.root); err != nil {
		return err
	}
	sockets, err := r.startCage(ctx)
	if err != nil {
		return err
	}
	if err := r.startSidecars(ctx, sockets); err != nil {
		return err
	}
	if err := r.probe(ctx); err != nil {
		return err
	}
	r.Ready = true
	return r.save()
}

func (b *Backend) check(p pair.Plan) error {
	errs := []error{p.Validate()}
	if p.Dir != filepath.Join(b.root, p.Name) {
		errs = append(errs, fmt.Errorf("the pair's folder must be %s", filepath.Join(b.root, p.Name)))
	}
	if !filepath.IsAbs(p.Sidecars) {
		errs = append(errs, fmt.Errorf("the sidecars binary %q: an absolute path was wanted", p.Sidecars))
	}
	for _, d := range p.Daemons {
		if !slices.Contains(bundle.Daemons(), d) {
			errs = append(errs, fmt.Errorf("daemon %q: one of %s was wanted", d, strings.Join(bundle.Daemons(), ", ")))
		}
	}
	return errors.Join(errs...)
}

// ids are the agent's user and group on the host: for root a pair of ids that
// nothing else has, from the range above the ones that systemd and the engines
// give out; an ordinary user has only their own to give.
func ids(name string) (uid, gid int) {
	if os.Geteuid() != 0 {
		return os.Getuid(), os.Getgid()
	}
	h := fnv.New32a()
	h.Write([]byte(name))
	id := int(0x7000_0000 + h.Sum32()&0x0fff_fffe)
	return id, id
}

// listeners are the sockets of the plan's daemons, in the cage.
func listeners(daemons []string) []cage.Listener {
	var all []cage.Listener
	for _, l := range bundle.Listeners(daemons) {
		all = append(all, cage.Listener(l))
	}
	return all
}

func (r *record) startCage(ctx context.Context) ([]*os.File, error) {
	log, err := openLog(r.Plan, agentLog)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	uid, gid := ids(r.Plan.Name)
	res := r.Plan.Agent.Resources.OrDefaults()
	source, err := workspaceSource(r.Plan)
	if err != nil {
		return nil, err
	}
	doors, err := checkBound(ctx, r.Plan)
	if err != nil {
		return nil, err
	}
	spec := cage.Spec{
		Pair: r.Plan.Name, HostUID: uid, HostGID: gid, Listeners: listeners(r.Plan.Daemons),
		Workspace: source, Hidden: doors, Files: r.Plan.Files(),
		MapOwner: os.Geteuid() == 0 && r.Plan.Agent.Workspace.Mode == pair.Bind,
		Memory:   res.Memory, Pids: res.Pids, Missing: r.Plan.AllowMissing,
	}
	started, err := cage.Start(ctx, r.Plan.Sidecars, spec, r.Plan.Run(), log, func(pid int) (err error) {
		if r.Cage, err = identify(pid); err != nil {
			return err
		}
		return r.save()
	})
	if err != nil {
		return nil, err
	}
	r.Missing = started.Missing
	return started.Listeners, nil
}

// startSidecars starts the supervisor, without privileges, in a session of its
// own, gives it the secrets, and waits until all of it serves.
func (r *record) startSidecars(ctx context.Context, sockets []*os.File) error {
	defer func() {
		for _, s := range sockets {
			s.Close()
		}
	}()
	log, err := openLog(r.Plan, sidecarsLog)
	if err != nil {
		return err
	}
	defer log.Close()
	p := r.Plan
	cmd := exec.Command(p.Sidecars, "cage", "-confine", "-read", p.Etc(), "-write", p.Run(), "-write", p.State(), "supervisor", "-secrets-stdin", "-max-log", strconv.Itoa(maxSidecarsLog))
	if p.Tied {
		cmd.Args = append(cmd.Args, "-end-with-stdin")
	}
	cmd.Args[0] = "sidecars"
	cmd.Dir = r.Plan.Run()
	cmd.Env = r.sidecarsEnv()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = sockets
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("starting the sidecars: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the sidecars: %w", err)
	}
	if err := r.admit(cmd.Process.Pid, stdin); err != nil {
		stdin.Close()
		return err
	}
	if p.Tied {
		go func() { _ = cmd.Wait() }() // holds the pipe open until the sidecars have ended, or this process has
	} else {
		stdin.Close()
	}
	return r.waitReady(ctx)
}

// admit writes the process down and only then gives it the secrets, without
// which it does not start: a supervisor that nobody knows of ends by itself.
func (r *record) admit(pid int, stdin io.Writer) (err error) {
	if r.Supervisor, err = identify(pid); err != nil {
		return err
	}
	if err := r.save(); err != nil {
		return err
	}
	secrets := r.Plan.Secrets
	if secrets == nil {
		secrets = map[string]string{}
	}
	if err := json.NewEncoder(stdin).Encode(secrets); err != nil {
		return fmt.Errorf("handing the secrets to the sidecars: %w", r.withLog(err))
	}
	return nil
}

// dirs are the sidecars' folders as seen from their working directory, which
// is the one of the sockets: the whole path of a socket may have no more than
// 107 bytes, and a home folder can be deep.
func (r *record) dirs() bundle.Dirs {
	return bundle.Dirs{Etc: r.Plan.Etc(), Run: ".", State: r.Plan.State()}
}

// sidecarsEnv is everything that the sidecars get of an environment.
func (r *record) sidecarsEnv() []string {
	var names []string
	for _, l := range listeners(r.Plan.Daemons) {
		names = append(names, l.Name)
	}
	env := append(r.dirs().Env(), "PATH=/usr/local/bin:/usr/bin:/bin", "TMPDIR="+r.Plan.Run(), "AIRLOCK_PAIR="+r.Plan.Name,
		"LISTEN_FDS="+strconv.Itoa(len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	if len(r.Plan.Daemons) > 0 {
		env = append(env, "SIDECAR_DAEMONS="+strings.Join(r.Plan.Daemons, ","))
	}
	return env
}

func (r *record) waitReady(ctx context.Context) error {
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var out bytes.Buffer
		code, err := r.ctl(ctx, []string{"health"}, pair.IO{Stdout: &out, Stderr: &out})
		if err == nil && code == 0 {
			return nil
		}
		if !r.Supervisor.alive() {
			return r.withLog(errors.New("the sidecars ended instead of serving"))
		}
		select {
		case <-ctx.Done():
			if err := caller.Err(); err != nil {
				return fmt.Errorf("waiting for the sidecars to serve: %w", err)
			}
			return r.withLog(fmt.Errorf("the sidecars are not ready after %v: %s", readyWithin, strings.TrimSpace(out.String())))
		case <-tick.C:
		}
	}
}

// probe tries, from the agent's place, to reach more than the sidecars.
func (r *record) probe(ctx context.Context) error {
	canary, err := probe.NewCanary()
	if err != nil {
		return err
	}
	defer canary.Close()
	var out bytes.Buffer
	argv := append([]string{cage.Binary, "probe", "-want", strings.Join(probe.Want(r.Plan.Daemons), ",")}, canary.Args()...)
	code, err := cage.Exec(ctx, r.Plan.Run(), cage.Command{Argv: argv, Dir: "/"}, pair.IO{Stdout: &out, Stderr: io.Discard})
	if err != nil {
		return fmt.Errorf("probing from the agent's place: %w", err)
	}
	arrived, err := canary.Arrived()
	if err != nil {
		return err
	}
	if code != 0 || len(arrived) > 0 {
		return fmt.Errorf("refusing to start the agent: from its place\n%s%s", out.String(), strings.Join(arrived, "\n"))
	}
	return nil
}

// withLog adds the end of the sidecars' log to the error.
func (r *record) withLog(err error) error {
	data, readErr := os.ReadFile(filepath.Join(r.Plan.Logs(), sidecarsLog))
	if readErr != nil || len(data) == 0 {
		return err
	}
	lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return fmt.Errorf("%w; its last lines:\n%s", err, strings.Join(lines[max(0, len(lines)-20):], "\n"))
}

// ctl asks the sidecars.
func (r *record) ctl(ctx context.Context, argv []string, streams pair.IO) (int, error) {
	cmd := exec.CommandContext(ctx, r.Plan.Sidecars, append([]string{"ctl"}, argv...)...)
	cmd.Args[0] = "sidecars"
	cmd.Dir = r.Plan.Run()
	cmd.Env = r.dirs().Env()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = streams.Stdin, streams.Stdout, streams.Stderr
	cmd.WaitDelay = time.Second
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() >= 0 {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 1, fmt.Errorf("asking the sidecars: %w", err)
	}
	return 0, nil
}
