package secrets

import (
	"bytes"
	"context"
)

// Pieces looks for what pieces make when each follows the one before without anything in between. Only precise rules and known values count: chance
// would satisfy the others too often. Start and End are offsets in all pieces as one. Its errors are those of Scan.
func (s *Scanner) Pieces(ctx context.Context, pieces [][]byte) ([]Finding, error) {
	return s.scan(ctx, "", bytes.Join(pieces, nil), joined)
}
