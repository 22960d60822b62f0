// Package arch holds the shape of the house: which package may import which.
package arch

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// floors gives every package its floor; imports go down, never sideways.
// Floor 1 has a ground (bundle, which reads the files that several daemons
// share) and a few packages that stand on another of the same floor.
var floors = map[string]float64{
	"internal/policy": 0, "internal/config": 0, "hostctl/pair": 0, "internal/websocket": 0, "internal/reap": 0, "internal/metrics": 0, "internal/otlp": 0, "internal/http1": 0, "internal/memtrim": 0, "internal/inflate": 0, "internal/promptinjection": 0, "internal/seenset": 0, "internal/hostkey": 0, "internal/unpack": 0,
	"internal/bundle": 0.5, "internal/forward": 0.5, "internal/pid1": 0.5, "internal/logs": 0.5,
	"internal/audit": 1, "internal/ca": 1, "internal/activation": 1, "internal/httpd": 1, "internal/control": 1,
	"internal/proposal": 1, "internal/secrets": 1, "internal/probe": 1, "gitgate/objects": 1,
	"internal/confine": 1, "internal/secretmem": 1, "internal/socks": 1,
	"internal/cage":   1.2,
	"internal/tunnel": 1.5, "hostctl/local": 1.5, "hostctl/docker": 1.5,
	"supervisor": 2, "egress": 2, "pipelock": 2, "gitgate": 2, "supervise": 2, "hostctl": 2,
	"cmd/sidecars": 3, "bench/peer": 3, "cmd/hostctl": 3, "e2e/demo": 3,
	"internal/lab": 1, "internal/arch": 3, "internal/testsum": 3, "hostctl/workspace": 1, "hostctl/pair/pairtest": 2,
}

// owners says who alone may import a heavy library.
var owners = map[string][]string{
	"github.com/elazarl/goproxy":       {"egress", "bench/peer"},
	"github.com/go-git/go-git":         {"gitgate", "gitgate/objects"},
	"github.com/zricethezav/gitleaks":  {"internal/secrets"},
	"github.com/mark3labs/mcp-go":      {"supervise"},
	"go.yaml.in/yaml":                  {"internal/config"},
	"github.com/moby/moby/client":      {"hostctl/docker"},
	"github.com/spf13/cobra":           {"hostctl"},
	"golang.org/x/crypto/ssh":          {"gitgate", "internal/lab"},
	"github.com/modelcontextprotocol/": {"e2e/demo"},
	"golang.org/x/crypto/x509roots":    {"cmd/sidecars"},
	"golang.org/x/net/publicsuffix":    {"internal/policy"},
	"github.com/andybalholm/brotli":    {"internal/inflate"},
	"github.com/fsnotify/fsnotify":     {"internal/proposal"},
	"github.com/containerd/errdefs":    {"hostctl/docker"},
	"github.com/moby/moby/api/":        {"hostctl/docker"},
	"github.com/rs/zerolog":            {"internal/secrets"},
	"github.com/creack/pty":            {"internal/cage", "hostctl/pair/pairtest"},
	"github.com/spf13/viper":           {"internal/secrets"},
	"github.com/pelletier/go-toml":     {"internal/secrets"},
	"github.com/ulikunitz/xz":          {}, // tests only
}

type listed struct {
	ImportPath string
	Imports    []string
	Doc        string
}

func packages(t *testing.T) []listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,Doc", "airlock/...").Output()
	if err != nil {
		t.Fatalf("listing the packages: %v", err)
	}
	var all []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		var p listed
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 20 {
		t.Fatalf("only %d packages were found", len(all))
	}
	return all
}

func TestImportsGoDown(t *testing.T) {
	for _, p := range packages(t) {
		from := strings.TrimPrefix(p.ImportPath, "airlock/")
		floor, known := floors[from]
		if !known && !strings.HasPrefix(from, "bench") && !strings.HasPrefix(from, "e2e") {
			t.Errorf("%s has no floor: say where it stands", from)
			continue
		}
		for _, i := range p.Imports {
			to, ours := strings.CutPrefix(i, "airlock/")
			if ours && known && floors[to] >= floor {
				t.Errorf("%s (floor %v) imports %s (floor %v)", from, floor, to, floors[to])
			}
			if ours && to == "internal/lab" && floor != 3 {
				t.Errorf("%s imports internal/lab, which is for tests", from)
			}
		}
	}
}

func TestHeavyLibrariesHaveOneOwner(t *testing.T) {
	for _, p := range packages(t) {
		from := strings.TrimPrefix(p.ImportPath, "airlock/")
		for _, i := range p.Imports {
			for library, allowed := range owners {
				if strings.HasPrefix(i, library) && !contains(allowed, from) {
					t.Errorf("%s imports %s, which belongs to %v", from, i, allowed)
				}
			}
		}
	}
}

// TestFoldersAreWalkedInOnePlace: an agent can exchange what is in its folders
// at any moment, so the host's controller walks, copies and removes folders by
// hostctl/workspace and not by paths.
func TestFoldersAreWalkedInOnePlace(t *testing.T) {
	files := 0
	for _, dir := range []string{"../../hostctl", "../../internal/cage"} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.HasSuffix(filepath.Dir(path), "pairtest") {
				return err
			}
			files++
			set := token.NewFileSet()
			file, err := parser.ParseFile(set, path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if s, ok := n.(*ast.SelectorExpr); ok && contains([]string{"WalkDir", "RemoveAll", "CopyFS", "DirFS", "Lchown"}, s.Sel.Name) {
					t.Errorf("%s: %s goes by paths: use hostctl/workspace", set.Position(s.Pos()), s.Sel.Name)
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files < 30 {
		t.Errorf("only %d files were read", files)
	}
}

func TestPackagesAreDocumented(t *testing.T) {
	for _, p := range packages(t) {
		if p.Doc == "" && !strings.HasSuffix(p.ImportPath, "/arch") {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

// TestExportedNamesAreDocumented reads the source: each exported type,
// function, method, constant and variable has a comment, a group's counts for
// its members.
func TestExportedNamesAreDocumented(t *testing.T) {
	files := 0
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		files++
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			for _, name := range undocumented(decl) {
				t.Errorf("%s: %s has no comment", set.Position(decl.Pos()), name)
			}
		}
		return nil
	})
	if err != nil || files < 50 {
		t.Fatalf("%d files were read: %v", files, err)
	}
}

func undocumented(decl ast.Decl) (names []string) {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && d.Doc == nil && exportedReceiver(d) && d.Name.Name != "Error" && d.Name.Name != "String" { // these two are the language's own
			names = append(names, d.Name.Name)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.TypeSpec:
				if s.Name.IsExported() && d.Doc == nil && s.Doc == nil {
					names = append(names, s.Name.Name)
				}
			case *ast.ValueSpec:
				if s.Names[0].IsExported() && d.Doc == nil && s.Doc == nil && s.Comment == nil {
					names = append(names, s.Names[0].Name)
				}
			}
		}
	}
	return names
}

// exportedReceiver is false for the methods of types that nobody outside sees.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	t := d.Recv.List[0].Type
	if star, ok := t.(*ast.StarExpr); ok {
		t = star.X
	}
	name, ok := t.(*ast.Ident)
	return ok && name.IsExported()
}

func contains(list []string, s string) bool {
	for _, have := range list {
		if have == s {
			return true
		}
	}
	return false
}
