package secrets

import (
	"bytes"
	"context"
	"slices"
	"strings"
)

// Pieces looks for what pieces make when each follows the one before without
// anything in between. Only rules that name a provider and known values
// count: chance would satisfy the others too often. Start and End are offsets
// in all pieces as one.
func (s *Scanner) Pieces(ctx context.Context, pieces [][]byte) ([]Finding, error) {
	found, err := s.Scan(ctx, bytes.Join(pieces, nil))
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(found, func(f Finding) bool { return strings.HasPrefix(f.Rule, "generic") }), nil
}
