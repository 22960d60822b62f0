package pipelock

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"airlock/internal/activation"
	"airlock/internal/bundle"
	"airlock/internal/config"
	"airlock/internal/httpd"
	"airlock/internal/policy"
	"airlock/internal/secrets"
	"airlock/internal/seenset"
)

const (
	// wholeBody is up to which length a body is scanned before its first
	// byte goes on; longer ones go on window by window.
	wholeBody = 1 << 20
	// smallBody is up to which length a body takes little enough memory to be
	// read before any of the windows' is asked for.
	smallBody = 64 << 10
	// streamWindow is a window of a body of unknown length when there is no
	// memory for a whole one.
	streamWindow = smallBody - 2*pieceBytes
	// pieceBytes is what is read of such a body at a time.
	pieceBytes = 16 << 10
	// overlap is how much of what went before is scanned again with each
	// window, so that a secret across a border is seen as one.
	overlap = 8 << 10
	// streamPause is how long a body of unknown length may pause before what
	// has come is scanned and goes on: a stream must not wait for its end.
	streamPause = 100 * time.Millisecond
	// messagePause is that of a stream of messages, each of which is written
	// as a whole and may be waited for.
	messagePause = 2 * time.Millisecond
	// maxGrown is up to which length a window grows while something compressed
	// goes on beyond it, and the longest compressed body.
	maxGrown = 16 << 20
	// scanTime bounds the scan of one window, with a second more a MiB.
	scanTime = 10 * time.Second
	// maxInflate bounds what a compressed body may grow to.
	maxInflate = 64 << 20
	// defaultBody is the longest body without a limit in the configuration.
	defaultBody = 100 << 20
	// maxClean bounds each half of what is remembered of texts that hold nothing.
	maxClean = 2048
)

// scanner scans outgoing requests.
type scanner struct {
	engine     *secrets.Scanner
	known      map[string]secrets.Digest
	cleanHeads seenset.Set[uint64] // hashes of heads that were scanned clean
	cleanNames seenset.Set[uint64] // the same for names of hosts and of fields
	cleanRows  seenset.Set[uint64] // the same for joined pieces
	histories  histories
	dnsNames   nameHistory
	reported   seenset.Set[uint64] // hashes of findings that were redacted and reported, on routes to models
	action     actions
	entropy    entropyDetector
	limit      int64
	memory     *memoryPools
	within     time.Duration // the time limit of a scan: scanTime
}

// scanContext holds what the scan of one request needs to know, and what to do about a finding.
type scanContext struct {
	host     policy.Host
	injected []string // what egress filled
	action   string   // one of block, redact, ask, warn; empty is block
	llm      bool     // it goes to the API of a model, with action redact: see bundle.KindLLM
	// report writes down what is found in a body, and what passes although
	// something was found: word is the audit's, empty for a refusal. Where it fails
	// nothing may pass.
	report func(word string, v policy.Verdict) error
	// ask holds the request until a person has answered.
	ask func(ctx context.Context, v policy.Verdict) policy.Verdict
}

// isFinding reports whether a verdict is a finding, and not another reason to refuse.
func isFinding(v policy.Verdict) bool { return !v.Allow && strings.HasPrefix(v.Rule, "secret: ") }

// maxRules bounds the file of the operator's rules, in bytes.
const maxRules = 4 << 20

// readRules reads the operator's rules, where there are any.
func readRules(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	f, err := activation.Open(path)
	if err != nil {
		return "", config.At("secrets.rules", "%v", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxRules+1))
	switch {
	case err != nil:
		return "", config.At("secrets.rules", "%s: %v", path, err)
	case len(text) > maxRules:
		return "", config.At("secrets.rules", "%s: longer than %d bytes", path, maxRules)
	case len(bytes.TrimSpace(text)) == 0:
		return "", config.At("secrets.rules", "%s: it is empty: leave it out for the built-in rules", path)
	}
	return string(text), nil
}

// newScanner looks for the rules' tokens and for the digests that the
// configuration names.
func newScanner(f bundle.PipelockFile, rules string, getenv func(string) string) (*scanner, error) {
	known := map[string]secrets.Digest{}
	for i, name := range f.Secrets.Values {
		text := getenv(name)
		if text == "" {
			continue // a slot that holds nothing has nothing to protect
		}
		d, err := secrets.ParseDigest(text)
		if err != nil {
			return nil, config.At(fmt.Sprintf("secrets.values[%d]", i), "%s: %v", name, err)
		}
		known[name] = d
	}
	engine, err := secrets.New(secrets.Options{Config: rules, Known: known, ArchiveDepth: 6, Remember: true})
	if err != nil {
		return nil, config.At("secrets.rules", "%s: %v", f.Secrets.Rules, err)
	}
	// Before the first request, not with it: a replacement takes over warm.
	if err := engine.Warm(); err != nil {
		return nil, err
	}
	debug.FreeOSMemory() // compiling left as much garbage as the rules are large
	newCache := func() seenset.Set[uint64] { return seenset.Set[uint64]{Max: maxClean} }
	return &scanner{
		engine: engine, known: known, action: newActions(f.Secrets), entropy: entropyDetector(f.Secrets.Entropy), limit: f.Limits.BodyBytes.Or(defaultBody), memory: newMemoryPools(softLimit()), within: scanTime,
		reported: newCache(), cleanHeads: newCache(), cleanNames: newCache(), cleanRows: newCache(), dnsNames: nameHistory{clean: newCache()},
	}, nil
}

// scanText scans one text and turns a finding into the verdict of its surface.
func (s *scanner) scanText(ctx context.Context, surface string, data []byte) policy.Verdict {
	v, _ := s.scanTextPart(ctx, surface, data)
	return v
}

// scanTextPart is scanText for part of a longer text. open reports whether it ends inside
// compressed data, of which more must be read.
func (s *scanner) scanTextPart(ctx context.Context, surface string, data []byte) (v policy.Verdict, open bool) {
	ctx, cancel := context.WithTimeout(ctx, s.within+time.Duration(len(data)/wholeBody)*time.Second)
	defer cancel()
	found, open, err := s.find(ctx, data)
	switch {
	case err != nil:
		return policy.Denied("scan", "the "+surface+" could not be scanned: "+oneLine(err.Error())), open
	case len(found) > 0:
		return policy.Denied("secret: "+found[0].Rule, "the "+surface+" holds "+secrets.Says(found[0].Rule)), open
	}
	return policy.Allowed("scan"), open
}

// find returns the findings of a text.
func (s *scanner) find(ctx context.Context, data []byte) (found []secrets.Finding, open bool, err error) {
	found, open, err = s.engine.ScanPart(ctx, data)
	if err == nil && s.entropy != (entropyDetector{}) {
		found = append(found, s.entropy.find(data)...)
	}
	return found, open, err
}

// injectedFields reads the field that egress names its injections in.
func injectedFields(h http.Header) []string {
	var all []string
	for part := range strings.SplitSeq(h.Get(httpd.HeaderInjected), ",") {
		if part = strings.TrimSpace(part); part != "" {
			all = append(all, part)
		}
	}
	return all
}
