package activation

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"airlock/internal/logs"
	"airlock/internal/metrics"
)

// Keys of the link that are not notifications.
const (
	keyOpen    = "X_OPEN"    // daemon: number, space, path
	keyOpened  = "X_OPENED"  // supervisor: number; the descriptor is attached
	keyRefused = "X_REFUSED" // supervisor: number, space, why
	keyMetrics = "METRICS"   // supervisor: number
	keyConns   = "X_CONNS"   // supervisor: number
	keyQuery   = "X_ASK"     // supervisor: number, space, topic, space, the question as JSON
	keyAnswer  = "X_ANSWER"  // daemon: number, space, the result

	// KeyLevel is the supervisor's command that sets the log level.
	KeyLevel = "LOG"
	// KeyNoSuccessor is the supervisor's message that no other process takes over the sockets.
	KeyNoSuccessor = "X_ENDING"
)

const (
	openTimeout   = 2 * time.Second // for the supervisor's reply to keyOpen
	maxFromDaemon = 1 << 20         // bytes, from a daemon
	maxToDaemon   = 4 << 10         // bytes, from the supervisor: small enough for the socket's buffer to take a line as a whole
)

// daemonLink is the daemon's end of the link. It reads for as long as the process lives.
type daemonLink struct {
	writeMu         sync.Mutex
	w               io.Writer
	socket          *net.UnixConn // nil: a pipe, which takes notifications only
	supervisorGone  chan struct{} // closed when the supervisor has closed its end
	noSuccessor     chan struct{} // closed on KeyNoSuccessor
	noSuccessorOnce sync.Once     // closes noSuccessor
	handle          func(l *daemonLink, key, val string)

	mu           sync.Mutex
	lastNumber   uint64
	pendingFiles map[uint64]chan openResult
	proposals    map[uint64]pendingProposal // proposals
}

// openResult is the result of a request for a file.
type openResult struct {
	file *os.File
	err  error
}

var ownLink = sync.OnceValue(func() *daemonLink {
	n, err := strconv.Atoi(os.Getenv("NOTIFY_FD"))
	if err != nil || n < firstFD {
		return nil
	}
	syscall.CloseOnExec(n)
	return newDaemonLink(os.NewFile(uintptr(n), "link"), handleCommand)
})

// newDaemonLink makes a link of f, which it closes or keeps. If f is a socket, a goroutine that ends
// with the connection passes the supervisor's commands to handle.
func newDaemonLink(f *os.File, handle func(l *daemonLink, key, val string)) *daemonLink {
	l := &daemonLink{
		w: f, handle: handle, pendingFiles: map[uint64]chan openResult{},
		supervisorGone: make(chan struct{}), noSuccessor: make(chan struct{}),
	}
	if c, err := net.FileConn(f); err == nil {
		if socket, ok := c.(*net.UnixConn); ok {
			f.Close()
			l.w, l.socket = socket, socket
			go l.receive()
		}
	}
	return l
}

// NoSuccessor returns a channel that is closed once it is known that no other process takes over this
// process's sockets: the supervisor has said so, or there is none. See httpd.DrainOptions.
func NoSuccessor() <-chan struct{} {
	if l := ownLink(); l != nil && l.socket != nil {
		return l.noSuccessor
	}
	closed := make(chan struct{})
	close(closed)
	return closed
}

// handleCommand executes a command of the supervisor.
func handleCommand(l *daemonLink, key, val string) {
	switch key {
	case KeyNoSuccessor:
		l.noSuccessorOnce.Do(func() { close(l.noSuccessor) })
	case KeyLevel:
		_ = logs.SetLevel(val) // the supervisor has checked the level
	case keyMetrics:
		text, err := json.Marshal(metrics.Gather())
		if err == nil {
			_ = l.send(keyAnswer, val+" "+string(text)) // fails when the supervisor is gone
		}
	case keyConns:
		_ = l.send(keyAnswer, fmt.Sprintf("%s %d", val, OpenConns()))
	case keyQuery:
		number, question, _ := strings.Cut(val, " ")
		if text, err := answerQuery(question); err == nil {
			_ = l.send(keyAnswer, number+" "+string(text)) // fails when the supervisor is gone
		}
	}
}

// send sends pairs of key and value in one write.
func (l *daemonLink) send(pairs ...string) error {
	var b strings.Builder
	for i := 0; i+1 < len(pairs); i += 2 {
		fmt.Fprintf(&b, "%s=%s\n", pairs[i], oneLine(pairs[i+1]))
	}
	l.writeMu.Lock()
	defer l.writeMu.Unlock()
	_, err := io.WriteString(l.w, b.String())
	return err
}

func oneLine(s string) string { return strings.ReplaceAll(s, "\n", "; ") }

