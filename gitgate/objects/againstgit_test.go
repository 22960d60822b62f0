package objects

import (
	"bytes"
	"context"
	"crypto/sha1"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
)

// summed gives a pack the checksum that its bytes have, so that something else must be wrong with it.
func summed(pack []byte) []byte {
	if len(pack) < 20 {
		return pack
	}
	body := pack[:len(pack)-20]
	sum := sha1.Sum(body)
	return append(bytes.Clone(body), sum[:]...)
}

// gitIndex is the index that git makes of a pack; ok tells whether it takes it.
func gitIndex(t *testing.T, pack []byte) (index []byte, ok bool) {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(context.Background(), "git", "index-pack", "--stdin")
	git(t, dir, "", "init", "-q", "--bare")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(pack)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1"}
	if cmd.Run() != nil {
		return nil, false
	}
	files, _ := filepath.Glob(filepath.Join(dir, "objects/pack/*.idx"))
	if len(files) != 1 {
		return nil, len(files) == 0 // an empty pack has none
	}
	index, err := os.ReadFile(files[0])
	return index, err == nil
}

// FuzzReceiveAgainstGit: what we take git takes, with the same index; what git takes we refuse for our limits alone, or since an object stands
// there twice.
func FuzzReceiveAgainstGit(f *testing.F) {
	repo := history(f, 6)
	limits := Limits{PackBytes: 1 << 20, ObjectBytes: 1 << 20, TotalBytes: 8 << 20, Objects: 1000}
	for _, flags := range [][]string{nil, {"--delta-base-offset"}} {
		whole := packOf(f, repo, "main", flags...)
		f.Add(whole)
		for at := 8; at < len(whole)-20; at += max(1, len(whole)/40) {
			changed := bytes.Clone(whole)
			changed[at] ^= 1 << (at % 8)
			f.Add(changed)
		}
	}
	hash := plumbing.ComputeHash(plumbing.BlobObject, []byte("hello"))
	byName := &raw{}
	d := bomb(5, 10)
	byName.entry(append(entryHead(plumbing.REFDeltaObject, int64(len(d))), hash[:]...), d) // before its base
	byName.entry(entryHead(plumbing.BlobObject, 5), []byte("hello"))
	f.Add(byName.bytes())
	byName.entry(entryHead(plumbing.BlobObject, 5), []byte("hello"))
	f.Add(byName.bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		pack := summed(data)
		want, taken := gitIndex(t, pack)
		p, err := Receive(t.Context(), bytes.NewReader(pack), t.TempDir(), limits)
		if err != nil {
			if taken && !errors.Is(err, ErrLimit) && !errors.Is(err, errTwice) && want != nil {
				t.Fatalf("git takes it: %v", err)
			}
			return
		}
		defer p.Close()
		got, err := os.ReadFile(p.base + ".idx")
		if err != nil || !taken || want != nil && !bytes.Equal(got, want) {
			t.Fatalf("git takes it: %v, with the same index: %v; %v", taken, bytes.Equal(got, want), err)
		}
	})
}
