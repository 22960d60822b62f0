package bench

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"
)

// load sends b.N requests from a number of workers and reports how many a
// second there were, and the median time of one and that of the slowest
// hundredth in microseconds.
func load(b *testing.B, workers int, send func() error) {
	b.Helper()
	jobs := make(chan struct{})
	var group sync.WaitGroup
	took := make([][]time.Duration, workers)
	for i := range workers {
		group.Go(func() {
			for range jobs {
				began := time.Now()
				if err := send(); err != nil {
					b.Error(err)
				}
				took[i] = append(took[i], time.Since(began))
			}
		})
	}
	for b.Loop() {
		jobs <- struct{}{}
	}
	close(jobs)
	group.Wait()
	all := slices.Concat(took...)
	slices.Sort(all)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
	b.ReportMetric(float64(all[len(all)/2].Nanoseconds())/1e3, "median-µs")
	b.ReportMetric(float64(all[len(all)*99/100].Nanoseconds())/1e3, "p99-µs")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkRequests has HTTP/1.1 at 1 and at 16 connections.
func BenchmarkRequests(b *testing.B) {
	r := newRig(b)
	for _, workers := range []int{1, 16} {
		for _, way := range ways {
			b.Run(fmt.Sprintf("connections=%d/%s", workers, way), func(b *testing.B) {
				client, target := r.client(way, false), r.target(way, "/v1/x")
				check(b, get(client, target))
				load(b, workers, func() error { return get(client, target) })
			})
		}
	}
}

// BenchmarkStreams has HTTP/2 on one connection with 32 streams.
func BenchmarkStreams(b *testing.B) {
	r := newRig(b)
	for _, way := range ways {
		b.Run(way, func(b *testing.B) {
			client, target := r.client(way, true), r.target(way, "/v1/x")
			res, err := client.Get(target)
			check(b, err)
			res.Body.Close()
			b.Logf("%s speaks %s", way, res.Proto)
			load(b, 32, func() error { return get(client, target) })
		})
	}
}

// BenchmarkConnections opens a connection, with a tunnel and TLS, for each
// request.
func BenchmarkConnections(b *testing.B) {
	r := newRig(b)
	for _, way := range ways {
		b.Run(way, func(b *testing.B) {
			client, target := r.client(way, false), r.target(way, "/v1/x")
			client.Transport.(*http.Transport).DisableKeepAlives = true
			check(b, get(client, target))
			load(b, 4, func() error { return get(client, target) })
		})
	}
}
