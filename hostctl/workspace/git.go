package workspace

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// gitName is where git looks for the repository of a folder.
const gitName = ".git"

// maxGitFile bounds the small files of a repository that are read here.
const maxGitFile = 1 << 20

// repository is what the .git file of a workspace names: a git folder that
// lies outside of the workspace.
type repository struct {
	dir    *os.File // of this folder alone, for a linked worktree; else all of it
	common *os.File // what the worktrees of a repository share; nil: dir holds all
}

func (r *repository) close() {
	if r == nil {
		return
	}
	r.dir.Close()
	if r.common != nil {
		r.common.Close()
	}
}

// CheckGit returns an error, which says what to do, when git would not work in
// a pair that gets the folder. The path has no links in it. Git folders that
// lie elsewhere are brought along by CopyWithGit, but not when the folder is
// bound: the agent would write to what the host's git executes.
//
// Nothing of the repository is executed: its files are read here, not by git.
func CheckGit(path string, bound bool) error {
	r, err := findRepository(path)
	if err != nil {
		return err
	}
	defer r.close()
	if r != nil && bound {
		return fmt.Errorf("the git folder of the workspace %s lies outside of it, in %s, so git would not work where only the workspace is bound: use mode copy, which brings a copy of the git folder along, or bind the folder that holds both", path, r.dir.Name())
	}
	return nil
}

// CopyWithGit copies the folder at the path, which has no links in it, as Copy
// does. Where its .git file names a folder outside of it (a linked worktree, a
// submodule), the copy gets a .git folder of its own: a copy of that one, and
// for a linked worktree of what it shares with the others.
func CopyWithGit(ctx context.Context, path, to string, o CopyOptions) error {
	var r *repository
	if !o.WithoutGit {
		var err error
		if r, err = findRepository(path); err != nil {
			return err
		}
	}
	defer r.close()
	from, err := Open(path)
	if err != nil {
		return err
	}
	defer from.Close()
	copied, err := copyTree(ctx, from, to, o, tree{})
	if err != nil || r == nil {
		return err
	}
	git := filepath.Join(to, gitName)
	if err := Remove(ctx, git); err != nil {
		return err
	}
	if err := r.copyTo(ctx, git, o, copied); err != nil {
		return fmt.Errorf("copying the git folder %s: %w", r.dir.Name(), err)
	}
	return nil
}

// copyTo makes one git folder of the repository, at the path git.
func (r *repository) copyTo(ctx context.Context, git string, o CopyOptions, copied int64) (err error) {
	if r.common == nil {
		_, err = copyTree(ctx, r.dir, git, o, tree{copied: copied})
	} else {
		copied, err = copyTree(ctx, r.common, git, o, tree{copied: copied, skip: func(path string) bool { return !shared(path) }})
		if err == nil {
			_, err = copyTree(ctx, r.dir, git, o, tree{copied: copied, merge: true, skip: ofWorktreeOnly})
		}
	}
	if err != nil {
		return err
	}
	dir, err := os.Open(git)
	if err != nil {
		return err
	}
	defer dir.Close()
	// The last value counts. For a worktree, bare in the shared configuration
	// meant the main folder; a submodule's worktree was relative to its old place.
	for _, name := range []string{"config", "config.worktree"} {
		err := appendTo(dir, name, "\n\n[core]\n\tbare = false\n\tworktree = ..\n")
		if err != nil && (name == "config" || !errors.Is(err, unix.ENOENT)) {
			return fmt.Errorf("setting the place of the files in %s: %w", name, err)
		}
	}
	return nil
}

// shared reports whether git looks for a path in the folder that all worktrees
// of a repository share (gitrepository-layout(5)). Folders that hold both count
// as shared. LFS keeps its objects there, too.
func shared(path string) bool {
	if slices.Contains([]string{"logs/HEAD", "info/sparse-checkout", "refs/bisect", "refs/worktree", "refs/rewritten"}, path) {
		return false
	}
	top, _, _ := strings.Cut(path, "/")
	return slices.Contains([]string{"branches", "config", "hooks", "info", "lfs", "logs", "lost-found", "objects", "packed-refs", "refs", "remotes", "rr-cache", "shallow", "svn"}, top)
}

