package objects

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// tangle makes a repository with merges, dates that lie, and files that move and come back.
func tangle(t *testing.T, chance *rand.Rand, n int) string {
	t.Helper()
	dir := t.TempDir()
	git(t, dir, "", "init", "-q", "--bare", "-b", "main")
	var s strings.Builder
	for i := 1; i <= n; i++ {
		date := 1_700_000_000 + i*100 + chance.IntN(2000) - 1000
		fmt.Fprintf(&s, "commit refs/heads/c%d\nmark :%d\ncommitter A <a@example.com> %d +0000\ndata 1\nx\n", i, i, date)
		if i > 1 {
			fmt.Fprintf(&s, "from :%d\n", max(1, i-1-chance.IntN(4)))
		}
		if i > 5 && chance.IntN(3) == 0 {
			fmt.Fprintf(&s, "merge :%d\n", 1+chance.IntN(i-1))
		}
		for range 1 + chance.IntN(3) {
			text := fmt.Sprintf("text %d %s", chance.IntN(12), strings.Repeat("and more of it ", chance.IntN(30)))
			fmt.Fprintf(&s, "M 100644 inline d%d/e%d/f%d\ndata %d\n%s\n", chance.IntN(3), chance.IntN(3), chance.IntN(4), len(text), text)
		}
	}
	git(t, dir, s.String(), "fast-import", "--quiet")
	git(t, dir, "", "repack", "-adfq")
	return dir
}

// everything is what can be reached, found in the simplest way. Parents of the commits in cut are not looked at.
func everything(t *testing.T, set Set, from []Hash, cut map[Hash]bool) map[Hash]bool {
	t.Helper()
	all := map[Hash]bool{}
	for todo := from; len(todo) > 0; {
		h := todo[0]
		todo = todo[1:]
		if all[h] {
			continue
		}
		all[h] = true
		o, err := set.Get(h)
		if err != nil {
			t.Fatal(err)
		}
		refs, err := References(o)
		if err != nil {
			t.Fatal(err)
		}
		if cut[h] {
			refs = refs[len(refs)-1:] // the tree
		}
		todo = append(append([]Hash(nil), refs...), todo...)
	}
	return all
}

// Whatever is wanted and had: what is sent completes what the client has, holds nothing that was not asked for, and rests on nothing that the client may
// lack.
func TestMissingIsWhatIsMissing(t *testing.T) {
	chance := rand.New(rand.NewPCG(5, 6))
	const n = 90
	repo := tangle(t, chance, n)
	set := storeOf(t, repo)
	tips := make([]Hash, n)
	for i := range tips {
		tips[i] = named(t, repo, fmt.Sprintf("c%d", i+1))
	}
	some := func(most int) (picked []Hash) {
		for range chance.IntN(most + 1) {
			picked = append(picked, tips[chance.IntN(n)])
		}
		return picked
	}
	for i := range 300 {
		ask := Ask{Wants: append(some(3), tips[chance.IntN(n)]), Haves: some(3)}
		if i%3 == 1 {
			ask.Client = map[Hash]bool{}
			for _, h := range some(4) {
				ask.Client[h] = true
			}
			ask.Border = ask.Client
		}
		if i%3 == 2 {
			var err error
			if ask.Border, _, err = set.Border(t.Context(), ask.Wants, 1+chance.IntN(6)); err != nil {
				t.Fatal(err)
			}
		}
		send, theirs, err := set.Missing(t.Context(), ask)
		if err != nil {
			t.Fatal(err)
		}
		wanted, had := everything(t, set, ask.Wants, ask.Border), everything(t, set, ask.Haves, ask.Client)
		for h := range wanted {
			if !send.Has(h) && !had[h] {
				t.Fatalf("case %d: %s is missing", i, h)
			}
		}
		for h := range send.All() {
			if !wanted[h] {
				t.Fatalf("case %d: %s is not wanted", i, h)
			}
		}
		for h := range theirs.All() {
			if !had[h] {
				t.Fatalf("case %d: %s is not the client's", i, h)
			}
		}
		if len(ask.Client)+len(ask.Border) == 0 {
			reached, err := NewReach().From(t.Context(), set, ask.Wants)
			if err != nil || reached.Len() != len(wanted) {
				t.Fatalf("case %d: %d objects are reached, want %d: %v", i, reached.Len(), len(wanted), err)
			}
		}
	}
}

// What is remembered of one state is right in the next, whatever was added, moved or taken away.
func TestReachGrows(t *testing.T) {
	chance := rand.New(rand.NewPCG(7, 8))
	const n = 60
	repo := tangle(t, chance, n)
	set := storeOf(t, repo)
	reach := NewReach()
	var tips []Hash
	for i := range 60 {
		if len(tips) > 0 && chance.IntN(3) == 0 {
			tips = tips[1:]
		}
		tips = append(tips[:len(tips):len(tips)], named(t, repo, fmt.Sprintf("c%d", 1+chance.IntN(n))))
		got, err := reach.From(t.Context(), set, tips)
		if err != nil {
			t.Fatal(err)
		}
		want := everything(t, set, tips, nil)
		if got.Len() != len(want) {
			t.Fatalf("step %d: %d objects, want %d", i, got.Len(), len(want))
		}
	}
}

// A thin pack is whole together with what the client has: git completes it.
func TestThinPack(t *testing.T) {
	repo := history(t, 60)
	set := storeOf(t, repo)
	old, head := named(t, repo, "main~10"), named(t, repo, "main")
	for _, wants := range [][2]Hash{{head, old}, {old, head}} {
		send, theirs, err := set.Missing(t.Context(), Ask{Wants: wants[:1], Haves: wants[1:]})
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if _, err := send.WritePack(t.Context(), &b, Form{Offsets: true, Theirs: theirs}); err != nil {
			t.Fatal(err)
		}
		client := t.TempDir()
		git(t, client, "", "init", "-q", "--bare")
		git(t, client, "", "fetch", "-q", repo, wants[1].String())
		git(t, client, b.String(), "index-pack", "--stdin", "--fix-thin", "--strict")
	}
}
