package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"airlock/internal/bundle"
	"airlock/internal/config"
	"airlock/internal/logs"
)

const usage = `usage: ctl COMMAND
  status [--json] [--watch]
                        state of each daemon; with --watch again whenever it changes
  health                exit code 0 when every daemon serves
  restart DAEMON        replace a daemon; the old one stays if the new one is not ready
  reload DAEMON         make a daemon read its configuration again
  log LEVEL [DAEMON]    how much the daemons, or one, write: debug, info, warn or error
  metrics               Prometheus text
  git [--json]          the mirrors: size, packs, when they were refreshed, and who waits
  explain METHOD URL [--json]
                        whether a request would pass, by which rule; nobody sends it
  routes                the routes that are in force, as JSON
  proposals             what the agent asks for, as JSON
  answer ID STATE TEXT  close a proposal: approved, denied or answered
`

// Main is the applet ctl: it asks the supervisor of this bundle.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		return config.Usagef("%s", usage)
	}
	c := NewClient(bundle.DirsFromEnv().Control())
	command, args := args[0], args[1:]
	switch {
	case command == "status":
		return c.status(ctx, args, stdout, stderr)
	case command == "health" && len(args) == 0:
		return c.health(ctx)
	case (command == "restart" || command == "reload") && len(args) == 1:
		return c.Do(ctx, http.MethodPost, "/"+command, url.Values{"daemon": {args[0]}}, nil, nil)
	case command == "log" && (len(args) == 1 || len(args) == 2):
		return c.setLevel(ctx, args[0], strings.Join(args[1:], ""))
	case command == "git" && (len(args) == 0 || len(args) == 1 && args[0] == "--json"):
		return c.git(ctx, args, stdout)
	case command == "explain":
		return c.explain(ctx, args, stdout)
	case (command == "metrics" || command == "proposals" || command == "routes") && len(args) == 0:
		return c.show(ctx, stdout, "/"+command)
	case command == "answer" && len(args) >= 2:
		return c.answer(ctx, stdout, args[0], args[1], strings.Join(args[2:], " "))
	case command == "help" || command == "--help" || command == "-h":
		_, err := io.WriteString(stdout, usage)
		return err
	}
	return config.Usagef("ctl: %q with %d arguments is not a command\n%s", command, len(args), usage)
}

func (c *Client) status(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var asJSON, watch bool
	for _, arg := range args {
		switch arg {
		case "--json", "-json":
			asJSON = true
		case "--watch", "-watch":
			watch = true
		default:
			return config.Usagef("ctl status: %q is neither --json nor --watch", arg)
		}
	}
	switch {
	case watch:
		return c.watch(ctx, newScreen(stdout), asJSON, stderr)
	case asJSON:
		return c.show(ctx, stdout, "/status")
	}
	st, err := c.Status(ctx)
	if err != nil {
		return err
	}
	_, err = io.WriteString(stdout, st.table(newScreen(stdout), time.Now()))
	return err
}

func (c *Client) show(ctx context.Context, stdout io.Writer, path string) error {
	var text string
	if err := c.Do(ctx, http.MethodGet, path, nil, nil, &text); err != nil {
		return err
	}
	_, err := io.WriteString(stdout, text)
	return err
}

func (c *Client) setLevel(ctx context.Context, level, daemon string) error {
	if err := logs.Check(level); err != nil {
		return err
	}
	return c.Do(ctx, http.MethodPost, "/log", url.Values{"level": {level}, "daemon": {daemon}}, nil, nil)
}

func (c *Client) health(ctx context.Context) error {
	st, err := c.Status(ctx)
	if err != nil {
		return err
	}
	for _, d := range st.Daemons {
		if d.State != "ready" && d.State != "replacing" {
			return fmt.Errorf("%s is %s (last exit: %s)", d.Name, d.State, d.LastExit)
		}
		if d.Trouble != "" {
			return fmt.Errorf("%s %s", d.Name, d.Trouble)
		}
	}
	return nil
}

func (c *Client) answer(ctx context.Context, stdout io.Writer, id, state, text string) error {
	body, err := json.Marshal(map[string]string{"State": state, "Answer": text})
	if err != nil {
		return fmt.Errorf("writing the answer: %w", err)
	}
	var out string
	if err := c.Do(ctx, http.MethodPost, "/proposals/"+url.PathEscape(id), nil, bytes.NewReader(body), &out); err != nil {
		return err
	}
	_, err = io.WriteString(stdout, out)
	return err
}
