// Package hostctl is the controller on the host: it makes pairs from a
// manifest, runs programs in them, shows what their agents ask for, and is
// the only one that changes their policy. It speaks to the sidecars by
// running their applet ctl, whatever the backend.
package hostctl

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"airlock/hostctl/docker"
	"airlock/hostctl/local"
	"airlock/hostctl/pair"
	"airlock/internal/audit"
	"airlock/internal/config"
	"airlock/internal/proposal"
)

func usagef(format string, args ...any) error { return config.Usagef(format, args...) }

// ExitError is the exit code of the agent's own command.
type ExitError struct{ Code int }

func (e *ExitError) Error() string { return fmt.Sprintf("the command ended with code %d", e.Code) }

// ExitCode is the command's.
func (e *ExitError) ExitCode() int { return e.Code }

// Main runs hostctl.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	s, err := openStore()
	if err != nil {
		return err
	}
	c := &controller{store: s, out: stdout, err: stderr, backends: map[string]func() (backend, error){
		"local":  func() (backend, error) { return local.New(s.pairs()) },
		"docker": func() (backend, error) { return docker.New(s.pairs()) },
	}}
	root := c.commands(stdin)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	return root.ExecuteContext(ctx)
}

func (c *controller) commands(stdin io.Reader) *cobra.Command {
	root := &cobra.Command{
		Use: "hostctl", Short: "Run an untrusted coding agent beside its airlock",
		SilenceUsage: true, SilenceErrors: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("no command is named %q; see: hostctl --help", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.PersistentFlags().BoolVar(&c.json, "json", false, "print JSON")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%v\nusage: %s", err, cmd.UseLine())
	})
	root.AddCommand(c.startCommand(), c.runCommand(stdin), c.execCommand(stdin), c.stopCommand(), c.listCommand(), c.logsCommand(), c.statusCommand(),
		c.explainCommand(), c.routesCommand(), c.proposalsCommand(), c.approveCommand(), c.denyCommand(), c.answerCommand(), c.auditCommand(), c.allowCommand(stdin), c.doctorCommand())
	return root
}

// exactly is cobra.ExactArgs with our kind of error.
func exactly(n int, names string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return usagef("%s wants %s\nusage: %s", cmd.Name(), names, cmd.UseLine())
		}
		return nil
	}
}

func (c *controller) startFlags(cmd *cobra.Command, o *options) {
	f := cmd.Flags()
	f.StringVarP(&o.manifest, "file", "f", "airlock.yaml", "the manifest")
	f.StringVar(&o.backend, "backend", "", "local or docker (default: docker where an engine answers)")
	f.StringVar(&o.name, "name", "", "name of the pair instead of the manifest's")
	f.BoolVar(&o.trust, "trust", false, "use a manifest in the workspace although it has changed")
	f.BoolVar(&o.dryRun, "dry-run", false, "print what would be made, and make nothing")
	f.StringVar(&o.image, "sidecars-image", "", "docker: image of the sidecars (default: made from the binary)")
	f.StringVar(&o.sidecars, "sidecars", sidecarsBeside(), "the sidecars binary")
	f.StringSliceVar(&o.allowMissing, "allow-missing", nil, "local: layers that the kernel may lack (landlock, seccomp)")
}

// sidecarsBeside is the binary in our own folder.
func sidecarsBeside() string {
	self, err := os.Executable()
	if err != nil {
		return "sidecars"
	}
	return filepath.Join(filepath.Dir(self), "sidecars")
}

func (c *controller) startCommand() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use: "start [-f airlock.yaml]", Short: "Start a pair and leave its agent running", Args: exactly(0, "no arguments"),
		Example: "  hostctl start -f airlock.yaml",
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.start(cmd.Context(), o) },
	}
	c.startFlags(cmd, &o)
	return cmd
}

