package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"airlock/hostctl/pair"
)

const (
	sidecarsLog = "sidecars.log"
	agentLog    = "agent.log"
)

func openLog(p pair.Plan, name string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(p.Logs(), name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the log: %w", err)
	}
	return f, nil
}

func makeFolders(p pair.Plan) error {
	for _, dir := range []string{p.Dir, p.Run(), p.State(), p.Logs(), p.Files()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("making the pair's folders: %w", err)
		}
	}
	return nil
}

func workspaceCopy(p pair.Plan) string { return filepath.Join(p.Dir, "workspace") }

// workspaceSource is the folder that becomes /workspace; empty: none.
func workspaceSource(p pair.Plan) string {
	switch p.Agent.Workspace.Mode {
	case pair.Copy:
		return workspaceCopy(p)
	case pair.Bind:
		return p.Agent.Workspace.Path
	}
	return ""
}

// fillFolders copies the workspace and lets the agent read its files: it may
// be another user than the one who wrote them.
func fillFolders(ctx context.Context, p pair.Plan, pairs string) error {
	if err := makeReadable(p.Files()); err != nil {
		return fmt.Errorf("opening the agent's files to it: %w", err)
	}
	if p.Agent.Workspace.Mode != pair.Copy {
		return nil
	}
	uid, gid := ids(p.Name)
	c := copier{from: p.Agent.Workspace.Path, to: workspaceCopy(p), leaveOut: pairs, uid: uid, gid: gid}
	if err := c.run(ctx); err != nil {
		return fmt.Errorf("copying the workspace: %w", err)
	}
	return nil
}

func makeReadable(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode := info.Mode().Perm() | 0o444
		if d.IsDir() || mode&0o100 != 0 {
			mode |= 0o111
		}
		return os.Chmod(path, mode)
	})
}

// copier copies a tree and gives it to the agent. Links stay links, setuid
// bits and special files stay behind, and so does the folder of the pairs:
// it holds keys.
type copier struct {
	from, to, leaveOut string
	uid, gid           int
}

func (c copier) run(ctx context.Context) error {
	type stamp struct {
		path string
		info fs.FileInfo
	}
	var dirs []stamp // their times are set last: filling them changes them
	err := filepath.WalkDir(c.from, func(path string, d fs.DirEntry, err error) error {
		if err := errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		if path == c.leaveOut {
			return fs.SkipDir
		}
		rel, err := filepath.Rel(c.from, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		target := filepath.Join(c.to, rel)
		if info.IsDir() {
			dirs = append(dirs, stamp{target, info})
		}
		return c.entry(path, target, info)
	})
	for i := len(dirs) - 1; i >= 0 && err == nil; i-- {
		err = os.Chmod(dirs[i].path, dirs[i].info.Mode().Perm())
		err = errors.Join(err, os.Chtimes(dirs[i].path, dirs[i].info.ModTime(), dirs[i].info.ModTime()))
	}
	return err
}

func (c copier) entry(path, target string, info fs.FileInfo) error {
	var err error
	switch {
	case info.IsDir():
		err = os.Mkdir(target, 0o700)
	case info.Mode()&fs.ModeSymlink != 0:
		var link string
		if link, err = os.Readlink(path); err == nil {
			err = os.Symlink(link, target)
		}
	case info.Mode().IsRegular():
		err = copyFile(path, target, info)
	default:
		return nil
	}
	if err == nil && os.Geteuid() == 0 {
		err = os.Lchown(target, c.uid, c.gid)
	}
	return err
}

func copyFile(path, target string, info fs.FileInfo) (err error) {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, info.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	err = errors.Join(err, out.Chmod(info.Mode().Perm()), out.Close())
	return errors.Join(err, os.Chtimes(target, info.ModTime(), info.ModTime()))
}

// removeTree removes what an agent may have left in any mode.
func removeTree(dir string) error {
	if os.RemoveAll(dir) == nil {
		return nil
	}
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, _ error) error {
		if d != nil && d.IsDir() {
			_ = os.Chmod(path, 0o700) // the second attempt says what is wrong
		}
		return nil
	})
	return os.RemoveAll(dir)
}
