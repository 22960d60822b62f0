// Package config reads the configuration files of Airlock, strictly: an
// unknown key, a second document or a wrong type is an error that says the
// file, the line, and what was wanted. It is the one owner of YAML.
package config

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// maxFile bounds a configuration file, in bytes.
const maxFile = 1 << 20

// Error is bad input from a person: a configuration or an argument. A main
// turns it into exit code 2.
type Error struct {
	Where string // file:line, or the command; may be empty
	What  string
}

func (e *Error) Error() string {
	if e.Where == "" {
		return e.What
	}
	return e.Where + ": " + e.What
}

// ExitCode is 2: usage or configuration.
func (e *Error) ExitCode() int { return 2 }

// Usagef is an error about the arguments of a command.
func Usagef(format string, args ...any) error {
	return &Error{What: fmt.Sprintf(format, args...)}
}

// Validator is a configuration that can say everything wrong with itself.
type Validator interface{ Validate() error }

// Locator is a configuration that keeps where its parts stand.
type Locator interface {
	// Locate is called once the configuration is decoded; line tells the line
	// of a key ("routes[2]"), from 1.
	Locate(line func(key string) int)
}

// Load reads the file into v, which must be a pointer, and returns the digest
// of the bytes that it read: SHA-256 in hexadecimal.
func Load(path string, v any) (digest string, err error) {
	return LoadBy(open, path, v)
}

// LoadBy is Load for who opens files in another way.
func LoadBy(open func(string) (*os.File, error), path string, v any) (digest string, err error) {
	data, err := read(open, path)
	if err != nil {
		return "", err
	}
	if err := Decode(path, data, v); err != nil {
		return "", err
	}
	return Digest(data), nil
}

// open does not wait for the other end of a pipe that lies in a file's place.
func open(path string) (*os.File, error) { return os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) }

func read(open func(string) (*os.File, error), path string) ([]byte, error) {
	f, err := open(path)
	if err != nil {
		return nil, &Error{path, "reading the configuration: " + unwrapPath(err)}
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, &Error{path, "reading the configuration: a regular file was wanted"}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, &Error{path, "reading the configuration: " + unwrapPath(err)}
	}
	if len(data) > maxFile {
		return nil, &Error{path, fmt.Sprintf("a configuration has at most %d bytes", maxFile)}
	}
	return data, nil
}

func unwrapPath(err error) string {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}

// Digest names the content of a configuration file.
func Digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Decode parses data into v and validates it. The name is used in errors.
func Decode(name string, data []byte, v any) error {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(v); err != nil {
		if errors.Is(err, io.EOF) {
			return &Error{name, "the file is empty; a document that begins with \"version: 1\" is needed"}
		}
		return join(faults(name, data, err, v))
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return &Error{name, "a second document; one is wanted"}
	}
	if val, ok := v.(Validator); ok {
		if err := val.Validate(); err != nil {
			return locate(name, data, err)
		}
	}
	if l, ok := v.(Locator); ok {
		var root yaml.Node
		_ = yaml.Unmarshal(data, &root) // it has been decoded once
		l.Locate(func(key string) int { return lineOf(&root, key) })
	}
	return nil
}

// Encode writes v as a configuration file.
func Encode(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := yaml.NewEncoder(&buf)
	enc.SetIndent(2)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("writing YAML: %w", err)
	}
	return buf.Bytes(), enc.Close()
}

var (
	yamlLine  = regexp.MustCompile(`^(?:yaml: )?(?:unmarshal errors:\s*)?line (\d+): (.*)$`)
	typeName  = regexp.MustCompile(`field (\S+) not found in type \S+`)
	wrongType = regexp.MustCompile("cannot unmarshal !!(\\w+) (`[^`]*` )?into (\\S+)")
)

// describe turns the library's error into ours: one line a fault, each with
// its place.
func describe(name string, data []byte, err error) []error {
	lines := []string{strings.TrimPrefix(err.Error(), "yaml: ")}
	var te *yaml.TypeError
	if errors.As(err, &te) {
		lines = te.Errors
	}
	var all []error
	for _, line := range lines {
		where, what := name, line
		if m := yamlLine.FindStringSubmatch(line); m != nil {
			where, what = name+":"+m[1], m[2]
		} else if n := quotedLine(data, line); n > 0 {
			where = name + ":" + strconv.Itoa(n)
		}
		what = typeName.ReplaceAllString(what, "unknown key $1")
		what = wrongType.ReplaceAllStringFunc(what, wanted)
		all = append(all, &Error{where, what})
	}
	return all
}

