package control

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"airlock/internal/config"
	"airlock/internal/policy"
)

// maxURL is how long a URL may be that is asked about, in bytes: the question
// goes over the link as one line.
const maxURL = 2 << 10

var methodForm = regexp.MustCompile(`^[A-Z][A-Z-]{0,19}$`)

// Explained is the answer to GET /explain: what would become of a request.
type Explained struct {
	policy.Question
	Allow   bool                 `json:"allow"`
	Daemons []policy.Explanation `json:"daemons"` // in the order in which they are passed
}

// CheckQuestion refuses what is no request.
func CheckQuestion(method, rawURL string) (policy.Question, error) {
	q := policy.Question{Method: strings.ToUpper(method), URL: rawURL}
	if !methodForm.MatchString(q.Method) || q.Method == http.MethodConnect {
		return q, config.Usagef("explain: a method like GET or POST was wanted")
	}
	if len(rawURL) > maxURL {
		return q, config.Usagef("explain: a URL of %d bytes; at most %d", len(rawURL), maxURL)
	}
	if _, err := policy.ParseTarget(rawURL); err != nil {
		return q, config.Usagef("explain: %v", err)
	}
	return q, nil
}

// Explain asks what would become of a request, which nobody sends for that.
func (c *Client) Explain(ctx context.Context, method, rawURL string) (Explained, error) {
	var e Explained
	q, err := CheckQuestion(method, rawURL)
	if err != nil {
		return e, err
	}
	return e, c.Do(ctx, http.MethodGet, "/explain", url.Values{"method": {q.Method}, "url": {q.URL}}, nil, &e)
}

func (c *Client) explain(ctx context.Context, args []string, stdout io.Writer) error {
	asJSON := false
	var words []string
	for _, arg := range args {
		if arg == "--json" || arg == "-json" {
			asJSON = true
			continue
		}
		words = append(words, arg)
	}
	if len(words) != 2 {
		return config.Usagef("ctl explain wants a method and a URL, as in: ctl explain GET https://api.example.com/v1/items")
	}
	e, err := c.Explain(ctx, words[0], words[1])
	if err != nil {
		return err
	}
	if asJSON {
		return json.NewEncoder(stdout).Encode(e)
	}
	_, err = io.WriteString(stdout, e.Text())
	return err
}

// Text is the answer for people.
func (e Explained) Text() string {
	var b strings.Builder
	word := "refused"
	if e.Allow {
		word = "passes"
	}
	fmt.Fprintf(&b, "%s: %s %s\n", word, oneLine(e.Method), oneLine(e.URL))
	for _, x := range e.Daemons {
		verdict := "refuses"
		if x.Allow {
			verdict = "allows"
		}
		fmt.Fprintf(&b, "  %s %s it by %s\n", oneLine(x.Daemon), verdict, placed(x.Rule, x.At))
		for _, line := range [][2]string{{"why: ", x.Why}, {"nearest: ", nearest(x)}, {"credential: ", x.Auth}, {"would pass with: ", x.Line}} {
			if line[1] != "" {
				fmt.Fprintf(&b, "    %s%s\n", line[0], oneLine(line[1]))
			}
		}
	}
	return b.String()
}

func nearest(x policy.Explanation) string {
	if x.Nearest == "" || x.Nearest == x.Rule {
		return "" // it has been said
	}
	return placed(x.Nearest, x.NearestAt)
}

func placed(rule, at string) string {
	if at == "" {
		return oneLine(rule)
	}
	return oneLine(rule) + " (" + oneLine(at) + ")"
}

// Routes is the answer to GET /routes: what is in force.
type Routes struct {
	Mode   string  `json:"mode,omitempty"` // that more passes than the routes, in plain words
	Routes []Route `json:"routes"`
}

// Route is a route as egress shows it: without a credential.
type Route struct {
	Host    string   `json:"host"`
	Methods []string `json:"methods,omitempty"` // none: any
	Paths   []string `json:"paths,omitempty"`   // none: any
	Auth    string   `json:"auth,omitempty"`    // type of what is injected
	Git     string   `json:"git,omitempty"`
	Expires string   `json:"expires,omitempty"`
}
