package supervisor

import "time"

// State is the state of a daemon.
type State string

// States of a daemon.
const (
	Down      State = "down"      // not started yet
	Starting  State = "starting"  // runs, has not reported that it is ready
	Ready     State = "ready"     // serves
	Replacing State = "replacing" // serves, while its successor starts
	Backoff   State = "backoff"   // crashed; starts again after a delay
	Failed    State = "failed"    // crashed too often; waits for the operator
	Stopping  State = "stopping"  // was asked to exit
	Stopped   State = "stopped"   // exited after that
)

// Event is an event in the life of a daemon.
type Event string

// Events of a daemon.
const (
	Start          Event = "start"
	Serves         Event = "serves"          // the process has sent READY=1
	Exits          Event = "exits"           // the current process exited
	Flaps          Event = "flaps"           // it exited, for the flapLimit-th time in a row
	Due            Event = "due"             // the delay before the next start is over
	Replace        Event = "replace"         // a replacement was requested
	SuccessorReady Event = "successor ready" // it serves; the old process drains
	SuccessorFails Event = "successor fails" // it exited or was not ready in time; the old process stays
	Stop           Event = "stop"
)

// transitions are all transitions. An event that a state does not list has no effect.
// docs/architecture.md shows the same table as a picture.
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

// nextState returns the state after the event, and whether the state has that event.
func nextState(s State, e Event) (State, bool) {
	to, ok := transitions[s][e]
	return to, ok
}

// serves reports whether a process serves in that state.
func serves(s State) bool { return s == Ready || s == Replacing }

// rejectsConns reports whether connections are reset rather than kept waiting, when no process has
// served for that long. While a process starts they wait.
func rejectsConns(s State, down time.Duration) bool {
	return s == Failed || s == Backoff && down >= rejectAfter
}

// The restart policy.
const (
	rejectAfter  = 10 * time.Second // without a process that serves
	minBackoff   = 50 * time.Millisecond
	maxBackoff   = 30 * time.Second
	stableUptime = 10 * time.Second // a run of this length resets the count of crashes
	flapLimit    = 9                // crashes in a row without a stable run: some 10 s of attempts
)

// backoffDelay returns the delay of the next start after the nth crash in a row (from 1). It doubles
// up to maxBackoff. jitter, from 0 to 1, subtracts up to half, so that daemons that crashed together
// do not start together.
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

// afterExit returns the event for a crash after that uptime, and the count of crashes in a row with
// this one.
func afterExit(uptime time.Duration, endsBefore int) (Event, int) {
	if uptime >= stableUptime {
		endsBefore = 0
	}
	if endsBefore+1 >= flapLimit {
		return Flaps, endsBefore + 1
	}
	return Exits, endsBefore + 1
}
