package gitgate

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"airlock/internal/bundle"
)

func TestExcused(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	r := rules{allow: []bundle.GitAllowed{
		{Repo: "app", Rule: "github-pat", Digest: "d1"}, {Repo: "app", Rule: "generic-api-key", Digest: "d2", Expires: now.Add(time.Second)}, {Repo: "app", Rule: "jwt", Digest: "d3", Expires: now},
	}}
	for _, c := range []struct {
		repo, rule, digest string
		want               bool
	}{
		{"app", "github-pat", "d1", true}, {"app", "generic-api-key", "d2", true}, {"app", "jwt", "d3", false},
		{"lib", "github-pat", "d1", false}, {"app", "jwt", "d1", false}, {"app", "github-pat", "d2", false}, {"app", "github-pat", "", false},
	} {
		if got := r.excused(c.repo, c.rule, c.digest, now); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// Processes that begin at once agree on one key; a key that a full disk has cut is replaced.
func TestSeal(t *testing.T) {
	root := filepath.Join(t.TempDir(), "git")
	var keys [8]seal
	var group sync.WaitGroup
	for i := range keys {
		group.Go(func() {
			var err error
			if keys[i], err = openSeal(root); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	for _, k := range keys {
		if !bytes.Equal(k, keys[0]) || len(k) != 32 {
			t.Fatal("two keys")
		}
	}
	value := []byte("a value")
	d := keys[0].digest("app", "jwt", value)
	for _, other := range []string{keys[0].digest("lib", "jwt", value), keys[0].digest("app", "pat", value), keys[0].digest("app", "jwt", []byte("a valuf")), seal("another key").digest("app", "jwt", value)} {
		if other == d || len(other) != 64 {
			t.Errorf("%s and %s", d, other)
		}
	}
	if err := os.WriteFile(filepath.Join(root, ".allow.key"), keys[0][:7], 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := openSeal(root)
	if err != nil || len(again) != 32 || bytes.Equal(again, keys[0]) {
		t.Errorf("%d bytes, %v", len(again), err)
	}
	if left, _ := filepath.Glob(filepath.Join(root, ".new-*")); len(left) > 0 {
		t.Error(left)
	}
}
