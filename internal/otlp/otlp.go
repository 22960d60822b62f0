// Package otlp sends spans to an OpenTelemetry collector, in the JSON form of
// OTLP over HTTP (docs/decisions/0008-own-otlp.md). It is set up by the usual
// variables and off without an endpoint. Nobody who makes a span ever waits: a
// collector that is slow or gone costs spans, not time.
package otlp

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

const (
	queueLength = 512         // spans that may wait
	gather      = time.Second // after the first span, for more to send with it
	lastWords   = time.Second // for what is left at the end
)

// Span is something that took time. Attributes hold strings, ints and bools.
type Span struct {
	Trace, ID, Parent string // in hexadecimal; no parent: the root of its trace
	Name              string
	Start, End        time.Time
	Failed            bool
	Attributes        map[string]any
}

// NewTrace is the id of a new trace.
func NewTrace() string { return random(16) }

// NewID is the id of a new span.
func NewID() string { return random(8) }

func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return fmt.Sprintf("%x", b)
}

// Exporter sends spans. A nil one takes them and forgets them.
type Exporter struct {
	endpoint *url.URL
	header   http.Header
	timeout  time.Duration
	resource map[string]string
	spans    chan Span
	client   *http.Client
}

// Put queues a span. When too many wait, it is lost.
func (e *Exporter) Put(s Span) {
	if e == nil {
		return
	}
	select {
	case e.spans <- s:
	default:
	}
}

// Run sends what is put until ctx ends, and then, for a moment, what is left.
// It tells complain when sending begins to fail, and not again before it has
// worked.
func (e *Exporter) Run(ctx context.Context, complain func(error)) {
	if e == nil {
		return
	}
	// What is being sent at the end has its moment, too.
	bounded, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(lastWords, cancel) })()
	failing := false
	send := func(batch []Span) {
		err := e.send(bounded, batch)
		if err != nil && !failing {
			complain(err)
		}
		failing = err != nil
	}
	for {
		select {
		case s := <-e.spans:
			send(e.collect(ctx, s))
		case <-ctx.Done():
			if batch := e.waiting(nil); len(batch) > 0 {
				send(batch)
			}
			return
		}
	}
}

// collect waits a little for spans to send with the first.
func (e *Exporter) collect(ctx context.Context, first Span) []Span {
	select {
	case <-time.After(gather):
	case <-ctx.Done():
	}
	return e.waiting([]Span{first})
}

// waiting adds the spans that wait.
func (e *Exporter) waiting(batch []Span) []Span {
	for {
		select {
		case s := <-e.spans:
			batch = append(batch, s)
		default:
			return batch
		}
	}
}

// send does not try again: a trace of a restart is not worth a queue on disk.
func (e *Exporter) send(ctx context.Context, batch []Span) error {
	body, err := json.Marshal(encode(e.resource, batch))
	if err != nil {
		return fmt.Errorf("writing spans: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.endpoint.String(), bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("sending spans: %w", err)
	}
	req.Header = e.header.Clone()
	res, err := e.client.Do(req)
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err // without the URL, which may hold a key
	}
	if err != nil {
		return fmt.Errorf("sending spans to %s: %w", e.endpoint.Host, err)
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10)) // what it says is of no use
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("sending spans to %s: it answers %s", e.endpoint.Host, res.Status)
	}
	return nil
}
