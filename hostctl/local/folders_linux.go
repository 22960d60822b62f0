package local

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"airlock/hostctl/pair"
	"airlock/hostctl/pair/folder"
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
	if err := folder.MakeReadable(p.Files()); err != nil {
		return fmt.Errorf("opening the agent's files to it: %w", err)
	}
	if p.Agent.Workspace.Mode != pair.Copy {
		return nil
	}
	if err := folder.Copy(ctx, p.Agent.Workspace.Path, workspaceCopy(p), pairs); err != nil {
		return fmt.Errorf("copying the workspace: %w", err)
	}
	uid, gid := ids(p.Name)
	if err := folder.Give(workspaceCopy(p), uid, gid); err != nil {
		return fmt.Errorf("giving the workspace to the agent: %w", err)
	}
	return nil
}