// receive handles the supervisor's lines until it closes its end. A descriptor arrives with the first
// byte of its line, so descriptors are assigned in the order of the lines.
func (l *daemonLink) receive() {
	defer close(l.supervisorGone)
	buf, oob := make([]byte, maxToDaemon), make([]byte, unix.CmsgSpace(4))
	var text []byte
	var files []*os.File
	for {
		n, oobn, _, _, err := l.socket.ReadMsgUnix(buf, oob)
		if err != nil || n == 0 {
			return
		}
		files = append(files, parseFiles(oob[:oobn])...)
		text = append(text, buf[:n]...)
		for {
			line, rest, ok := bytes.Cut(text, []byte("\n"))
			if !ok {
				break
			}
			text = rest
			key, val, _ := strings.Cut(string(line), "=")
			files = l.handleLine(key, val, files)
		}
	}
}

func parseFiles(oob []byte) (files []*os.File) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "opened by the supervisor"))
		}
	}
	return files
}

// handleLine handles a line and returns the files that belong to later ones.
func (l *daemonLink) handleLine(key, val string, files []*os.File) []*os.File {
	number, why, _ := strings.Cut(val, " ")
	switch key {
	case keyOpened:
		if len(files) == 0 {
			l.deliverFile(number, openResult{err: errors.New("the supervisor's reply came without the file")})
			return nil
		}
		l.deliverFile(number, openResult{file: files[0]})
		return files[1:]
	case keyRefused:
		l.deliverFile(number, openResult{err: errors.New(why)})
	case keyProposed, keyDecided:
		l.handleProposal(key, val)
	default:
		l.handle(l, key, val)
	}
	return files
}

// deliverFile passes a result to the call of open that waits for it. If there is none, it closes the
// file.
func (l *daemonLink) deliverFile(number string, a openResult) {
	n, _ := strconv.ParseUint(number, 10, 64) // 0 is never used
	l.mu.Lock()
	defer l.mu.Unlock()
	if waiter, ok := l.pendingFiles[n]; ok {
		delete(l.pendingFiles, n)
		waiter <- a // buffered
	} else if a.file != nil {
		a.file.Close()
	}
}

// open asks the supervisor to open a file.
func (l *daemonLink) open(path string) (*os.File, error) {
	if strings.ContainsRune(path, '\n') {
		return nil, fs.ErrInvalid
	}
	waiter := make(chan openResult, 1)
	l.mu.Lock()
	l.lastNumber++
	number := l.lastNumber
	l.pendingFiles[number] = waiter
	l.mu.Unlock()
	if err := l.send(keyOpen, fmt.Sprintf("%d %s", number, path)); err != nil {
		return nil, fmt.Errorf("asking the supervisor: %w", err)
	}
	timeout := time.NewTimer(openTimeout)
	defer timeout.Stop()
	select {
	case a := <-waiter:
		return a.file, a.err
	case <-timeout.C:
		// Unless the reply came just now, this result takes its place and a later one is dropped.
		l.deliverFile(strconv.FormatUint(number, 10), openResult{err: errors.New("the supervisor did not answer in time")})
		a := <-waiter
		return a.file, a.err
	case <-l.supervisorGone:
		return nil, errors.New("the supervisor is gone")
	}
}

// Open opens a file for reading. If this process lacks the permission and has a supervisor, it asks
// the supervisor, which decides whether the daemon may have the file.
func Open(path string) (*os.File, error) {
	f, err := os.Open(path)
	if !errors.Is(err, fs.ErrPermission) {
		return f, err
	}
	l := ownLink()
	if l == nil || l.socket == nil {
		return nil, err
	}
	if f, err = l.open(path); err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return f, nil
}

// Link is the supervisor's end of the link to one daemon process.
type Link struct {
	socket *net.UnixConn
	raw    syscall.RawConn
	open   func(path string) (*os.File, error)

	mu         sync.Mutex
	lastNumber uint64
	pending    map[uint64]chan<- string

	onPropose ProposeFunc  // nil: the process may not propose
	run       func(func()) // runs what asks
	proposals openProposals
}

// NewLink makes both ends: the supervisor's, and the file that the process inherits as NOTIFY_FD. The
// caller closes that file after the start. open opens the files that the process may read through the
// supervisor; nil: none.
func NewLink(open func(path string) (*os.File, error)) (*Link, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a link: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "link"), os.NewFile(uintptr(fds[1]), "link")
	defer ours.Close() // FileConn takes a descriptor of its own
	c, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("making a link: %w", err)
	}
	socket := c.(*net.UnixConn)
	raw, err := socket.SyscallConn()
	if err != nil {
		socket.Close()
		theirs.Close()
		return nil, nil, fmt.Errorf("making a link: %w", err)
	}
	return &Link{socket: socket, raw: raw, open: open, pending: map[uint64]chan<- string{}}, theirs, nil
}

