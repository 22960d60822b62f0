// Package pid1 is an init for one command: it starts the command, passes
// signals on to it, buries the orphans that fall to it, and ends as the
// command ends. The applet init is this and nothing else; the guard of an
// agent's container is, too.
package pid1
