package objects

import (
	"github.com/pjbgf/sha1cd"
)

const (
	// batchBytes is how much is nameOf at a time, at most.
	batchBytes = 512 << 10
	// batchMany is how many objects that may be.
	batchMany = 4096
)

// naming computes the names of whole objects on a goroutine of its own while the next ones are inflated.
type naming struct {
	batch *batch
	spare chan *batch
	work  chan *batch
	gone  chan struct{}
	names []nameOf
	err   error // to be read when the goroutine is gone
	done  bool
}

type batch struct {
	data  []byte
	items []item
}

type item struct {
	i     int32
	typ   Type
	start int
	end   int
}

type nameOf struct {
	i    int32
	hash Hash
}

func newNaming() *naming {
	n := &naming{batch: &batch{data: make([]byte, 0, batchBytes)}, spare: make(chan *batch, 3), work: make(chan *batch, 2), gone: make(chan struct{})}
	n.spare <- &batch{data: make([]byte, 0, batchBytes)}
	n.spare <- &batch{data: make([]byte, 0, batchBytes)}
	go n.run()
	return n
}

func (n *naming) run() {
	defer close(n.gone)
	h := sha1cd.New().(sha1cd.CollisionResistantHash)
	for b := range n.work {
		for _, it := range b.items {
			if n.err != nil {
				break
			}
			h.Reset()
			startHash(h, it.typ, int64(it.end-it.start))
			_, _ = h.Write(b.data[it.start:it.end]) // never fails
			var name Hash
			n.err = sumInto(&name, h)
			n.names = append(n.names, nameOf{it.i, name})
		}
		b.data, b.items = b.data[:0], b.items[:0]
		n.spare <- b
	}
}

// room is where the next object of that size is to be put.
func (n *naming) room(size int) []byte {
	if len(n.batch.data)+size > cap(n.batch.data) || len(n.batch.items) == batchMany {
		n.work <- n.batch
		n.batch = <-n.spare
	}
	at := len(n.batch.data)
	return n.batch.data[at : at+size]
}

// add takes what was put into the room.
func (n *naming) add(i int32, typ Type, data []byte) error {
	at := len(n.batch.data)
	n.batch.data = n.batch.data[:at+len(data)]
	n.batch.items = append(n.batch.items, item{i, typ, at, at + len(data)})
	return nil
}

// finish waits for all names and files them.
func (n *naming) finish(into []Hash) error {
	n.work <- n.batch
	err := n.close()
	for _, x := range n.names {
		into[x.i] = x.hash
	}
	n.names, n.batch, n.spare = nil, nil, nil
	return err
}

// close ends the goroutine.
func (n *naming) close() error {
	if !n.done {
		n.done = true
		close(n.work)
	}
	<-n.gone
	return n.err
}
