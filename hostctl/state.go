package hostctl

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"airlock/hostctl/pair"
)

// store is the folder of all pairs: one folder each, for its owner alone.
type store struct{ root string }

// openStore is $XDG_STATE_HOME/airlock (XDG Base Directory Specification 0.8).
func openStore() (store, error) {
	base := os.Getenv("XDG_STATE_HOME")
	if base == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return store{}, fmt.Errorf("finding the state folder: %w", err)
		}
		base = filepath.Join(home, ".local", "state")
	}
	if !filepath.IsAbs(base) {
		return store{}, fmt.Errorf("XDG_STATE_HOME %q: an absolute path was wanted", base)
	}
	return store{filepath.Join(base, "airlock")}, nil
}

func (s store) pairs() string           { return filepath.Join(s.root, "pairs") }
func (s store) dir(name string) string  { return filepath.Join(s.pairs(), name) }
func (s store) card(name string) string { return filepath.Join(s.dir(name), "pair.json") }
func (s store) ended() string           { return filepath.Join(s.root, "ended") }
func (s store) trusted() string         { return filepath.Join(s.root, "trusted.json") }

// card is what hostctl remembers of a pair: no credential.
type card struct {
	Name     string    `json:"name"`
	Backend  string    `json:"backend"`
	Manifest string    `json:"manifest"`
	Digest   string    `json:"digest"`
	Plan     pair.Plan `json:"plan"`
}

func (s store) read(name string) (card, error) {
	var c card
	if err := pair.CheckName(name); err != nil {
		return c, err
	}
	data, err := os.ReadFile(s.card(name))
	if errors.Is(err, os.ErrNotExist) {
		return c, fmt.Errorf("%q: %w; see hostctl list", name, pair.ErrAbsent)
	}
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	if err != nil {
		return c, fmt.Errorf("reading the pair %s: %w", name, err)
	}
	return c, nil
}

func (s store) write(c card) error {
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the pair %s: %w", c.Name, err)
	}
	return writeFile(s.card(c.Name), data, 0o600)
}

// names lists the pairs that have a folder.
func (s store) names() ([]string, error) {
	entries, err := os.ReadDir(s.pairs())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing the pairs: %w", err)
	}
	var all []string
	for _, e := range entries {
		if e.IsDir() && pair.CheckName(e.Name()) == nil {
			all = append(all, e.Name())
		}
	}
	return all, nil
}

// lock keeps two hostctl from changing one pair at the same time.
func (s store) lock(name string) (unlock func(), err error) {
	if err := os.MkdirAll(s.dir(name), 0o700); err != nil {
		return nil, fmt.Errorf("locking the pair %s: %w", name, err)
	}
	f, err := os.OpenFile(filepath.Join(s.pairs(), "."+name+".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the pair %s: %w", name, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another hostctl is changing the pair %s right now", name)
	}
	return func() { f.Close() }, nil
}

// writeFile replaces a file as a whole; the new one belongs to whom the old
// one did.
func writeFile(path string, data []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer os.Remove(f.Name()) // it is gone when it was renamed
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), keepOwner(f, path), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

func keepOwner(f *os.File, old string) error {
	var st unix.Stat_t
	if err := unix.Stat(old, &st); err != nil {
		return nil // there is no old one
	}
	if int(st.Uid) == os.Getuid() {
		return nil
	}
	return f.Chown(int(st.Uid), int(st.Gid))
}

// trust decides whether a manifest may be used. One that the agent could have
// written is taken at its first use, which is the operator's, and afterwards
// only as long as it does not change; "--trust" takes the change.
func (s store) trust(m *Manifest, digest string, accept bool) error {
	if digest == "" { // nothing that the agent could have written
		return nil
	}
	known := map[string][]string{}
	data, err := os.ReadFile(s.trusted())
	if err == nil {
		err = json.Unmarshal(data, &known)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("reading which manifests are trusted: %w", err)
	}
	have := known[m.path]
	if slices.Contains(have, digest) {
		return nil
	}
	if len(have) > 0 && !accept {
		return fmt.Errorf("%s, or a file that it names for the sidecars, lies in the workspace and has changed since it was last used; look at it, then say --trust", m.path)
	}
	known[m.path] = append(have, digest)
	if data, err = json.MarshalIndent(known, "", "  "); err != nil {
		return fmt.Errorf("writing which manifests are trusted: %w", err)
	}
	if err := os.MkdirAll(s.root, 0o700); err != nil {
		return fmt.Errorf("writing which manifests are trusted: %w", err)
	}
	return writeFile(s.trusted(), data, 0o600)
}
