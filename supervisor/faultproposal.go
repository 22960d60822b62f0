package supervisor

import (
	"airlock/internal/proposal"
)

// maxFaults is how many proposals there may be before a fault is not added to
// them any more. The agent's own limit lies below.
const maxFaults = 1000

// failed asks the operator for a restart, where proposals are kept.
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

// recovered closes the question.
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
