package gitgate

import (
	"context"
	"fmt"
	"strings"
)

// protocolKey is under which a context says that upstream is asked in protocol v2.
type protocolKey struct{}

// inV2 makes transports ask for protocol v2. An upstream that does not speak it answers in v0.
func inV2(ctx context.Context) context.Context {
	return context.WithValue(ctx, protocolKey{}, "version=2")
}

// protocolOf is what upstream is told of protocols: nothing, for v0.
func protocolOf(ctx context.Context) string {
	version, _ := ctx.Value(protocolKey{}).(string)
	return version
}

// unborn finds the branch of an upstream's HEAD that has no commit yet, which v0 does not tell; "" when v2 does not either.
func (m *mirror) unborn(ctx context.Context) (string, error) {
	s, err := m.up.open(inV2(ctx), uploadPack)
	if err != nil {
		return "", err
	}
	defer s.Close()
	greeting := s.Greeting()
	tells := false
	for first := true; ; first = false {
		line, err := readLine(greeting)
		if err == errFlush {
			break
		}
		if err != nil {
			return "", fmt.Errorf("reading advertisement: %w", unexpectedEOF(err))
		}
		if first && line != "version 2" {
			return "", nil
		}
		if err := checkFormat(line); err != nil {
			return "", err
		}
		what, ok := strings.CutPrefix(line, "ls-refs=")
		tells = tells || ok && strings.Contains(what, "unborn")
	}
	if !tells {
		return "", nil
	}
	var b strings.Builder
	writePkt(&b, "command=ls-refs\n")
	writePkt(&b, "agent=airlock\n")
	writeDelim(&b)
	for _, arg := range []string{"symrefs", "unborn", "ref-prefix HEAD"} {
		writePkt(&b, arg+"\n")
	}
	writeFlush(&b)
	answer, err := s.Ask(strings.NewReader(b.String()), int64(b.Len()))
	if err != nil {
		return "", err
	}
	line, err := readLine(answer)
	if err != nil && err != errFlush {
		return "", fmt.Errorf("reading upstream's answer: %w", unexpectedEOF(err))
	}
	target, _ := strings.CutPrefix(line, "unborn HEAD symref-target:")
	if !validRef(target) {
		return "", nil
	}
	return target, nil
}
