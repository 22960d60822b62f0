package audit

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func fill(t *testing.T, n int) (path string, data []byte) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "sub", "a.jsonl")
	l, err := Open(path, "egress", "p")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for i := range n {
		if err := l.Record(Entry{Verdict: "allow", Rule: fmt.Sprint("rule ", i), Host: "a.test"}); err != nil {
			t.Fatal(err)
		}
	}
	data, err = os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, data
}

func TestVerify(t *testing.T) {
	_, data := fill(t, 5)
	if n, last, err := Verify(bytes.NewReader(data)); n != 5 || len(last) != 64 || err != nil {
		t.Fatalf("%d, %q, %v", n, last, err)
	}
	lines := bytes.SplitAfter(data, []byte("\n"))
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"a changed word":      {bytes.Replace(data, []byte("rule 1"), []byte("rule 9"), 1), "line 3:"},
		"a line cut out":      {join(lines[0], lines[2], lines[3], lines[4]), "line 2:"},
		"two lines exchanged": {join(lines[0], lines[2], lines[1], lines[3]), "line 2:"},
		"a line doubled":      {join(lines[0], lines[1], lines[1]), "line 3:"},
		"the beginning gone":  {join(lines[1], lines[2]), "line 1:"},
		"half a line":         {data[:len(data)-5], "line 5:"},
		"not JSON":            {join(lines[0], []byte("hello\n")), "line 2:"},
	} {
		if _, _, err := Verify(bytes.NewReader(c.data)); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}

func TestTwoWritersKeepOneChain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.jsonl")
	var group sync.WaitGroup
	for range 3 {
		l, err := Open(path, "pipelock", "p")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		group.Go(func() {
			for range 50 {
				if err := l.Record(Entry{Verdict: "deny"}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n, _, err := Verify(f); n != 150 || err != nil {
		t.Errorf("%d entries, %v", n, err)
	}
}

func TestTornLineIsMended(t *testing.T) {
	path, data := fill(t, 2)
	if err := os.WriteFile(path, append(data, `{"time":"20`...), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := Open(path, "egress", "p")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Record(Entry{Verdict: "allow"}); err != nil {
		t.Fatal(err)
	}
	mended, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n, _, err := Verify(bytes.NewReader(mended)); n != 3 || err != nil {
		t.Errorf("%d entries, %v", n, err)
	}
}

// TestFullDisk uses the device that is always full.
func TestFullDisk(t *testing.T) {
	f, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	l := &Log{file: f}
	defer l.Close()
	if err := l.Record(Entry{Verdict: "allow"}); err == nil {
		t.Error("a line that was not written counts as written")
	}
}

func TestLongFieldsAreCut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.jsonl")
	l, err := Open(path, "egress", "p")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	long := strings.Repeat("é", 100_000)
	for range 3 {
		if err := l.Record(Entry{Verdict: "deny", Rule: long, Why: long, Host: long, Method: long, Path: long, Repo: long, Ref: long, Proposal: long, By: long}); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n, _, err := Verify(bytes.NewReader(data)); n != 3 || err != nil {
		t.Errorf("%d entries, %v", n, err)
	}
}

func TestSafePath(t *testing.T) {
	for in, want := range map[string]string{"/v1/x": "/v1/x", "/a/" + strings.Repeat("s", 40) + "/b": "/a/ssss…(40)/b", "": "", "/550e8400-e29b-41d4-a716-446655440000": "/550e8400-e29b-41d4-a716-446655440000",
		"/getUserProfileInformation/20261121T194158Z": "/getUserProfileInformation/20261121T194158Z", "/a1B2c3D4e5F6g7H8i9J0/x": "/a1B2…(20)/x"} {
		if got := SafePath(in); got != want {
			t.Errorf("SafePath(%q) = %q", in, got)
		}
	}
}
