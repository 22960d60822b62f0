package gitgate

import (
	"testing"
)

// counted is what stands under an operation and a verdict.
func counted(operation, verdict string) (sum float64) {
	for _, s := range verdicts.Family().Samples {
		if s.Labels[0].Value == operation && s.Labels[1].Value == verdict {
			sum += s.Value
		}
	}
	return sum
}

func TestVerdictsAreCounted(t *testing.T) {
	r := newRig(t)
	r.seed("main", map[string]string{"a": "1"})
	before := map[string]float64{"fetch allow": counted("fetch", "allow"), "push allow": counted("push", "allow"), "push deny": counted("push", "deny")}
	w := r.clone("git")
	r.commit(w, "mine", map[string]string{"b": "2"})
	r.run(w, "git", "push", "-q", "origin", "HEAD", "HEAD:refs/heads/topic")
	r.commit(w, "bad", map[string]string{"c": token(12)})
	r.fails(w, []string{"rejected"}, "git", "push", "origin", "HEAD")
	for what, c := range map[string]struct{ got, want float64 }{
		"fetch allow": {counted("fetch", "allow"), 1}, "push allow": {counted("push", "allow"), 2}, "push deny": {counted("push", "deny"), 1},
	} {
		if grew := c.got - before[what]; grew != c.want {
			t.Errorf("%s grew by %v, want %v", what, grew, c.want)
		}
	}
}
