package hostctl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"airlock/hostctl/pair"
	"airlock/hostctl/workspace"
	"airlock/internal/audit"
	"airlock/internal/bundle"
	"airlock/internal/config"
	"airlock/internal/policy"
)

func (c *controller) allowCommand(stdin io.Reader) *cobra.Command {
	cmd := &cobra.Command{
		Use: "allow", Short: "Show or change where a pair's requests may go at all", Args: exactly(1, "list, add, remove or edit"),
		Long: "Show or change where a pair's requests may go at all: pipelock's allowlist. It holds until the pair is stopped; what shall stay belongs into the manifest.\n" +
			"What egress lets pass, and with which credential, is another matter: see hostctl routes.",
		RunE: func(_ *cobra.Command, args []string) error {
			return usagef("allow wants list, add, remove or edit, not %q", args[0])
		},
	}
	var length time.Duration
	add := &cobra.Command{
		Use: "add NAME HOST...", Short: "Let requests go to hosts", Args: atLeast(2, "the name of a pair and a host"), Example: "  hostctl allow add demo docs.example.com --for 8h",
		RunE: func(cmd *cobra.Command, args []string) error {
			if length < 0 {
				return usagef("--for %v: a time in the future was wanted", length)
			}
			return c.changeAllow(cmd.Context(), args[0], func(list []bundle.Allowed) ([]bundle.Allowed, error) {
				return withHosts(list, args[1:], length)
			})
		},
	}
	add.Flags().DurationVar(&length, "for", 0, "how long (default: until the pair ends)")
	cmd.AddCommand(add,
		&cobra.Command{
			Use: "list NAME", Short: "Show the allowlist, one host a line", Args: exactly(1, "the name of a pair"),
			RunE: func(_ *cobra.Command, args []string) error { return c.listAllow(args[0]) },
		},
		&cobra.Command{
			Use: "remove NAME HOST...", Short: "Let no request go to hosts any more", Args: atLeast(2, "the name of a pair and a host"), Example: "  hostctl allow remove demo docs.example.com",
			RunE: func(cmd *cobra.Command, args []string) error {
				return c.changeAllow(cmd.Context(), args[0], func(list []bundle.Allowed) ([]bundle.Allowed, error) {
					return removed(list, args[1:])
				})
			},
		},
		&cobra.Command{
			Use: "edit NAME", Short: "Edit the allowlist in $VISUAL or $EDITOR", Args: exactly(1, "the name of a pair"), Example: "  hostctl allow edit demo",
			RunE: func(cmd *cobra.Command, args []string) error { return c.editAllow(cmd.Context(), args[0], stdin) },
		})
	return cmd
}

func atLeast(n int, names string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < n {
			return usagef("%s wants %s\nusage: %s", cmd.Name(), names, cmd.UseLine())
		}
		return nil
	}
}

// withHosts is the list with more hosts; one that is there gets another end.
func withHosts(list []bundle.Allowed, hosts []string, length time.Duration) ([]bundle.Allowed, error) {
	for _, text := range hosts {
		host, err := policy.ParsePattern(text)
		if err != nil {
			return nil, usagef("%v", err)
		}
		entry := bundle.Allowed{Host: host}
		if length > 0 {
			entry.Expires = time.Now().Add(length).UTC().Truncate(time.Second)
		}
		list = append(without(list, text), entry)
	}
	return list, nil
}

func removed(list []bundle.Allowed, hosts []string) ([]bundle.Allowed, error) {
	for _, text := range hosts {
		n := len(list)
		if list = without(list, text); len(list) == n {
			return nil, usagef("%s is not in the allowlist as an entry of its own; see: hostctl allow list", text)
		}
	}
	return list, nil
}

func without(list []bundle.Allowed, host string) []bundle.Allowed {
	return slices.DeleteFunc(slices.Clone(list), func(a bundle.Allowed) bool { return strings.EqualFold(a.Host.String(), host) })
}

// allowFiles are the file of a pair's allowlist, and the one that remembers the
// comments of whoever edited it.
func allowFiles(p pair.Plan) (rules, text string) {
	return filepath.Join(p.Etc(), "pipelock.yaml"), filepath.Join(p.Dir, "allow.txt")
}

// readAllow is the list as it is, and as a text.
func readAllow(p pair.Plan) (list []bundle.Allowed, text string, err error) {
	rules, remembered := allowFiles(p)
	var l bundle.PipelockFile
	if _, err := readInto(rules, &l); err != nil {
		return nil, "", err
	}
	earlier, err := os.ReadFile(remembered)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, "", fmt.Errorf("reading the allowlist: %w", err)
	}
	return l.Allow, merge(l.Allow, string(earlier)), nil
}

func (c *controller) listAllow(name string) error {
	card, err := c.store.read(name)
	if err != nil {
		return err
	}
	list, text, err := readAllow(card.Plan)
	if err != nil {
		return err
	}
	if c.json {
		type entry struct {
			Host    string     `json:"host"`
			Expires *time.Time `json:"expires,omitempty"`
			Expired bool       `json:"expired,omitempty"`
		}
		all := []entry{}
		for _, a := range list {
			e := entry{Host: a.Host.String(), Expired: !a.At(time.Now())}
			if !a.Expires.IsZero() {
				e.Expires = &a.Expires
			}
			all = append(all, e)
		}
		return c.print(all)
	}
	_, err = io.WriteString(c.out, strings.TrimPrefix(text, allowHelp))
	return err
}