func (c *controller) runCommand(stdin io.Reader) *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use: "run [-f airlock.yaml] [-- COMMAND [ARGUMENT...]]", Short: "Start a pair, run a command in it, stop the pair",
		Example: "  hostctl run -f airlock.yaml -- claude",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.command, o.streams, o.tied = args, c.streams(stdin), true
			exit, err := c.run(cmd.Context(), o)
			return ended(exit, err)
		},
	}
	c.startFlags(cmd, &o)
	return cmd
}

func ended(exit int, err error) error {
	if err == nil && exit != 0 {
		return &ExitError{exit}
	}
	return err
}

// streams are our own; a terminal when both ends are one.
func (c *controller) streams(stdin io.Reader) pair.IO {
	streams := pair.IO{Stdin: stdin, Stdout: c.out, Stderr: c.err}
	in, ok1 := stdin.(*os.File)
	out, ok2 := c.out.(*os.File)
	if ok1 && ok2 && term.IsTerminal(int(in.Fd())) && term.IsTerminal(int(out.Fd())) {
		streams.TTY = in
	}
	return streams
}

func (c *controller) execCommand(stdin io.Reader) *cobra.Command {
	return &cobra.Command{
		Use: "exec NAME -- COMMAND [ARGUMENT...]", Short: "Run one more command in a pair's agent",
		Example: "  hostctl exec demo -- sh",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usagef("exec wants a pair and a command\nusage: %s", cmd.UseLine())
			}
			_, b, err := c.of(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			exit, err := b.Exec(cmd.Context(), args[0], args[1:], c.streams(stdin))
			return ended(exit, err)
		},
	}
}

func (c *controller) stopCommand() *cobra.Command {
	return &cobra.Command{
		Use: "stop NAME...", Short: "Stop pairs and remove what they had", Example: "  hostctl stop demo",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("stop wants the name of a pair\nusage: %s", cmd.UseLine())
			}
			for _, name := range args {
				if err := c.stop(cmd.Context(), name); err != nil {
					return err
				}
				c.progress("pair %s is stopped", name)
			}
			return nil
		},
	}
}

func (c *controller) listCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the pairs", Aliases: []string{"ls"}, Args: exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := c.list(cmd.Context())
			if err != nil {
				return err
			}
			if c.json {
				return c.print(all)
			}
			t := tabwriter.NewWriter(c.out, 0, 4, 2, ' ', 0)
			fmt.Fprintln(t, "NAME\tBACKEND\tSTATE\tAGE\tAGENT")
			for _, p := range all {
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", p.Name, p.Backend, p.State, time.Since(p.Created).Round(time.Second), p.Agent)
			}
			return t.Flush()
		},
	}
}

