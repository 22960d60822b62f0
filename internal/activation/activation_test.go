package activation

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

func TestBindUnix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	for range 2 { // the second time over the name left by the first
		l, err := Bind("unix:" + path)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
		l.Close()
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := Bind("unix:" + file); err == nil {
		l.Close()
		t.Error("a file that is not a socket was replaced")
	}
}

func TestBindRefusesAnAddressInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if second, err := Bind(l.Addr().String()); err == nil {
		second.Close()
		t.Error("an address was bound twice")
	}
}

func TestListenVariables(t *testing.T) {
	for _, c := range []struct {
		pid, count, names string
		bad               bool
	}{{"", "", "", false}, {"1", "1", "x", false}, {"", "many", "", true}, {"", "-1", "", true}, {"", "1000", "", true}, {"", "2", "egress", true}, {"", "1", "a:b", true}, {"", "1", "a", true}} {
		if all, err := fromEnv(c.pid, c.count, c.names); (err != nil) != c.bad || len(all) != 0 {
			t.Errorf("%+v: %v, %v", c, all, err)
		}
	}
}
