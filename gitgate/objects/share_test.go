package objects

import (
	"bytes"
	"context"
	"runtime"
	"sync"
	"testing"
	"time"
)

// TestLargeObjectsShareMemory: packs that are received at the same time rebuild their large objects one after the other, and in the
// same buffers.
func TestLargeObjectsShareMemory(t *testing.T) {
	const object = 32 << 20
	pack := grown(object, 8, false)
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	ctx, done := context.WithCancel(t.Context())
	sampled := make(chan uint64)
	go func() {
		most := uint64(0)
		for ctx.Err() == nil {
			runtime.ReadMemStats(&now)
			most = max(most, now.HeapInuse)
			time.Sleep(2 * time.Millisecond) // between two samples
		}
		sampled <- most
	}()
	var all sync.WaitGroup
	for range 6 {
		all.Go(func() {
			p, err := Receive(t.Context(), bytes.NewReader(pack), t.TempDir(), roomy)
			if err != nil {
				t.Error(err)
				return
			}
			if !p.Large() {
				t.Error("the pack does not say that it is large")
			}
			p.Close()
		})
	}
	all.Wait()
	done()
	most := <-sampled
	if held := int64(most) - int64(before.HeapInuse); held > 7*object {
		t.Errorf("%d MB were held for six packs with objects of %d", held>>20, object>>20)
	} else {
		t.Logf("%d MB", held>>20)
	}
}

// TestWaitingForLargeObjectsEnds: a pack that waits for its turn is given up with its context.
func TestWaitingForLargeObjectsEnds(t *testing.T) {
	largeTurn <- struct{}{}
	defer func() { <-largeTurn }()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	p, err := Receive(ctx, bytes.NewReader(grown(6<<20, 2, false)), t.TempDir(), roomy)
	if err == nil {
		p.Close()
	}
	if took := time.Since(began); err == nil || took > 20*time.Second {
		t.Errorf("%v after %v", err, took)
	}
}
