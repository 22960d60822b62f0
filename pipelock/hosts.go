package pipelock

import (
	"sync"

	"airlock/internal/policy"
)

// hosts are names that were read and hold nothing: what asks the same service
// again and again need not be asked itself.
type hosts struct {
	mu   sync.Mutex
	have map[policy.Host]struct{}
}

// maxRead bounds how many are remembered.
const maxRead = 1024

// unread is the text of a name, or nothing where it was read before.
func (s *hosts) unread(h policy.Host) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.have[h]; ok {
		return nil
	}
	return hostText(h.String())
}

func (s *hosts) read(h policy.Host) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.have == nil || len(s.have) >= maxRead {
		s.have = map[policy.Host]struct{}{}
	}
	s.have[h] = struct{}{}
}
