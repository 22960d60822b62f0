package metrics

import (
	"strconv"
	"strings"
	"sync"
	"testing"
)

func TestCounter(t *testing.T) {
	c := NewCounter("test_total", "Of the test.", "verdict")
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 1000 {
				c.Inc("allow")
			}
		})
	}
	group.Wait()
	c.Add(3, `a "b" \`+"\n")
	if find(Gather(), "test_total") != nil {
		t.Error("a counter was told that nobody exposed")
	}
	Expose(c)
	f := find(Gather(), "test_total")
	if f == nil || len(f.Samples) != 2 || f.Samples[1].Value != 8000 {
		t.Fatalf("%+v", f)
	}
	for i := range 2 * maxCells {
		c.Inc(strconv.Itoa(i))
	}
	if f := c.Family(); len(f.Samples) != maxCells+1 {
		t.Errorf("%d samples: labels from outside fill the memory", len(f.Samples))
	}
}

func find(all []Family, name string) *Family {
	for i := range all {
		if all[i].Name == name {
			return &all[i]
		}
	}
	return nil
}

func TestRuntime(t *testing.T) {
	for _, name := range []string{"go_goroutines", "go_memstats_heap_alloc_bytes", "process_open_fds"} {
		if f := find(Gather(), name); f == nil || f.Samples[0].Value <= 0 {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

// TestNobodySpeaksForAnother joins the families of a daemon that lies.
func TestNobodySpeaksForAnother(t *testing.T) {
	var table Table
	own := []Family{{"up", KindGauge, "Is it up?", []Sample{{[]Label{{"daemon", "egress"}}, 0}}}}
	table.Add(own, Label{})
	forged := []Family{
		{"up", KindGauge, "Other help\n# TYPE x counter", []Sample{{[]Label{{"daemon", "pipelock"}}, 1}, {nil, 1}}},
		{"up", KindCounter, "", []Sample{{nil, 7}}},
		{"requests_total", KindCounter, "Two\nlines", []Sample{{[]Label{{"path", "a\"b\\c\nd\xff"}}, 1e9}, {[]Label{{"a", "1"}, {"a", "2"}}, 1}, {[]Label{{"a b", ""}}, 1}}},
		{"bad name", KindGauge, "", []Sample{{nil, 1}}},
		{"histogram", "histogram", "", []Sample{{nil, 1}}},
		{"empty", KindGauge, "", nil},
	}
	table.Add(forged, Label{"daemon", "egress"})
	var b strings.Builder
	if err := table.Write(&b); err != nil {
		t.Fatal(err)
	}
	want := `# HELP requests_total Two\nlines
# TYPE requests_total counter
requests_total{daemon="egress",path="a\"b\\c\nd?"} 1e+09
# HELP up Is it up?
# TYPE up gauge
up{daemon="egress"} 0
`
	if b.String() != want {
		t.Errorf("got\n%s", b.String())
	}
}

func BenchmarkCounter(b *testing.B) {
	c := NewCounter("bench_total", "", "verdict", "status")
	b.ReportAllocs()
	for b.Loop() {
		c.Inc("allow", "2xx")
	}
}
