package policy

import (
	"net/netip"
	"slices"
)

// special lists the ranges that an allowed name must not lead to, after the
// IANA special-purpose registries for IPv4 and IPv6, with the word that a
// refusal uses.
var special = []struct {
	prefix netip.Prefix
	what   string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "this network"},
	{netip.MustParsePrefix("10.0.0.0/8"), "private"},
	{netip.MustParsePrefix("100.64.0.0/10"), "carrier-grade NAT"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local and cloud metadata"},
	{netip.MustParsePrefix("168.63.129.16/32"), "cloud metadata"},
	{netip.MustParsePrefix("172.16.0.0/12"), "private"},
	{netip.MustParsePrefix("192.0.0.0/24"), "protocol assignments"},
	{netip.MustParsePrefix("192.0.2.0/24"), "documentation"},
	{netip.MustParsePrefix("192.88.99.0/24"), "6to4 relay"},
	{netip.MustParsePrefix("192.168.0.0/16"), "private"},
	{netip.MustParsePrefix("198.18.0.0/15"), "benchmarking"},
	{netip.MustParsePrefix("198.51.100.0/24"), "documentation"},
	{netip.MustParsePrefix("203.0.113.0/24"), "documentation"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved"},
	{netip.MustParsePrefix("::/128"), "unspecified"},
	{netip.MustParsePrefix("::1/128"), "loopback"},
	{netip.MustParsePrefix("::/96"), "IPv4 in IPv6"},
	{netip.MustParsePrefix("::ffff:0:0:0/96"), "IPv4 translated"},
	{netip.MustParsePrefix("64:ff9b::/96"), "NAT64"},
	{netip.MustParsePrefix("64:ff9b:1::/48"), "NAT64"},
	{netip.MustParsePrefix("100::/64"), "discard"},
	{netip.MustParsePrefix("2001::/23"), "protocol assignments, Teredo among them"},
	{netip.MustParsePrefix("2001:db8::/32"), "documentation"},
	{netip.MustParsePrefix("2002::/16"), "6to4"},
	{netip.MustParsePrefix("3fff::/20"), "documentation"},
	{netip.MustParsePrefix("5f00::/16"), "segment routing"},
	{netip.MustParsePrefix("fc00::/7"), "private"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("fec0::/10"), "site-local"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
}

// metadata are the services of clouds that hand out credentials to whoever
// asks: AWS, GCP, Azure and others, Oracle, Alibaba. A range does not exempt
// them: that would open them by mistake.
var metadata = []netip.Addr{
	netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("169.254.170.2"), netip.MustParseAddr("169.254.170.23"),
	netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("fd00:ec2::23"), netip.MustParseAddr("fd20:ce::254"),
	netip.MustParseAddr("168.63.129.16"), netip.MustParseAddr("192.0.0.192"), netip.MustParseAddr("100.100.100.200"),
}

// metadataNames lead to them.
var metadataNames = []string{
	"metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal",
	"metadata.azure.internal", "metadata.tencentyun.com", "metadata.packet.net", "metadata.platformequinix.com",
}

// IsMetadata tells whether the host is the metadata service of a cloud, by one
// of its names or addresses.
func (h Host) IsMetadata() bool {
	return slices.Contains(metadataNames, h.name) || slices.Contains(metadata, h.addr)
}

// globalUnicast is all that IANA has given out of IPv6.
var globalUnicast = netip.MustParsePrefix("2000::/3")

// JudgeAddr decides whether an allowed name may lead to the address. Ranges
// in exempt are the operator's own exceptions. A range exempts neither the
// metadata services, nor an IPv6 address that carries an IPv4 one which would
// itself be refused; the address alone, as a range of one, does.
func JudgeAddr(addr netip.Addr, exempt []netip.Prefix) Verdict {
	if !addr.IsValid() || addr.Zone() != "" {
		return Denied("address", "not a plain address")
	}
	addr = addr.Unmap()
	by, exempted := narrowest(addr, exempt)
	switch {
	case exempted && by.IsSingleIP():
		return Allowed("addresses.allow: " + by.String())
	case slices.Contains(metadata, addr):
		return Denied("address", addr.String()+" is the metadata service of a cloud, which a range does not exempt")
	case !exempted:
		if v := judgeRange(addr); !v.Allow {
			return v
		}
	}
	if v4 := carried(addr); v4.IsValid() {
		if v := JudgeAddr(v4, exempt); !v.Allow {
			return Denied("address", addr.String()+" carries an IPv4 address: "+v.Why)
		}
	}
	if exempted {
		return Allowed("addresses.allow: " + by.String())
	}
	return Allowed("address")
}

func narrowest(addr netip.Addr, ranges []netip.Prefix) (best netip.Prefix, found bool) {
	for _, p := range ranges {
		if p.Contains(addr) && (!found || p.Bits() > best.Bits()) {
			best, found = p, true
		}
	}
	return best, found
}

func judgeRange(addr netip.Addr) Verdict {
	for _, s := range special {
		if s.prefix.Contains(addr) {
			return Denied("address", addr.String()+" is in a special range ("+s.what+" "+s.prefix.String()+")")
		}
	}
	if addr.Is6() && !globalUnicast.Contains(addr) {
		return Denied("address", addr.String()+" is in no range that has been given out")
	}
	return Allowed("address")
}

var (
	translated = netip.MustParsePrefix("::ffff:0:0:0/96") // RFC 2765
	compatible = netip.MustParsePrefix("::/96")           // RFC 4291 §2.5.5.1
	nat64      = netip.MustParsePrefix("64:ff9b::/96")    // RFC 6052
	localNAT64 = netip.MustParsePrefix("64:ff9b:1::/48")  // RFC 8215
	sixToFour  = netip.MustParsePrefix("2002::/16")       // RFC 3056
	teredo     = netip.MustParsePrefix("2001::/32")       // RFC 4380
)

// carried is the IPv4 address that a packet to the IPv6 address would come to
// by way of a translator or a tunnel.
func carried(addr netip.Addr) netip.Addr {
	if !addr.Is6() {
		return netip.Addr{}
	}
	b := addr.As16()
	last := [4]byte(b[12:])
	switch {
	case sixToFour.Contains(addr):
		return netip.AddrFrom4([4]byte(b[2:6]))
	case teredo.Contains(addr):
		return netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]})
	case localNAT64.Contains(addr) && last == [4]byte{}:
		return netip.AddrFrom4([4]byte{b[6], b[7], b[9], b[10]}) // RFC 6052 §2.2, a prefix of 48 bits
	case localNAT64.Contains(addr), nat64.Contains(addr), translated.Contains(addr), compatible.Contains(addr) && last[0] != 0,
		b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe: // ISATAP, RFC 5214
		return netip.AddrFrom4(last)
	}
	return netip.Addr{}
}
