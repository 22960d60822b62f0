// Package socks answers the handshake of SOCKS5 (RFC 1928) for a proxy that
// decides later: it learns where a client wants to go, says yes, and resolves
// and dials nothing. Whoever calls it bounds the time that it may take.
package socks

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"

	"airlock/internal/policy"
)

// First bytes of a connection that wants SOCKS.
const (
	Version5 = 5
	Version4 = 4
)

// Methods of authentication (RFC 1928 §3).
const (
	methodNone     = 0
	methodPassword = 2
	methodRefused  = 0xff
)

// Replies (RFC 1928 §6).
const (
	replyDone    = 0
	replyFailure = 1
	replyCommand = 7
	replyAddress = 8
)

const (
	commandConnect = 1

	addressIPv4 = 1
	addressName = 3
	addressIPv6 = 4
)

// Accept shakes hands and returns what the client wants to be connected to,
// in canonical form; the client has been told that it is. After an error it
// has been told no, and there is nothing to do but to close.
func Accept(r io.Reader, w io.Writer) (policy.Authority, error) {
	if err := authenticate(r, w); err != nil {
		return policy.Authority{}, err
	}
	a, code, err := readRequest(r)
	if _, answered := w.Write([]byte{Version5, code, 0, addressIPv4, 0, 0, 0, 0, 0, 0}); err == nil && answered != nil {
		err = fmt.Errorf("answering: %w", answered)
	}
	return a, err
}

// authenticate agrees on a method. Nobody is authenticated: a name and a
// password are taken from clients that insist, and thrown away.
func authenticate(r io.Reader, w io.Writer) error {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return fmt.Errorf("reading the methods: %w", err)
	}
	if head[0] == Version4 {
		return errors.New("SOCKS4 knows no names: SOCKS5 is wanted")
	}
	if head[0] != Version5 {
		return errors.New("not SOCKS5")
	}
	methods := make([]byte, head[1])
	if _, err := io.ReadFull(r, methods); err != nil {
		return fmt.Errorf("reading the methods: %w", err)
	}
	method := byte(methodRefused)
	for _, m := range []byte{methodNone, methodPassword} {
		if slices.Contains(methods, m) {
			method = m
			break
		}
	}
	if _, err := w.Write([]byte{Version5, method}); err != nil {
		return fmt.Errorf("answering: %w", err)
	}
	switch method {
	case methodRefused:
		return errors.New("the client offers neither no authentication nor a password")
	case methodPassword:
		return ignorePassword(r, w)
	}
	return nil
}

// ignorePassword takes part in RFC 1929.
func ignorePassword(r io.Reader, w io.Writer) error {
	var version [1]byte
	if _, err := io.ReadFull(r, version[:]); err != nil {
		return fmt.Errorf("reading the password: %w", err)
	}
	for range 2 { // a name, a password
		if _, err := readShort(r); err != nil {
			return fmt.Errorf("reading the password: %w", err)
		}
	}
	if _, err := w.Write([]byte{1, 0}); err != nil {
		return fmt.Errorf("answering: %w", err)
	}
	return nil
}

// readShort reads up to 255 bytes behind their number.
func readShort(r io.Reader) ([]byte, error) {
	var n [1]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return nil, err
	}
	text := make([]byte, n[0])
	_, err := io.ReadFull(r, text)
	return text, err
}

func readRequest(r io.Reader) (a policy.Authority, code byte, err error) {
	var head [4]byte // version, command, reserved, type of the address
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return a, replyFailure, fmt.Errorf("reading the request: %w", err)
	}
	if head[0] != Version5 {
		return a, replyFailure, errors.New("a request of another version")
	}
	host, err := readHost(r, head[3])
	if errors.Is(err, errType) {
		return a, replyAddress, err
	}
	var port [2]byte
	if err == nil {
		_, err = io.ReadFull(r, port[:])
	}
	if err != nil {
		return a, replyFailure, fmt.Errorf("reading the address: %w", err)
	}
	if head[1] != commandConnect {
		return a, replyCommand, fmt.Errorf("command %d: only CONNECT (1) is served", head[1])
	}
	a.Host, err = policy.ParseHost(host)
	a.Port = binary.BigEndian.Uint16(port[:])
	if err == nil && a.Port == 0 {
		err = errors.New("port 0")
	}
	if err != nil {
		return policy.Authority{}, replyFailure, err
	}
	return a, replyDone, nil
}

var errType = errors.New("an address of a type that nobody knows")

func readHost(r io.Reader, kind byte) (string, error) {
	size := 4
	switch kind {
	case addressName:
		name, err := readShort(r)
		return string(name), err
	case addressIPv6:
		size = 16
	case addressIPv4:
	default:
		return "", errType
	}
	raw := make([]byte, size)
	if _, err := io.ReadFull(r, raw); err != nil {
		return "", err
	}
	addr, _ := netip.AddrFromSlice(raw) // 4 and 16 are what it takes
	return addr.String(), nil
}
