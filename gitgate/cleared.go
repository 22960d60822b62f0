package gitgate

import (
	"hash/maphash"

	"airlock/gitgate/objects"
	"airlock/internal/seenset"
)

// maxVerdicts bounds how many objects are remembered, twice, at 40 bytes each or so.
const maxVerdicts = 128 << 10

// cleared remembers objects in which nothing was found, so that a push that is tried again costs no second look. The rules cannot change within
// a process; a path counts, since some rules want one. Names are trusted: collisions are refused before.
type cleared struct {
	seenset.Set[verdict]
	seed maphash.Seed
}

type verdict struct {
	object objects.Hash
	path   uint64
}

func newCleared() *cleared {
	return &cleared{Set: seenset.Set[verdict]{Max: maxVerdicts}, seed: maphash.MakeSeed()}
}

func (v *cleared) key(h objects.Hash, path string) verdict {
	return verdict{h, maphash.String(v.seed, path)}
}

// clean tells whether an object was looked at under that path, and nothing found.
func (v *cleared) clean(h objects.Hash, path string) bool { return v.Has(v.key(h, path)) }

// note remembers an object.
func (v *cleared) note(h objects.Hash, path string) { v.Add(v.key(h, path)) }
