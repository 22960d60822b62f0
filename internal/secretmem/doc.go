// Package secretmem keeps credentials in memory that is neither swapped nor
// dumped, and hands them from the supervisor to a daemon as an inherited
// descriptor, so that they stand in nobody's environment. On Linux since 5.14
// that memory (memfd_secret) is readable for no one else at all, not even for
// root through /proc; elsewhere it is a sealed file in memory that is locked.
//
// What a daemon makes of a value, as the line of a header, lies in ordinary
// memory for a while. That is why such processes are hidden, too: see
// confine.Hide.
package secretmem