// maxFaults bounds how many refused values are told at once.
const maxFaults = 100

// faults are all that is wrong with data, of which err is the first. The
// library ends at a value that its own UnmarshalText refuses: with nothing in
// that value's place the rest is read, too.
func faults(name string, data []byte, err error, v any) (all []error) {
	data, told := bytes.Clone(data), map[int]bool{}
	for range maxFaults {
		all = append(all, describe(name, data, err)...)
		var te *yaml.TypeError
		n := quoted(data, err.Error())
		if errors.As(err, &te) || n == nil || !blank(data, n) {
			return all
		}
		told[n.Line] = true
		rest := reflect.New(reflect.TypeOf(v).Elem()).Interface()
		dec := yaml.NewDecoder(bytes.NewReader(data))
		dec.KnownFields(true)
		if err = dec.Decode(rest); err == nil {
			return append(all, invalid(name, data, rest, told)...)
		}
	}
	return all
}

// invalid is what Validate says of all lines but those of which it has been
// told: there a value is missing that was refused.
func invalid(name string, data []byte, v any, told map[int]bool) []error {
	val, ok := v.(Validator)
	if !ok {
		return nil
	}
	var root yaml.Node
	_ = yaml.Unmarshal(data, &root) // it has been decoded once
	return slices.DeleteFunc(located(name, &root, val.Validate()), func(err error) bool {
		var e *Error
		line := 0
		if errors.As(err, &e) {
			line, _ = strconv.Atoi(strings.TrimPrefix(e.Where, name+":"))
		}
		return told[line]
	})
}

// blank puts nothing in the place of a scalar that is written in one line.
func blank(data []byte, n *yaml.Node) bool {
	at := 0
	for range n.Line - 1 {
		at += bytes.IndexByte(data[at:], '\n') + 1
	}
	for range n.Column - 1 {
		_, size := utf8.DecodeRune(data[at:])
		at += size
	}
	for _, quote := range []string{"", `"`, "'"} {
		if raw := quote + n.Value + quote; raw != "" && bytes.HasPrefix(data[at:], []byte(raw)) {
			copy(data[at:], "~"+strings.Repeat(" ", len(raw)-1))
			return true
		}
	}
	return false
}

// quotedLine finds the line of the scalar that the message quotes: the
// library drops the line when a value's own UnmarshalText refuses it.
func quotedLine(data []byte, message string) int {
	if n := quoted(data, message); n != nil {
		return n.Line
	}
	return 0
}

// quoted is the scalar that the message quotes.
func quoted(data []byte, message string) *yaml.Node {
	var root yaml.Node
	if yaml.Unmarshal(data, &root) != nil {
		return nil
	}
	var empty *yaml.Node // a text of no length, which many messages quote
	var find func(n *yaml.Node) *yaml.Node
	find = func(n *yaml.Node) *yaml.Node {
		if n.Kind == yaml.ScalarNode && strings.Contains(message, strconv.Quote(n.Value)) {
			if n.Value != "" {
				return n
			}
			if empty == nil && n.Tag == "!!str" {
				empty = n
			}
		}
		for _, c := range n.Content {
			if found := find(c); found != nil {
				return found
			}
		}
		return nil
	}
	return cmp.Or(find(&root), empty)
}

var kinds = map[string]string{"seq": "a list", "map": "a mapping", "str": "a text", "int": "a number", "bool": "true or false", "float": "a number", "timestamp": "a time", "null": "nothing"}

func wanted(message string) string {
	m := wrongType.FindStringSubmatch(message)
	got, want := kinds[m[1]], "a mapping"
	if got == "" {
		got = m[1]
	}
	switch t := m[3]; {
	case strings.HasPrefix(t, "[]"):
		want = "a list"
	case strings.HasPrefix(t, "int"), strings.HasPrefix(t, "uint"), strings.HasPrefix(t, "float"):
		want = "a number"
	case t == "string":
		want = "a text"
	case t == "bool":
		want = "true or false"
	case t == "time.Time":
		want = "a time like 2026-12-01T00:00:00Z"
	}
	return got + " where " + want + " was wanted"
}

