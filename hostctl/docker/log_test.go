package docker

import (
	"fmt"
	"strings"
	"testing"
)

// TestLogOfACrashHasItsReason checks that of a long report of Go's runtime the first lines are shown, and of any other log the last ones.
func TestLogOfACrashHasItsReason(t *testing.T) {
	var log strings.Builder
	for i := range 100 {
		fmt.Fprintf(&log, "line %d\n", i)
	}
	if got := lastLines(log.String(), 3); got != "line 97\nline 98\nline 99\n" {
		t.Errorf("got %q", got)
	}
	crashed := log.String() + "fatal error: out of memory\n\ngoroutine 1 [running]:\n" + strings.Repeat("\truntime.x\n", 200)
	if got := lastLines(crashed, 3); got != "fatal error: out of memory\n\ngoroutine 1 [running]:\n" {
		t.Errorf("got %q", got)
	}
	if got := lastLines("one\n", 3); got != "one\n" {
		t.Errorf("got %q", got)
	}
}
