package gitgate

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"airlock/internal/activation"
	"airlock/internal/bundle"
	"airlock/internal/policy"
)

// seal makes the digests by which values are let in. Its key never leaves git-gate: whoever reads a proposal or a grant can try out
// nothing.
type seal []byte

// openSeal reads the key, or makes it, in the folder of the mirrors. Without it earlier grants count for nothing.
func openSeal(root string) (seal, error) {
	path := filepath.Join(root, ".allow.key")
	for {
		key, err := os.ReadFile(path)
		if err == nil && len(key) == sha256.Size {
			return key, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("reading the key of digests: %w", err)
		}
		if err := makeSeal(path); err != nil {
			return nil, fmt.Errorf("making the key of digests: %w", err)
		}
	}
}

// makeSeal writes a key, unless another process is first.
func makeSeal(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // never fails
	_, err = f.Write(key)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if info, err := os.Stat(path); err == nil && info.Size() != sha256.Size {
		return os.Rename(f.Name(), path) // a disk that was full has cut it
	}
	if err := os.Link(f.Name(), path); !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// digest is that of a value which a rule has found in a push to a repository.
func (s seal) digest(repo, rule string, value []byte) string {
	h := hmac.New(sha256.New, s)
	fmt.Fprintf(h, "%s\x00%s\x00", repo, rule)
	h.Write(value)
	return hex.EncodeToString(h.Sum(nil))
}

// excused tells whether an operator has let a value into a repository.
func (r rules) excused(repo, rule, digest string, now time.Time) bool {
	return slices.ContainsFunc(r.allow, func(a bundle.GitAllowed) bool {
		return a.Repo == repo && a.Rule == rule && a.Digest == digest && (a.Expires.IsZero() || now.Before(a.Expires))
	})
}

// reasonOption is the push option with which an agent says why a value is no secret. It goes to the operator, not upstream.
const reasonOption = "airlock-reason="

// takeReason takes the agent's words out of the push options.
func takeReason(options []string) (rest []string, says string) {
	for _, o := range options {
		if text, ok := strings.CutPrefix(o, reasonOption); ok {
			says = text
			continue
		}
		rest = append(rest, o)
	}
	return rest, says
}

const (
	// maxAsked is about how many values of one push an operator is asked.
	maxAsked = 5
	// askWithin bounds the writing of one proposal.
	askWithin = 5 * time.Second
)

// words are what the agent says to the operator, unless they hold a secret themselves.
func (p *pushing) words(ctx context.Context) string {
	if p.says == "" {
		return ""
	}
	if found, err := p.gate.scanner.Scan(ctx, []byte(p.says)); err != nil || len(found) > 0 {
		return "(withheld: the words hold what looks like a secret)"
	}
	return clean(p.says)
}

// ask proposes to the operator to let in what was found, and returns what the agent is told about it.
func (p *pushing) ask(ctx context.Context, hits []hit) string {
	var asked []string
	var b strings.Builder
	says := p.words(ctx)
	for _, h := range hits {
		switch {
		case h.where == pushOption:
			fmt.Fprintf(&b, "%s: leave it out of the options; the operator is not asked about it.\n", h)
			continue
		case h.digest == "":
			fmt.Fprintf(&b, "%s is a credential of the bundle itself: it is never let through.\n", h.rule)
			continue
		case slices.Contains(asked, h.digest) || len(asked) == maxAsked:
			continue
		}
		asked = append(asked, h.digest)
		ctx, cancel := context.WithTimeout(ctx, askWithin)
		id, err := activation.Submit(ctx, policy.GitAllow{Repo: p.mirror.name, Rule: h.rule, Digest: h.digest, Place: h.place(), Says: says})
		cancel()
		switch {
		case errors.Is(err, activation.ErrNoSupervisor):
			return b.String() + "If it is no secret, ask the operator through supervise (tool ask_operator).\n"
		case err != nil:
			fmt.Fprintf(&b, "%s: the operator is not asked whether it is one: %s\n", h, clean(err.Error()))
		default:
			fmt.Fprintf(&b, "%s: if it is no secret, wait until the operator has approved %s (tool proposal_status), then push again.\n", h, id)
		}
	}
	return b.String()
}
