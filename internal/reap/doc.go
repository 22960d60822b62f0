// Package reap is the one place of a process that forks, and the one that
// waits: for the supervisor, the init of an agent's cage, and the applet init.
// A process that adopts orphans, as PID 1 does, must wait for any child, and
// whoever waits for any child steals the statuses of those who wait for one.
// So every child is started and waited for here; orphans are buried without a
// word.
package reap
