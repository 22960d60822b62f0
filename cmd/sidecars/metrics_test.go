package main

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// scrape reads the metrics with the parser of Prometheus itself.
func (b *running) scrape() map[string]*dto.MetricFamily {
	b.t.Helper()
	var text string
	must(b.t, b.ctl.Do(context.Background(), http.MethodGet, "/metrics", nil, nil, &text))
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		b.t.Fatalf("%v in\n%s", err, text)
	}
	for name, f := range families {
		if f.GetHelp() == "" || f.GetType() == dto.MetricType_UNTYPED {
			b.t.Errorf("%s has no help or no type", name)
		}
		if n := strings.Count(text, "# TYPE "+name+" "); n != 1 {
			b.t.Errorf("%s stands there %d times", name, n)
		}
	}
	return families
}

// value is the sum of a family's samples that have all of the labels, and
// whether there is one.
func value(families map[string]*dto.MetricFamily, name string, labels ...string) (sum float64, ok bool) {
	want := map[string]string{}
	for i := 0; i < len(labels); i += 2 {
		want[labels[i]] = labels[i+1]
	}
	for _, m := range families[name].GetMetric() {
		have := map[string]string{}
		for _, l := range m.Label {
			have[l.GetName()] = l.GetValue()
		}
		matches := true
		for k, v := range want {
			matches = matches && have[k] == v
		}
		if matches {
			ok = true
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum, ok
}

func TestMetricsOfEveryDaemon(t *testing.T) {
	b := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("you sent " + r.Header.Get("Authorization"))) // the client may be gone
	}))
	before := b.scrape()
	client := b.client(b.egress) // keeps its connection
	for range 3 {
		b.send(client, http.MethodGet, b.url("api.ok.test", "/v1/x"), nil)
	}
	b.get(b.url("evil.test", "/"))
	b.get(b.url("a.cdn.test", "/?q=ghp_"+"0123456789abcdefghijABCDEFGHIJ012345"))
	_, err := b.connectMCP().CallTool(context.Background(), &mcp.CallToolParams{Name: "list_access"})
	must(t, err)
	after := b.scrape()
	for _, c := range []struct {
		name   string
		labels []string
		grew   float64
	}{
		{"airlock_egress_requests_total", []string{"verdict", "allow", "status", "2xx"}, 3},
		{"airlock_egress_requests_total", []string{"verdict", "deny", "status", "4xx"}, 1},
		{"airlock_egress_requests_total", []string{"verdict", "allow", "status", "4xx"}, 1}, // pipelock said no
		{"airlock_egress_credentials_injected_total", []string{"type", "bearer"}, 3},
		{"airlock_egress_redactions_total", []string{"daemon", "egress"}, 3},
		{"airlock_pipelock_requests_total", []string{"verdict", "allow"}, 3},
		{"airlock_pipelock_requests_total", []string{"verdict", "deny"}, 1},
		{"airlock_pipelock_findings_total", []string{"rule", "github"}, 1},
		{"airlock_supervise_calls_total", []string{"tool", "list_access"}, 1},
	} {
		was, _ := value(before, c.name, c.labels...)
		if is, _ := value(after, c.name, c.labels...); is-was != c.grew {
			t.Errorf("%s %v grew by %v, want %v", c.name, c.labels, is-was, c.grew)
		}
	}
	for _, c := range []struct {
		name, daemon string
	}{
		{"airlock_pipelock_bytes_total", "pipelock"}, {"airlock_connections_open", "egress"}, {"airlock_egress_tunnels_open", "egress"},
	} {
		if v, _ := value(after, c.name, "daemon", c.daemon); v <= 0 {
			t.Errorf("%s of %s is %v", c.name, c.daemon, v)
		}
	}
	for _, name := range []string{"supervisor", "egress", "pipelock", "git-gate", "supervise"} {
		for _, family := range []string{"go_goroutines", "go_memstats_heap_alloc_bytes", "process_open_fds", "process_resident_memory_bytes", "process_virtual_memory_bytes", "process_threads", "process_start_time_seconds"} {
			if v, _ := value(after, family, "daemon", name); v <= 0 {
				t.Errorf("%s of %s is %v", family, name, v)
			}
		}
		if _, ok := value(after, "process_cpu_seconds_total", "daemon", name); !ok {
			t.Errorf("the time of %s is missing", name)
		}
	}
	documented, err := os.ReadFile("../../docs/operating.md")
	must(t, err)
	for _, name := range slices.Sorted(maps.Keys(after)) {
		if !strings.Contains(string(documented), "`"+name+"`") {
			t.Errorf("docs/operating.md does not know %s", name)
		}
	}
}

// standsStill tells whether every thread of a process is stopped: the signal
// takes a moment.
func standsStill(t *testing.T, pid int) bool {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	must(t, err)
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil || !strings.Contains(string(data), ") T ") {
			return false
		}
	}
	return len(files) > 0
}

func TestMetricsOfWhatHappened(t *testing.T) {
	b := start(t, nil)
	pid := b.status("egress").PID
	must(t, syscall.Kill(pid, syscall.SIGKILL))
	eventually(t, "egress is back", func() bool { d := b.status("egress"); return d.State == "ready" && d.PID != pid })
	stopped := b.status("supervise").PID
	must(t, syscall.Kill(stopped, syscall.SIGSTOP))
	eventually(t, "supervise stands still", func() bool { return standsStill(t, stopped) })
	f := b.scrape()
	must(t, syscall.Kill(stopped, syscall.SIGCONT))
	for _, c := range []struct {
		name   string
		labels []string
		want   float64
	}{
		{"airlock_ready", nil, 1},
		{"airlock_daemon_up", []string{"daemon", "egress"}, 1},
		{"airlock_daemon_state", []string{"daemon", "egress", "state", "ready"}, 1},
		{"airlock_daemon_state", []string{"daemon", "egress"}, 1}, // one state only
		{"airlock_daemon_restarts_total", []string{"daemon", "egress"}, 1},
		{"airlock_daemon_generation", []string{"daemon", "egress"}, 2},
		{"airlock_daemon_last_exit_code", []string{"daemon", "egress"}, 137},
		{"airlock_daemon_scrape_failed_total", []string{"daemon", "supervise"}, 1},
		{"airlock_daemon_scrape_failed_total", []string{"daemon", "egress"}, 0},
		{"airlock_output_dropped_lines_total", nil, 0},
	} {
		if got, ok := value(f, c.name, c.labels...); !ok || got != c.want {
			t.Errorf("%s %v is %v (there: %v), want %v", c.name, c.labels, got, ok, c.want)
		}
	}
	if _, ok := value(f, "airlock_daemon_last_exit_code", "daemon", "pipelock"); ok {
		t.Error("pipelock has an exit code, but never ended")
	}
	if _, ok := value(f, "go_goroutines", "daemon", "supervise"); ok {
		t.Error("a daemon that stands still told its metrics")
	}
	if _, ok := value(f, "process_threads", "daemon", "supervise"); !ok {
		t.Error("the kernel knows a process that stands still")
	}
}