// Receive passes each notification to notify until the process closes its end, and then closes the
// link. It handles requests for files and proposals itself.
func (l *Link) Receive(notify func(key, val string)) {
	defer l.Close()
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(errors.New("the daemon has ended"))
	lines := bufio.NewScanner(l.socket)
	lines.Buffer(make([]byte, 0, 4<<10), maxFromDaemon)
	for lines.Scan() {
		switch key, val, ok := strings.Cut(lines.Text(), "="); {
		case !ok:
		case key == keyOpen:
			number, path, _ := strings.Cut(val, " ")
			l.sendFile(number, path)
		case key == keyPropose:
			number, question, _ := strings.Cut(val, " ")
			l.startProposal(ctx, number, question)
		case key == keyWithdraw:
			number, why, _ := strings.Cut(val[:min(len(val), maxToDaemon)], " ")
			l.withdrawProposal(number, why)
		case key == keyAnswer:
			number, text, _ := strings.Cut(val, " ")
			l.deliver(number, text)
		default:
			notify(key, val[:min(len(val), maxToDaemon)]) // it may be shown to people
		}
	}
}

// sendFile replies to a request for a file. The reply is lost if the process does not read its link.
func (l *Link) sendFile(number, path string) {
	f, err := (*os.File)(nil), error(fs.ErrPermission)
	if l.open != nil {
		f, err = l.open(path)
	}
	if err != nil {
		_ = l.Send(keyRefused, number+" "+err.Error())
		return
	}
	defer f.Close()
	_ = l.writeLine([]byte(keyOpened+"="+number+"\n"), unix.UnixRights(int(f.Fd())))
}

// Metrics returns the metrics of the process.
func (l *Link) Metrics(ctx context.Context) (families []metrics.Family, err error) {
	text, err := l.call(ctx, keyMetrics, "")
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal([]byte(text), &families); err != nil {
		return nil, fmt.Errorf("reading metrics: %w", err)
	}
	return families, nil
}

// Conns returns the number of open connections of the process.
func (l *Link) Conns(ctx context.Context) (int, error) {
	text, err := l.call(ctx, keyConns, "")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(text)
}

// Query sends a query to the process and decodes the result into the pointer answer. If the process
// has no handler for the topic, it returns when ctx ends.
func (l *Link) Query(ctx context.Context, topic string, question, answer any) error {
	asked, err := json.Marshal(question)
	if err != nil {
		return fmt.Errorf("encoding a query about %s: %w", topic, err)
	}
	text, err := l.call(ctx, keyQuery, topic+" "+string(asked))
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(text), answer); err != nil {
		return fmt.Errorf("parsing the result of a query about %s: %w", topic, err)
	}
	return nil
}

// call sends a request and returns the reply.
func (l *Link) call(ctx context.Context, key, question string) (string, error) {
	waiter := make(chan string, 1)
	l.mu.Lock()
	l.lastNumber++
	number := l.lastNumber
	l.pending[number] = waiter
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.pending, number)
	}()
	if err := l.Send(key, strings.TrimSpace(strconv.FormatUint(number, 10)+" "+question)); err != nil {
		return "", fmt.Errorf("asking over the link: %w", err)
	}
	select {
	case text := <-waiter:
		return text, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// deliver passes a reply to the call that waits for it, if any.
func (l *Link) deliver(number, text string) {
	n, _ := strconv.ParseUint(number, 10, 64) // 0 is never used
	l.mu.Lock()
	defer l.mu.Unlock()
	if waiter, ok := l.pending[n]; ok {
		delete(l.pending, n)
		waiter <- text // buffered
	}
}

// Send sends one line without blocking. If the process does not read its link and the socket's buffer
// is full, the line is lost and Send returns an error.
func (l *Link) Send(key, val string) error {
	line := fmt.Appendf(nil, "%s=%s\n", key, oneLine(val))
	if len(line) > maxToDaemon {
		return fmt.Errorf("a line of %d bytes is too long for a link", len(line))
	}
	return l.writeLine(line, nil)
}

// writeLine writes a line, with descriptors attached, without blocking.
func (l *Link) writeLine(line, rights []byte) (err error) {
	n := 0
	if e := l.raw.Write(func(fd uintptr) bool {
		n, err = unix.SendmsgN(int(fd), line, rights, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		return true
	}); e != nil {
		return e
	}
	if err == nil && n < len(line) {
		l.Close() // the next line would be read as the rest of this one
		return io.ErrShortWrite
	}
	return err
}

// Close closes the supervisor's end.
func (l *Link) Close() error { return l.socket.Close() }
