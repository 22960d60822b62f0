// Package reap starts and waits for all children of a process: of the supervisor, of the init
// process of an agent's cage, and of the applet init. A process that adopts orphans, as PID 1 does,
// has to wait for any child, and a wait for any child takes the exit statuses that other waits in the
// same process expect. So every child is started and waited for here, and adopted orphans are reaped
// silently.
//
// A process has one Reaper at most. Its methods and those of Process may be called concurrently.
package reap
