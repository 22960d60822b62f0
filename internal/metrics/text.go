package metrics

import (
	"bufio"
	"cmp"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var (
	nameForm  = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]{0,127}$`)
	helpText  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	labelText = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

// Table joins the families of several processes.
type Table struct{ families map[string]*joined }

type joined struct {
	kind, help string
	samples    map[string]float64 // by the text of the labels
}

// Add puts families into the table, each sample with the label, which a
// sample of its own of that name cannot overrule. The first to name a family
// decides what it is; families of another kind under that name, samples that
// stand there already, and names that are none are left out.
func (t *Table) Add(families []Family, label Label) {
	if t.families == nil {
		t.families = map[string]*joined{}
	}
	for _, f := range families {
		if !nameForm.MatchString(f.Name) || f.Kind != KindCounter && f.Kind != KindGauge {
			continue
		}
		j := t.families[f.Name]
		if j == nil {
			j = &joined{f.Kind, f.Help, map[string]float64{}}
			t.families[f.Name] = j
		}
		if j.kind != f.Kind {
			continue
		}
		for _, s := range f.Samples {
			text, ok := labels(s.Labels, label)
			if _, twice := j.samples[text]; ok && !twice {
				j.samples[text] = s.Value
			}
		}
	}
}

// labels writes labels in the order of their names.
func labels(own []Label, more Label) (text string, ok bool) {
	all := slices.DeleteFunc(slices.Clone(own), func(l Label) bool { return l.Name == more.Name })
	if more.Name != "" {
		all = append(all, more)
	}
	slices.SortFunc(all, func(a, b Label) int { return cmp.Compare(a.Name, b.Name) })
	var b strings.Builder
	for i, l := range all {
		if !nameForm.MatchString(l.Name) || strings.HasPrefix(l.Name, "__") || i > 0 && all[i-1].Name == l.Name {
			return "", false
		}
		b.WriteString(separatorOf(i) + l.Name + `="` + labelText.Replace(strings.ToValidUTF8(l.Value, "?")) + `"`)
	}
	if len(all) > 0 {
		b.WriteByte('}')
	}
	return b.String(), true
}

func separatorOf(i int) string {
	if i == 0 {
		return "{"
	}
	return ","
}

// Write writes the table in the Prometheus text format, version 0.0.4.
func (t *Table) Write(w io.Writer) error {
	out := bufio.NewWriter(w)
	line := func(parts ...string) { _, _ = out.WriteString(strings.Join(parts, "") + "\n") } // Flush tells the first error
	for _, name := range sorted(t.families) {
		f := t.families[name]
		if len(f.samples) == 0 {
			continue
		}
		line("# HELP ", name, " ", helpText.Replace(strings.ToValidUTF8(f.help, "?")))
		line("# TYPE ", name, " ", f.kind)
		for _, text := range sorted(f.samples) {
			line(name, text, " ", strconv.FormatFloat(f.samples[text], 'g', -1, 64))
		}
	}
	return out.Flush()
}

func sorted[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
