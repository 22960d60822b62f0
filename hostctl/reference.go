package hostctl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// maxCredential bounds the value behind a reference, in bytes.
const maxCredential = 64 << 10

// commandTimeout bounds a command that prints a credential.
const commandTimeout = 30 * time.Second

// reference says where a credential is on the host.
type reference struct{ kind, where string }

func parseReference(s string) (reference, error) {
	kind, where, found := strings.Cut(s, ":")
	if !found || where == "" || (kind != "env" && kind != "file" && kind != "command") {
		// The text is not repeated: it may be the credential itself.
		return reference{}, errors.New("env:NAME, file:PATH or command:COMMAND was wanted, never the credential itself")
	}
	return reference{kind, where}, nil
}

// resolve reads the value. A newline at its end is not a part of it.
func (r reference) resolve(ctx context.Context, dir string) (string, error) {
	data, err := r.read(ctx, dir)
	if err != nil {
		return "", fmt.Errorf("reading the credential at %s:%s: %w", r.kind, r.where, err)
	}
	value := strings.TrimRight(string(data), "\r\n")
	switch {
	case value == "":
		return "", fmt.Errorf("reading the credential at %s:%s: it is empty", r.kind, r.where)
	case len(value) > maxCredential || strings.ContainsRune(value, 0):
		return "", fmt.Errorf("reading the credential at %s:%s: longer than %d bytes, or with a zero byte", r.kind, r.where, maxCredential)
	}
	return value, nil
}

func (r reference) read(ctx context.Context, dir string) ([]byte, error) {
	switch r.kind {
	case "env":
		value, set := os.LookupEnv(r.where)
		if !set {
			return nil, errors.New("the variable is not set")
		}
		return []byte(value), nil
	case "file":
		return readFile(ctx, expandPath(r.where, dir))
	}
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", r.where)
	cmd.Dir = dir
	cmd.Stderr = os.Stderr // a password manager may have a question
	cmd.Stdin = os.Stdin
	var out bytes.Buffer
	cmd.Stdout = &out
	err := cmd.Run()
	return out.Bytes(), err
}

// readFile returns early when ctx ends: a pipe in the place of a file may have
// nothing to read, for ever.
func readFile(ctx context.Context, path string) ([]byte, error) {
	type result struct {
		data []byte
		err  error
	}
	done := make(chan result, 1)
	go func() { // not waited for: nothing ends the opening of a pipe
		data, err := os.ReadFile(path)
		done <- result{data, err}
	}()
	select {
	case r := <-done:
		return r.data, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for %s: %w", path, ctx.Err())
	}
}

// expandPath reads "~/" as the home folder and everything relative as below dir.
func expandPath(path, dir string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, rest)
		}
	}
	if !filepath.IsAbs(path) {
		return filepath.Join(dir, path)
	}
	return path
}