// changeAllow applies a change to the list as it is.
func (c *controller) changeAllow(ctx context.Context, name string, change func([]bundle.Allowed) ([]bundle.Allowed, error)) error {
	card, b, err := c.of(ctx, name)
	if err != nil {
		return err
	}
	unlock, err := c.store.lock(name)
	if err != nil {
		return err
	}
	defer unlock()
	old, text, err := readAllow(card.Plan)
	if err != nil {
		return err
	}
	list, err := change(slices.Clone(old))
	if err != nil {
		return err
	}
	return c.putAllow(ctx, b, card.Plan, old, list, merge(list, text))
}

// putAllow brings a list into force: shown, in the audit, then applied. The
// text is remembered for its comments.
func (c *controller) putAllow(ctx context.Context, b backend, p pair.Plan, old, list []bundle.Allowed, text string) error {
	rules, remembered := allowFiles(p)
	if slices.EqualFunc(old, list, bundle.Allowed.Equal) {
		c.progress("the allowlist stays as it is")
		return writeFile(remembered, []byte(text), 0o600)
	}
	diff := diffAllow(old, list)
	fmt.Fprint(c.out, diff)
	var l bundle.PipelockFile
	ch := change{daemon: bundle.Pipelock, path: rules}
	var err error
	if ch.old, err = readInto(rules, &l); err != nil {
		return err
	}
	l.Allow = list
	if ch.new, err = render("the new allowlist", l); err != nil {
		return err
	}
	if err := c.record(p, audit.Entry{Verdict: "allow", Rule: "allowlist", Why: diff, By: operator()}); err != nil {
		return err
	}
	if err := c.apply(ctx, b, p.Name, []change{ch}); err != nil {
		return fmt.Errorf("the old allowlist stays: %w", err)
	}
	c.progress("the new allowlist is in force")
	return writeFile(remembered, []byte(text), 0o600)
}

// editAllow lets a person edit the list. Nobody waits for the editor: whoever
// else changes the list meanwhile has been first.
func (c *controller) editAllow(ctx context.Context, name string, stdin io.Reader) error {
	card, b, err := c.of(ctx, name)
	if err != nil {
		return err
	}
	old, before, err := readAllow(card.Plan)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "airlock-allow-*")
	if err != nil {
		return fmt.Errorf("making a file to edit: %w", err)
	}
	file := filepath.Join(dir, name+".allow")
	text, list, err := c.edited(ctx, file, before, stdin)
	if err != nil {
		return err
	}
	unlock, err := c.store.lock(name)
	if err != nil {
		return fmt.Errorf("what you wrote is in %s: %w", file, err)
	}
	defer unlock()
	if now, _, err := readAllow(card.Plan); err != nil || !slices.EqualFunc(old, now, bundle.Allowed.Equal) {
		return errors.Join(err, fmt.Errorf("the allowlist has changed since you began: what you wrote is in %s", file))
	}
	if err := c.putAllow(ctx, b, card.Plan, old, list, text); err != nil {
		return fmt.Errorf("%w; what you wrote is in %s", err, file)
	}
	return workspace.Remove(ctx, dir)
}

// edited runs the editor until what it leaves can be read, or nobody is there
// to mend it.
func (c *controller) edited(ctx context.Context, file, text string, stdin io.Reader) (string, []bundle.Allowed, error) {
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return "", nil, fmt.Errorf("making a file to edit: %w", err)
	}
	for {
		if err := c.editor(ctx, file, stdin); err != nil {
			return "", nil, err
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return "", nil, fmt.Errorf("reading what was edited: %w", err)
		}
		lines, err := parseAllow(string(data))
		if err == nil {
			return string(data), entries(lines), nil
		}
		if !c.again(err, stdin) {
			return "", nil, &config.Error{What: fmt.Sprintf("%v\nthe allowlist stays as it is; what you wrote is in %s", err, file)}
		}
	}
}

// editor runs $VISUAL, $EDITOR or vi, which may have arguments of their own.
func (c *controller) editor(ctx context.Context, file string, stdin io.Reader) error {
	words := cmp.Or(os.Getenv("VISUAL"), os.Getenv("EDITOR"), "vi")
	cmd := exec.CommandContext(ctx, "sh", "-c", words+` "$1"`, "sh", file)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, c.out, c.err
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("the allowlist stays as it is: running the editor %q: %w", words, err)
	}
	return nil
}

// again asks whoever sits at a terminal whether to go on editing.
func (c *controller) again(fault error, stdin io.Reader) bool {
	tty, ok := stdin.(*os.File)
	if !ok || !term.IsTerminal(int(tty.Fd())) {
		return false
	}
	fmt.Fprintf(c.err, "%v\nedit again? [Y/n] ", fault)
	var answer string
	_, _ = fmt.Fscanln(tty, &answer) // nothing is yes
	return !strings.HasPrefix(strings.ToLower(answer), "n")
}
