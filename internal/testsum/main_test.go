package main

import (
	"strings"
	"testing"
)

func TestSum(t *testing.T) {
	const passed = `{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"pass","Package":"p","Test":"TestA","Elapsed":2.5}
{"Action":"output","Package":"p","Output":"PASS\n"}
{"Action":"output","Package":"p","Output":"ok  \tp\t2.6s\n"}
{"Action":"pass","Package":"p","Elapsed":2.6}
`
	for name, c := range map[string]struct {
		events string
		ok     bool
		says   []string
	}{
		"all pass":      {passed, true, []string{"ok  \tp\t2.6s\n", "1 tests; the slowest:", "2.5 s  p  TestA"}},
		"one fails":     {passed + `{"Action":"output","Package":"q","Test":"TestB","Output":"    b_test.go:1: wrong\n"}` + "\n" + `{"Action":"fail","Package":"q","Test":"TestB","Elapsed":0.1}` + "\n", false, []string{"b_test.go:1: wrong"}},
		"a build fails": {passed + `{"Action":"build-output","ImportPath":"r","Output":"r.go:1: syntax error\n"}` + "\n" + `{"Action":"build-fail","ImportPath":"r"}` + "\n", false, []string{"syntax error"}},
		"nothing ran":   {"", false, []string{"0 tests"}},
		"a test hangs":  {passed + `{"Action":"output","Package":"q","Test":"TestC","Output":"panic: test timed out\n"}` + "\n" + `{"Action":"fail","Package":"q","Elapsed":600}` + "\n", false, []string{"timed out"}},
		"not an event":  {"go: downloading something\n" + passed, true, []string{"go: downloading something"}},
	} {
		var out strings.Builder
		if ok := sum(strings.NewReader(c.events), &out); ok != c.ok {
			t.Errorf("%s: %v, want %v: %s", name, ok, c.ok, out.String())
		}
		for _, want := range c.says {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: %q is missing in %s", name, want, out.String())
			}
		}
	}
}
