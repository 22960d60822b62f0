package gitgate

import (
	"net"
	"testing"
	"time"
)

// TestIdleClientsHoldUpNobody: hundreds of connections that say nothing, or have asked for something and then say nothing, make a
// clone and a push no slower; those that wait are cut when others need the room.
func TestIdleClientsHoldUpNobody(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t)
		r.seed("main", map[string]string{"a": "1"})
		address, request := r.git, "0032git-upload-pack /app.git\x00host=x\x00\x00version=1\x00"
		if protocol == "http" {
			address, request = r.http, "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"
		}
		for i := range 300 {
			c, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if i%2 == 0 {
				_, _ = c.Write([]byte(request)) // it may have been cut already
			}
		}
		began := time.Now()
		w := r.clone(protocol)
		r.commit(w, "mine", map[string]string{"b": "1"})
		r.run(w, "git", "push", "-q", "origin", "HEAD")
		if took := time.Since(began); took > greetWithin {
			t.Errorf("a clone and a push took %v, expected less than one client's patience (%v)", took, greetWithin)
		}
		r.agree()
	})
}

// TestBusyClientsAreNotCut: the table lets in no more than it may while all are served, and the next as soon as one waits or leaves.
func TestBusyClientsAreNotCut(t *testing.T) {
	table := newClientTable(2)
	pipe := func() (*gitClient, net.Conn) {
		here, there := net.Pipe()
		t.Cleanup(func() { here.Close(); there.Close() })
		return &gitClient{Conn: here}, there
	}
	first, _ := pipe()
	second, _ := pipe()
	for _, c := range []*gitClient{first, second} {
		if err := table.enter(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	third, _ := pipe()
	entered := make(chan error, 1)
	go func() { entered <- table.enter(t.Context(), third) }()
	select {
	case err := <-entered:
		t.Fatalf("expected to wait while both are served, got %v", err)
	case <-time.After(3 * recheckClients):
	}
	failed := make(chan error, 1)
	go func() {
		_, err := first.Read(make([]byte, 1)) // now it waits
		failed <- err
	}()
	for what, c := range map[string]chan error{"the third to come in": entered, "the first to be cut": failed} {
		select {
		case err := <-c:
			if (err == nil) != (c == entered) {
				t.Errorf("%s: %v", what, err)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("expected %s", what)
		}
	}
	second.leave()
	fourth, _ := pipe()
	if err := table.enter(t.Context(), fourth); err != nil {
		t.Error(err)
	}
}
