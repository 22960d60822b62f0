package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// mapped is a row of the map in HACKING.md: a file, a function in it, and a test.
var mapped = regexp.MustCompile("(?m)^\\| .* \\| `([^`]+\\.go)` \\| `(\\w+)` \\| `(Test\\w+)` \\|$")

// TestMapNamesWhatExists checks the rows of the map in HACKING.md.
func TestMapNamesWhatExists(t *testing.T) {
	text, err := os.ReadFile("../../HACKING.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := mapped.FindAllStringSubmatch(string(text), -1)
	if len(rows) < 10 {
		t.Fatalf("expected the map's rows, found %d", len(rows))
	}
	for _, row := range rows {
		file, function, test := row[1], row[2], row[3]
		if !functions(t, filepath.Join("../..", file))[function] {
			t.Errorf("%s has no function %s", file, function)
		}
		found := false
		tests, err := filepath.Glob(filepath.Join("../..", filepath.Dir(file), "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range tests {
			found = found || functions(t, path)[test]
		}
		if !found {
			t.Errorf("beside %s there is no test %s", file, test)
		}
	}
}

// functions returns the names of the functions and methods in a file.
func functions(t *testing.T, path string) map[string]bool {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil && strings.Contains(err.Error(), "no such file") {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok {
			all[f.Name.Name] = true
		}
	}
	return all
}
