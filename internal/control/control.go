// Package control is the language of the supervisor's control socket: HTTP
// over a unix socket that only the bundle's own user can reach. The supervisor
// serves it; the applet ctl, which hostctl runs inside the sidecars, asks.
package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Daemon is the status of one daemon.
type Daemon struct {
	Name       string    `json:"name"`
	State      string    `json:"state"`
	PID        int       `json:"pid,omitempty"`
	Since      time.Time `json:"since,omitzero"` // start of the process
	Restarts   int       `json:"restarts"`       // starts after the first, replacements among them
	Generation int       `json:"generation"`
	LastExit   string    `json:"last_exit,omitempty"`
	LastCode   int       `json:"last_code,omitempty"` // 128+n after signal n
	Digest     string    `json:"digest,omitempty"`    // SHA-256 of the configuration that runs
	Error      string    `json:"error,omitempty"`     // why a newer configuration does not run
	Mode       string    `json:"mode,omitempty"`      // that it does less than it should, in plain words
	Trouble    string    `json:"trouble,omitempty"`   // why it refuses everything
	RSS        int64     `json:"rss,omitempty"`       // bytes
	Conns      *int      `json:"conns,omitempty"`     // open connections; absent when the daemon does not say
	Draining   int       `json:"draining,omitempty"`

	Listen map[string]string `json:"listen"` // address of each socket, by its name

	Isolation Isolation `json:"isolation"` // of the process that serves
}

// Isolation is what keeps a daemon from the others and from the system.
type Isolation struct {
	Layers  []string `json:"layers,omitempty"`  // in force: no_new_privs, landlock, seccomp
	Missing []string `json:"missing,omitempty"` // those that could not be put on; "memory": it is not bounded

	Memory      string `json:"memory,omitempty"`       // how it is bounded: cgroup or rlimit
	MemoryLimit int64  `json:"memory_limit,omitempty"` // bytes
}

// Status is the answer to GET /status.
type Status struct {
	Version string   `json:"version"` // changes with the table, but not with memory and connections
	Pair    string   `json:"pair,omitempty"`
	PID     int      `json:"pid"`
	RSS     int64    `json:"rss,omitempty"` // of the supervisor itself, bytes
	Ready   bool     `json:"ready"`
	Daemons []Daemon `json:"daemons"`
	Dropped uint64   `json:"dropped_lines"`
}

// Find is the status of the daemon of that name.
func (s Status) Find(name string) (Daemon, bool) {
	for _, d := range s.Daemons {
		if d.Name == name {
			return d, true
		}
	}
	return Daemon{}, false
}

// Client asks a supervisor.
type Client struct{ http *http.Client }

// NewClient speaks over the socket at path.
func NewClient(path string) *Client {
	return &Client{&http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
		DisableKeepAlives: true,
	}}}
}

// Do sends a request and decodes the answer into out, unless that is nil.
// The answer of a supervisor that says no is the error.
func (c *Client) Do(ctx context.Context, method, path string, query url.Values, body io.Reader, out any) error {
	target := url.URL{Scheme: "http", Host: "supervisor", Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, target.String(), body)
	if err != nil {
		return fmt.Errorf("asking the supervisor: %w", err)
	}
	res, err := c.http.Do(req)
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err // the URL is no news
	}
	if err != nil {
		return fmt.Errorf("asking the supervisor: %w", err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, 16<<20))
	if err != nil {
		return fmt.Errorf("reading the supervisor's answer: %w", err)
	}
	if res.StatusCode >= 300 {
		return errors.New(strings.TrimSpace(string(data)))
	}
	switch out := out.(type) {
	case nil:
		return nil
	case *string:
		*out = string(data)
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("reading the supervisor's answer: %w", err)
	}
	return nil
}

// Status asks for the status of everything.
func (c *Client) Status(ctx context.Context) (Status, error) { return c.StatusAfter(ctx, "") }

// StatusAfter is the status as soon as it is of another version, or after 30 s
// of that very version.
func (c *Client) StatusAfter(ctx context.Context, version string) (Status, error) {
	var s Status
	return s, c.Do(ctx, http.MethodGet, "/status", url.Values{"after": {version}}, nil, &s)
}
