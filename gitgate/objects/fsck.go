package objects

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/go-git/go-git/v5/plumbing"
)

// Fault is what is wrong with an object, by the name that git's fsck gives it (git-fsck(1), "FSCK MESSAGES").
type Fault struct {
	Object Hash
	Type   Type
	ID     string
}

func (f Fault) Error() string {
	return fmt.Sprintf("git's own checks (receive.fsckObjects) refuse %s %.8s: %s", f.Type, f.Object.String(), f.ID)
}

// Unwrap makes every fault a corruption.
func (f Fault) Unwrap() error { return ErrCorrupt }

// Check looks at a commit, a tree or a tag as git does with receive.fsckObjects: what is an error there, or a warning that counts as one, is a
// Fault. Blobs are only judged by what they are for: see CheckModules and CheckAttributes.
func Check(o Object) error {
	id := ""
	switch o.Type {
	case plumbing.CommitObject:
		id = checkCommit(o.Data)
	case plumbing.TagObject:
		id = checkTag(o.Data)
	case plumbing.TreeObject:
		id = checkTree(o.Data)
	}
	return fault(o, id)
}

func fault(o Object, id string) error {
	if id == "" {
		return nil
	}
	return Fault{o.Hash, o.Type, id}
}

// checkHeaders wants text without NUL in front of the first empty line.
func checkHeaders(data []byte) string {
	head, _, found := bytes.Cut(data, []byte("\n\n"))
	switch {
	case bytes.IndexByte(head, 0) >= 0:
		return "nulInHeader"
	case !found && (len(data) == 0 || data[len(data)-1] != '\n'):
		return "unterminatedHeader"
	}
	return ""
}

// header takes "KEY VALUE\n" from the beginning.
func header(data []byte, key string) (value string, rest []byte, ok bool) {
	after, ok := bytes.CutPrefix(data, []byte(key+" "))
	if !ok {
		return "", data, false
	}
	line, rest, ok := bytes.Cut(after, []byte{'\n'})
	return string(line), rest, ok
}

func checkCommit(data []byte) string {
	if id := checkHeaders(data); id != "" {
		return id
	}
	value, rest, ok := header(data, "tree")
	if !ok {
		return "missingTree"
	}
	if _, err := ParseHash(value); err != nil {
		return "badTreeSha1"
	}
	for {
		if value, rest, ok = header(rest, "parent"); !ok {
			break
		}
		if _, err := ParseHash(value); err != nil {
			return "badParentSha1"
		}
	}
	authors := 0
	for ; ; authors++ {
		if value, rest, ok = header(rest, "author"); !ok {
			break
		}
		if id := checkIdent(value); id != "" {
			return id
		}
	}
	switch {
	case authors == 0:
		return "missingAuthor"
	case authors > 1:
		return "multipleAuthors"
	}
	if value, _, ok = header(rest, "committer"); !ok {
		return "missingCommitter"
	}
	if id := checkIdent(value); id != "" {
		return id
	}
	if bytes.IndexByte(data, 0) >= 0 {
		return "nulInCommit"
	}
	return ""
}

func checkTag(data []byte) string {
	if id := checkHeaders(data); id != "" {
		return id
	}
	value, rest, ok := header(data, "object")
	if !ok {
		return "missingObject"
	}
	if _, err := ParseHash(value); err != nil {
		return "badObjectSha1"
	}
	if value, rest, ok = header(rest, "type"); !ok {
		return "missingTypeEntry"
	}
	if !slices.Contains([]string{"commit", "tree", "blob", "tag"}, value) {
		return "badType"
	}
	if _, rest, ok = header(rest, "tag"); !ok {
		return "missingTagEntry"
	}
	if value, _, ok = header(rest, "tagger"); ok {
		return checkIdent(value)
	}
	return ""
}

// checkIdent reads "Name <mail> seconds zone". The name may be missing, the space before the mail may not.
func checkIdent(ident string) string {
	at := strings.IndexAny(ident, "<>")
	switch {
	case at == 0 && ident[0] == '<':
		return "missingNameBeforeEmail"
	case at < 0:
		return "missingEmail"
	case ident[at] == '>':
		return "badName"
	case ident[at-1] != ' ':
		return "missingSpaceBeforeEmail"
	}
	rest := ident[at+1:]
	if at = strings.IndexAny(rest, "<>"); at < 0 || rest[at] != '>' {
		return "badEmail"
	}
	date, ok := strings.CutPrefix(rest[at+1:], " ")
	if !ok {
		return "missingSpaceBeforeDate"
	}
	return checkDate(date)
}

// maxSeconds is what git's dates can hold.
const maxSeconds = 1<<63 - 1

func checkDate(date string) string {
	seconds, zone, ok := strings.Cut(date, " ")
	digits := strings.Trim(seconds, "0123456789") == ""
	switch {
	case seconds == "" || !digits || !ok:
		return "badDate"
	case seconds[0] == '0' && len(seconds) > 1:
		return "zeroPaddedDate"
	case len(seconds) > 19 || len(seconds) == 19 && seconds > fmt.Sprint(int64(maxSeconds)):
		return "badDateOverflow"
	case len(zone) != 5 || (zone[0] != '+' && zone[0] != '-') || strings.Trim(zone[1:], "0123456789") != "":
		return "badTimezone"
	}
	return ""
}

