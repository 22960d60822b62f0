package gitgate

import (
	"context"
	"log/slog"

	"airlock/internal/metrics"
)

// upkeep merges the packs of mirrors that have grown, one mirror at a time, until ctx ends. A failure changes nothing: it is tried again when the
// next pack comes.
func (g *gate) upkeep(ctx context.Context) {
	for {
		for _, m := range g.mirrors {
			if err := m.tidy(ctx, g.log); err != nil && ctx.Err() == nil {
				g.log.Warn("packs could not be merged", "repo", m.name, "error", clean(err.Error()))
			}
		}
		select {
		case <-g.grown:
		case <-ctx.Done():
			return
		}
	}
}

// tidy merges the packs of one mirror, in a quarantine of its own.
func (m *mirror) tidy(ctx context.Context, log *slog.Logger) error {
	if !m.store.Many() {
		return nil
	}
	q, err := m.newQuarantine()
	if err != nil {
		return err
	}
	defer q.remove()
	n, err := m.store.Merge(ctx, q.dir, m.limits)
	if err == nil && n > 0 {
		log.Info("packs merged", "repo", m.name, "packs", n)
	}
	return err
}

// wake tells upkeep that a mirror has grown.
func (g *gate) wake() {
	select {
	case g.grown <- struct{}{}:
	default:
	}
}

// families are what the metrics tell of each mirror: see docs/operating.md.
func (g *gate) families() []metrics.Family {
	all := []metrics.Family{
		{Name: "airlock_git_repo_packs", Help: "Packs of a mirror."},
		{Name: "airlock_git_repo_bytes", Help: "Size of a mirror's packs."},
		{Name: "airlock_git_repo_refs", Help: "References of a mirror."},
		{Name: "airlock_git_repo_waiting", Help: "Clients that wait for an exchange with upstream, or have one."},
		{Name: "airlock_git_repo_refreshed_seconds", Help: "When a mirror was last as new as its upstream, in Unix time; 0 is never."},
	}
	for i := range all {
		all[i].Kind = metrics.KindGauge
	}
	for name, m := range g.mirrors {
		for i, value := range m.figures() {
			all[i].Samples = append(all[i].Samples, metrics.Sample{Labels: []metrics.Label{{Name: "repo", Value: name}}, Value: value})
		}
	}
	return all
}

// figures are the values of families, in their order.
func (m *mirror) figures() [5]float64 {
	size := int64(0)
	packs := m.store.Packs()
	for _, p := range packs {
		size += p.Size()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	refreshed := 0.0
	if !m.refreshed.IsZero() {
		refreshed = float64(m.refreshed.UnixMilli()) / 1000
	}
	return [...]float64{float64(len(packs)), float64(size), float64(len(m.now.refs)), float64(m.waiting.Load()), refreshed}
}
