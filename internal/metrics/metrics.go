// Package metrics counts what a process does, and writes it down in the
// Prometheus text format. The processes of a bundle send families as they
// are, not text, so that the supervisor can join them: each family stands
// once in the answer, and no daemon can speak for another.
package metrics

import (
	"maps"
	"slices"
	"strings"
	"sync"
)

// Kinds of a family.
const (
	KindCounter = "counter"
	KindGauge   = "gauge"
)

// Family is one metric with all its samples.
type Family struct {
	Name    string   `json:"name"`
	Kind    string   `json:"kind"`
	Help    string   `json:"help"`
	Samples []Sample `json:"samples"`
}

// Sample is one value of a family.
type Sample struct {
	Labels []Label `json:"labels,omitempty"`
	Value  float64 `json:"value"`
}

// Label is a name and a value.
type Label struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// maxCells bounds the samples of a counter: labels may come from outside, and
// must not fill the memory. What is more counts under the value "other".
const maxCells = 200

// registry holds what this process counts.
var registry = struct {
	sync.Mutex
	counters map[string]*Counter
	gauges   map[string]gauge
	collect  func() []Family
}{counters: map[string]*Counter{}, gauges: map[string]gauge{}}

// Counter only grows. The zero value is of no use: see NewCounter.
type Counter struct {
	name, help string
	labels     []string
	mu         sync.Mutex
	cells      map[string]float64 // by the values of the labels, joined
}

const separator = "\xff" // stands in no UTF-8 text

// NewCounter makes a counter with the names of its labels. Nobody sees it
// before Expose: one binary is every daemon, and each tells only what is its.
func NewCounter(name, help string, labels ...string) *Counter {
	c := &Counter{name: name, help: help, labels: labels, cells: map[string]float64{}}
	if len(labels) == 0 {
		c.cells[""] = 0
	}
	return c
}

// Expose makes Gather tell these counters.
func Expose(counters ...*Counter) {
	registry.Lock()
	defer registry.Unlock()
	for _, c := range counters {
		registry.counters[c.name] = c
	}
}

// Inc counts one, under a value for each label.
func (c *Counter) Inc(values ...string) { c.Add(1, values...) }

// Add counts n, under a value for each label.
func (c *Counter) Add(n int, values ...string) {
	key := strings.Join(values, separator)
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.cells[key]; !known && len(c.cells) >= maxCells {
		key = strings.Join(slices.Repeat([]string{"other"}, len(c.labels)), separator)
	}
	c.cells[key] += float64(n)
}

// Family is the counter as it stands now.
func (c *Counter) Family() Family {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := Family{Name: c.name, Kind: KindCounter, Help: c.help}
	for _, key := range sorted(c.cells) {
		s := Sample{Value: c.cells[key]}
		for i, value := range strings.Split(key, separator) {
			if i < len(c.labels) {
				s.Labels = append(s.Labels, Label{c.labels[i], value})
			}
		}
		f.Samples = append(f.Samples, s)
	}
	return f
}

// gauge is a value that is asked for when it is wanted.
type gauge struct {
	help string
	kind string
	read func() (value float64, ok bool)
}

// SetGauge names a value that may rise and fall. It replaces one of the same
// name. A value that is not known now (ok is false) is left out.
func SetGauge(name, help string, read func() (value float64, ok bool)) {
	registry.Lock()
	defer registry.Unlock()
	registry.gauges[name] = gauge{help, KindGauge, read}
}

// Collect names what tells families that have labels of their own, when they are wanted. A process has one.
func Collect(families func() []Family) {
	registry.Lock()
	defer registry.Unlock()
	registry.collect = families
}

// Gather reads everything that this process counts, in the order of names.
func Gather() []Family {
	registry.Lock()
	counters, gauges := slices.Collect(maps.Values(registry.counters)), maps.Clone(registry.gauges)
	collect := registry.collect
	registry.Unlock()
	maps.Copy(gauges, runtimeGauges)
	var all []Family
	if collect != nil {
		all = collect()
	}
	for _, c := range counters {
		all = append(all, c.Family())
	}
	for name, g := range gauges {
		if v, ok := g.read(); ok {
			all = append(all, Family{name, g.kind, g.help, []Sample{{Value: v}}})
		}
	}
	slices.SortFunc(all, func(a, b Family) int { return strings.Compare(a.Name, b.Name) })
	return all
}
