package docker

import (
	"context"
	"fmt"
	"strings"

	"github.com/moby/moby/client"

	"airlock/hostctl/pair"
)

// Doctor says whether the engine answers, and with what.
func (b *Backend) Doctor(ctx context.Context) []pair.Check {
	const name = "docker: engine"
	if _, err := b.engine.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		return []pair.Check{{Name: name, State: pair.Bad, Says: "it does not answer: " + strings.TrimSpace(err.Error())}}
	}
	v, err := b.engine.ServerVersion(ctx, client.ServerVersionOptions{})
	if err != nil {
		return []pair.Check{{Name: name, State: pair.Bad, Says: err.Error()}}
	}
	return []pair.Check{{Name: name, State: pair.Good, Says: fmt.Sprintf("version %s on %s/%s", v.Version, v.Os, v.Arch)}}
}
