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
			return websocket.StatusTryAgain, err.Error()
		case errors.Is(err, websocket.ErrProtocol):
			report(policy.Denied("websocket", err.Error()))
			return websocket.StatusProtocol, err.Error()
		}
		return 0, ""
	}
}
