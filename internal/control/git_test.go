package control

import (
	"testing"
	"time"
)

func TestMirrors(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	got := mirrorTable(mirrorsIn(`# TYPE airlock_git_repo_packs gauge
airlock_git_repo_packs{daemon="git-gate",repo="lib"} 1
airlock_git_repo_packs{daemon="git-gate",repo="app"} 12
airlock_git_repo_bytes{daemon="git-gate",repo="app"} 4.56e+07
airlock_git_repo_refs{daemon="git-gate",repo="app"} 7
airlock_git_repo_waiting{daemon="git-gate",repo="app"} 2
airlock_git_repo_refreshed_seconds{daemon="git-gate",repo="app"} 1.79999993e+09
airlock_git_repo_refreshed_seconds{daemon="git-gate",repo="lib"} 0
airlock_git_repo_packs{daemon="pipelock",repo="none"} 1
`), now)
	want := `REPO  REFS  PACKS  SIZE   REFRESHED  WAITING
app   7     12     45.6M  1m10s ago  2
lib   0     1      -      never      0
`
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}
