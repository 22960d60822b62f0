package bench

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"airlock/internal/bundle"
	"airlock/internal/lab"
)

// alone is the way through pipelock's own port, without egress.
const alone = "pipelock"

// newScanning starts a bundle with every detector on, three known values and
// a port of pipelock's own.
func newScanning(b *testing.B) *rig {
	b.Helper()
	return newScanningWith(b, ", entropy: {bits: 5, length: 40}")
}

// newScanningWith starts a bundle that scans, with more detectors.
func newScanningWith(b *testing.B, more string) *rig {
	b.Helper()
	r := prepare(b, [4]string{"127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"})
	r.env = []string{"EGRESS_TOKEN_1=bench-" + lab.Token()[4:], "EGRESS_TOKEN_2=bench-" + lab.Token()[4:]}
	check(b, os.WriteFile(filepath.Join(r.dirs.Etc, "pipelock.yaml"), fmt.Appendf(nil, `version: 1
listen: 127.0.0.1:0
ca: {cert: /etc/airlock/ca/ca.crt, key: /etc/airlock/ca/ca.key}
allow: ['api.ok.test:%d']
hosts: {api.ok.test: 127.0.0.1}
addresses: {allow: [127.0.0.1/32]}
upstream_ca: /etc/airlock/ca/upstream.crt
secrets: {values: [EGRESS_DIGEST_0, EGRESS_DIGEST_1, EGRESS_DIGEST_2]%s}
answers: {action: warn}
limits: {requests_per_minute: 100000000, bytes_per_hour: 1000TiB, tunnels: 100000}
`, r.origin.Port(), more), 0o600))
	r.start()
	return r
}

// prompt is a request as an agent makes it, of 64 KiB: source text in JSON.
func prompt(b *testing.B) []byte {
	b.Helper()
	files, err := filepath.Glob("../internal/http1/*.go")
	check(b, err)
	var text strings.Builder
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		data, err := os.ReadFile(f)
		check(b, err)
		text.Write(data)
	}
	source := text.String()
	for len(source) < 64<<10 {
		source += source
	}
	for size := 64 << 10; ; size -= 64 {
		body, err := json.Marshal(map[string]any{"model": "m", "max_tokens": 1024, "messages": []map[string]string{{"role": "user", "content": source[:size]}}})
		check(b, err)
		if len(body) <= 64<<10 {
			return body
		}
	}
}

// BenchmarkScan has a request of 64 KiB at 8 connections, with every detector
// on: the same again and again, and one of which no part was sent before.
func BenchmarkScan(b *testing.B) {
	r := newScanning(b)
	body := prompt(b)
	var n atomic.Int64
	for name, next := range map[string]func() []byte{
		"again": func() []byte { return body },
		"new":   func() []byte { return marked(body, n.Add(1)) },
	} {
		for _, way := range []string{direct, alone, chain} {
			b.Run(name+"/"+way, func(b *testing.B) {
				client, target := r.client(way, false), r.target(way, "/v1/x")
				check(b, post(client, target, next(), ""))
				b.SetBytes(int64(len(body)))
				load(b, 8, func() error { return post(client, target, next(), "") })
			})
		}
	}
}

// marked is a prompt that has a number in it wherever a scan could stop to
// read: where there is a line end, every 4 KiB.
func marked(body []byte, n int64) []byte {
	out := make([]byte, 0, len(body)+1024)
	for len(body) > 0 {
		end := min(len(body), 4<<10)
		if i := bytes.Index(body[end:], []byte(`\n`)); i >= 0 {
			end += i + 2
		} else {
			end = len(body)
		}
		out = append(out, body[:end]...)
		if body = body[end:]; len(body) > 0 {
			out = fmt.Appendf(out, `// turn %d\n`, n)
		}
	}
	return out
}

func post(c *http.Client, target string, body []byte, encoding string) error {
	req, err := http.NewRequest(http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if encoding != "" {
		req.Header.Set("Content-Encoding", encoding)
	}
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %.300s", res.StatusCode, text)
	}
	return err
}

// BenchmarkAnswers has answers of 1 MB and 10 MB through the chain, and the
// most memory that the daemons had more than before.
func BenchmarkAnswers(b *testing.B) {
	r := newScanning(b)
	for _, size := range []int{1_000_000, large} {
		b.Run(fmt.Sprintf("MB=%d", size/1_000_000), func(b *testing.B) {
			client, target := r.client(chain, false), r.target(chain, "/v1/bytes?"+strconv.Itoa(size))
			check(b, get(client, target))
			more := r.peak()
			b.SetBytes(int64(size))
			for b.Loop() {
				check(b, get(client, target))
			}
			for name, n := range more() {
				b.ReportMetric(float64(n)/1e6, name+"-peak-MB-more")
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/1e3/float64(b.N), "ms")
		})
	}
}

