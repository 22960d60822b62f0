// Command testsum reads the events of "go test -json" from its standard input, prints what "go test" would print, and at the end the ten slowest
// tests. It exits with 1 when a test or a build failed, or when there was no test at all.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// event is one of "go test -json" (go doc test2json, and go help buildjson for builds).
type event struct {
	Action     string
	Package    string
	ImportPath string
	Test       string
	Elapsed    float64 // seconds
	Output     string
}

// slowest is how many tests are listed.
const slowest = 10

func main() {
	if !sum(os.Stdin, os.Stdout) {
		os.Exit(1)
	}
}

// sum reads the events and reports whether all is well.
func sum(from io.Reader, to io.Writer) bool {
	said := map[[2]string]*strings.Builder{} // by package and test: what it printed, which is shown when it fails
	var tests []event
	ok, count := true, 0
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Fprintln(to, lines.Text()) // no event: it is for the person
			continue
		}
		key := [2]string{e.Package, e.Test}
		switch e.Action {
		case "output":
			if e.Test == "" {
				fmt.Fprint(to, line(e.Output))
				continue
			}
			if said[key] == nil {
				said[key] = &strings.Builder{}
			}
			said[key].WriteString(e.Output)
		case "build-output":
			fmt.Fprint(to, e.Output)
		case "build-fail":
			ok = false
		case "pass", "fail", "skip":
			failed := e.Action == "fail"
			ok = ok && !failed
			if e.Test == "" {
				continue
			}
			if count++; failed && said[key] != nil {
				fmt.Fprint(to, said[key])
			}
			delete(said, key)
			if !strings.Contains(e.Test, "/") {
				tests = append(tests, e)
			}
		}
	}
	for _, rest := range said { // of what did not end
		fmt.Fprint(to, rest)
	}
	slices.SortFunc(tests, func(a, b event) int { return cmp.Compare(b.Elapsed, a.Elapsed) })
	fmt.Fprintf(to, "\n%d tests; the slowest:\n", count)
	for _, t := range tests[:min(slowest, len(tests))] {
		fmt.Fprintf(to, "%8.1f s  %s  %s\n", t.Elapsed, t.Package, t.Test)
	}
	return ok && count > 0 && lines.Err() == nil
}

// line leaves out what only the events need.
func line(s string) string {
	if s == "PASS\n" {
		return ""
	}
	return s
}
