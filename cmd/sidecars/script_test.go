package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestScripts speaks with the binary as people do.
func TestScripts(t *testing.T) {
	self, err := os.Executable()
	must(t, err)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("AIRLOCK_ETC", env.WorkDir+"/etc")
			env.Setenv("AIRLOCK_RUN", env.WorkDir+"/run")
			env.Setenv("AIRLOCK_STATE", env.WorkDir+"/state")
			env.Setenv("PATH", env.WorkDir+"/bin:"+env.Getenv("PATH"))
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			if err := os.Mkdir(env.WorkDir+"/bin", 0o755); err != nil {
				return err
			}
			for _, name := range []string{"sidecars", "egress", "pipelock", "supervisor", "git-upload-pack", "git-receive-pack"} {
				if err := os.Symlink(self, env.WorkDir+"/bin/"+name); err != nil {
					return err
				}
			}
			return nil
		},
	})
}
