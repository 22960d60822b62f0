// Package audit writes down every verdict before it takes effect: one JSON
// line each, chained by hash, so that a line that is changed, cut out or cut
// off is noticed. Each daemon has a chain of its own; two processes of one
// daemon (during a replacement) may write to it in turn. What cannot be
// written down must not happen: the caller refuses when Record fails.
package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"airlock/internal/policy"
)

// maxField bounds one field, in bytes: longer ones are cut.
const maxField = 1 << 10

// maxLine bounds an entry, in bytes: nine fields, each byte of which JSON may
// write as six, and what is fixed.
const maxLine = 64 << 10

// Entry is one verdict. It never holds a secret or the text of a finding.
type Entry struct {
	Time     time.Time `json:"time"`
	Seq      uint64    `json:"seq"`  // from 1
	Prev     string    `json:"prev"` // SHA-256 of the line before, in hexadecimal; empty in the first
	Daemon   string    `json:"daemon"`
	Pair     string    `json:"pair,omitempty"`
	Verdict  string    `json:"verdict"` // allow, deny, ask, approved, redacted, warn
	Rule     string    `json:"rule,omitempty"`
	Why      string    `json:"why,omitempty"`
	Host     string    `json:"host,omitempty"`
	Method   string    `json:"method,omitempty"`
	Path     string    `json:"path,omitempty"`
	Repo     string    `json:"repo,omitempty"`
	Ref      string    `json:"ref,omitempty"`
	Proposal string    `json:"proposal,omitempty"`
	By       string    `json:"by,omitempty"`
}

// Log is an open chain.
type Log struct {
	// Trouble is told that entries cannot be written any more, and, with nil,
	// that they can be again. It may be nil.
	Trouble func(error)

	daemon, pair string

	mu    sync.Mutex
	file  *os.File
	size  int64 // of the file when seq and prev were read
	seq   uint64
	prev  string
	line  []byte    // the last one, for its memory
	last  time.Time // when it was written
	lease *time.Timer
	held  bool // the lock of the file, until lease ends
	fails bool // as Trouble was told
}

// term is how long the lock is kept while entries come fast. Another process
// of the daemon waits no longer than that.
const term = 5 * time.Millisecond

// Open opens the chain at path, or begins it, for entries of that daemon.
func Open(path, daemon, pair string) (*Log, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("opening the audit: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the audit: %w", err)
	}
	l := &Log{daemon: daemon, pair: pair, file: f, size: -1}
	if err := l.locked(func() error { return nil }); err != nil {
		f.Close()
		return nil, err
	}
	return l, nil
}

// Close closes the file.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = false
	return l.file.Close() // and with it the lock
}

// Record appends an entry; time, sequence, chain, daemon and pair are filled
// in, and a host that was refused is shortened where it may hold a secret. When it returns nil the line has been handed to the system.
func (l *Log) Record(e Entry) error {
	if e.Verdict == "deny" {
		shown := policy.Shown(e.Host)
		e.Why, e.Host = strings.ReplaceAll(e.Why, e.Host, shown), shown
	}
	e.Daemon, e.Pair, e.Time = l.daemon, l.pair, time.Now().UTC()
	for _, field := range []*string{&e.Rule, &e.Why, &e.Host, &e.Method, &e.Path, &e.Repo, &e.Ref, &e.Proposal, &e.By} {
		*field = cut(*field)
	}
	err := l.locked(func() error { return l.append(e) })
	l.tell(err)
	return err
}

// tell passes on what has changed.
func (l *Log) tell(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.Trouble != nil && l.fails != (err != nil) {
		l.fails = err != nil
		l.Trouble(err)
	}
}

func cut(s string) string {
	if len(s) <= maxField {
		return s
	}
	return strings.ToValidUTF8(s[:maxField], "") + "…"
}

