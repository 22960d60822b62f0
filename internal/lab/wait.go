package lab

import (
	"io"
	"runtime"
	"testing"
	"time"
)

// patience is how long a test waits for what must come. It is far longer than anything takes on a busy machine: it only ends a test that hangs.
const patience = 2 * time.Minute

// tester is what Receive needs of a test.
type tester interface {
	Helper()
	Errorf(format string, args ...any)
}

// Receive takes from a channel, which may also be closed. Where nothing comes within two minutes it fails the test with what was expected, and ends
// the calling goroutine.
func Receive[T any](t tester, c <-chan T, expected string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Errorf("nothing came within %v; expected: %s", patience, expected)
		runtime.Goexit()
		panic("unreachable")
	}
}

// ReadAll reads up to the end within the time that Receive waits.
func ReadAll(t tester, r io.Reader, expected string) ([]byte, error) {
	t.Helper()
	type result struct {
		data []byte
		err  error
	}
	c := make(chan result, 1)
	go func() {
		data, err := io.ReadAll(r)
		c <- result{data, err}
	}()
	got := Receive(t, c, expected)
	return got.data, got.err
}

// Long passes over a test that takes long, or much memory, where "go test" runs with -short, as "make test" does.
func Long(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("this test takes long: make test-long runs it")
	}
}
