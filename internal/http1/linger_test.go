package http1

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// TestRefusedUploadStillGetsItsResponse has a client that writes its whole request before it reads,
// valid or not.
func TestRefusedUploadStillGetsItsResponse(t *testing.T) {
	address, _, _ := startServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/middle" {
			_, _ = io.CopyN(io.Discard, r.Body, 300<<10)
		}
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, "no")
	})
	const length = 64 << 20
	piece := bytes.Repeat([]byte("x"), 64<<10)
	chunk := fmt.Appendf(nil, "%x\r\n%s\r\n", len(piece), piece)
	for _, c := range []struct {
		name, head string
		piece      []byte
		end        string
		want       int
	}{
		{"unread, with a length", fmt.Sprintf("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", length), piece, "", 403},
		{"in the middle, with a length", fmt.Sprintf("POST /middle HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", length), piece, "", 403},
		{"unread, in chunks", "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", chunk, "0\r\n\r\n", 403},
		{"in the middle, in chunks", "POST /middle HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", chunk, "0\r\n\r\n", 403},
		{"what is no request", fmt.Sprintf("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nContent-Length: 1\r\n\r\n", length), piece, "", 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := dial(t, address)
			if _, err := io.WriteString(conn, c.head); err != nil {
				t.Fatal(err)
			}
			for range length / len(piece) {
				if _, err := conn.Write(c.piece); err != nil {
					t.Fatalf("expected to write the whole body, got %v", err)
				}
			}
			if _, err := io.WriteString(conn, c.end); err != nil {
				t.Fatal(err)
			}
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatalf("expected the answer, got %v", err)
			}
			if _, err := io.ReadAll(res.Body); err != nil || res.StatusCode != c.want {
				t.Errorf("status %d, %v; want %d", res.StatusCode, err, c.want)
			}
		})
	}
}

func TestLingerDeadline(t *testing.T) {
	start := time.Unix(1000, 0)
	for _, c := range []struct {
		name  string
		after time.Duration
		n     int64
		want  time.Duration // since start
	}{
		{"nothing came yet", 0, 0, lingerQuiet},
		{"nothing came for long", lingerQuiet, 0, lingerQuiet},
		{"fast", 5 * time.Second, 1 << 30, 5*time.Second + lingerQuiet},
		{"too slow", 10 * time.Second, 5 * lingerRate, 5*time.Second + lingerQuiet},
		{"for ever", lingerMost - time.Second, 1 << 40, lingerMost},
	} {
		if got := lingerDeadline(start, start.Add(c.after), lingerQuiet, c.n).Sub(start); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// TestDrainEnds has clients that send nothing, or a byte now and then.
func TestDrainEnds(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	began := time.Now()
	if err := Drain(server, 50*time.Millisecond, server.SetReadDeadline); err == nil {
		t.Error("expected an error")
	}
	if took := time.Since(began); took > lingerQuiet {
		t.Errorf("it took %v", took)
	}
}
