package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// collector is a collector of OpenTelemetry that understands the JSON form.
type collector struct {
	mu     sync.Mutex
	bodies []string
	spans  []collected
}

type collected struct {
	TraceID, SpanID, ParentSpanID, Name, StartTimeUnixNano, EndTimeUnixNano string
	Attributes                                                              []struct {
		Key   string
		Value struct{ StringValue, IntValue string }
	}
	Status struct{ Code int }
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var request struct {
		ResourceSpans []struct {
			ScopeSpans []struct{ Spans []collected }
		}
	}
	if err != nil || r.URL.Path != "/v1/traces" || r.Header.Get("Api-Key") != "key-of-the-collector" || json.Unmarshal(body, &request) != nil {
		http.Error(w, "not understood", http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bodies = append(c.bodies, string(body))
	for _, r := range request.ResourceSpans {
		for _, s := range r.ScopeSpans {
			c.spans = append(c.spans, s.Spans...)
		}
	}
}

// seen are the spans as "name daemon generation outcome".
func (c *collector) seen() map[string]collected {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := map[string]collected{}
	for _, s := range c.spans {
		words := map[string]string{}
		for _, a := range s.Attributes {
			words[strings.TrimPrefix(a.Key, "airlock.")] = a.Value.StringValue + a.Value.IntValue
		}
		all[strings.Join(strings.Fields(strings.Join([]string{s.Name, words["daemon"], words["generation"], words["outcome"]}, " ")), " ")] = s
	}
	return all
}

func TestTraces(t *testing.T) {
	c := &collector{}
	server := httptest.NewServer(c)
	defer server.Close()
	b := start(t, nil, "OTEL_EXPORTER_OTLP_ENDPOINT="+server.URL, "OTEL_EXPORTER_OTLP_HEADERS=api-key=key-of-the-collector")
	ctx := context.Background()
	must(t, b.ctl.Do(ctx, http.MethodPost, "/restart", map[string][]string{"daemon": {"pipelock"}}, nil, nil))
	good := b.pipelockYAML("")
	b.write("pipelock.yaml", "version: 1\nallow: ['"+b.token+"*']\n")
	err := b.ctl.Do(ctx, http.MethodPost, "/restart", map[string][]string{"daemon": {"pipelock"}}, nil, nil)
	if err == nil || !strings.Contains(err.Error(), "[masked]") || strings.Contains(err.Error()+b.status("pipelock").Error, b.token) {
		t.Errorf("a bad file was taken, or a credential in it repeated: %v", err)
	}
	b.write("pipelock.yaml", good)
	eventually(t, "spans come while the bundle runs", func() bool { _, ok := c.seen()["daemon.replace pipelock 3 rejected"]; return ok })
	b.stop(syscall.SIGTERM)
	spans := c.seen()
	for _, want := range []string{
		"bundle.start ready", "daemon.start egress 1 ready", "daemon.start supervise 1 ready", "daemon.replace pipelock 2 ready", "daemon.drain pipelock 1 ended",
		"daemon.stop pipelock 2 stopped", "daemon.stop egress 1 stopped", "bundle.stop stopped",
	} {
		if s, ok := spans[want]; !ok || len(s.TraceID) != 32 || s.EndTimeUnixNano < s.StartTimeUnixNano {
			t.Errorf("%s: %+v", want, s)
		}
	}
	if root, child := spans["bundle.start ready"], spans["daemon.start egress 1 ready"]; child.ParentSpanID != root.SpanID || child.TraceID != root.TraceID {
		t.Error("the start of a daemon is no part of the bundle's")
	}
	if text := strings.Join(c.bodies, ""); strings.Contains(text, b.token) || strings.Contains(text, "key-of-the-collector") {
		t.Error("a secret stands in a span")
	}
}

// TestCollectorThatHangs delays neither the start nor the end.
func TestCollectorThatHangs(t *testing.T) {
	over := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-over }))
	defer server.Close()
	defer close(over)
	b := start(t, nil, "OTEL_EXPORTER_OTLP_ENDPOINT="+server.URL)
	must(t, b.ctl.Do(context.Background(), http.MethodPost, "/restart", map[string][]string{"daemon": {"supervise"}}, nil, nil))
	b.stop(syscall.SIGTERM)
	if code := b.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestWrongTelemetry is a variable that was meant for others: the bundle runs.
func TestWrongTelemetry(t *testing.T) {
	b := start(t, nil, "OTEL_EXPORTER_OTLP_ENDPOINT=collector:4317", fmt.Sprintf("OTEL_EXPORTER_OTLP_HEADERS=api-key=%s", "key-of-the-collector"))
	b.stop(syscall.SIGTERM)
	for l := range b.output.wait {
		b.output.all = append(b.output.all, l)
	}
	if text := strings.Join(b.output.all, "\n"); !strings.Contains(text, "OTEL_EXPORTER_OTLP_ENDPOINT: http://host:port") || strings.Contains(text, "key-of-the-collector") {
		t.Error("nobody was told what is wrong, or too much")
	}
}
