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

// slots says which secrets a daemon gets, by the beginning of their names. Who
// looks for what egress holds gets its digests.
var slots = map[string][]string{
	bundle.Egress:   {tokenPrefix},
	bundle.GitGate:  {"GIT_TOKEN_", "GIT_PASS_", digestPrefix},
	bundle.Pipelock: {digestPrefix, "PROXY_AUTH_"},
}

// receives tells whether a daemon is handed a slot.
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
	errFormat := config.Usagef("supervisor: standard input: one JSON object of slots and their values was wanted")
	text := make([]byte, 0, maxSecrets)
	defer func() { clear(text) }() // text as it will be
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

// digestsTimeout bounds the making of digests.
const digestsTimeout = 10 * time.Second

// addDigests makes a keyed digest of every value that egress holds, so that
// pipelock and git-gate can look for the value without knowing it. A process of its own
// makes them: on the way there are dozens of copies of each value, which end
// with it. It starts before anything else waits for children.
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
	maker.Args, maker.Env, maker.ExtraFiles = args, []string{secretmem.Variable + "=3"}, []*os.File{secretsFile}
	maker.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // signals for us are not for it
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

// Digest is the applet of the process that makes the digests: of the slots
// named by its arguments, as a JSON object of slots for those that look for them.
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
