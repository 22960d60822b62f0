package bundle

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"testing"
)

func TestPaths(t *testing.T) {
	d := Dirs{Etc: "/a", Run: "/b", State: "/c"}
	for in, want := range map[string]string{
		"/etc/airlock/ca/ca.crt": "/a/ca/ca.crt", "/etc/airlock": "/a", "/etc/airlocks/x": "/etc/airlocks/x", "/run/airlock/x.sock": "/b/x.sock",
		"/var/lib/airlock/git": "/c/git", "/elsewhere": "/elsewhere", "relative": "relative",
	} {
		if got := d.Path(in); got != want {
			t.Errorf("Path(%q) = %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{"unix:/run/airlock/p.sock": "unix:/b/p.sock", "0.0.0.0:9099": "0.0.0.0:9099"} {
		if got := d.Address(in); got != want {
			t.Errorf("Address(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestDirsFromEnv(t *testing.T) {
	t.Setenv("AIRLOCK_ETC", "/x")
	t.Setenv("AIRLOCK_RUN", "")
	t.Setenv("AIRLOCK_STATE", "")
	if got := DirsFromEnv(); got != (Dirs{"/x", "/run/airlock", "/var/lib/airlock"}) {
		t.Errorf("%+v", got)
	}
}

func TestArgs(t *testing.T) {
	t.Setenv("AIRLOCK_ETC", "/x")
	if file, _, err := Args(Egress, nil, io.Discard); err != nil || file != "/x/egress.yaml" {
		t.Errorf("%q, %v", file, err)
	}
	if file, _, err := Args(Egress, []string{"-config", "y"}, io.Discard); err != nil || file != "y" {
		t.Errorf("%q, %v", file, err)
	}
	var help bytes.Buffer
	if _, _, err := Args(Egress, []string{"-h"}, &help); !errors.Is(err, flag.ErrHelp) || help.Len() == 0 {
		t.Errorf("%v, %q", err, &help)
	}
}
