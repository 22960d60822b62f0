package supervisor

import (
	"context"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"airlock/internal/activation"
	"airlock/internal/control"
	"airlock/internal/metrics"
)

// scrapeTimeout is how long a daemon may take to return its metrics.
const scrapeTimeout = time.Second

// scrapeFailed counts daemons that did not return them in time.
var scrapeFailed = metrics.NewCounter("airlock_daemon_scrape_failed_total", "Times that a daemon did not tell its metrics in time.", "daemon")

// states are all states, in the order in which a daemon passes them.
var states = []State{Down, Starting, Ready, Replacing, Backoff, Failed, Stopping, Stopped}

// getMetrics returns the metrics of the supervisor, of the processes and of the daemons in the
// Prometheus text format.
func (s *supervisor) getMetrics(w http.ResponseWriter, r *http.Request) {
	st, links, err := s.snapshot()
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	scraped := scrape(r.Context(), links)
	var t metrics.Table
	t.Add(s.families(st), metrics.Label{})
	for _, p := range processes(st) {
		t.Add(p.families, metrics.Label{Name: "daemon", Value: p.name})
	}
	t.Add(metrics.Gather(), metrics.Label{Name: "daemon", Value: "supervisor"})
	for _, name := range s.order {
		own := slices.DeleteFunc(scraped[name], func(f metrics.Family) bool { return !mayExport(name, f.Name) })
		t.Add(own, metrics.Label{Name: "daemon", Value: name})
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_ = t.Write(w) // the client may be gone
}

// mayExport reports whether a daemon may export a family. A compromised daemon must not change the
// families of others, so each has its own prefix, and those whose help and type the supervisor sets.
func mayExport(daemon, family string) bool {
	prefix, _, _ := strings.Cut(daemon, "-") // git-gate counts what git does
	return strings.HasPrefix(family, "airlock_"+prefix+"_") || strings.HasPrefix(family, "airlock_connections_") ||
		strings.HasPrefix(family, "go_") || family == "process_open_fds"
}

// scrape queries all daemons at once. The result lacks those that do not reply in time.
func scrape(ctx context.Context, links map[string]*activation.Link) map[string][]metrics.Family {
	ctx, cancel := context.WithTimeout(ctx, scrapeTimeout)
	defer cancel()
	var mu sync.Mutex
	var group sync.WaitGroup
	all := map[string][]metrics.Family{}
	for name, link := range links {
		group.Go(func() {
			families, err := link.Metrics(ctx)
			if err != nil {
				scrapeFailed.Inc(name)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			all[name] = families
		})
	}
	group.Wait()
	return all
}

// families returns the supervisor's own families. They are added first, so that no daemon can add a
// value to them.
func (s *supervisor) families(st control.Status) []metrics.Family {
	each := func(name, kind, help string, value func(control.Daemon) (float64, bool)) metrics.Family {
		f := metrics.Family{Name: name, Kind: kind, Help: help}
		for _, d := range st.Daemons {
			if v, ok := value(d); ok {
				f.Samples = append(f.Samples, sample(v, "daemon", d.Name))
			}
		}
		return f
	}
	one := func(name, kind, help string, value float64) metrics.Family {
		return metrics.Family{Name: name, Kind: kind, Help: help, Samples: []metrics.Sample{{Value: value}}}
	}
	return []metrics.Family{
		each("airlock_daemon_up", metrics.KindGauge, "1 while the daemon serves.", func(d control.Daemon) (float64, bool) {
			return boolValue(serves(State(d.State))), true
		}),
		stateFamily(st),
		each("airlock_daemon_restarts_total", metrics.KindCounter, "Starts after the first, replacements among them.", func(d control.Daemon) (float64, bool) {
			return float64(d.Restarts), true
		}),
		each("airlock_daemon_generation", metrics.KindGauge, "Number of the process that serves, from 1.", func(d control.Daemon) (float64, bool) {
			return float64(d.Generation), d.PID != 0
		}),
		each("airlock_daemon_last_exit_code", metrics.KindGauge, "Exit code of the process that ended last, 128+n after signal n; absent when none has ended.", func(d control.Daemon) (float64, bool) {
			return float64(d.LastCode), d.LastExit != ""
		}),
		each("airlock_daemon_draining", metrics.KindGauge, "Replaced processes that finish what they have begun.", func(d control.Daemon) (float64, bool) {
			return float64(d.Draining), true
		}),
		failedScrapes(st),
		// Exported by the daemons; defined here so that no daemon can redefine them.
		{Name: "airlock_connections_open", Kind: metrics.KindGauge, Help: "Connections that were accepted and not closed yet."},
		{Name: "airlock_connections_accepted_total", Kind: metrics.KindCounter, Help: "Connections that were accepted."},
		one("airlock_ready", metrics.KindGauge, "1 while every daemon serves.", boolValue(st.Ready)),
		one("airlock_output_dropped_lines_total", metrics.KindCounter, "Lines of output that nobody read in time.", float64(st.Dropped)),
		one("airlock_callers_turned_away_total", metrics.KindCounter, "Connections that were reset because their daemon was down.", float64(s.rejector.rejected.Load())),
	}
}

func failedScrapes(st control.Status) metrics.Family {
	for _, d := range st.Daemons {
		scrapeFailed.Add(0, d.Name) // exports a zero, too
	}
	return scrapeFailed.Family()
}

func stateFamily(st control.Status) metrics.Family {
	f := metrics.Family{Name: "airlock_daemon_state", Kind: metrics.KindGauge, Help: "1 for the state in which the daemon is."}
	for _, d := range st.Daemons {
		for _, state := range states {
			f.Samples = append(f.Samples, sample(boolValue(d.State == string(state)), "daemon", d.Name, "state", string(state)))
		}
	}
	return f
}

// processMetrics are the metrics of a process from the kernel.
type processMetrics struct {
	name     string
	families []metrics.Family
}

func processes(st control.Status) []processMetrics {
	all := []processMetrics{{"supervisor", processFamilies(os.Getpid())}}
	for _, d := range st.Daemons {
		if d.PID != 0 {
			all = append(all, processMetrics{d.Name, processFamilies(d.PID)})
		}
	}
	return all
}

func processFamilies(pid int) []metrics.Family {
	u, err := usageOf(pid)
	if err != nil {
		return nil // it has just ended
	}
	one := func(name, kind, help string, v float64) metrics.Family {
		return metrics.Family{Name: name, Kind: kind, Help: help, Samples: []metrics.Sample{{Value: v}}}
	}
	return []metrics.Family{
		one("process_cpu_seconds_total", metrics.KindCounter, "User and system time in seconds.", u.cpu),
		one("process_resident_memory_bytes", metrics.KindGauge, "Resident memory in bytes.", u.resident),
		one("process_virtual_memory_bytes", metrics.KindGauge, "Virtual memory in bytes.", u.virtual),
		one("process_threads", metrics.KindGauge, "Threads of the kernel.", u.threads),
		one("process_start_time_seconds", metrics.KindGauge, "Start of the process in seconds since 1970.", u.started),
	}
}

func sample(v float64, labels ...string) metrics.Sample {
	s := metrics.Sample{Value: v}
	for i := 0; i+1 < len(labels); i += 2 {
		s.Labels = append(s.Labels, metrics.Label{Name: labels[i], Value: labels[i+1]})
	}
	return s
}

func boolValue(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
