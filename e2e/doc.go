// Package e2e tests the whole with what a user has: a container engine, an
// OpenSSH server, the tools of a Debian system. "make e2e" runs it.
package e2e
