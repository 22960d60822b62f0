package hostctl

import (
	"cmp"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"airlock/internal/control"
)

func (c *controller) explainCommand() *cobra.Command {
	return &cobra.Command{
		Use: "explain NAME METHOD URL", Short: "Tell whether a request of a pair's agent would pass, and by which rule", Args: exactly(3, "the name of a pair, a method and a URL"),
		Example: "  hostctl explain demo POST https://api.example.com/v1/items",
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := control.CheckQuestion(args[1], args[2])
			if err != nil {
				return err
			}
			_, b, err := c.of(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			var e control.Explained
			if err := ctl(cmd.Context(), b, args[0], &e, "explain", q.Method, q.URL, "--json"); err != nil {
				return err
			}
			if c.json {
				return c.print(e)
			}
			_, err = fmt.Fprint(c.out, e.Text())
			return err
		},
	}
}

func (c *controller) routesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "routes NAME", Short: "Show the routes of a pair that are in force", Args: exactly(1, "the name of a pair"),
		Example: "  hostctl routes demo",
		RunE: func(cmd *cobra.Command, args []string) error {
			_, b, err := c.of(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			var live control.Routes
			if err := ctl(cmd.Context(), b, args[0], &live, "routes"); err != nil {
				return err
			}
			if c.json {
				return c.print(live)
			}
			if live.Mode != "" {
				fmt.Fprintln(c.out, live.Mode)
			}
			t := tabwriter.NewWriter(c.out, 0, 4, 2, ' ', 0)
			fmt.Fprintln(t, "HOST\tMETHODS\tPATHS\tCREDENTIAL\tGIT\tENDS")
			for _, r := range live.Routes {
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", r.Host, cmp.Or(strings.Join(r.Methods, ","), "any"), cmp.Or(strings.Join(r.Paths, ","), "any"),
					cmp.Or(r.Auth, "-"), cmp.Or(r.Git, "-"), cmp.Or(r.Expires, "never"))
			}
			return t.Flush()
		},
	}
	cmd.AddCommand(c.suggestCommand())
	return cmd
}
