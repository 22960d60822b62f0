package gitgate

import "sync/atomic"

// maxKept bounds what clients may have us remember of their requests before these are answered, all together, in bytes.
const maxKept = 256 << 20

// keepOne is what an object name, or a line beside its text, is counted with: slices, maps and their slack.
const keepOne = 64

// errCrowded is told to whoever comes when too much is remembered already.
const errCrowded = errRefused("too many arguments, together with those of other clients: try again later")

// errNoRoom is told to whoever pushes when the quarantines are full.
const errNoRoom = errRefused("no room in quarantine beside other pushes: push again when they are over")

// leastQuarantine is the disk that all pushes may take together, in bytes, where one alone may not take a quarter of that.
const leastQuarantine = 4 << 30

// budget is bytes that clients share.
type budget struct{ left atomic.Int64 }

func newBudget(n int64) *budget {
	b := &budget{}
	b.left.Store(n)
	return b
}

// tab is what one client has taken of a budget; nil counts nothing.
type tab struct {
	budget *budget
	taken  int64
}

// open begins to count for one client, or one command; settle ends it.
func (b *budget) open() *tab {
	if b == nil {
		return nil
	}
	return &tab{budget: b}
}

func (t *tab) take(n int) error {
	if t == nil {
		return nil
	}
	if t.budget.left.Add(-int64(n)) < 0 {
		t.budget.left.Add(int64(n))
		return errCrowded
	}
	t.taken += int64(n)
	return nil
}

// settle gives everything back.
func (t *tab) settle() {
	if t != nil {
		t.budget.left.Add(t.taken)
		t.taken = 0
	}
}
