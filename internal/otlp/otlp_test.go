package otlp

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"airlock/internal/lab"
)

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

const anywhere = "OTEL_EXPORTER_OTLP_ENDPOINT"

func TestFromEnv(t *testing.T) {
	for _, off := range [][]string{
		{}, {"OTEL_SERVICE_NAME", "x"},
		{anywhere, "http://h", "OTEL_SDK_DISABLED", "true"}, {anywhere, "http://h", "OTEL_TRACES_EXPORTER", "none"},
	} {
		if e, err := FromEnv(env(off...)); e != nil || err != nil {
			t.Errorf("%v: %v, %v", off, e, err)
		}
	}
	for _, bad := range [][]string{
		{anywhere, "h:4318"}, {anywhere, "grpc://h"}, {anywhere, "http://h", "OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"},
		{anywhere, "http://h", "OTEL_TRACES_EXPORTER", "zipkin"}, {anywhere, "http://h", "OTEL_EXPORTER_OTLP_TIMEOUT", "10s"},
		{anywhere, "http://h", "OTEL_EXPORTER_OTLP_HEADERS", "key-0123456789"}, {anywhere, "http://h", "OTEL_RESOURCE_ATTRIBUTES", "a=%zz"},
	} {
		e, err := FromEnv(env(bad...))
		if e != nil || err == nil || !strings.HasPrefix(err.Error(), "OTEL_") || strings.Contains(err.Error(), "0123456789") {
			t.Errorf("%v: %v, %v", bad, e, err)
		}
	}
	e, err := FromEnv(env(anywhere, "http://h:4318/base/", "OTEL_EXPORTER_OTLP_TRACES_HEADERS", "api-key=k%2Cey, x = y", "OTEL_EXPORTER_OTLP_HEADERS", "other=1",
		"OTEL_RESOURCE_ATTRIBUTES", "service.name=no,team=a%20b", "OTEL_SERVICE_NAME", "yes", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "1500"))
	if err != nil {
		t.Fatal(err)
	}
	if got := e.endpoint.String(); got != "http://h:4318/base/v1/traces" {
		t.Error(got)
	}
	if e.header.Get("Api-Key") != "k,ey" || e.header.Get("X") != "y" || e.header.Get("Other") != "" || e.timeout != 1500*time.Millisecond {
		t.Errorf("%v, %v", e.header, e.timeout)
	}
	if e.resource["service.name"] != "yes" || e.resource["team"] != "a b" {
		t.Error(e.resource)
	}
	e, err = FromEnv(env(anywhere, "http://h:1", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://t:2/exactly"))
	if err != nil || e.endpoint.String() != "https://t:2/exactly" {
		t.Errorf("%v, %v", e, err)
	}
}

func TestForm(t *testing.T) {
	s := Span{
		Trace: NewTrace(), ID: "eee19b7ec3c1b174", Parent: "0102030405060708", Name: "n", Failed: true,
		Start: time.Unix(1, 5), End: time.Unix(2, 0), Attributes: map[string]any{"s": "x", "i": 7, "b": true, "none": nil},
	}
	got, err := json.Marshal(encode(map[string]string{"service.name": "airlock"}, []Span{s}))
	want := `{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"airlock"}}]},"scopeSpans":[{"scope":{"name":"airlock/supervisor"},` +
		`"spans":[{"traceId":"` + s.Trace + `","spanId":"eee19b7ec3c1b174","parentSpanId":"0102030405060708","name":"n","kind":1,"startTimeUnixNano":"1000000005","endTimeUnixNano":"2000000000",` +
		`"attributes":[{"key":"b","value":{"boolValue":true}},{"key":"i","value":{"intValue":"7"}},{"key":"s","value":{"stringValue":"x"}}],"status":{"code":2}}]}]}]}`
	if err != nil || string(got) != want {
		t.Errorf("%s, %v", got, err)
	}
	if len(s.Trace) != 32 || len(NewID()) != 16 {
		t.Error("ids have other lengths")
	}
}

// TestLastWords ends while spans wait, and while a collector is silent.
func TestLastWords(t *testing.T) {
	bodies := make(chan string, 10)
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // the test reads it
		bodies <- r.URL.Path + " " + r.Header.Get("Content-Type") + " " + string(body)
	}))
	defer collector.Close()
	e, err := FromEnv(env(anywhere, collector.URL))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	e.Put(Span{Name: "one"})
	e.Put(Span{Name: "two"})
	e.Run(ctx, func(err error) { t.Error(err) })
	if got := lab.Receive(t, bodies, "a request comes"); !strings.HasPrefix(got, "/v1/traces application/json {") || !strings.Contains(got, `"one"`) || !strings.Contains(got, `"two"`) {
		t.Error(got)
	}
}

func TestSilentCollector(t *testing.T) {
	arrived, over := make(chan struct{}, 1), make(chan struct{})
	collector := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		lab.Receive(t, over, "the server ends")
	}))
	defer collector.Close()
	defer close(over)
	e, err := FromEnv(env(anywhere, collector.URL+"/?key=0123456789"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	complaints := make(chan error, 10)
	ended := make(chan struct{})
	go func() { defer close(ended); e.Run(ctx, func(err error) { complaints <- err }) }()
	e.Put(Span{Name: "first"})
	lab.Receive(t, arrived, "the request arrives")
	for range 2 * queueLength {
		e.Put(Span{Name: "more"}) // would hang if it waited
	}
	began := time.Now()
	cancel()
	lab.Receive(t, ended, "what was started ends")
	if took := time.Since(began); took > 3*lastWords {
		t.Errorf("the end took %v", took)
	}
	if err := lab.Receive(t, complaints, "an error is reported"); strings.Contains(err.Error(), "0123456789") {
		t.Error(err)
	}
}

func TestNilExporter(t *testing.T) {
	var e *Exporter
	e.Put(Span{})
	e.Run(t.Context(), nil)
	if e.Secrets() != nil {
		t.Error("secrets of nobody")
	}
}
