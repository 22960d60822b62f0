package supervisor

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"

	"airlock/internal/bundle"
	"airlock/internal/config"
	"airlock/internal/secretmem"
	"airlock/internal/secrets"
)

const maxSecrets = 1 << 20 // bytes on standard input

// slots says which secrets a daemon gets, by the beginning of their names.
var slots = map[string]string{bundle.Egress: "EGRESS_TOKEN_", bundle.GitGate: "GIT_TOKEN_", bundle.Pipelock: "EGRESS_DIGEST_"}

func isSlot(name string) bool {
	for _, prefix := range slots {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// readSecrets takes the slots out of our own environment and, if told so, from
// standard input. The warning says what could not be hidden as it should be.
func readSecrets(fromStdin bool, stdin io.Reader) (held *secretmem.Store, warning, err error) {
	all, warning := secretmem.TakeEnv(isSlot)
	if fromStdin {
		more, err := readObject(stdin)
		if err != nil {
			return nil, nil, err
		}
		maps.Copy(all, more)
	}
	maps.DeleteFunc(all, func(_, value string) bool { return value == "" })
	if err := addDigests(all); err != nil {
		return nil, nil, err
	}
	held, err = secretmem.New(all)
	for _, value := range all {
		secretmem.Wipe(value)
	}
	if err != nil {
		return nil, nil, err
	}
	return held, errors.Join(warning, held.Weak()), nil
}

// readObject reads one JSON object and waits for nothing behind it. What it
// read is overwritten, the values are the caller's to wipe.
func readObject(r io.Reader) (map[string]string, error) {
	// The error of the library could quote a part of a value.
	unfit := config.Usagef("supervisor: standard input: one JSON object of slots and their values was wanted")
	text := make([]byte, 0, maxSecrets)
	defer func() { clear(text) }() // text as it will be
	for !json.Valid(text) {
		n, err := r.Read(text[len(text):cap(text)])
		text = text[:len(text)+n]
		if err != nil && !json.Valid(text) || n == 0 && len(text) == cap(text) {
			return nil, unfit
		}
	}
	var values map[string]string
	if err := json.Unmarshal(text, &values); err != nil || values == nil {
		return nil, unfit
	}
	return values, nil
}

// addDigests gives pipelock a keyed digest of every value that egress holds,
// so that it can look for the value without knowing it.
func addDigests(held map[string]string) error {
	key := rand.Text()
	for name, value := range maps.Clone(held) {
		number, ok := strings.CutPrefix(name, slots[bundle.Egress])
		if !ok || len(value) < 8 || held["EGRESS_DIGEST_"+number] != "" {
			continue
		}
		digest, err := secrets.NewDigest(value, key)
		if err != nil {
			return fmt.Errorf("making the digest of %s: %w", name, err)
		}
		held["EGRESS_DIGEST_"+number] = digest
	}
	return nil
}