// ofWorktreeOnly reports whether a path of a linked worktree's folder stays
// behind: what says where its parts are, and what git looks for elsewhere.
func ofWorktreeOnly(path string) bool {
	switch path {
	case "logs", "info", "refs":
		return false // what they hold is asked for next
	case "commondir", "gitdir", "locked":
		return true
	}
	for _, own := range []string{"refs/bisect/", "refs/worktree/", "refs/rewritten/"} {
		if strings.HasPrefix(path, own) {
			return false
		}
	}
	return shared(path)
}

// findRepository returns the git folder that a workspace's .git names outside
// of it; nil where git finds what it needs in the workspace, or where there is
// no repository. An error says why git would not work in the pair.
//
// An agent that had the folder before can have written its .git, and must not
// choose what the next agent gets: a git folder elsewhere counts when it names
// the workspace itself.
func findRepository(path string) (*repository, error) {
	dir, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var st unix.Stat_t
	switch err := unix.Fstatat(int(dir.Fd()), gitName, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case errors.Is(err, unix.ENOENT):
		return nil, subfolder(dir, path)
	case err != nil:
		return nil, fmt.Errorf("looking at %s: %w", filepath.Join(path, gitName), err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return nil, checkInside(path, filepath.Join(path, gitName))
	case unix.S_IFLNK:
		return nil, checkLink(dir, path)
	case unix.S_IFREG:
		return named(dir, path)
	}
	return nil, nil // git does not take it for a repository
}

// elsewhere is the end of each message.
const elsewhere = "; or set agent.workspace.git to none, to start without git in the workspace"

// subfolder says that the workspace is a part of a repository, whose git folder
// is further up. As for git, folders of other users' do not count.
func subfolder(dir *os.File, path string) error {
	var own unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &own); err != nil {
		return err
	}
	if isGitFolder(path) { // a bare repository, or the inside of one
		return nil
	}
	for at := path; at != filepath.Dir(at); {
		at = filepath.Dir(at)
		git := filepath.Join(at, gitName)
		var st, parent unix.Stat_t
		if unix.Lstat(at, &parent) != nil || parent.Dev != own.Dev {
			return nil // nor does git look further
		}
		if unix.Lstat(git, &st) != nil || (int(st.Uid) != os.Geteuid() && st.Uid != own.Uid) {
			continue
		}
		if st.Mode&unix.S_IFMT != unix.S_IFREG && !isGitFolder(git) {
			continue
		}
		return fmt.Errorf("the workspace %s is a part of the repository in %s, and git would not work in it: set agent.workspace.path to %s%s", path, at, at, elsewhere)
	}
	return nil
}

// isGitFolder reports whether git would take a folder for a repository.
func isGitFolder(path string) bool {
	for _, name := range []string{"HEAD", "objects", "refs"} {
		if _, err := os.Lstat(filepath.Join(path, name)); err != nil {
			return false
		}
	}
	return true
}

// checkLink accepts a .git that is a link to a folder in the workspace.
func checkLink(dir *os.File, path string) error {
	target, err := readlinkat(int(dir.Fd()), gitName)
	if err != nil {
		return err
	}
	if filepath.IsLocal(target) {
		return checkInside(path, filepath.Join(path, target))
	}
	return fmt.Errorf("%s is a symbolic link to %q, which is not in the workspace, and git would not work: put the git folder itself in its place%s", filepath.Join(path, gitName), target, elsewhere)
}

