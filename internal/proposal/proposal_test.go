package proposal

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"airlock/internal/lab"
)

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "proposals"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCreate(t *testing.T) {
	s := open(t)
	a, err := s.Create(Proposal{Kind: Access, URL: "https://a.test/", Methods: []string{"GET"}, Why: "one"}, 2)
	if err != nil || a.State != Pending || a.Created.IsZero() || !idForm.MatchString(a.ID) {
		t.Fatalf("%+v, %v", a, err)
	}
	same, err := s.Create(Proposal{Kind: Access, URL: "https://a.test/", Methods: []string{"GET"}, Why: "two"}, 2)
	if err != nil || same.ID != a.ID {
		t.Errorf("the same request became %s, %v", same.ID, err)
	}
	if _, err := s.Create(Proposal{Kind: Question, Question: "b"}, 2); err != nil {
		t.Error(err)
	}
	if _, err := s.Create(Proposal{Kind: Question, Question: "c"}, 2); !errors.Is(err, ErrTooMany) {
		t.Errorf("a third: %v", err)
	}
	if _, err := s.Answer(a.ID, Denied, ""); err != nil {
		t.Error(err)
	}
	if _, err := s.Create(Proposal{Kind: Question, Question: "c"}, 2); err != nil {
		t.Errorf("once one is answered: %v", err)
	}
	again, err := Open(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	if all, err := again.List(); err != nil || len(all) != 3 || all[0].ID != a.ID {
		t.Errorf("after a restart: %d, %v", len(all), err)
	}
}

func TestOnlyOneAnswerCounts(t *testing.T) {
	s := open(t)
	p, err := s.Create(Proposal{Kind: Access, URL: "https://a.test/"}, 10)
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	results := make(chan error, 8)
	for range 8 {
		group.Go(func() {
			_, err := s.Answer(p.ID, Approved, "")
			results <- err
		})
	}
	group.Wait()
	close(results)
	won := 0
	for err := range results {
		if err == nil {
			won++
		} else if !errors.Is(err, ErrAnswered) {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d answers were taken", won)
	}
}

func TestWait(t *testing.T) {
	s := open(t)
	p, err := s.Create(Proposal{Kind: Access, URL: "https://a.test/"}, 10)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := s.Wait(ctx, p.ID); err != nil || got.State != Pending {
		t.Errorf("%+v, %v", got, err)
	}
	answered := make(chan Proposal)
	go func() {
		got, err := s.Wait(context.Background(), p.ID)
		if err != nil {
			t.Error(err)
		}
		answered <- got
	}()
	if _, err := s.Answer(p.ID, Approved, "yes"); err != nil {
		t.Fatal(err)
	}
	if got := lab.Receive(t, answered, "an answer comes"); got.State != Approved || got.Answer != "yes" {
		t.Errorf("%+v", got)
	}
}

func TestOddNames(t *testing.T) {
	s := open(t)
	if err := os.WriteFile(filepath.Join(s.dir, "p-zzzz.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"", "../x", "p-", "p-ABCDEFGH", "p-abcdefgh", "p-zzzz"} {
		if _, err := s.Get(id); !errors.Is(err, ErrAbsent) {
			t.Errorf("%q: %v", id, err)
		}
	}
	if all, err := s.List(); err != nil || len(all) != 0 {
		t.Errorf("%d, %v", len(all), err)
	}
}

// TestValuesLeaveRoom: proposals about values in pushes, of which an agent can make any number, take half of the places.
func TestValuesLeaveRoom(t *testing.T) {
	s := open(t)
	for i := range 5 {
		value := Proposal{Kind: GitAllow, Repo: "app", Rule: "github-pat", Digest: strings.Repeat(string(rune('a'+i)), 64)}
		first, err := s.Create(value, 6)
		if tooMany := i >= 3; tooMany != errors.Is(err, ErrTooMany) {
			t.Errorf("value %d: %v", i, err)
			continue
		}
		if same, err := s.Create(value, 6); i < 3 && (err != nil || same.ID != first.ID) {
			t.Errorf("value %d again: %+v, %v", i, same, err)
		}
	}
	for i := range 4 {
		_, err := s.Create(Proposal{Kind: Question, Question: string(rune('a' + i))}, 6)
		if tooMany := i >= 3; tooMany != errors.Is(err, ErrTooMany) {
			t.Errorf("question %d: %v", i, err)
		}
	}
	if _, err := open(t).Create(Proposal{Kind: GitAllow, Repo: "app"}, 1); err != nil {
		t.Errorf("where one may be open: %v", err)
	}
}
