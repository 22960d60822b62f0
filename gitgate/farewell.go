package gitgate

import (
	"sync"
	"time"
)

// farewellWithin bounds how long last words may take; who does not listen is cut without them.
const farewellWithin = time.Second

// farewells are the last words to clients that will be cut.
type farewells struct {
	mu  sync.Mutex
	all map[*func()]bool
}

// add has words said when the clients are cut, unless the returned function is called before.
func (f *farewells) add(words func()) (remove func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.all == nil {
		f.all = map[*func()]bool{}
	}
	f.all[&words] = true
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.all, &words)
	}
}

// say says all of them at once, and waits for a moment. Words that nobody takes end with their connection.
func (f *farewells) say() {
	f.mu.Lock()
	var said sync.WaitGroup
	for words := range f.all {
		said.Go(*words)
	}
	f.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		said.Wait()
	}()
	select {
	case <-done:
	case <-time.After(farewellWithin):
	}
}
