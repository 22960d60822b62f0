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
	"text/tabwriter"
	"time"

	"airlock/internal/bundle"
	"airlock/internal/config"
	"airlock/internal/logs"
)

const usage = `usage: ctl COMMAND
  status [--json]       state of each daemon
  health                exit code 0 when every daemon serves
  restart DAEMON        replace a daemon; the old one stays if the new one is not ready
  reload DAEMON         make a daemon read its configuration again
  log LEVEL [DAEMON]    how much the daemons, or one, write: debug, info, warn or error
  metrics               Prometheus text
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
	case command == "status" && len(args) == 0:
		st, err := c.Status(ctx)
		if err != nil {
			return err
		}
		return st.print(stdout)
	case command == "status" && len(args) == 1 && args[0] == "--json":
		return c.show(ctx, stdout, "/status")
	case command == "health" && len(args) == 0:
		return c.health(ctx)
	case (command == "restart" || command == "reload") && len(args) == 1:
		return c.Do(ctx, http.MethodPost, "/"+command, url.Values{"daemon": {args[0]}}, nil, nil)
	case command == "log" && (len(args) == 1 || len(args) == 2):
		return c.setLevel(ctx, args[0], strings.Join(args[1:], ""))
	case (command == "metrics" || command == "proposals") && len(args) == 0:
		return c.show(ctx, stdout, "/"+command)
	case command == "answer" && len(args) >= 2:
		return c.answer(ctx, stdout, args[0], args[1], strings.Join(args[2:], " "))
	case command == "help" || command == "--help" || command == "-h":
		_, err := io.WriteString(stdout, usage)
		return err
	}
	return config.Usagef("ctl: %q with %d arguments is not a command\n%s", command, len(args), usage)
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

// print shows the status as a table.
func (s Status) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "DAEMON\tSTATE\tPID\tUPTIME\tRESTARTS\tMEMORY\tCONFIG\tLAST EXIT")
	for _, d := range s.Daemons {
		uptime := "-"
		if !d.Since.IsZero() {
			uptime = time.Since(d.Since).Round(time.Second).String()
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%d\t%.1f MB\t%.12s\t%s\n", d.Name, d.State, d.PID, uptime, d.Restarts, float64(d.RSS)/1e6, d.Digest, d.LastExit)
		if d.Error != "" {
			fmt.Fprintf(t, "\t  %s\n", d.Error)
		}
	}
	return t.Flush()
}