// BenchmarkHostile has bodies that cost most, at pipelock's own port: the time
// until there is a verdict, and the most memory that pipelock had more than
// before. Which verdict it is does not matter.
func BenchmarkHostile(b *testing.B) {
	r := newScanning(b)
	for _, h := range hostile(b) {
		b.Run(h.name, func(b *testing.B) {
			client, target := r.client(alone, false), r.target(alone, "/v1/x")
			check(b, get(client, target))
			more := r.peak()
			for b.Loop() {
				err := post(client, target, h.body, h.encoding)
				if err != nil && !strings.HasPrefix(err.Error(), "status ") {
					b.Fatal(err)
				}
				if err != nil {
					b.Logf("%s: %v", h.name, err)
				}
			}
			b.ReportMetric(float64(more()[bundle.Pipelock])/1e6, "peak-MB-more")
			b.ReportMetric(float64(len(h.body))/1e6, "body-MB")
			b.ReportMetric(float64(b.Elapsed().Microseconds())/1e3/float64(b.N), "ms")
			b.ReportMetric(0, "ns/op")
		})
	}
}

type hostileBody struct {
	name, encoding string
	body           []byte
}

func hostile(b *testing.B) []hostileBody {
	b.Helper()
	zeros := make([]byte, 1<<20)
	zip := func(pieces int, piece []byte) []byte {
		var buf bytes.Buffer
		z := gzip.NewWriter(&buf)
		for range pieces {
			_, err := z.Write(piece)
			check(b, err)
		}
		check(b, z.Close())
		return buf.Bytes()
	}
	bomb := zip(1<<10, zeros) // 1 GiB
	layers := []byte(strings.Repeat("a secret that is none ", 100))
	for range 12 {
		layers = []byte(base64.StdEncoding.EncodeToString(layers))
	}
	zipped := zeros
	for range 12 {
		zipped = zip(1, zipped)
	}
	keywords := strings.Repeat("api_key token secret password AKIA ghp_ sk- xoxb- eyJ ", 1_000_000/9)
	return []hostileBody{
		{"bomb", "gzip", bomb},
		{"bomb-undeclared", "", bomb},
		{"bomb-in-base64-in-JSON", "", []byte(`{"a":"` + base64.StdEncoding.EncodeToString(bomb) + `"}`)},
		{"base64-of-12-layers", "", layers},
		{"gzip-of-12-layers", "", zipped},
		{"deep-JSON", "", []byte(strings.Repeat(`{"a":[`, 1<<20))},
		{"a-million-keywords", "", []byte(keywords)},
		{"a-million-assignments", "", []byte(strings.Repeat(`secret="`, 1<<20))},
		{"escapes", "", []byte(strings.Repeat(`\u0067\x68%70`, 1<<19))},
		{"hexadecimal", "", []byte(strings.Repeat("67 68 70 5f ", 1<<19))},
		{"long-words", "", []byte(strings.Repeat("QWxhZGRpbjpvcGVuIHNlc2FtZQ", 1<<18))},
	}
}

// peak begins to watch the memory of egress and pipelock. What it returns says
// how much more than now each had at most since.
func (r *rig) peak() (more func() map[string]int) {
	r.b.Helper()
	st, err := r.ctl.Status(context.Background())
	check(r.b, err)
	pids, before := map[string]int{}, map[string]int{}
	for _, name := range []string{bundle.Egress, bundle.Pipelock} {
		d, _ := st.Find(name)
		pids[name] = d.PID
		// "5" begins the high-water mark anew (proc_pid_clear_refs(5)); where that is not allowed, it stays.
		_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", d.PID), []byte("5"), 0)
		before[name] = highWater(r.b, d.PID)
	}
	return func() map[string]int {
		all := map[string]int{}
		for name, pid := range pids {
			all[name] = highWater(r.b, pid) - before[name]
		}
		return all
	}
}

// highWater is the most memory that a process has had, in bytes.
func highWater(b *testing.B, pid int) int {
	b.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	check(b, err)
	for line := range strings.Lines(string(data)) {
		if text, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(text), " kB"))
			check(b, err)
			return kb << 10
		}
	}
	b.Fatalf("process %d has no high-water mark", pid)
	return 0
}

// pipelockPort is where an agent without egress would go.
func (r *rig) pipelockPort() *url.URL {
	r.b.Helper()
	st, err := r.ctl.Status(context.Background())
	check(r.b, err)
	d, _ := st.Find(bundle.Pipelock)
	u, err := url.Parse("http://" + d.Listen[bundle.FDPipelock])
	check(r.b, err)
	return u
}

// BenchmarkBenign sends 400 texts without a secret, of more than 40 kinds, through the chain with every detector on but that of entropy, which
// takes any random text for a secret. It prints the share that is refused; it is 0.
func BenchmarkBenign(b *testing.B) {
	r := newScanningWith(b, "")
	client, target := r.client(chain, false), r.target(chain, "/v1/x")
	texts := lab.BenignTexts(2, 400)
	sent, alarms := 0, 0
	for b.Loop() {
		for _, text := range texts {
			sent++
			if err := post(client, target, text.Data, ""); err != nil {
				alarms++
				b.Logf("%s: %v", text.Kind, err)
			}
		}
	}
	b.ReportMetric(float64(alarms)/float64(sent), "alarms/text")
	if alarms > 0 {
		b.Errorf("%d of %d texts without a secret are refused", alarms, sent)
	}
}
