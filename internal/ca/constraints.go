package ca

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"airlock/internal/policy"
)

// constrain lets an authority speak for the hosts of the patterns and for
// nobody else (RFC 5280 §4.2.1.10). A name stands for all names below it, too:
// the form has no other meaning. Addresses are a form of their own, which has
// to be shut where none is permitted.
func constrain(template *x509.Certificate, permitted []policy.Pattern) {
	if len(permitted) == 0 {
		return
	}
	template.PermittedDNSDomainsCritical = true
	for _, p := range permitted {
		host, _ := p.Exact() // of a suffix: the domain
		if addr := host.Addr(); addr.IsValid() {
			mask := net.CIDRMask(addr.BitLen(), addr.BitLen())
			template.PermittedIPRanges = append(template.PermittedIPRanges, &net.IPNet{IP: addr.AsSlice(), Mask: mask})
		} else if !slices.Contains(template.PermittedDNSDomains, host.String()) {
			template.PermittedDNSDomains = append(template.PermittedDNSDomains, host.String())
		}
	}
	if len(template.PermittedIPRanges) == 0 {
		template.ExcludedIPRanges = []*net.IPNet{
			{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, {IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)},
		}
	}
}

// Constrained tells whether an authority may speak for certain hosts alone.
func Constrained(authority *x509.Certificate) bool {
	return len(authority.PermittedDNSDomains)+len(authority.PermittedIPRanges)+len(authority.ExcludedIPRanges) > 0
}

// Permits tells whether an authority may speak for the host.
func Permits(authority *x509.Certificate, host policy.Host) bool {
	if !Constrained(authority) {
		return true
	}
	if addr := host.Addr(); addr.IsValid() {
		return slices.ContainsFunc(authority.PermittedIPRanges, func(n *net.IPNet) bool { return n.Contains(addr.AsSlice()) })
	}
	name := host.String()
	return slices.ContainsFunc(authority.PermittedDNSDomains, func(d string) bool { return name == d || strings.HasSuffix(name, "."+d) })
}

// Permits tells whether there can be a leaf for the host.
func (m *Minter) Permits(host policy.Host) bool { return Permits(m.cert, host) }

// Read reads an authority's certificate, without its key.
func Read(certFile string) (*x509.Certificate, error) {
	data, err := os.ReadFile(certFile)
	if err != nil {
		return nil, fmt.Errorf("reading the pair's authority: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("reading the pair's authority: %s holds no certificate", certFile)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading the pair's authority: %w", err)
	}
	return cert, nil
}
