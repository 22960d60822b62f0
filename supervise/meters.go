package supervise

import (
	"context"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"

	"airlock/internal/metrics"
	"airlock/internal/proposal"
)

var calls = metrics.NewCounter("airlock_supervise_calls_total", "Calls of tools.", "tool")

// countCalls counts the calls of each tool. It runs for known tools only, so their names are safe as
// labels.
func countCalls(next server.ToolHandlerFunc) server.ToolHandlerFunc {
	return func(ctx context.Context, call mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		calls.Inc(call.Params.Name)
		return next(ctx, call)
	}
}

func (d *service) expose() {
	metrics.Expose(calls)
	metrics.SetGauge("airlock_supervise_proposals_open", "Proposals that nobody has answered yet.", func() (float64, bool) {
		all, err := d.store.List()
		open := 0
		for _, p := range all {
			if p.State == proposal.Pending {
				open++
			}
		}
		return float64(open), err == nil
	})
}
