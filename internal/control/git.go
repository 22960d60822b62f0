package control

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// Mirror is what git-gate tells of one repository.
type Mirror struct {
	Repo      string    `json:"repo"`
	Refs      int       `json:"refs"`
	Packs     int       `json:"packs"`
	Bytes     int64     `json:"bytes"`     // of the packs
	Waiting   int       `json:"waiting"`   // clients that wait for an exchange with upstream, or have one
	Refreshed time.Time `json:"refreshed"` // when it was last as new as its upstream; zero is never, since git-gate began
}

// git shows the mirrors, a line for each.
func (c *Client) git(ctx context.Context, args []string, stdout io.Writer) error {
	var text string
	if err := c.Do(ctx, http.MethodGet, "/metrics", nil, nil, &text); err != nil {
		return err
	}
	mirrors := mirrorsIn(text)
	if len(args) == 1 {
		return json.NewEncoder(stdout).Encode(mirrors)
	}
	_, err := io.WriteString(stdout, mirrorTable(mirrors, time.Now()))
	return err
}

var mirrorSample = regexp.MustCompile(`(?m)^airlock_git_repo_([a-z_]+)\{daemon="git-gate",repo="([^"\\]+)"\} (\S+)$`)

// mirrorsIn reads the metrics.
func mirrorsIn(text string) []Mirror {
	by := map[string]*Mirror{}
	for _, m := range mirrorSample.FindAllStringSubmatch(text, -1) {
		value, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			continue
		}
		if by[m[2]] == nil {
			by[m[2]] = &Mirror{Repo: m[2]}
		}
		switch r := by[m[2]]; m[1] {
		case "refs":
			r.Refs = int(value)
		case "packs":
			r.Packs = int(value)
		case "bytes":
			r.Bytes = int64(value)
		case "waiting":
			r.Waiting = int(value)
		case "refreshed_seconds":
			if value > 0 {
				r.Refreshed = time.UnixMilli(int64(value * 1000)).UTC()
			}
		}
	}
	all := make([]Mirror, 0, len(by))
	for _, m := range by {
		all = append(all, *m)
	}
	slices.SortFunc(all, func(a, b Mirror) int { return strings.Compare(a.Repo, b.Repo) })
	return all
}

func mirrorTable(all []Mirror, now time.Time) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "REPO\tREFS\tPACKS\tSIZE\tREFRESHED\tWAITING")
	for _, m := range all {
		refreshed := "never"
		if !m.Refreshed.IsZero() {
			refreshed = uptime(now.Sub(m.Refreshed)) + " ago"
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t%d\n", oneLine(m.Repo), m.Refs, m.Packs, size(m.Bytes), refreshed, m.Waiting)
	}
	w.Flush()
	return b.String()
}
