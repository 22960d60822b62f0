package local

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"airlock/hostctl/pair"
	"airlock/hostctl/workspace"
)

const (
	sidecarsLog = "sidecars.log"
	agentLog    = "agent.log"

	maxSidecarsLog = 32 << 20 // bytes
)

func openLog(p pair.Plan, name string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(p.Logs(), name), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
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

// workspaceSource is the folder that becomes /workspace, by a path without
// links; empty: none.
func workspaceSource(p pair.Plan) (string, error) {
	switch p.Agent.Workspace.Mode {
	case pair.Copy:
		// Links on the way to our own folder are the operator's.
		source, err := filepath.EvalSymlinks(workspaceCopy(p))
		if err != nil {
			return "", fmt.Errorf("finding the copy of the workspace: %w", err)
		}
		return source, nil
	case pair.Bind:
		return p.Agent.Workspace.Path, nil
	}
	return "", nil
}

// checkBound refuses a workspace that is to be bound and holds a program with
// the rights of its owner that the agent could write. It returns the sockets
// and pipes that are to be hidden.
func checkBound(ctx context.Context, p pair.Plan) (doors []string, err error) {
	if p.Agent.Workspace.Mode != pair.Bind {
		return nil, nil
	}
	dir, err := workspace.Open(p.Agent.Workspace.Path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	uid, gid := ids(p.Name)
	if os.Geteuid() == 0 { // the agent sees every file as its own
		var st unix.Stat_t
		if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
			return nil, fmt.Errorf("looking at the workspace: %w", err)
		}
		uid, gid = int(st.Uid), int(st.Gid)
	}
	if err := workspace.CheckBound(ctx, dir, uid, gid); err != nil {
		return nil, err
	}
	if doors, err = workspace.Doors(ctx, dir); err != nil {
		return nil, fmt.Errorf("looking at the workspace: %w", err)
	}
	return doors, nil
}

// fillFolders copies the workspace and lets the agent read its files: it may
// be another user than the one who wrote them.
func fillFolders(ctx context.Context, p pair.Plan, pairs string) error {
	if err := workspace.MakeReadable(ctx, p.Files()); err != nil {
		return fmt.Errorf("opening the agent's files to it: %w", err)
	}
	if p.Agent.Workspace.Mode != pair.Copy {
		return nil
	}
	w := p.Agent.Workspace
	o := workspace.CopyOptions{LeaveOut: pairs, MaxBytes: w.MaxBytesOrDefault(), WithoutGit: w.WithoutGit}
	if err := workspace.CopyWithGit(ctx, w.Path, workspaceCopy(p), o); err != nil {
		return fmt.Errorf("copying the workspace: %w", err)
	}
	uid, gid := ids(p.Name)
	if err := workspace.Give(ctx, workspaceCopy(p), uid, gid); err != nil {
		return fmt.Errorf("giving the workspace to the agent: %w", err)
	}
	return nil
}
