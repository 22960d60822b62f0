// Package proposal keeps what an agent asks for until a person answers. The
// MCP server writes proposals, the supervisor's control socket answers them;
// both see one folder, a file a proposal, so that nothing is lost when either
// restarts. A proposal changes no policy: the host does that.
package proposal

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// Kinds of a proposal.
const (
	Access   = "access"   // a URL and methods
	Question = "question" // a text, perhaps choices
	Fault    = "fault"    // a daemon that stays down: the supervisor asks, not the agent
	Leak     = "leak"     // one request in which a secret was found and which waits: pipelock asks
	// Overwritten is a notice: a secret was found in a request to a model's API, and overwritten. Equal ones are one; denying it takes it off the list.
	Overwritten = "overwritten"
	// GitAllow is a value in a push that looks like a secret and may be none: git-gate asks whether to let it in from now on.
	GitAllow = "git-allow"
)

// States of a proposal.
const (
	Pending  = "pending"
	Approved = "approved"
	Denied   = "denied"
	Answered = "answered" // a question's
)

// Errors that a caller branches on.
var (
	ErrTooMany  = errors.New("too many proposals are open; wait until one is answered")
	ErrAbsent   = errors.New("no proposal of that name")
	ErrAnswered = errors.New("the proposal has been answered already")
)

// Proposal is one request of the agent, and its answer.
type Proposal struct {
	ID       string    `json:"id"`
	Kind     string    `json:"kind"`
	Created  time.Time `json:"created"`
	URL      string    `json:"url,omitempty"`
	Methods  []string  `json:"methods,omitempty"`
	Why      string    `json:"why,omitempty"` // the agent's words: show them as such
	Question string    `json:"question,omitempty"`
	Choices  []string  `json:"choices,omitempty"`
	Daemon   string    `json:"daemon,omitempty"`
	// Of git-allow: the repository, and the value by the rule that found it and a digest that only git-gate can make.
	Repo   string `json:"repo,omitempty"`
	Rule   string `json:"rule,omitempty"`
	Digest string `json:"digest,omitempty"`
	Place  string `json:"place,omitempty"` // where it stood: file and line, object

	State    string    `json:"state"`
	Answer   string    `json:"answer,omitempty"` // the operator's words
	Answered time.Time `json:"answered,omitzero"`
}

// same tells whether two proposals ask for the same. Two requests are never
// the same: who lets one pass has not seen the other.
func (p Proposal) same(q Proposal) bool {
	return p.Kind != Leak && p.Kind == q.Kind && p.URL == q.URL && slices.Equal(p.Methods, q.Methods) && p.Question == q.Question && p.Daemon == q.Daemon &&
		p.Repo == q.Repo && p.Rule == q.Rule && p.Digest == q.Digest
}

// Store is a folder of proposals.
type Store struct{ dir string }

// Open makes the folder where it is missing.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening the proposals: %w", err)
	}
	return &Store{dir}, nil
}

// lockWithin is how long a writer waits for another one.
const lockWithin = 5 * time.Second

var idForm = regexp.MustCompile(`^p-[a-z2-7]{8}$`)

func (s *Store) file(id string) string { return filepath.Join(s.dir, id+".json") }

// Refused returns the proposal for the same that a person has denied last, if there is one.
func (s *Store) Refused(p Proposal) (Proposal, bool, error) {
	last, ok, err := s.Last(p)
	if !ok {
		return Proposal{}, false, err
	}
	return last, last.State == Denied, err
}

// Last returns the newest proposal for the same that is not open any more, if there is one.
func (s *Store) Last(p Proposal) (Proposal, bool, error) {
	all, err := s.List()
	for _, q := range slices.Backward(all) {
		if p.same(q) && q.State != Pending {
			return q, true, err
		}
	}
	return Proposal{}, false, err
}

// Create keeps a new proposal, or returns the open one that asks for the same.
// At most limit may be open, and of those for values in pushes half as many: an
// agent that pushes often must still be able to ask for something else.
func (s *Store) Create(p Proposal, limit int) (Proposal, error) {
	err := s.locked(func() error {
		all, err := s.List()
		if err != nil {
			return err
		}
		open, values := 0, 0
		for _, q := range all {
			if q.State != Pending {
				continue
			}
			if open++; p.same(q) {
				p = q
				return nil
			}
			if q.Kind == GitAllow {
				values++
			}
		}
		if open >= limit || p.Kind == GitAllow && 2*values >= limit {
			return ErrTooMany
		}
		p.ID = "p-" + strings.ToLower(rand.Text()[:8])
		p.State, p.Created = Pending, time.Now().UTC()
		return s.write(p)
	})
	return p, err
}

