package supervisor

import (
	"airlock/internal/proposal"
)

// maxFaults is how many open proposals there may be for a fault to be added. The limit for the agent's
// proposals is lower.
const maxFaults = 1000

// failed creates a proposal to restart the daemon, if there is a store of proposals.
func (s *supervisor) failed(daemon, why string) {
	s.readers.Go(func() {
		store, err := s.proposals()
		if err == nil {
			_, err = store.Create(proposal.Proposal{Kind: proposal.Fault, Daemon: daemon, Why: why}, maxFaults)
		}
		if err != nil {
			s.logf("the operator could not be asked about %s: %v", daemon, err)
		}
	})
}

// recovered closes that proposal.
func (s *supervisor) recovered(daemon string) {
	s.readers.Go(func() {
		store, err := s.proposals()
		if err == nil {
			err = store.Close(proposal.Proposal{Kind: proposal.Fault, Daemon: daemon}, proposal.Approved, daemon+" serves again")
		}
		if err != nil {
			s.logf("the question about %s stays open: %v", daemon, err)
		}
	})
}
