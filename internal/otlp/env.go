package otlp

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// defaultTimeout is the specification's, for one request.
const defaultTimeout = 10 * time.Second

// FromEnv sets up an exporter by the variables of OpenTelemetry. It is nil
// when there is no endpoint or traces are turned off, and also with an error,
// which says why there will be none. Errors name variables, not values.
func FromEnv(getenv func(string) string) (*Exporter, error) {
	traces := func(name string) string {
		return cmp.Or(getenv("OTEL_EXPORTER_OTLP_TRACES_"+name), getenv("OTEL_EXPORTER_OTLP_"+name))
	}
	if traces("ENDPOINT") == "" || strings.EqualFold(getenv("OTEL_SDK_DISABLED"), "true") {
		return nil, nil
	}
	switch getenv("OTEL_TRACES_EXPORTER") {
	case "none":
		return nil, nil
	case "", "otlp":
	default:
		return nil, fmt.Errorf("OTEL_TRACES_EXPORTER: otlp or none was wanted")
	}
	switch traces("PROTOCOL") {
	case "", "http/json", "http/protobuf": // collectors take JSON at the same address
	default:
		return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_PROTOCOL: only http/json is spoken")
	}
	e := &Exporter{
		timeout: defaultTimeout, header: http.Header{"Content-Type": {"application/json"}, "User-Agent": {"airlock"}},
		resource: map[string]string{}, spans: make(chan Span, queueLength),
		// No proxy: its variables are meant for nobody here. No connection is
		// kept: there may be hours between two spans.
		client: &http.Client{
			Transport:     &http.Transport{DisableKeepAlives: true, ForceAttemptHTTP2: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the headers are for this collector
		},
	}
	var err error
	if e.endpoint, err = endpoint(getenv); err != nil {
		return nil, err
	}
	if ms := traces("TIMEOUT"); ms != "" {
		n, err := strconv.Atoi(ms)
		if err != nil || n <= 0 {
			return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_TIMEOUT: milliseconds were wanted")
		}
		e.timeout = time.Duration(n) * time.Millisecond
	}
	headers, err := list(traces("HEADERS"))
	if err != nil {
		return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_HEADERS: %w", err)
	}
	for k, v := range headers {
		e.header.Set(k, v)
	}
	if e.resource, err = list(getenv("OTEL_RESOURCE_ATTRIBUTES")); err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	e.resource["service.name"] = cmp.Or(getenv("OTEL_SERVICE_NAME"), e.resource["service.name"], "airlock")
	return e, nil
}

// endpoint is that of traces as it is, or the one for everything with the
// path of traces.
func endpoint(getenv func(string) string) (*url.URL, error) {
	name, text := "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
	whole := text != ""
	if !whole {
		name, text = "OTEL_EXPORTER_OTLP_ENDPOINT", getenv("OTEL_EXPORTER_OTLP_ENDPOINT")
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("%s: http://host:port or https://host:port was wanted", name)
	}
	if !whole {
		u = u.JoinPath("v1", "traces")
	}
	return u, nil
}

// list reads "key=value,key=value" with values in percent-encoding.
func list(text string) (map[string]string, error) {
	all := map[string]string{}
	for pair := range strings.SplitSeq(text, ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if key = strings.TrimSpace(key); !ok || key == "" || err != nil {
			return nil, fmt.Errorf("key=value,key=value was wanted, with values in percent-encoding")
		}
		all[key] = value
	}
	return all, nil
}

// Secrets are the values of the headers, which often hold a key.
func (e *Exporter) Secrets() (all [][]byte) {
	if e == nil {
		return nil
	}
	for name, values := range e.header {
		if name == "Content-Type" || name == "User-Agent" {
			continue
		}
		for _, v := range values {
			for _, word := range strings.Fields(v) { // "Bearer", and the key
				all = append(all, []byte(word))
			}
		}
	}
	return all
}
