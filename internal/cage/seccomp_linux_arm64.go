package cage

// refusedHere are the calls that only this architecture has.
var refusedHere []uint32
