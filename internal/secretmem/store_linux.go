package secretmem

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxSize bounds what all values take together, in bytes.
const maxSize = 4 << 20

// Store holds values by name. It lives as long as the process: its values
// point into memory that is never given back. The zero value is empty.
type Store struct {
	values map[string]string
	weak   error
}

// New copies the values into a new store. The caller should wipe its own.
func New(values map[string]string) (*Store, error) {
	f, err := fill(values)
	if err != nil {
		return nil, fmt.Errorf("keeping secrets in memory: %w", err)
	}
	defer f.Close()
	s, err := open(f)
	if err != nil {
		return nil, fmt.Errorf("keeping secrets in memory: %w", err)
	}
	return s, nil
}

// Weak says why this memory may be swapped, if it may.
func (s *Store) Weak() error { return s.weak }

// Get is a value, empty when there is none. The string points into the
// store's memory; it is not to be changed by unsafe means.
func (s *Store) Get(name string) string { return s.values[name] }

// Bytes is a value without a copy. Writing to it is a fault.
func (s *Store) Bytes(name string) []byte {
	v := s.values[name]
	return unsafe.Slice(unsafe.StringData(v), len(v))
}

// All are the values, each without a copy, as Bytes.
func (s *Store) All() [][]byte {
	var all [][]byte
	for name := range s.values {
		all = append(all, s.Bytes(name))
	}
	return all
}

// Share makes a descriptor for a child that gets some of the values; nil when
// there are none. Every child gets memory of its own: what one does to it no
// other sees.
func (s *Store) Share(whose func(name string) bool) (*os.File, error) {
	part := maps.Clone(s.values)
	maps.DeleteFunc(part, func(name, _ string) bool { return !whose(name) })
	if len(part) == 0 {
		return nil, nil
	}
	f, err := fill(part)
	if err != nil {
		return nil, fmt.Errorf("handing on secrets: %w", err)
	}
	return f, nil
}

// fill makes a file in memory that holds the values: the length of a name,
// the name, the length of the value, the value, and so on until a length is 0.
func fill(values map[string]string) (*os.File, error) {
	size := 4
	for name, value := range values {
		size += 8 + len(name) + len(value)
	}
	if size > maxSize {
		return nil, fmt.Errorf("%d bytes; at most %d are kept", size, maxSize)
	}
	if f, err := fillSecret(values, size); err == nil {
		return f, nil
	}
	return fillSealed(values, size)
}

// fillSecret uses memory that the kernel itself cannot read any more.
func fillSecret(values map[string]string, size int) (*os.File, error) {
	fd, err := unix.MemfdSecret(unix.O_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "secrets")
	if err := write(f, values, size); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// fillSealed uses a file in memory that nobody can change any more.
func fillSealed(values map[string]string, size int) (*os.File, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate("secrets", flags|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate("secrets", flags)
	}
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "secrets")
	if err = write(f, values, size); err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func write(f *os.File, values map[string]string, size int) error {
	if err := f.Truncate(int64(size)); err != nil {
		return err
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	rest := mem
	put := func(s string) {
		binary.NativeEndian.PutUint32(rest, uint32(len(s)))
		rest = rest[4+copy(rest[4:], s):]
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		put(name)
		put(values[name])
	}
	return unix.Munmap(mem)
}

// open maps a file that fill has made.
func open(f *os.File) (*Store, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	size := int(info.Size())
	if size < 4 || size > maxSize {
		return nil, fmt.Errorf("a file of %d bytes holds no secrets", size)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	_ = unix.Madvise(mem, unix.MADV_DONTDUMP) // cores are forbidden anyway
	s := &Store{values: map[string]string{}}
	// For memory of memfd_secret this says no more than what is already so.
	if err := unix.Mlock(mem); err != nil && !locked(f) {
		s.weak = fmt.Errorf("memory that holds secrets can be swapped: %w (see RLIMIT_MEMLOCK)", err)
	}
	return s, s.parse(mem)
}

// locked tells whether the file is memory that is never swapped.
func locked(f *os.File) bool {
	// Seals are a property of the other kind alone.
	_, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	return err != nil
}

func (s *Store) parse(mem []byte) error {
	take := func() (string, bool) {
		if len(mem) < 4 {
			return "", false
		}
		n := int(binary.NativeEndian.Uint32(mem))
		if mem = mem[4:]; n > len(mem) {
			return "", false
		}
		if n == 0 {
			return "", true
		}
		text := unsafe.String(&mem[0], n)
		mem = mem[n:]
		return text, true
	}
	for {
		name, ok := take()
		if ok && name == "" {
			return nil
		}
		value, whole := take()
		if !ok || !whole {
			return errors.New("the file of secrets is cut")
		}
		s.values[name] = value
	}
}

// Variable names the descriptor in the environment of a child.
const Variable = "SECRETS_FD"

var inherited = sync.OnceValues(func() (*Store, error) {
	text := os.Getenv(Variable)
	if text == "" {
		return &Store{}, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 3 {
		return nil, fmt.Errorf("%s %q: the number of a descriptor was wanted", Variable, text)
	}
	f := os.NewFile(uintptr(n), "secrets")
	defer f.Close()
	s, err := open(f)
	if err != nil {
		return nil, fmt.Errorf("taking over the secrets: %w", err)
	}
	return s, nil
})

// Slots looks values up: first among those that the supervisor has handed
// over, then in the environment, for a daemon that runs alone.
func Slots() (func(name string) string, error) {
	s, err := inherited()
	if err != nil {
		return nil, err
	}
	return func(name string) string {
		if v := s.Get(name); v != "" {
			return v
		}
		return os.Getenv(name)
	}, nil
}

// Names lists, sorted, the slots that Slots can look up.
func Names() ([]string, error) {
	s, err := inherited()
	if err != nil {
		return nil, err
	}
	names := maps.Clone(s.values)
	if names == nil {
		names = map[string]string{}
	}
	for _, line := range os.Environ() {
		name, _, _ := strings.Cut(line, "=")
		names[name] = ""
	}
	return slices.Sorted(maps.Keys(names)), nil
}