// named reads a .git file.
func named(dir *os.File, path string) (*repository, error) {
	file := filepath.Join(path, gitName)
	text, err := readAt(dir, gitName)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
	}
	target, ok := strings.CutPrefix(strings.TrimRight(string(text), "\r\n"), "gitdir: ")
	if !ok || target == "" {
		return nil, nil // git says that it is no repository, here as there
	}
	if filepath.IsLocal(target) {
		return nil, checkInside(path, filepath.Join(path, target))
	}
	r, err := openRepository(path, absolute(path, target))
	if err != nil {
		return nil, fmt.Errorf("git would not work in the workspace: %s names the git folder %q: %w%s", file, target, err, elsewhere)
	}
	return r, nil
}

func absolute(base, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(base, path)
}

// openRepository opens a git folder outside of the workspace that names the
// workspace.
func openRepository(path, target string) (r *repository, err error) {
	if target, err = Resolve(target); err != nil {
		return nil, err
	}
	r = &repository{}
	if r.dir, err = Open(target); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			r.close()
			r = nil
		}
	}()
	shares, err := readAt(r.dir, "commondir")
	switch {
	case errors.Is(err, unix.ENOENT):
		return r, errors.Join(r.namesInConfig(path, target), complete(r.dir, "modules"))
	case err != nil:
		return r, err
	}
	if err := r.namesWorktree(path, target); err != nil {
		return r, err
	}
	common, err := Resolve(absolute(target, strings.TrimSpace(string(shares))))
	if err != nil {
		return r, err
	}
	if filepath.Join(common, "worktrees", filepath.Base(target)) != target {
		return r, fmt.Errorf("it says that it shares %s, which is not the repository that it is in", common)
	}
	if r.common, err = Open(common); err != nil {
		return r, err
	}
	return r, errors.Join(complete(r.dir, "modules"), complete(r.common, "reftable"))
}

// errOther says that a git folder is not of the workspace that names it.
func errOther(have, path string) error {
	return fmt.Errorf("that one is of %q and not of %s, and what names it could have been written by an agent", have, path)
}

// namesWorktree checks the file through which a linked worktree's folder knows
// where its .git file is.
func (r *repository) namesWorktree(path, target string) error {
	text, err := readAt(r.dir, "gitdir")
	if err != nil {
		return err
	}
	back := absolute(target, strings.TrimSpace(string(text)))
	if have, err := Resolve(filepath.Dir(back)); err != nil || have != path || filepath.Base(back) != gitName {
		return fmt.Errorf("%w; if the worktree was moved, run in it: git worktree repair", errOther(back, path))
	}
	return nil
}

// namesInConfig checks core.worktree, through which the folder of a submodule
// knows where its files are.
func (r *repository) namesInConfig(path, target string) error {
	value, err := configured(r.dir, "core.worktree")
	if err != nil {
		return err
	}
	if value == "" {
		return fmt.Errorf("its configuration does not name the workspace; if it is this workspace's, run: git -C %s config core.worktree %s", target, path)
	}
	have, err := Resolve(absolute(target, value))
	if err != nil || have != path {
		return errOther(cmp.Or(have, value), path)
	}
	return nil
}

// complete returns an error where a git folder cannot be used at another place:
// it needs another one, or holds one of the named folders.
func complete(dir *os.File, without ...string) error {
	if text, err := readAt(dir, "objects/info/alternates"); err == nil && len(bytes.TrimSpace(text)) > 0 {
		return errAlternates
	} else if err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	for _, name := range without {
		if fd, err := openBelow(dir, name, unix.O_RDONLY|unix.O_DIRECTORY); err == nil {
			unix.Close(fd)
			return errors.New(whyWithout[name])
		}
	}
	return nil
}

var whyWithout = map[string]string{
	"modules":  "it holds submodules of its own, which would not be found at another place: set agent.workspace.path to the top folder of the main repository",
	"reftable": "it keeps its references in the format reftable, which cannot be copied for one worktree: set agent.workspace.path to the main folder of the repository",
}

