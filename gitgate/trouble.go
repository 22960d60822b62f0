package gitgate

import (
	"errors"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ownError is trouble of the gate's own, which is not upstream's: words for the agent, and what the log is told.
type ownError struct {
	words string
	cause error
}

func (e ownError) Error() string { return e.words }
func (e ownError) Unwrap() error { return e.cause }

const (
	diskFull    = "git-gate's disk is full: the operator must free space for its mirrors; then try again"
	storeBroken = "git-gate cannot use its own store, and its log says why: ask the operator"
)

// trouble tells errors of the mirror's own folder from those of upstream.
func (m *mirror) trouble(err error) (own ownError, ok bool) {
	var path *fs.PathError
	var link *os.LinkError
	switch {
	case full(err):
		return ownError{diskFull, err}, true
	case errors.As(err, &path) && strings.HasPrefix(path.Path, m.dir), errors.As(err, &link) && strings.HasPrefix(link.New, m.dir):
		return ownError{storeBroken, err}, true
	}
	return own, false
}

// full tells that a disk has no room, or that ours is used up.
func full(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// forLog is what the log is told: the cause, where the agent is told less.
func forLog(err error) string {
	var own ownError
	if errors.As(err, &own) {
		err = own.cause
	}
	return clean(err.Error())
}
