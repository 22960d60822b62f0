//go:build e2e

package e2e

import (
	"os"
	"testing"
	"time"

	"airlock/internal/lab"
)

// budgets are what each process of an idle bundle may have, in bytes, pages
// that several share counted in parts (Pss, proc_pid_smaps_rollup(5)).
var budgets = map[string]int{"supervisor": 10e6, "pipelock": 11e6, "egress": 10e6, "git-gate": 10e6, "supervise": 9e6}

// TestIdle: a bundle that nobody uses is small, and sleeps.
func TestIdle(t *testing.T) {
	dir, _, _ := chaosFiles(t, os.Getuid())
	b := start(t, dir, "")
	st, err := b.ctl.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all, pids := map[string]int{"supervisor": st.PID}, []int{st.PID}
	for _, d := range st.Daemons {
		all[d.Name], pids = d.PID, append(pids, d.PID)
	}
	for name, pid := range all {
		n, err := lab.PSS(pid)
		if err != nil || n > budgets[name] {
			t.Errorf("%s has %d bytes, its budget is %d: %v", name, n, budgets[name], err)
		}
		t.Logf("%s: %.1f MB", name, float64(n)/1e6)
	}
	// What is left of the start, the answer above for one, comes to rest first.
	before := -1
	eventually(t, "everything rests", func() bool {
		time.Sleep(time.Second) // nothing is to happen
		now := lab.Wakeups(pids...)
		was := before
		before = now
		return now == was
	})
	time.Sleep(10 * time.Second) // nothing is to happen
	if n := lab.Wakeups(pids...) - before; n > 5 {
		t.Errorf("%d wake-ups in ten seconds of rest", n)
	}
}
