package supervisor

import (
	"os"
	"testing"
)

// roles are the functions that the test binary runs when it is started under that name.
var roles = map[string]func(){}

func TestMain(m *testing.M) {
	if role, ok := roles[os.Args[0]]; ok {
		role()
		os.Exit(0)
	}
	// The race detector would let every process sleep for a second at its end.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	os.Exit(m.Run())
}
