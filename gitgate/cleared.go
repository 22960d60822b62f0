package gitgate

import (
	"hash/maphash"
	"sync"

	"airlock/gitgate/objects"
)

// maxVerdicts bounds how many objects each of two generations remembers, at 40 bytes each or so.
const maxVerdicts = 128 << 10

// cleared remembers objects in which nothing was found, so that a push that is tried again costs no second look. The rules cannot change within
// a process; a path counts, since some rules want one. Names are trusted: collisions are refused before.
type cleared struct {
	seed maphash.Seed

	mu       sync.Mutex
	now, old map[verdict]struct{}
}

type verdict struct {
	object objects.Hash
	path   uint64
}

func newCleared() *cleared { return &cleared{seed: maphash.MakeSeed(), now: map[verdict]struct{}{}} }

func (v *cleared) key(h objects.Hash, path string) verdict {
	return verdict{h, maphash.String(v.seed, path)}
}

// clean tells whether an object was looked at under that path, and nothing found.
func (v *cleared) clean(h objects.Hash, path string) bool {
	k := v.key(h, path)
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ok := v.now[k]; ok {
		return true
	}
	_, ok := v.old[k]
	if ok {
		v.keep(k)
	}
	return ok
}

// note remembers an object.
func (v *cleared) note(h objects.Hash, path string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.keep(v.key(h, path))
}

func (v *cleared) keep(k verdict) {
	if len(v.now) >= maxVerdicts {
		v.old, v.now = v.now, map[verdict]struct{}{}
	}
	v.now[k] = struct{}{}
}