// At is an error about one key of a configuration, by its path
// ("routes[2].auth.slot"); Decode adds the file and the line.
func At(key string, format string, args ...any) error {
	return &keyError{key, fmt.Sprintf(format, args...)}
}

type keyError struct{ key, what string }

func (e *keyError) Error() string { return e.key + ": " + e.what }
func (e *keyError) ExitCode() int { return 2 }

// Under puts key errors below a key: the rules of a file that a part of another
// one becomes then speak of that part.
func Under(key string, err error) error {
	if err == nil {
		return nil
	}
	var all []error
	for _, e := range flatten(err) {
		var ke *keyError
		if errors.As(e, &ke) {
			e = &keyError{key + "." + ke.key, ke.what}
		}
		all = append(all, e)
	}
	return errors.Join(all...)
}

// locate gives each key error its file and line.
func locate(name string, data []byte, err error) error {
	var root yaml.Node
	_ = yaml.Unmarshal(data, &root) // it has been decoded once: lines are a help, not a need
	return join(located(name, &root, err))
}

func located(name string, root *yaml.Node, err error) (all []error) {
	if err == nil {
		return nil
	}
	for _, e := range flatten(err) {
		where := name
		var ke *keyError
		if errors.As(e, &ke) {
			if line := lineOf(root, ke.key); line > 0 {
				where += ":" + strconv.Itoa(line)
			}
		}
		all = append(all, &Error{where, e.Error()})
	}
	return all
}

func flatten(err error) []error {
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		var all []error
		for _, e := range j.Unwrap() {
			all = append(all, flatten(e)...)
		}
		return all
	}
	return []error{err}
}

// joined prints one fault a line and is still a configuration error.
type joined struct{ errs []error }

func join(errs []error) error {
	if len(errs) == 1 {
		return errs[0]
	}
	return &joined{errs}
}

func (j *joined) Error() string   { return errors.Join(j.errs...).Error() }
func (j *joined) Unwrap() []error { return j.errs }
func (j *joined) ExitCode() int   { return 2 }

// lineOf follows a key path as far as it leads and returns the line there.
func lineOf(node *yaml.Node, key string) int {
	if node.Kind == yaml.DocumentNode && len(node.Content) > 0 {
		node = node.Content[0]
	}
	line := node.Line
	for _, step := range strings.FieldsFunc(key, func(r rune) bool { return r == '.' || r == '[' || r == ']' }) {
		next := child(node, step)
		if next == nil {
			break
		}
		node, line = next, next.Line
	}
	return line
}

func child(node *yaml.Node, step string) *yaml.Node {
	switch node.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			if node.Content[i].Value == step {
				return node.Content[i+1]
			}
		}
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(step); err == nil && i < len(node.Content) {
			return node.Content[i]
		}
	}
	return nil
}

// Duration is a length of time in a configuration: "30s", "10m".
type Duration time.Duration

// UnmarshalText reads Go's form of a duration; it must not be negative.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v < 0 {
		return fmt.Errorf("duration %q: a length of time like 30s or 10m was wanted", text)
	}
	*d = Duration(v)
	return nil
}

// MarshalText is the inverse of UnmarshalText.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Or is the duration, or the default where it was left out.
func (d Duration) Or(def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return time.Duration(d)
}

// Bytes is a size in a configuration: "100MiB", "4KiB", "512".
type Bytes int64

var units = []struct {
	suffix string
	size   int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}, {"", 1}}

// UnmarshalText reads a whole number with an optional unit.
func (b *Bytes) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	for _, u := range units {
		number, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
		if err != nil || n < 0 || n > (1<<62)/u.size {
			break
		}
		*b = Bytes(n * u.size)
		return nil
	}
	return fmt.Errorf("size %q: a number of bytes like 4KiB or 100MiB was wanted", text)
}

// MarshalText writes the size with the largest unit that divides it.
func (b Bytes) MarshalText() ([]byte, error) {
	for _, u := range []string{"TiB", "GiB", "MiB", "KiB"} {
		for _, known := range units {
			if known.suffix == u && b != 0 && int64(b)%known.size == 0 {
				return fmt.Appendf(nil, "%d%s", int64(b)/known.size, u), nil
			}
		}
	}
	return strconv.AppendInt(nil, int64(b), 10), nil
}

// Or is the size, or the default where it was left out.
func (b Bytes) Or(def int64) int64 {
	if b == 0 {
		return def
	}
	return int64(b)
}