// list asks every backend that one of our pairs uses.
func (c *controller) list(ctx context.Context) ([]pair.Status, error) {
	names, err := c.store.names()
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, name := range names {
		if card, err := c.store.read(name); err == nil {
			used[card.Backend] = true
		}
	}
	all := []pair.Status{}
	for _, which := range []string{"docker", "local"} {
		if !used[which] {
			continue
		}
		_, b, err := c.backendOf(ctx, which)
		if err != nil {
			return nil, err
		}
		some, err := b.List(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	slices.SortFunc(all, func(a, b pair.Status) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

func (c *controller) logsCommand() *cobra.Command {
	var follow, raw bool
	cmd := &cobra.Command{
		Use: "logs NAME [-f] [--raw]", Short: "Show what a pair printed", Args: exactly(1, "the name of a pair"),
		Long: "Show what a pair printed, each line with the name of the half that printed it. On a terminal, control characters\n" +
			"are shown as escapes, and long lines are broken, so that an agent's text cannot look like another's.",
		Example: "  hostctl logs demo -f",
		RunE: func(cmd *cobra.Command, args []string) error {
			_, b, err := c.of(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			out := onTerminal(c.out)
			if raw {
				out = c.out
			}
			return b.Logs(cmd.Context(), args[0], follow, out)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on as more comes")
	cmd.Flags().BoolVar(&raw, "raw", false, "print the bytes as they are, on a terminal, too")
	return cmd
}

func (c *controller) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use: "status NAME", Short: "Show the daemons of a pair", Args: exactly(1, "the name of a pair"),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, b, err := c.of(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			argv := []string{"status"}
			if c.json {
				argv = append(argv, "--json")
			}
			exit, err := b.Ctl(cmd.Context(), args[0], argv, pair.IO{Stdout: c.out, Stderr: c.err})
			return ended(exit, err)
		},
	}
}

// open is a proposal with the pair that it belongs to.
type open struct {
	Pair string `json:"pair"`
	proposal.Proposal
}

// proposals reads those of one pair, or of all.
func (c *controller) proposals(ctx context.Context, only string) ([]open, error) {
	names := []string{only}
	if only == "" {
		var err error
		if names, err = c.store.names(); err != nil {
			return nil, err
		}
	}
	all := []open{}
	for _, name := range names {
		_, b, err := c.of(ctx, name)
		if err == nil {
			var some []proposal.Proposal
			if err = ctl(ctx, b, name, &some, "proposals"); err == nil {
				for _, p := range some {
					all = append(all, open{name, p})
				}
				continue
			}
		}
		if only != "" {
			return nil, err
		}
		fmt.Fprintf(c.err, "hostctl: pair %s: %v\n", name, err)
	}
	return all, nil
}

func (c *controller) proposalsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "proposals [NAME]", Short: "Show what agents ask for",
		RunE: func(cmd *cobra.Command, args []string) error {
			only := ""
			if len(args) > 0 {
				only = args[0]
			}
			all, err := c.proposals(cmd.Context(), only)
			if err != nil {
				return err
			}
			if c.json {
				return c.print(all)
			}
			for _, p := range all {
				c.show(p)
			}
			if len(all) == 0 {
				fmt.Fprintln(c.out, "nobody asks for anything")
			}
			return nil
		},
	}
}

// show prints one proposal. The agent's words are quoted: they may lie.
func (c *controller) show(p open) {
	fmt.Fprintf(c.out, "%s  %s  pair %s, %s ago\n", p.ID, p.State, p.Pair, time.Since(p.Created).Round(time.Second))
	switch p.Kind {
	case proposal.Access:
		fmt.Fprintf(c.out, "  wants: %s %q\n  says:  %q\n", strings.Join(p.Methods, ", "), p.URL, p.Why)
		if p.State == proposal.Pending {
			fmt.Fprintf(c.out, "  hostctl approve %s   or   hostctl deny %s\n", p.ID, p.ID)
		}
	case proposal.Fault:
		fmt.Fprintf(c.out, "  fault: %s\n", p.Why)
		if p.State == proposal.Pending {
			fmt.Fprintf(c.out, "  hostctl approve %s starts it again\n", p.ID)
		}
	case proposal.Leak:
		fmt.Fprintf(c.out, "  holds: %s %q\n  found: %s\n", strings.Join(p.Methods, ", "), p.URL, p.Why)
		if p.State == proposal.Pending {
			fmt.Fprintf(c.out, "  the request waits for a moment: hostctl approve %s lets this one pass, hostctl deny %s refuses it\n", p.ID, p.ID)
		}
	case proposal.Overwritten:
		fmt.Fprintf(c.out, "  sent:  %s %q\n  found: %s\n", strings.Join(p.Methods, ", "), p.URL, p.Why)
		if p.State == proposal.Pending {
			fmt.Fprintf(c.out, "  the request went on without it; hostctl deny %s takes this off the list\n", p.ID)
		}
	case proposal.GitAllow:
		fmt.Fprintf(c.out, "  pushed: %s in %q, repository %s\n", p.Rule, p.Place, p.Repo)
		if p.Why != "" {
			fmt.Fprintf(c.out, "  says:   %q\n", p.Why)
		}
		if p.State == proposal.Pending {
			fmt.Fprintf(c.out, "  no secret? hostctl approve %s lets this value into this repository   or   hostctl deny %s\n", p.ID, p.ID)
		}
	case proposal.Question:
		fmt.Fprintf(c.out, "  asks:  %q %q\n", p.Question, p.Choices)
		if p.State == proposal.Pending {
			fmt.Fprintf(c.out, "  hostctl answer %s TEXT\n", p.ID)
		}
	}
}

// pairOf finds the pair that a proposal belongs to.
func (c *controller) pairOf(ctx context.Context, id string) (string, error) {
	all, err := c.proposals(ctx, "")
	if err != nil {
		return "", err
	}
	for _, p := range all {
		if p.ID == id {
			return p.Pair, nil
		}
	}
	return "", fmt.Errorf("%s: %w; see: hostctl proposals", id, proposal.ErrAbsent)
}

func (c *controller) approveCommand() *cobra.Command {
	var g grant
	var note string
	cmd := &cobra.Command{
		Use: "approve ID", Short: "Grant what an agent asks for, now, without a restart", Args: exactly(1, "the id of a proposal"),
		Example: "  hostctl approve p-abcd2345 --for 2h --path '/v1/*'",
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("for") && g.length <= 0 {
				return usagef("--for %v: a time in the future was wanted, like 2h", g.length)
			}
			name, err := c.pairOf(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.approve(cmd.Context(), name, args[0], note, g)
		},
	}
	cmd.Flags().DurationVar(&g.length, "for", 0, "the grant ends after this time")
	cmd.Flags().StringSliceVar(&g.paths, "path", nil, "grant these paths instead, like '/v1/*'")
	cmd.Flags().StringSliceVar(&g.methods, "method", nil, "grant these methods instead")
	cmd.Flags().StringVar(&note, "note", "", "a word to the agent")
	return cmd
}

func (c *controller) denyCommand() *cobra.Command {
	var note string
	cmd := &cobra.Command{
		Use: "deny ID", Short: "Refuse what an agent asks for", Args: exactly(1, "the id of a proposal"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.close(cmd.Context(), args[0], proposal.Denied, note)
		},
	}
	cmd.Flags().StringVar(&note, "note", "", "a word to the agent")
	return cmd
}

func (c *controller) answerCommand() *cobra.Command {
	return &cobra.Command{
		Use: "answer ID TEXT...", Short: "Answer an agent's question",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usagef("answer wants the id of a proposal and a text\nusage: %s", cmd.UseLine())
			}
			return c.close(cmd.Context(), args[0], proposal.Answered, strings.Join(args[1:], " "))
		},
	}
}

func (c *controller) close(ctx context.Context, id, state, note string) error {
	name, err := c.pairOf(ctx, id)
	if err != nil {
		return err
	}
	return c.answer(ctx, name, id, state, note)
}

func (c *controller) auditCommand() *cobra.Command {
	return &cobra.Command{
		Use: "audit FILE...", Short: "Verify the hash chains of audit files",
		Example: "  hostctl audit ~/.local/state/airlock/pairs/demo/state/audit/*.jsonl",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("audit wants files\nusage: %s", cmd.UseLine())
			}
			for _, path := range args {
				if err := c.verify(path); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func (c *controller) verify(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("verifying the audit: %w", err)
	}
	defer f.Close()
	n, last, err := audit.Verify(f)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	fmt.Fprintf(c.out, "%s: %d entries, unbroken; the last is %.16s\n", path, n, last)
	return nil
}

// progress tells a person what goes on.
func (c *controller) progress(format string, args ...any) {
	if !c.json {
		fmt.Fprintf(c.err, "hostctl: "+format+"\n", args...)
	}
}

func (c *controller) print(v any) error {
	enc := json.NewEncoder(c.out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// printPlan is the dry run.
func (c *controller) printPlan(l layout) error {
	if c.json {
		return c.print(l.plan)
	}
	fmt.Fprintf(c.out, "pair %s in %s\nagent: %q, workspace %s (%s)\n", l.plan.Name, l.plan.Dir, l.plan.Agent.Command, l.plan.Agent.Workspace.Path, l.plan.Agent.Workspace.Mode)
	for _, name := range []string{"egress.yaml", "pipelock.yaml", "git-gate.yaml", "supervise.yaml"} {
		fmt.Fprintf(c.out, "--- %s\n%s", name, l.etc[name])
	}
	return nil
}
