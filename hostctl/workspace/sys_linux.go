package workspace

import (
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// passing opens a folder only to go on from it: that takes no right to list it.
const passing = unix.O_PATH

// chmodAt sets the mode of a folder or regular file and follows no link.
func chmodAt(dir int, name string, mode uint32) error {
	fd, err := openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFDIR && kind != unix.S_IFREG {
		return unix.ELOOP
	}
	return unix.Chmod("/proc/self/fd/"+strconv.Itoa(fd), mode) // there is no fchmod for such a descriptor
}

// clone shares the data of a file where the file system can (FICLONE).
func clone(out, in *os.File) bool { return unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) == nil }

// dataAt returns where the next data at or after the offset begins and ends;
// end and end where there is none.
func dataAt(f *os.File, offset, end int64) (from, to int64) {
	from, err := unix.Seek(int(f.Fd()), offset, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return end, end
	}
	if err != nil {
		return offset, end // a file system that knows no holes
	}
	if to, err = unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE); err != nil {
		to = end
	}
	return from, min(to, end)
}

// copyAttributes copies the extended attributes of the name space user: the
// others are of the host's system, or of its security.
func copyAttributes(to, from int) error {
	size, err := unix.Flistxattr(from, nil)
	if err != nil || size == 0 {
		return ifSupported(err)
	}
	list := make([]byte, size)
	if size, err = unix.Flistxattr(from, list); err != nil {
		return ifSupported(err)
	}
	for _, name := range strings.Split(string(list[:size]), "\x00") {
		if !strings.HasPrefix(name, "user.") {
			continue
		}
		value := make([]byte, 64<<10) // the most that the kernel takes (XATTR_SIZE_MAX)
		n, err := unix.Fgetxattr(from, name, value)
		if err == nil {
			err = unix.Fsetxattr(to, name, value[:n], 0)
		}
		if err := ifSupported(err); err != nil {
			return err
		}
	}
	return nil
}

// ifSupported makes no error of an attribute that is gone, too many for the
// list that was read, or unknown to a file system.
func ifSupported(err error) error {
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ERANGE) || errors.Is(err, unix.EPERM) {
		return nil
	}
	return err
}
