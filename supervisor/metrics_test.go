package supervisor

import (
	"os"
	"testing"
	"time"
)

func TestMayExport(t *testing.T) {
	for _, c := range []struct {
		daemon, family string
		may            bool
	}{
		{"egress", "airlock_egress_requests_total", true}, {"git-gate", "airlock_git_verdicts_total", true}, {"supervise", "airlock_supervise_calls_total", true},
		{"pipelock", "go_goroutines", true}, {"pipelock", "airlock_connections_open", true}, {"pipelock", "process_open_fds", true},
		{"egress", "airlock_pipelock_requests_total", false}, {"egress", "airlock_daemon_up", false}, {"supervise", "airlock_supervisor", false},
		{"egress", "process_resident_memory_bytes", false}, {"egress", "up", false}, {"egress", "", false},
	} {
		if mayExport(c.daemon, c.family) != c.may {
			t.Errorf("%s may tell %s: %v", c.daemon, c.family, !c.may)
		}
	}
}

func TestUsageOfThisProcess(t *testing.T) {
	u, err := usageOf(os.Getpid())
	if err != nil || u.resident < 1<<20 || u.virtual < u.resident || u.threads < 1 {
		t.Errorf("%+v, %v", u, err)
	}
	if age := time.Since(time.Unix(int64(u.started), 0)); age < -2*time.Second || age > time.Hour {
		t.Errorf("this process started %v ago", age)
	}
	if _, err := usageOf(1 << 30); err == nil {
		t.Error("a process that is none")
	}
}
