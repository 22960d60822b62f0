package pipelock

import (
	"errors"

	"airlock/internal/policy"
	"airlock/internal/websocket"
)

// whyClosed says with which close frame a WebSocket ends, and sees to it that
// the end is written down.
func whyClosed(report func(policy.Verdict)) websocket.Why {
	return func(err error) (status int, reason string) {
		var refused *refusedError
		switch {
		case errors.As(err, &refused): // written down by who refused it
			return websocket.StatusPolicy, refused.v.Why
		case errors.Is(err, websocket.ErrBusy):
			report(policy.Denied(busyRule, err.Error()))
		case websocket.StatusOf(err) != 0:
			report(policy.Denied("websocket", err.Error()))
		}
		return websocket.StatusOf(err), err.Error()
	}
}
