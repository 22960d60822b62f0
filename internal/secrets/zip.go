package secrets

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"io"
	"slices"
	"unicode/utf8"

	"airlock/internal/unpack"
)

const (
	// localHeader is how each file of a zip begins.
	localHeader = "PK\x03\x04"
	// localSize is how long its header is, without names, in bytes.
	localSize = 30
)

func zipMembers(data []byte, fn memberFunc) error {
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil { // its list of files is missing
		return localFiles(data, fn)
	}
	if len(z.File) > maxMembers {
		return ErrTooLarge
	}
	for _, f := range z.File {
		if err := fn(f.Name+"\n"+f.Comment, zipBody(f, data)); err != nil {
			return err
		}
	}
	if !slices.ContainsFunc(z.File, func(f *zip.File) bool { return first(f, data) }) { // the list does not tell of it
		return localFile(data, fn)
	}
	return nil
}

// first reports whether a file is the one that data begins with; the others have been seen by their
// own headers, too.
func first(f *zip.File, data []byte) bool {
	at, err := f.DataOffset()
	le := binary.LittleEndian
	return err == nil && at == localSize+int64(le.Uint16(data[26:]))+int64(le.Uint16(data[28:]))
}

// zipBody is what a file in the list of a zip holds.
func zipBody(f *zip.File, data []byte) memberReader {
	start, err := f.DataOffset()
	if err != nil || start > int64(len(data)) || f.CompressedSize64 == 0 {
		return nothing
	}
	if own := f.Flags&encrypted == 0 && (f.Method == zip.Store || f.Method == zip.Deflate); own {
		return func(r *run) ([]byte, error) {
			from, err := f.Open()
			if err != nil {
				return nil, nil
			}
			defer from.Close()
			return streamed(from)(r)
		}
	}
	packed := data[start:]
	packed = packed[:min(uint64(len(packed)), f.CompressedSize64)]
	return methodBody(method(f.Method), f.Flags, int64(f.UncompressedSize64), packed)
}

func nothing(*run) ([]byte, error) { return nil, nil }

// Flags of a file (APPNOTE.TXT §4.4.4).
const (
	encrypted = 1 << 0
	marked14  = 1 << 1 // LZMA ends with a mark
	sizeAfter = 1 << 3 // the sizes follow the file
)

// method is how a file is compressed (APPNOTE.TXT §4.4.5).
type method uint16

const (
	byDeflate method = 8
	byBzip2   method = 12
	byLZMA    method = 14
	oldZstd   method = 20
	byZstd    method = 93
	byXZ      method = 95
)

// methodBody reads what is compressed in one of the ways that zip has. size is -1 where it is not
// known.
func methodBody(by method, flags uint16, size int64, packed []byte) memberReader {
	if flags&encrypted != 0 {
		return unreadable
	}
	switch by {
	case byDeflate:
		return streamed(flate.NewReader(bytes.NewReader(packed)))
	case byBzip2:
		return withCost(largeDecoder, bzip2Body(packed))
	case byZstd, oldZstd:
		return withCost(largeDecoder, zstdBody(packed))
	case byXZ:
		return unpacked(models, func(room unpack.Room) ([]byte, error) { return unpack.XZ(packed, true, room) })
	case byLZMA:
		if flags&marked14 != 0 {
			size = -1
		}
		return zipLZMA(size, packed)
	}
	return unreadable
}

// zipLZMA has a version and the length of its properties before them (APPNOTE.TXT §5.8.8).
func zipLZMA(size int64, packed []byte) memberReader {
	const header, props = 4, 5
	if len(packed) < header+props {
		return func(*run) ([]byte, error) { return nil, io.ErrUnexpectedEOF }
	}
	packed = packed[header:]
	return unpacked(modelsOf(packed[0]), func(room unpack.Room) ([]byte, error) {
		return unpack.LZMA(packed[:props], packed[props:], size, 0, room)
	})
}

// modelsOf is what the models cost that a byte of properties asks for.
func modelsOf(props byte) int { return 1 + unpack.Models(props)/bytesPerModel }

// localFiles reads the files of a zip that was cut off.
func localFiles(data []byte, fn memberFunc) error {
	for n := 0; n < maxMembers; n++ {
		i := bytes.Index(data, []byte(localHeader))
		if i < 0 {
			return nil
		}
		if err := localFile(data[i:], fn); err != nil {
			return err
		}
		data = data[i+len(localHeader):]
	}
	return ErrTooLarge
}

// localFile is the first file of a zip, as its own header has it (APPNOTE.TXT §4.3.7).
func localFile(data []byte, fn memberFunc) error {
	const header = localSize
	if len(data) < header {
		return nil
	}
	le := binary.LittleEndian
	flags, by, packed, size := le.Uint16(data[6:]), method(le.Uint16(data[8:])), le.Uint32(data[18:]), int64(le.Uint32(data[22:]))
	name, start := header+int(le.Uint16(data[26:])), header+int(le.Uint16(data[26:]))+int(le.Uint16(data[28:]))
	if start > len(data) || flags&encrypted == 0 && by == 0 { // what is only stored has been seen
		return nil
	}
	if by != byDeflate || flags&encrypted != 0 { // programs have the mark in them, too
		if packed == 0 && flags&sizeAfter == 0 || !plausible(data[:header], data[header:name]) {
			return nil
		}
	}
	if flags&sizeAfter != 0 || size == 1<<32-1 {
		size = -1
	}
	return fn(string(data[header:name]), methodBody(by, flags, size, data[start:]))
}

// plausible reports whether the header of a file and its name are such as archivers write: a
// version up to 6.3, a method that has a number, a name in text.
func plausible(header, name []byte) bool {
	const maxVersion, maxMethod = 63, 99
	version, by := header[4], binary.LittleEndian.Uint16(header[8:])
	if version > maxVersion || by > maxMethod || by > 20 && by < 93 || len(name) == 0 || !utf8.Valid(name) {
		return false
	}
	return !bytes.ContainsFunc(name, func(c rune) bool { return c < ' ' })
}
