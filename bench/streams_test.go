package bench

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"airlock/internal/bundle"
)

// BenchmarkEvents has 25 server-sent events 20 ms apart; each tells when it
// was sent. The lag is that of the slowest, and the median.
func BenchmarkEvents(b *testing.B) {
	r := newRig(b)
	for _, way := range ways {
		b.Run(way, func(b *testing.B) {
			client, target := r.client(way, false), r.target(way, "/v1/events")
			check(b, get(client, r.target(way, "/v1/x")))
			var lags []time.Duration
			for b.Loop() {
				lags = append(lags, events(b, client, target)...)
			}
			slices.Sort(lags)
			b.ReportMetric(float64(lags[len(lags)/2].Microseconds()), "median-µs")
			b.ReportMetric(float64(lags[len(lags)-1].Microseconds()), "worst-µs")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func events(b *testing.B, client *http.Client, target string) (lags []time.Duration) {
	b.Helper()
	res, err := client.Get(target)
	check(b, err)
	defer res.Body.Close()
	for in := bufio.NewScanner(res.Body); in.Scan(); {
		if text, ok := strings.CutPrefix(in.Text(), "data: "); ok {
			sent, err := strconv.ParseInt(text, 10, 64)
			check(b, err)
			lags = append(lags, time.Since(time.Unix(0, sent)))
		}
	}
	if len(lags) != 25 {
		b.Fatalf("%d events", len(lags))
	}
	return lags
}

// BenchmarkDownload has an answer of 10 MB (10^7 bytes).
func BenchmarkDownload(b *testing.B) {
	r := newRig(b)
	for _, way := range ways {
		b.Run(way, func(b *testing.B) {
			client, target := r.client(way, false), r.target(way, "/v1/large")
			check(b, get(client, target))
			b.SetBytes(large)
			for b.Loop() {
				check(b, get(client, target))
			}
		})
	}
}

// BenchmarkUpload has a request of 64 KiB.
func BenchmarkUpload(b *testing.B) {
	r := newRig(b)
	body := []byte(`{"text": "` + strings.Repeat("the quick brown fox jumps over the lazy dog ", 1480) + `"}`)
	for _, way := range ways {
		b.Run(way, func(b *testing.B) {
			client, target := r.client(way, false), r.target(way, "/v1/x")
			load(b, 4, func() error {
				res, err := client.Post(target, "application/json", bytes.NewReader(body))
				if err != nil {
					return err
				}
				defer res.Body.Close()
				_, err = io.Copy(io.Discard, res.Body)
				return err
			})
		})
	}
}

const (
	large   = 10_000_000
	tunnels = 10_000
)

// BenchmarkTunnels opens 10,000 tunnels, 200 at a time, each with a request,
// and reports what is left of them after five seconds.
func BenchmarkTunnels(b *testing.B) {
	r := newRig(b)
	proxy, err := url.Parse("http://" + r.proxy)
	check(b, err)
	one := func() error {
		tr := &http.Transport{Proxy: http.ProxyURL(proxy), TLSClientConfig: &tls.Config{RootCAs: r.roots}, DisableKeepAlives: true}
		return get(&http.Client{Transport: tr}, r.target(chain, "/v1/x"))
	}
	for range 100 { // what is made once is not what is measured
		check(b, one())
	}
	time.Sleep(5 * time.Second) // as behind the tunnels
	before := r.held()
	for b.Loop() {
		jobs := make(chan struct{})
		var group sync.WaitGroup
		for range 200 {
			group.Go(func() {
				for range jobs {
					if err := one(); err != nil {
						b.Error(err)
					}
				}
			})
		}
		for range tunnels {
			jobs <- struct{}{}
		}
		close(jobs)
		group.Wait()
	}
	time.Sleep(5 * time.Second) // what the issue allows
	after := r.held()
	for name, was := range before {
		b.ReportMetric(float64(after[name].memory-was.memory)/1e6, name+"-MB-more")
		b.ReportMetric(float64(after[name].files-was.files), name+"-files-more")
	}
	b.ReportMetric(0, "ns/op")
}

// holding is what a process has.
type holding struct{ memory, files int }

func (r *rig) held() map[string]holding {
	r.b.Helper()
	st, err := r.ctl.Status(context.Background())
	check(r.b, err)
	all := map[string]holding{}
	for _, name := range []string{bundle.Egress, bundle.Pipelock} {
		d, _ := st.Find(name)
		files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.PID))
		check(r.b, err)
		all[name] = holding{pss(r.b, d.PID), len(files)}
	}
	return all
}
