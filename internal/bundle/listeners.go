package bundle

import "slices"

// Listener is a listening socket that an agent reaches.
type Listener struct {
	Name string // in LISTEN_FDNAMES
	Port int
}

// Listeners are the sockets of the daemons that agents reach; none means all
// daemons.
func Listeners(daemons []string) []Listener {
	var chosen []Listener
	for _, l := range []struct {
		daemon string
		Listener
	}{
		{Egress, Listener{FDEgress, PortEgress}},
		{Pipelock, Listener{FDPipelock, PortPipelock}},
		{GitGate, Listener{FDGit, PortGit}},
		{GitGate, Listener{FDGitHTTP, PortGitHTTP}},
		{Supervise, Listener{FDSupervise, PortSupervise}},
	} {
		if len(daemons) == 0 || slices.Contains(daemons, l.daemon) {
			chosen = append(chosen, l.Listener)
		}
	}
	return chosen
}

// AgentNames are the names under which an agent finds the daemons.
func AgentNames() []string { return []string{"egress", "pipelock", "git-gate", "supervise"} }
