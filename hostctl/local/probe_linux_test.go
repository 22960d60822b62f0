package local

import (
	"strings"
	"testing"

	"airlock/hostctl/pair"
)

// ProbeAs probes from the agent's place in a pair that stands, as if it were
// one with these daemons.
func (b *Backend) ProbeAs(t *testing.T, name string, daemons ...string) error {
	t.Helper()
	r, err := b.load(name)
	if err != nil {
		t.Fatal(err)
	}
	r.Plan.Daemons = daemons
	return r.probe(t.Context())
}

func TestListenersOfDaemons(t *testing.T) {
	names := func(daemons ...string) string {
		var all []string
		for _, l := range listeners(daemons) {
			all = append(all, l.Name)
		}
		return strings.Join(all, " ")
	}
	if got := names(); got != "egress pipelock git git-http supervise" {
		t.Error(got)
	}
	if got := names("git-gate"); got != "git git-http" {
		t.Error(got)
	}
}

func TestCheck(t *testing.T) {
	b := &Backend{"/state"}
	good := pair.Plan{Name: "demo", Dir: "/state/demo", Sidecars: "/bin/sidecars", Agent: pair.Agent{Command: []string{"sh"}}}
	if err := b.check(good); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*pair.Plan){
		"folder must be": func(p *pair.Plan) { p.Dir = "/elsewhere" },
		"binary":         func(p *pair.Plan) { p.Sidecars = "sidecars" },
		"daemon":         func(p *pair.Plan) { p.Daemons = []string{"egres"} },
		"no command":     func(p *pair.Plan) { p.Agent.Command = nil },
	} {
		p := good
		change(&p)
		if err := b.check(p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error about %q", err, want)
		}
	}
}
