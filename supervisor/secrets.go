package supervisor

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"airlock/internal/bundle"
	"airlock/internal/config"
	"airlock/internal/secretmem"
	"airlock/internal/secrets"
)

const maxSecrets = 1 << 20 // bytes on standard input

const (
	tokenPrefix  = "EGRESS_TOKEN_"
	digestPrefix = "EGRESS_DIGEST_"
)

// slots are the prefixes of the names of the secrets that a daemon receives. Daemons that look for
// egress's credentials in traffic receive their digests.
var slots = map[string][]string{
	bundle.Egress:   {tokenPrefix},
	bundle.GitGate:  {"GIT_TOKEN_", "GIT_PASS_", digestPrefix},
	bundle.Pipelock: {digestPrefix, "PROXY_AUTH_"},
}

// receives reports whether a daemon receives a slot.
func receives(daemon, name string) bool {
	return slices.ContainsFunc(slots[daemon], func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

func isSlot(name string) bool {
	for daemon := range slots {
		if receives(daemon, name) {
			return true
		}
	}
	return false
}

// readSecrets removes the slots from the environment of this process and, with fromStdin, reads more
// from standard input. warning says which memory could not be protected.
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

// readObject reads one JSON object and does not wait for input after it. Its buffer is cleared; the
// caller wipes the values.
func readObject(r io.Reader) (map[string]string, error) {
	// The error of encoding/json could quote a part of a value, so it is not used.
	errFormat := config.Usagef("supervisor: standard input: expected one JSON object of slots and their values")
	text := make([]byte, 0, maxSecrets)
	defer func() { clear(text) }() // in a closure: text still grows
	for !json.Valid(text) {
		n, err := r.Read(text[len(text):cap(text)])
		text = text[:len(text)+n]
		if err != nil && !json.Valid(text) || n == 0 && len(text) == cap(text) {
			return nil, errFormat
		}
	}
	var values map[string]string
	if err := json.Unmarshal(text, &values); err != nil || values == nil {
		return nil, errFormat
	}
	return values, nil
}

// digestsTimeout bounds the computation of digests.
const digestsTimeout = 10 * time.Second

// addDigests adds a keyed digest of every value that egress holds, so that pipelock and git-gate can
// look for the value without knowing it. The computation makes dozens of copies of each value, so a
// process of its own does it. That process ends before the Reaper runs.
func addDigests(held map[string]string) error {
	values, args := map[string]string{}, []string{"digest"}
	for _, name := range slices.Sorted(maps.Keys(held)) {
		number, ok := strings.CutPrefix(name, tokenPrefix)
		if ok && len(held[name]) >= secrets.MinLength && held[digestPrefix+number] == "" {
			values[name], args = held[name], append(args, name)
		}
	}
	if len(values) == 0 {
		return nil
	}
	store, err := secretmem.New(values)
	if err != nil {
		return err
	}
	secretsFile, err := store.Share(func(string) bool { return true })
	if err != nil {
		return err
	}
	defer secretsFile.Close()
	ctx, cancel := context.WithTimeout(context.Background(), digestsTimeout)
	defer cancel()
	maker := exec.CommandContext(ctx, "/proc/self/exe")
	maker.Args, maker.Env, maker.ExtraFiles = args, append(inherited(), secretmem.Variable+"=3"), []*os.File{secretsFile}
	maker.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // it does not get the signals of this process group
	out, err := maker.Output()
	if err != nil {
		return fmt.Errorf("making digests: %w", err)
	}
	var digests map[string]string
	if err := json.Unmarshal(out, &digests); err != nil || len(digests) != len(values) {
		return fmt.Errorf("making digests: %d came for %d values: %w", len(digests), len(values), err)
	}
	maps.Copy(held, digests)
	return nil
}

// Digest is the applet that computes digests: it prints those of the slots named by its arguments, as a
// JSON object by digest slots.
func Digest(_ context.Context, args []string, stdout, _ io.Writer) error {
	value, err := secretmem.Slots()
	if err != nil {
		return err
	}
	key, digests := rand.Text(), map[string]string{}
	for _, name := range args {
		digest, err := secrets.NewDigest(value(name), key)
		if err != nil {
			return fmt.Errorf("making the digest of %s: %w", name, err)
		}
		digests[digestPrefix+strings.TrimPrefix(name, tokenPrefix)] = digest
	}
	return json.NewEncoder(stdout).Encode(digests)
}
