//go:build !race

package confine

// Race tells that this is a build with the race detector, which reserves
// terabytes for its shadow memory and starts itself again at other addresses.
const Race = false

var plainInRace []uint32
