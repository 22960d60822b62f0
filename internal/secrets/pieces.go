package secrets

import (
	"context"
	"slices"
)

// Pieces looks for what pieces make when each follows the one before without anything in between.
// Only precise rules and known values count: chance would satisfy the others too often; and what
// one piece has by itself is left to Scan. Start and End are offsets in all pieces as one. Its
// errors are those of Scan.
func (s *Scanner) Pieces(ctx context.Context, pieces [][]byte) ([]Finding, error) {
	v := view{preciseOnly: true, joined: true}
	var all []byte
	for _, p := range pieces {
		if len(p) > 0 {
			from := len(all)
			all = append(all, p...)
			v.parts = append(v.parts, part{from, len(all), from, len(all), 1})
		}
	}
	v.text = string(all)
	return s.run(ctx, "", all, func(r *run) ([]span, error) {
		spans, err := r.scanView(input{text: v.text, view: &v}, decodeDepth, s.opts.ArchiveDepth, joined)
		return slices.DeleteFunc(spans, func(s span) bool { return !v.isNew(s) }), err
	})
}