func checkTree(data []byte) string {
	var last treeName
	seen := map[string]bool{}
	for n := 0; len(data) > 0; n++ {
		zero := data[0] == '0'
		mode, name, h, rest, err := nextEntry(data)
		if err != nil || len(name) == 0 {
			return "badTree"
		}
		data = rest
		if id := checkEntry(mode, string(name), h); id != "" {
			return id
		}
		if zero {
			return "zeroPaddedFilemode"
		}
		if seen[string(name)] {
			return "duplicateEntries"
		}
		seen[string(name)] = true
		next := treeName{string(name), isTree(mode)}
		if n > 0 && !last.before(next) {
			return "treeNotSorted"
		}
		last = next
	}
	return ""
}

// checkEntry judges one line of a tree by itself. What a mode may be is git's canon, with whatever permissions.
func checkEntry(mode uint32, name string, h Hash) string {
	kind := mode & 0o170000
	switch {
	case kind != 0o040000 && kind != 0o100000 && kind != 0o120000 && kind != 0o160000:
		return "badFilemode"
	case h.IsZero():
		return "nullSha1"
	case strings.Contains(name, "/"):
		return "fullPathname"
	case name == ".":
		return "hasDot"
	case name == "..":
		return "hasDotdot"
	case isDotGit(name):
		return "hasDotgit"
	case isDotFile(name, "gitmodules", "gi7eba") && kind == 0o120000:
		return "gitmodulesSymlink"
	case isDotFile(name, "gitmodules", "gi7eba") && kind != 0o100000:
		return "gitmodulesBlob"
	case isDotFile(name, "gitattributes", "gi7d29") && kind == 0o120000:
		return "gitattributesSymlink"
	case isDotFile(name, "gitattributes", "gi7d29") && kind != 0o100000:
		return "gitattributesBlob"
	}
	return ""
}

// IsModules tells a file that git takes for .gitmodules on some system.
func IsModules(name string) bool { return isDotFile(name, "gitmodules", "gi7eba") }

// IsAttributes tells a file that git takes for .gitattributes on some system.
func IsAttributes(name string) bool { return isDotFile(name, "gitattributes", "gi7d29") }

// treeName is a name as trees are sorted by it: a folder's ends in a slash.
type treeName struct {
	name string
	tree bool
}

func (a treeName) before(b treeName) bool {
	x, y := a.name, b.name
	if a.tree {
		x += "/"
	}
	if b.tree {
		y += "/"
	}
	return x < y
}

// isDotGit tells a name that some file system takes for .git: HFS+ does not see some characters and letter case, NTFS has a short name, streams
// behind a colon, and no dots and spaces at the end; a backslash divides names there.
func isDotGit(name string) bool {
	if strings.EqualFold(unseen(name), ".git") {
		return true
	}
	for part := range strings.SplitSeq(name, `\`) {
		head, _, _ := strings.Cut(part, ":")
		head = strings.TrimRight(head, ". ")
		if strings.EqualFold(head, ".git") || strings.EqualFold(head, "git~1") {
			return true
		}
	}
	return false
}

// isDotFile tells a name that some file system takes for ".NAME". NTFS makes short names of six characters and ~1 to ~4; when these are taken, of a hash
// of the name, whose beginning is given.
func isDotFile(name, file, hashed string) bool {
	if strings.EqualFold(unseen(name), "."+file) {
		return true
	}
	for part := range strings.SplitSeq(name, `\`) {
		head, _, _ := strings.Cut(part, ":")
		head = strings.TrimRight(head, ". ")
		if strings.EqualFold(head, "."+file) || isShort(head, file[:6], "1234") || isHashed(head, hashed) {
			return true
		}
	}
	return false
}

func isShort(name, six, digits string) bool {
	return len(name) == 8 && strings.EqualFold(name[:6], six) && name[6] == '~' && strings.IndexByte(digits, name[7]) >= 0
}

// isHashed knows "gi7eba~1", and with more digits behind the tilde fewer before it.
func isHashed(name, hashed string) bool {
	head, digits, ok := strings.Cut(name, "~")
	return ok && len(name) == 8 && len(head) <= 6 && digits[0] >= '1' && strings.Trim(digits, "0123456789") == "" && strings.EqualFold(head, hashed[:len(head)])
}

// unseen takes out what HFS+ does not see in a name. Behind what is no UTF-8 anything may happen: git takes it for the end.
func unseen(name string) string {
	for i, c := range name {
		if _, n := utf8.DecodeRuneInString(name[i:]); c == utf8.RuneError && n == 1 || c == 0xfffe || c == 0xffff {
			name = name[:i]
			break
		}
	}
	return strings.Map(func(c rune) rune {
		switch {
		case c >= 0x200c && c <= 0x200f, c >= 0x202a && c <= 0x202e, c >= 0x206a && c <= 0x206f, c == 0xfeff:
			return -1
		}
		return c
	}, name)
}

const (
	maxModules        = 100 << 20 // bytes, as git's core.bigFileThreshold would have it
	maxAttributes     = 100 << 20
	maxAttributesLine = 2048
)

// CheckAttributes judges the content of a .gitattributes.
func CheckAttributes(o Object) error {
	if len(o.Data) > maxAttributes {
		return fault(o, "gitattributesLarge")
	}
	for line := range bytes.Lines(o.Data) {
		if len(bytes.TrimSuffix(line, []byte{'\n'})) >= maxAttributesLine {
			return fault(o, "gitattributesLineLength")
		}
	}
	return nil
}