var errAlternates = errors.New("it takes objects from another repository (objects/info/alternates), which does not come along; to give it all of them, run in the workspace: git repack -a -d, and remove that file")

// checkInside returns an error where a git folder in the workspace needs what
// is not in there.
func checkInside(path, git string) error {
	dir, err := Open(git)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil // git finds none, here as there
	}
	if err != nil {
		return fmt.Errorf("git would not work in the workspace: %w%s", err, elsewhere)
	}
	defer dir.Close()
	fail := func(err error) error {
		return fmt.Errorf("git would not work in the workspace with the git folder %s: %w%s", git, err, elsewhere)
	}
	text, err := readAt(dir, "objects/info/alternates")
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fail(err)
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\r\n")
		if line != "" && line[0] != '#' && (filepath.IsAbs(line) || !within(path, filepath.Join(git, "objects", line))) {
			return fail(errAlternates)
		}
	}
	value, err := configured(dir, "core.worktree")
	if err != nil {
		return fail(err)
	}
	if value != "" && (filepath.IsAbs(value) || filepath.Join(git, value) != path) {
		return fail(fmt.Errorf("core.worktree in its configuration is %q; set it to the path of the workspace relative to the git folder, or remove it", value))
	}
	return nil
}

func within(root, path string) bool {
	rel, err := filepath.Rel(root, path)
	return err == nil && filepath.IsLocal(rel)
}

// configured returns the last value of a variable in the configuration of a git
// folder; empty where there is none. Included files do not count.
func configured(dir *os.File, variable string) (value string, err error) {
	for _, name := range []string{"config", "config.worktree"} {
		text, err := readAt(dir, name)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return "", err
		}
		section := ""
		for line := range strings.Lines(string(text)) {
			line = strings.TrimSpace(line)
			if rest, ok := strings.CutPrefix(line, "["); ok {
				head, after, _ := strings.Cut(rest, "]")
				section, line = strings.ToLower(head), strings.TrimSpace(after)
			}
			key, v, ok := strings.Cut(line, "=")
			if ok && section+"."+strings.ToLower(strings.TrimSpace(key)) == variable {
				value = unquoteGit(strings.TrimSpace(v))
			}
		}
	}
	return value, nil
}

// unquoteGit undoes what git-config(1) says of values.
func unquoteGit(text string) string {
	var b strings.Builder
	quoted := false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			quoted = !quoted
		case c == '\\' && i+1 < len(text):
			i++
			b.WriteByte(text[i])
		case (c == '#' || c == ';') && !quoted:
			return strings.TrimRight(b.String(), " \t")
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// openBelow opens what is at a path below dir and follows no link on the way.
func openBelow(dir *os.File, path string, flags int) (int, error) {
	parts := strings.Split(path, "/")
	at := int(dir.Fd())
	for i, name := range parts {
		how := passing | unix.O_DIRECTORY
		if i == len(parts)-1 {
			how = flags
		}
		next, err := openat(at, name, how|unix.O_NOFOLLOW)
		if i > 0 {
			unix.Close(at)
		}
		if err != nil {
			return -1, err
		}
		at = next
	}
	return at, nil
}

// readAt reads a small regular file below dir and waits for nothing.
func readAt(dir *os.File, path string) ([]byte, error) {
	fd, err := openBelow(dir, path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: filepath.Join(dir.Name(), path), Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, cmp.Or(err, fmt.Errorf("%s is no regular file", filepath.Join(dir.Name(), path)))
	}
	text, err := io.ReadAll(io.LimitReader(f, maxGitFile+1))
	if err == nil && len(text) > maxGitFile {
		err = fmt.Errorf("%s is larger than %d bytes", filepath.Join(dir.Name(), path), maxGitFile)
	}
	return text, err
}

// appendTo adds a text to a regular file in dir.
func appendTo(dir *os.File, name, text string) error {
	fd, err := openBelow(dir, name, unix.O_WRONLY|unix.O_APPEND|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
