package metrics

import (
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// FuzzTable joins what a daemon that was taken over may send: the whole must
// stay readable, and no sample may carry another daemon's name.
func FuzzTable(f *testing.F) {
	f.Add("up", "gauge", "help", "daemon", "pipelock", "x", "y", 1.0)
	f.Add("a_total", "counter", "two\nlines \\", "__name__", "\"}\nup 1\n", "daemon", "", 1e300)
	f.Fuzz(func(t *testing.T, name, kind, help, label, value, label2, value2 string, number float64) {
		var table Table
		table.Add([]Family{{"up", KindGauge, "Is it up?", []Sample{{[]Label{{"daemon", "egress"}}, 0}}}}, Label{})
		hostile := Sample{[]Label{{label, value}, {label2, value2}}, number}
		table.Add([]Family{{name, kind, help, []Sample{hostile, hostile, {nil, number}}}}, Label{"daemon", "egress"})
		var b strings.Builder
		if err := table.Write(&b); err != nil {
			t.Fatal(err)
		}
		parser := expfmt.NewTextParser(model.UTF8Validation)
		families, err := parser.TextToMetricFamilies(strings.NewReader(b.String()))
		if err != nil {
			t.Fatalf("%v in\n%s", err, &b)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				if f.GetName() == "up" && len(m.GetLabel()) == 1 && m.GetGauge().GetValue() != 0 {
					t.Errorf("the supervisor's own value became %v", m.GetGauge().GetValue())
				}
				for _, l := range m.GetLabel() {
					if l.GetName() == "daemon" && l.GetValue() != "egress" {
						t.Errorf("egress speaks for %q in\n%s", l.GetValue(), &b)
					}
				}
			}
		}
	})
}
