package metrics

import (
	"os"
	"runtime/metrics"
)

// runtimeGauges are what every Go process can say about itself.
var runtimeGauges = map[string]gauge{
	"go_goroutines":                {"Goroutines that exist.", KindGauge, fromRuntime("/sched/goroutines:goroutines")},
	"go_memstats_heap_alloc_bytes": {"Bytes of the heap that are in use, garbage not yet found among them.", KindGauge, fromRuntime("/memory/classes/heap/objects:bytes")},
	"go_gc_cycles_total":           {"Garbage collections that ended.", KindCounter, fromRuntime("/gc/cycles/total:gc-cycles")},
	"process_open_fds":             {"Open file descriptors.", KindGauge, openFiles},
}

func fromRuntime(name string) func() (float64, bool) {
	return func() (float64, bool) {
		s := []metrics.Sample{{Name: name}}
		metrics.Read(s)
		if s[0].Value.Kind() != metrics.KindUint64 {
			return 0, false
		}
		return float64(s[0].Value.Uint64()), true
	}
}

// openFiles counts for itself: a process that nobody may inspect can still
// see its own.
func openFiles() (float64, bool) {
	d, err := os.Open("/proc/self/fd")
	if err != nil {
		return 0, false
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	return float64(len(names) - 1), err == nil // without the one that reads
}