// locked runs f as the only writer of the chain, with its end known.
func (l *Log) locked(f func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	fd := int(l.file.Fd())
	if l.held {
		err := f()
		if err != nil { // the end of the chain is to be read again
			l.held = false
			_ = unix.Flock(fd, unix.LOCK_UN)
		}
		return err
	}
	if err := unix.Flock(fd, unix.LOCK_EX); err != nil {
		return fmt.Errorf("locking the audit: %w", err)
	}
	if now := time.Now(); now.Sub(l.last) < term {
		l.keep()
	} else {
		l.last = now
		defer unix.Flock(fd, unix.LOCK_UN)
	}
	err := l.catchUp()
	if err == nil {
		err = f()
	}
	if err != nil && l.held {
		l.held = false
		_ = unix.Flock(fd, unix.LOCK_UN)
	}
	return err
}

// keep holds the lock for a term.
func (l *Log) keep() {
	l.held = true
	if l.lease != nil {
		l.lease.Reset(term)
		return
	}
	l.lease = time.AfterFunc(term, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.held {
			l.held, l.last = false, time.Now()
			_ = unix.Flock(int(l.file.Fd()), unix.LOCK_UN) // where it fails the file is closed, and the lock gone
		}
	})
}

// catchUp reads the end of the chain again when somebody else wrote to it.
func (l *Log) catchUp() error {
	info, err := l.file.Stat()
	if err != nil {
		return fmt.Errorf("reading the audit: %w", err)
	}
	if info.Size() == l.size {
		return nil
	}
	line, end, err := lastLine(l.file, info.Size())
	if err != nil {
		return err
	}
	// A line without its end is one whose writer died in the middle: nothing
	// was done on its strength, so it goes.
	if end != info.Size() {
		if err := l.file.Truncate(end); err != nil {
			return fmt.Errorf("mending the audit: %w", err)
		}
	}
	l.size, l.seq, l.prev = end, 0, ""
	if line == nil {
		return nil
	}
	var e Entry
	if err := json.Unmarshal(line, &e); err != nil {
		return fmt.Errorf("reading the audit: its last line is not an entry: %w", err)
	}
	l.seq, l.prev = e.Seq, hash(line)
	return nil
}

// lastLine returns the last complete line, without its newline, and the
// offset behind it.
func lastLine(r io.ReaderAt, size int64) (line []byte, end int64, err error) {
	from := max(0, size-2*maxLine)
	buf := make([]byte, size-from)
	if _, err := r.ReadAt(buf, from); err != nil && !errors.Is(err, io.EOF) {
		return nil, 0, fmt.Errorf("reading the audit: %w", err)
	}
	last := bytes.LastIndexByte(buf, '\n')
	if last < 0 {
		if from > 0 {
			return nil, 0, errors.New("reading the audit: it ends in a line that is too long")
		}
		return nil, 0, nil
	}
	start := bytes.LastIndexByte(buf[:last], '\n') + 1
	return buf[start:last], from + int64(last) + 1, nil
}

func (l *Log) append(e Entry) error {
	e.Seq, e.Prev = l.seq+1, l.prev
	l.line = append(appendEntry(l.line[:0], &e), '\n')
	line := l.line[:len(l.line)-1]
	n, err := l.file.Write(l.line)
	if err != nil {
		if n > 0 {
			_ = l.file.Truncate(l.size) // a half line; catchUp removes it where this fails
		}
		l.size = -1
		return fmt.Errorf("writing the audit: %w", err)
	}
	l.size += int64(n)
	l.seq, l.prev = e.Seq, hash(line)
	return nil
}

func hash(line []byte) string {
	sum := sha256.Sum256(line)
	return hex.EncodeToString(sum[:])
}

// SafePath shortens the segments of a path that could hold a secret.
func SafePath(path string) string {
	segments := strings.Split(path, "/")
	for i, s := range segments {
		segments[i] = policy.ShownSegment(s)
	}
	return strings.Join(segments, "/")
}
