package supervisor

import "time"

// State is where a daemon stands.
type State string

// States of a daemon.
const (
	Down      State = "down"      // not started yet
	Starting  State = "starting"  // runs, has not said that it is ready
	Ready     State = "ready"     // serves
	Replacing State = "replacing" // serves, while its successor starts
	Backoff   State = "backoff"   // ended by itself; starts again after a while
	Failed    State = "failed"    // ended too often; waits for the operator
	Stopping  State = "stopping"  // was told to end
	Stopped   State = "stopped"   // ended because it was told to
)

// Event is what happens to a daemon.
type Event string

// Events of a daemon.
const (
	Start          Event = "start"
	Serves         Event = "serves"          // the process said READY=1
	Exits          Event = "exits"           // the serving process ended
	Flaps          Event = "flaps"           // it ended once more than is forgiven
	Due            Event = "due"             // the wait before the next try is over
	Replace        Event = "replace"         // a successor is wanted
	SuccessorReady Event = "successor ready" // it serves: the old one drains
	SuccessorFails Event = "successor fails" // it ended or was late: the old one stays
	Stop           Event = "stop"
)

// transitions are all that can happen. An event that a state does not have is
// without effect; docs/architecture.md shows the same table as a picture.
var transitions = map[State]map[Event]State{
	Down:      {Start: Starting, Stop: Stopped},
	Starting:  {Serves: Ready, Exits: Backoff, Flaps: Failed, Stop: Stopping},
	Ready:     {Exits: Backoff, Flaps: Failed, Replace: Replacing, Stop: Stopping},
	Replacing: {SuccessorReady: Ready, SuccessorFails: Ready, Exits: Starting, Stop: Stopping},
	Backoff:   {Due: Starting, Replace: Starting, Stop: Stopped},
	Failed:    {Replace: Starting, Stop: Stopped},
	Stopping:  {Exits: Stopped},
	Stopped:   {},
}

// nextState is the state after the event, and whether the state has that event.
func nextState(s State, e Event) (State, bool) {
	to, ok := transitions[s][e]
	return to, ok
}

// serves tells whether a process answers in that state.
func serves(s State) bool { return s == Ready || s == Replacing }

// rejectsConns tells whether callers are refused rather than kept waiting, when
// nobody has served for that long. While a process starts they wait.
func rejectsConns(s State, down time.Duration) bool {
	return s == Failed || s == Backoff && down >= rejectAfter
}

// The restart policy.
const (
	rejectAfter  = 10 * time.Second // of a caller
	minBackoff   = 50 * time.Millisecond
	maxBackoff   = 30 * time.Second // a wait
	stableUptime = 10 * time.Second // a run this long forgives what was before
	flapLimit    = 9                // ends in a row without a stable run: some 10 s of trying
)

// backoffDelay is how long after the nth end in a row (from 1) the next start comes:
// it doubles up to a cap. jitter, from 0 to 1, takes off up to half, so that
// daemons that ended together do not come back together.
func backoffDelay(n int, jitter float64) time.Duration {
	d := minBackoff
	for range n - 1 {
		if d *= 2; d >= maxBackoff {
			d = maxBackoff
			break
		}
	}
	return d - time.Duration(jitter*float64(d)/2)
}

// afterExit decides what follows an end: the event, and the count of ends in
// a row with this one.
func afterExit(uptime time.Duration, endsBefore int) (Event, int) {
	if uptime >= stableUptime {
		endsBefore = 0
	}
	if endsBefore+1 >= flapLimit {
		return Flaps, endsBefore + 1
	}
	return Exits, endsBefore + 1
}
