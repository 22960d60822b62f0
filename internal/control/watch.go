package control

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// tryAgain is the pause before a supervisor that was not there is asked again.
const tryAgain = 500 * time.Millisecond

// look is one look at the supervisor: its status, or why there is none.
type look struct {
	st  Status
	err error
}

// follow sends the status now and after each change, until ctx ends. It does
// not poll: the supervisor holds the question until it has an answer.
func (c *Client) follow(ctx context.Context, looks chan<- look) {
	defer close(looks)
	version := ""
	for ctx.Err() == nil {
		st, err := c.StatusAfter(ctx, version)
		if ctx.Err() != nil {
			return
		}
		version = st.Version
		select {
		case looks <- look{st, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			select {
			case <-time.After(tryAgain):
			case <-ctx.Done():
			}
		}
	}
}

// watch shows the status until ctx ends. On a terminal it draws in place;
// elsewhere it prints once more only what has changed.
func (c *Client) watch(ctx context.Context, s screen, asJSON bool, stderr io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	looks := make(chan look)
	go c.follow(ctx, looks)
	defer func() {
		cancel()
		for range looks { // until follow has ended
		}
	}()
	v := &viewer{screen: s, json: asJSON, stderr: stderr}
	second := &time.Ticker{} // never
	if s.live && !asJSON {
		second = time.NewTicker(time.Second) // so that times of running go on
		defer second.Stop()
	}
	for {
		select {
		case l, ok := <-looks:
			if !ok {
				return nil
			}
			if err := v.show(l); err != nil {
				return err
			}
		case <-second.C:
			if err := v.draw(); err != nil {
				return err
			}
		}
	}
}

// viewer shows one look after the other.
type viewer struct {
	screen
	json   bool
	stderr io.Writer
	last   look
	lines  int // that stand on the terminal
	shown  bool
}

func (v *viewer) show(l look) error {
	same := v.shown && (l.err != nil) == (v.last.err != nil) && l.st.Version == v.last.st.Version
	if v.last, v.shown = l, true; same && !v.live {
		return nil
	}
	switch {
	case v.live && !v.json:
		return v.draw()
	case same:
		return nil
	case l.err != nil:
		w := v.out
		if v.json {
			w = v.stderr // there are objects alone on the other
		}
		_, err := fmt.Fprintf(w, "not reachable: %s\n", oneLine(l.err.Error()))
		return err
	case v.json:
		return json.NewEncoder(v.out).Encode(l.st)
	}
	_, err := io.WriteString(v.out, l.st.table(v.screen, time.Now())+"\n")
	return err
}

// draw puts the table in the place of the one before.
func (v *viewer) draw() error {
	if !v.shown {
		return nil
	}
	text := ""
	if v.last.err != nil {
		text = v.paint("31", clip("not reachable: "+oneLine(v.last.err.Error()), v.width())) + "\n"
	} else {
		text = v.last.st.table(v.screen, time.Now())
	}
	up := ""
	if v.lines > 0 {
		up = fmt.Sprintf("\x1b[%dA", v.lines)
	}
	v.lines = strings.Count(text, "\n")
	_, err := io.WriteString(v.out, up+"\r\x1b[J"+text)
	return err
}