// Get reads one proposal.
func (s *Store) Get(id string) (Proposal, error) {
	var p Proposal
	if !idForm.MatchString(id) {
		return p, ErrAbsent
	}
	data, err := readSmall(s.file(id))
	if errors.Is(err, os.ErrNotExist) {
		return p, ErrAbsent
	}
	if err == nil {
		err = json.Unmarshal(data, &p)
	}
	if err != nil {
		return p, fmt.Errorf("reading proposal %s: %w", id, err)
	}
	return p, nil
}

// maxProposal bounds a proposal's file, in bytes. Who writes it may have been
// taken over.
const maxProposal = 1 << 20

func readSmall(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() || info.Size() > maxProposal {
		return nil, errors.New("a regular file of at most 1 MiB was wanted")
	}
	return io.ReadAll(io.LimitReader(f, maxProposal))
}

// List reads all proposals, the oldest first. One that cannot be read is left
// out: it must not hide the others.
func (s *Store) List() ([]Proposal, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("listing the proposals: %w", err)
	}
	all := []Proposal{}
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || !idForm.MatchString(id) {
			continue
		}
		if p, err := s.Get(id); err == nil {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b Proposal) int {
		return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID))
	})
	return all, nil
}

// Answer closes an open proposal.
func (s *Store) Answer(id, state, answer string) (Proposal, error) {
	var p Proposal
	err := s.locked(func() (err error) {
		if p, err = s.Get(id); err != nil {
			return err
		}
		if p.State != Pending {
			return fmt.Errorf("%w: %s", ErrAnswered, p.State)
		}
		p.State, p.Answer, p.Answered = state, answer, time.Now().UTC()
		return s.write(p)
	})
	return p, err
}

// Close answers every open proposal that asks for the same as p.
func (s *Store) Close(p Proposal, state, answer string) error {
	all, err := s.List()
	if err != nil {
		return err
	}
	for _, q := range all {
		if q.State != Pending || !p.same(q) {
			continue
		}
		if _, err := s.Answer(q.ID, state, answer); err != nil && !errors.Is(err, ErrAnswered) {
			return err
		}
	}
	return nil
}

// Wait returns the proposal once it is answered, or as it is when ctx ends.
func (s *Store) Wait(ctx context.Context, id string) (Proposal, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return Proposal{}, fmt.Errorf("watching the proposals: %w", err)
	}
	defer w.Close()
	if err := w.Add(s.dir); err != nil {
		return Proposal{}, fmt.Errorf("watching the proposals: %w", err)
	}
	for {
		p, err := s.Get(id)
		if err != nil || p.State != Pending {
			return p, err
		}
		select {
		case <-ctx.Done():
			return p, nil
		case _, ok := <-w.Events:
			if !ok {
				return p, nil
			}
		case err := <-w.Errors:
			return p, fmt.Errorf("watching the proposals: %w", err)
		}
	}
}

// write replaces the proposal's file as a whole.
func (s *Store) write(p Proposal) error {
	data, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return fmt.Errorf("writing a proposal: %w", err)
	}
	f, err := os.CreateTemp(s.dir, ".new-*")
	if err != nil {
		return fmt.Errorf("writing a proposal: %w", err)
	}
	defer os.Remove(f.Name()) // it is gone when it was renamed
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), s.file(p.ID))
	}
	if err != nil {
		return fmt.Errorf("writing a proposal: %w", err)
	}
	return nil
}

// locked runs f as the only writer of the folder, among all processes.
func (s *Store) locked(f func() error) error {
	lock, err := os.OpenFile(filepath.Join(s.dir, ".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("locking the proposals: %w", err)
	}
	defer lock.Close()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(lockWithin); ; <-tick.C {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f()
		}
		if time.Now().After(deadline) || !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("locking the proposals: %w", err)
		}
	}
}
