package cage

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// maxMessage bounds one message in bytes: a sequenced packet must fit into
// the kernel's default send buffer.
const maxMessage = 192 << 10

// Operations of a request.
const (
	opRun    = "run"
	opStatus = "status"
	opStop   = "stop"
)

// request is what hostctl asks of the init, one a connection. A run without a
// terminal brings three descriptors along: input, output, errors.
type request struct {
	Op     string
	Argv   []string `json:",omitempty"`
	Env    []string `json:",omitempty"`
	Dir    string   `json:",omitempty"`
	Main   bool     `json:",omitempty"` // the agent's own command: one at a time
	Tied   bool     `json:",omitempty"` // the init ends when the caller hangs up before the process has ended
	Detach bool     `json:",omitempty"` // output into the log; lives on without us
	TTY    bool     `json:",omitempty"`
	Rows   uint16   `json:",omitempty"`
	Cols   uint16   `json:",omitempty"`
}

// signalling follows a run on the same connection.
type signalling struct{ Signal int }

// reply is an answer of the cage or its init: to a run two come, Started (with
// the terminal's master when one was wanted) and Exited.
type reply struct {
	Err     string   `json:",omitempty"`
	Code    int      `json:",omitempty"` // the exit code that goes with Err
	Started bool     `json:",omitempty"`
	Exited  bool     `json:",omitempty"`
	Exit    int      `json:",omitempty"`
	Missing []string `json:",omitempty"` // layers that the kernel lacks
}

// conn carries JSON messages and descriptors over a SOCK_SEQPACKET socket.
type conn struct{ *net.UnixConn }

func (c conn) send(v any, files ...*os.File) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(data) > maxMessage {
		return fmt.Errorf("arguments and environment take %d bytes, more than the %d that fit", len(data), maxMessage)
	}
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	_, _, err = c.WriteMsgUnix(data, rights, nil)
	return err
}

// receive reads one message and its descriptors, which are close-on-exec.
// io.EOF: the other side is gone.
func (c conn) receive(v any) ([]*os.File, error) {
	data, oob := make([]byte, maxMessage+1), make([]byte, unix.CmsgSpace(16*4))
	n, oobn, flags, _, err := c.ReadMsgUnix(data, oob)
	if err != nil {
		return nil, err
	}
	files, err := rights(oob[:oobn])
	if n == 0 && len(files) == 0 && err == nil {
		return nil, io.EOF
	}
	if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = errors.New("a message was too long")
	}
	if err == nil {
		err = json.Unmarshal(data[:n], v)
	}
	if err != nil {
		closeAll(files)
		return nil, err
	}
	return files, nil
}

func rights(oob []byte) ([]*os.File, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for _, m := range msgs {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			closeAll(files)
			return nil, err
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// fileConn makes a conn of an inherited socket and closes the file.
func fileConn(f *os.File) (conn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return conn{}, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return conn{}, errors.New("not a unix socket")
	}
	return conn{u}, nil
}
