package pipelock

import (
	"bytes"
	"context"

	"airlock/internal/policy"
	"airlock/internal/websocket"
)

// frames scans what the agent sends over a WebSocket, each frame with the end
// of the ones before it.
func (s *scanner) frames(ctx context.Context, to scanContext) *websocket.Inspector {
	f := &frames{scanner: s, ctx: ctx, to: to}
	return websocket.NewInspector(websocket.Client, f.inspect)
}

// frames are one direction of one connection. A control frame may be
// between two parts of a message (RFC 6455 §5.4), so that what data frames say
// and what control frames say is read apart, and as one besides.
type frames struct {
	scanner    *scanner
	ctx        context.Context
	to         scanContext
	data, ctrl []byte // the end of what went before, of each kind
	all        []byte // and of both
	passed     bool   // something was found in the frame at hand, and passes
	asked      int
	overwrote  bool // something in the frame at hand was overwritten
}

// shortFrame is up to which length what a frame says is read together with
// what others said, in bytes.
const shortFrame = 4 << 10

func (f *frames) inspect(frame websocket.Frame) error {
	kind := &f.data
	if frame.Opcode >= websocket.Close {
		kind = &f.ctrl
	}
	v := f.read(frame.Payload, *kind, frame.Final)
	if !v.Allow {
		return f.refuse(v)
	}
	if f.passed { // it would be found again in front of the next one
		f.passed, f.data, f.ctrl, f.all = false, nil, nil, nil
		return nil
	}
	said := frame.Payload
	if f.overwrote { // what was written over it would be read together with the next frame
		f.overwrote = false
		*kind, f.all, said = nil, nil, afterFiller(said)
	}
	*kind = tailOf(append(*kind, said...))
	f.all = tailOf(append(f.all, said...))
	return nil
}

// afterFiller is what of a payload follows the last finding that was overwritten.
func afterFiller(payload []byte) []byte {
	fill := bytes.Repeat([]byte{maskByte}, 8)
	if i := bytes.LastIndex(payload, fill); i >= 0 {
		return payload[i+len(fill):]
	}
	return payload
}

// read scans a payload together with what came before it.
func (f *frames) read(payload, before []byte, final bool) policy.Verdict {
	v := f.scanAfter(payload, before, final)
	if v.Allow && len(f.ctrl) > 0 {
		v = f.scanAfter(payload, f.all, final)
	}
	if v.Allow && len(before) > 0 && isBinary(payload) { // what is compressed may have no mark but where it begins
		v = f.scanAfter(payload, nil, final)
	}
	if v.Allow && len(payload) <= shortFrame {
		if v = f.scanner.scanJoined(f.ctx, f.to.host, []string{string(payload)}); isFinding(v) {
			v = f.resolve(v)
		}
	}
	return v
}

// scanAfter scans a payload as the end of a text and applies the configured action.
func (f *frames) scanAfter(payload, before []byte, final bool) policy.Verdict {
	text := append(append(make([]byte, 0, len(before)+len(payload)), before...), payload...)
	v := f.scanner.scanText(f.ctx, "websocket frame", text)
	if !isFinding(v) {
		return v
	}
	if f.to.action != actionRedact {
		return f.resolve(v)
	}
	o := redactor{scanner: f.scanner, ctx: f.ctx, surface: "websocket frame", from: len(before), more: !final, llm: f.to.llm}
	f.scanner.trackReported(&o, f.to)
	if v = o.redact(text); v.Allow {
		if o.hasNew() && f.to.report(wordRedacted, v) != nil {
			return unwritten()
		}
		o.markReported()
		f.overwrote = true
		copy(payload, text[len(before):])
	}
	return v
}

// resolve is for what cannot be overwritten. Who lets a frame pass has not seen
// the next one.
func (f *frames) resolve(v policy.Verdict) policy.Verdict {
	if f.passed {
		return policy.Allowed("scan") // this one has been settled
	}
	v, _ = f.to.resolve(f.ctx, v, make([]string, f.asked))
	if f.passed = v.Allow; f.to.action == actionAsk && v.Allow {
		f.asked++
	}
	return v
}

// refuse ends the connection.
func (f *frames) refuse(v policy.Verdict) error {
	_ = f.to.report("", v) // it is refused in any case
	return &refusedError{v: v}
}
