// Package cage is where the agent of the local backend lives: fresh user,
// mount, pid, ipc, uts, cgroup and network namespaces with nothing but
// loopback, a read-only view of the system, no capability, no_new_privs,
// Landlock and seccomp. It works on Linux, as root and as an ordinary user.
//
// hostctl starts it (Start) as the hidden applet "cage" of the sidecars
// binary. The applet is PID 1 of the namespaces. It opens the sidecars'
// listening sockets inside and hands them out over a socket pair, builds the
// view, gives up every privilege, and then executes itself once more as a
// plain init (applet "cage -init"), which is under the same restrictions as
// the agent: taking it over gains nothing. The init buries orphans and starts
// processes for hostctl (Exec), which reaches it over a unix socket that the
// agent cannot see. There is no other way to talk to it.
package cage
