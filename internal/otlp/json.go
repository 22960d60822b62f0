package otlp

import (
	"maps"
	"slices"
	"strconv"
	"time"
)

// The messages of opentelemetry/proto/collector/trace/v1, as the OTLP
// specification writes them in JSON: ids in hexadecimal, 64-bit numbers as
// strings, enumerations as numbers.
type (
	request struct {
		ResourceSpans []resourceSpans `json:"resourceSpans"`
	}
	resourceSpans struct {
		Resource   resource     `json:"resource"`
		ScopeSpans []scopeSpans `json:"scopeSpans"`
	}
	resource struct {
		Attributes []attribute `json:"attributes"`
	}
	scopeSpans struct {
		Scope scope  `json:"scope"`
		Spans []span `json:"spans"`
	}
	scope struct {
		Name string `json:"name"`
	}
	span struct {
		TraceID    string      `json:"traceId"`
		SpanID     string      `json:"spanId"`
		ParentID   string      `json:"parentSpanId,omitempty"`
		Name       string      `json:"name"`
		Kind       int         `json:"kind"`
		Start      string      `json:"startTimeUnixNano"`
		End        string      `json:"endTimeUnixNano"`
		Attributes []attribute `json:"attributes,omitempty"`
		Status     status      `json:"status"`
	}
	status struct {
		Code int `json:"code,omitempty"`
	}
	attribute struct {
		Key   string `json:"key"`
		Value value  `json:"value"`
	}
	value struct {
		String *string `json:"stringValue,omitempty"`
		Int    *string `json:"intValue,omitempty"`
		Bool   *bool   `json:"boolValue,omitempty"`
	}
)

const (
	kindInternal = 1
	statusError  = 2
)

func encode(about map[string]string, batch []Span) request {
	from := map[string]any{}
	for k, v := range about {
		from[k] = v
	}
	spans := make([]span, len(batch))
	for i, s := range batch {
		spans[i] = span{
			TraceID: s.Trace, SpanID: s.ID, ParentID: s.Parent, Name: s.Name, Kind: kindInternal,
			Start: nanos(s.Start), End: nanos(s.End), Attributes: attributes(s.Attributes),
		}
		if s.Failed {
			spans[i].Status.Code = statusError
		}
	}
	return request{[]resourceSpans{{resource{attributes(from)}, []scopeSpans{{scope{"airlock/supervisor"}, spans}}}}}
}

func nanos(t time.Time) string { return strconv.FormatInt(t.UnixNano(), 10) }

func attributes(m map[string]any) (all []attribute) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		var v value
		switch x := m[k].(type) {
		case string:
			v.String = &x
		case int:
			n := strconv.Itoa(x)
			v.Int = &n
		case bool:
			v.Bool = &x
		default:
			continue
		}
		all = append(all, attribute{k, v})
	}
	return all
}
