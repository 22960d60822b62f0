//go:build race

package confine

import "golang.org/x/sys/unix"

// Race tells that this is a build with the race detector, which reserves
// terabytes for its shadow memory and starts itself again at other addresses.
const Race = true

var plainInRace = []uint32{unix.SYS_PERSONALITY}
