package objects

import (
	"errors"
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
)

// Filter says what a partial clone leaves out. What is wanted by its own name is never left out. The zero Filter leaves out nothing.
type Filter struct {
	on    bool
	blobs int64   // blobs of that size and larger are left out
	depth int     // trees and blobs that many steps below the root, and all below, are left out
	types [8]bool // left out
}

// errFilter says which filters there are.
var errFilter = errors.New("blob:none, blob:limit=N, tree:N, object:type=T and combine: of these are here")

// maxFilter bounds the text of a filter.
const maxFilter = 1000

// ParseFilter reads a filter as git writes it (git-rev-list(1), --filter). Sparse filters are refused: they would make us read the contents of
// files at the client's wish.
func ParseFilter(spec string) (Filter, error) {
	f := Filter{blobs: math.MaxInt64, depth: math.MaxInt}
	if len(spec) > maxFilter {
		return f, fmt.Errorf("filter of %d characters: at most %d were wanted", len(spec), maxFilter)
	}
	if err := f.add(spec, 0); err != nil {
		return Filter{}, err
	}
	f.on = true
	return f, nil
}

func (f *Filter) add(spec string, nesting int) error {
	word, rest, _ := strings.Cut(spec, ":")
	switch {
	case spec == "blob:none":
		f.blobs = 0
	case strings.HasPrefix(spec, "blob:limit="):
		n, err := parseSize(strings.TrimPrefix(spec, "blob:limit="))
		f.blobs = min(f.blobs, n)
		return err
	case word == "tree":
		n, err := strconv.ParseUint(rest, 10, 31)
		if err != nil {
			return errors.New("tree: wants a number")
		}
		f.depth = min(f.depth, int(n))
	case strings.HasPrefix(spec, "object:type="):
		return f.only(strings.TrimPrefix(spec, "object:type="))
	case word == "combine" && nesting < 8 && rest != "":
		for part := range strings.SplitSeq(rest, "+") {
			inner, err := url.PathUnescape(part)
			if err != nil {
				return errors.New("combine: wants percent-encoded filters with + between them")
			}
			if err := f.add(inner, nesting+1); err != nil {
				return err
			}
		}
	default:
		return errFilter
	}
	return nil
}

// parseSize reads a number with git's suffixes.
func parseSize(s string) (int64, error) {
	unit := int64(1)
	if s != "" {
		switch s[len(s)-1] | 0x20 {
		case 'k':
			unit = 1 << 10
		case 'm':
			unit = 1 << 20
		case 'g':
			unit = 1 << 30
		}
	}
	if unit > 1 {
		s = s[:len(s)-1]
	}
	n, err := strconv.ParseUint(s, 10, 62)
	if err != nil || int64(n) > math.MaxInt64/unit {
		return 0, errors.New("blob:limit= wants a number, with k, m or g behind it if need be")
	}
	return int64(n) * unit, nil
}

func (f *Filter) only(name string) error {
	keep, err := plumbing.ParseObjectType(name)
	if err != nil || keep.IsDelta() {
		return errors.New("object:type= wants commit, tree, blob or tag")
	}
	for t := range f.types {
		f.types[t] = f.types[t] || Type(t) != keep
	}
	return nil
}

// On tells whether anything may be left out.
func (f Filter) On() bool { return f.on }

// drops tells whether objects of a type are left out altogether.
func (f Filter) drops(t Type) bool { return f.on && f.types[t] }

// below tells whether what stands that many steps below the root is left out.
func (f Filter) below(depth int) bool { return f.on && depth >= f.depth }

// blob tells whether a blob is left out; size is asked only when it matters.
func (f Filter) blob(size func() (int64, error)) (bool, error) {
	if !f.on || f.blobs == math.MaxInt64 && !f.types[plumbing.BlobObject] {
		return false, nil
	}
	if f.blobs == 0 || f.types[plumbing.BlobObject] {
		return true, nil
	}
	n, err := size()
	return n >= f.blobs, err
}
