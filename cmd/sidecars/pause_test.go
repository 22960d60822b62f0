package main

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"testing"
	"time"

	"airlock/internal/lab"
)

// TestCompressedBodyMayPause sends a compressed body of unknown length over a
// slow line: it is scanned as a whole, however long its parts take to come.
func TestCompressedBodyMayPause(t *testing.T) {
	b := start(t, nil)
	for text, want := range map[string]int{"harmless": 200, lab.Token(): 403} {
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		_, err := io.WriteString(z, text)
		must(t, err)
		must(t, z.Close())
		r, w := io.Pipe()
		go func() {
			_, _ = w.Write(packed.Next(5))       // the pipe tells the reader
			<-time.After(150 * time.Millisecond) // the line is slow: longer than a stream may pause
			_, _ = w.Write(packed.Bytes())
			w.Close()
		}()
		status, body := b.send(b.client(b.egress), "POST", b.url("api.ok.test", "/v1/x"), r, func(req *http.Request) { req.Header.Set("Content-Encoding", "gzip") })
		if status != want {
			t.Errorf("%d, want %d: %s", status, want, body)
		}
	}
}
