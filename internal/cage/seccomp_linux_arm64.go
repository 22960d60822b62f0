package cage

import "airlock/internal/confine"

// refusedHere are the calls that only this architecture has.
var refusedHere []uint32

// modesHere: this architecture has no older forms of modes.
var modesHere []confine.Call
