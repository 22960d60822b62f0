package supervisor

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"airlock/internal/activation"
	"airlock/internal/bundle"
	"airlock/internal/control"
	"airlock/internal/policy"
)

// queryTimeout is how long a daemon may take to reply to a query.
const queryTimeout = 2 * time.Second

// getExplain queries the daemons that a request would pass, in their order, up to the first that would
// not forward it.
func (s *supervisor) getExplain(w http.ResponseWriter, r *http.Request) {
	q, err := control.CheckQuestion(r.FormValue("method"), r.FormValue("url"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer := control.Explained{Question: q, Allow: true}
	for _, name := range []string{bundle.Egress, bundle.Pipelock} {
		if !slices.Contains(s.order, name) {
			continue
		}
		var x policy.Explanation
		if err := s.query(r.Context(), name, activation.TopicExplain, q, &x); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		x.Daemon = name
		answer.Daemons = append(answer.Daemons, s.masked(x))
		answer.Allow = answer.Allow && x.Allow
		if x.Final {
			break
		}
	}
	reply(w, answer)
}

// masked returns x without secrets.
func (s *supervisor) masked(x policy.Explanation) policy.Explanation {
	for _, text := range []*string{&x.Rule, &x.At, &x.Why, &x.Nearest, &x.NearestAt, &x.Line, &x.Auth} {
		*text = s.out.mask.maskString(*text)
	}
	return x
}

// getRoutes returns the routes in force.
func (s *supervisor) getRoutes(w http.ResponseWriter, r *http.Request) {
	var routes json.RawMessage
	if err := s.query(r.Context(), bundle.Egress, activation.TopicRoutes, nil, &routes); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	reply(w, routes)
}

// query sends a query to the current process of a daemon, which must be ready.
func (s *supervisor) query(ctx context.Context, name, topic string, question, answer any) error {
	var link *activation.Link
	if err := s.runInLoop(func() {
		if d := s.daemons[name]; d != nil && d.current != nil && d.current.ready {
			link = d.current.link
		}
	}); err != nil {
		return err
	}
	if link == nil {
		return fmt.Errorf("%s does not serve, so nothing passes", name)
	}
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	if err := link.Query(ctx, topic, question, answer); err != nil {
		return fmt.Errorf("asking %s: %w", name, err)
	}
	return nil
}
