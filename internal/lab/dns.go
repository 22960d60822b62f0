package lab

import (
	"fmt"
	"net"
	"net/netip"
	"sync"

	"golang.org/x/net/dns/dnsmessage"
)

// DNS is a name server that records what it is asked.
type DNS struct {
	conn net.PacketConn

	mu    sync.Mutex
	names map[string][]DNSAnswer
	asked []string
	given map[string]int // how often each question was asked
}

// DNSAnswer is what a name has.
type DNSAnswer struct {
	Alias string // the addresses are those of this name (CNAME); may be empty
	Addrs []netip.Addr
}

// NewDNS answers on a UDP address.
func NewDNS(address string) (*DNS, error) {
	conn, err := net.ListenPacket("udp", address)
	if err != nil {
		return nil, fmt.Errorf("starting a name server: %w", err)
	}
	d := &DNS{conn: conn, names: map[string][]DNSAnswer{}, given: map[string]int{}}
	go d.serve()
	return d, nil
}

// Set gives a name, with a dot at its end, its answers: the first is for the
// first resolution, the last for all that follow.
func (d *DNS) Set(name string, answers ...DNSAnswer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.names[name] = answers
	delete(d.given, "A "+name)
	delete(d.given, "AAAA "+name)
}

// Asked are the questions so far, as in "A a.test.".
func (d *DNS) Asked() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]string(nil), d.asked...)
}

// Addr is where it listens.
func (d *DNS) Addr() string { return d.conn.LocalAddr().String() }

// Close ends it.
func (d *DNS) Close() error { return d.conn.Close() }

func (d *DNS) serve() {
	buf := make([]byte, 2<<10)
	for {
		n, from, err := d.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
			continue
		}
		d.answer(&m)
		if reply, err := m.Pack(); err == nil {
			_, _ = d.conn.WriteTo(reply, from) // who does not get it asks again
		}
	}
}

func (d *DNS) answer(m *dnsmessage.Message) {
	q := m.Questions[0]
	question := q.Type.String()[len("Type"):] + " " + q.Name.String()
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, question)
	turns := d.names[q.Name.String()]
	if len(turns) == 0 {
		m.RCode = dnsmessage.RCodeNameError
		return
	}
	turn := turns[min(d.given[question], len(turns)-1)]
	d.given[question]++
	header := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class}
	if turn.Alias != "" {
		alias := dnsmessage.MustNewName(turn.Alias)
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.CNAMEResource{CNAME: alias}})
		header.Name = alias
	}
	for _, a := range turn.Addrs {
		switch {
		case a.Is4() && q.Type == dnsmessage.TypeA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: a.As4()}})
		case a.Is6() && q.Type == dnsmessage.TypeAAAA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
}
