// Package confine takes privileges from the calling thread: capabilities,
// files and folders (Landlock), system calls (seccomp). What the thread then
// starts, or executes, has no more than the thread. The cage confines an agent
// with it, the supervisor each of its daemons. It starts nothing and knows
// neither of them: who may do what is its callers' business.
package confine
