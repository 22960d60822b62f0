package handoff

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

// Words of the link that are no news.
const (
	keyOpen    = "X_OPEN"    // daemon: number, space, path
	keyOpened  = "X_OPENED"  // supervisor: number; the descriptor comes beside it
	keyRefused = "X_REFUSED" // supervisor: number, space, why
	keyMetrics = "METRICS"   // supervisor: number
	keyConns   = "X_CONNS"   // supervisor: number
	keyAsk     = "X_ASK"     // supervisor: number, space, topic, space, the question as JSON
	keyAnswer  = "X_ANSWER"  // daemon: number, space, what was asked for

	// KeyLevel is the supervisor's word for the level of the logger.
	KeyLevel = "LOG"
	// KeyEnding is the supervisor's word that nobody takes over.
	KeyEnding = "X_ENDING"
)

const (
	openWithin = 2 * time.Second // the supervisor's answer to keyOpen
	maxLine    = 1 << 20         // bytes, from a daemon
	maxTold    = 4 << 10         // bytes, from the supervisor: fits the socket's buffer as a whole or not at all
)

// link is the daemon's end. It reads for as long as the process lives.
type link struct {
	writing sync.Mutex
	w       io.Writer
	socket  *net.UnixConn // nil: a pipe, which takes news and says nothing
	gone    chan struct{} // closed when the supervisor hung up
	ending  chan struct{} // closed when it has said that nobody takes over
	once    sync.Once     // for that
	obey    func(l *link, key, val string)

	mu      sync.Mutex
	number  uint64
	waiting map[uint64]chan answer
	asked   map[uint64]asked // proposals
}

// answer is what came of a question for a file.
type answer struct {
	file *os.File
	err  error
}

var ownLink = sync.OnceValue(func() *link {
	n, err := strconv.Atoi(os.Getenv("NOTIFY_FD"))
	if err != nil || n < firstFD {
		return nil
	}
	syscall.CloseOnExec(n)
	return newLink(os.NewFile(uintptr(n), "link"), obey)
})

// newLink takes over the file and starts to read where there is something to
// read.
func newLink(f *os.File, obey func(l *link, key, val string)) *link {
	l := &link{w: f, gone: make(chan struct{}), ending: make(chan struct{}), waiting: map[uint64]chan answer{}, obey: obey}
	if c, err := net.FileConn(f); err == nil {
		if socket, ok := c.(*net.UnixConn); ok {
			f.Close()
			l.w, l.socket = socket, socket
			go l.listen()
		}
	}
	return l
}

// Ending is closed once it is known that nobody takes this process's sockets
// over: the supervisor has said so, or there is none. A process that is
// replaced leaves slowly, see httpd.Leave.
func Ending() <-chan struct{} {
	if l := ownLink(); l != nil && l.socket != nil {
		return l.ending
	}
	nobody := make(chan struct{})
	close(nobody)
	return nobody
}

// obey does what the supervisor says.
func obey(l *link, key, val string) {
	switch key {
	case KeyEnding:
		l.once.Do(func() { close(l.ending) })
	case KeyLevel:
		_ = logs.SetLevel(val) // the supervisor has checked the word
	case keyMetrics:
		text, err := json.Marshal(metrics.Gather())
		if err == nil {
			_ = l.say(keyAnswer, val+" "+string(text)) // as with all news
		}
	case keyConns:
		_ = l.say(keyAnswer, fmt.Sprintf("%s %d", val, OpenConns()))
	case keyAsk:
		number, question, _ := strings.Cut(val, " ")
		if text, err := consult(question); err == nil {
			_ = l.say(keyAnswer, number+" "+string(text)) // as with all news
		}
	}
}

// say sends pairs of key and value, in one write.
func (l *link) say(pairs ...string) error {
	var b strings.Builder
	for i := 0; i+1 < len(pairs); i += 2 {
		fmt.Fprintf(&b, "%s=%s\n", pairs[i], oneLine(pairs[i+1]))
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	_, err := io.WriteString(l.w, b.String())
	return err
}

func oneLine(s string) string { return strings.ReplaceAll(s, "\n", "; ") }

// listen obeys the supervisor's lines until it hangs up. A descriptor comes
// with the first byte of its line, so they are taken in the order of lines.
func (l *link) listen() {
	defer close(l.gone)
	buf, oob := make([]byte, maxTold), make([]byte, unix.CmsgSpace(4))
	var text []byte
	var files []*os.File
	for {
		n, oobn, _, _, err := l.socket.ReadMsgUnix(buf, oob)
		if err != nil || n == 0 {
			return
		}
		files = append(files, received(oob[:oobn])...)
		text = append(text, buf[:n]...)
		for {
			line, rest, ok := bytes.Cut(text, []byte("\n"))
			if !ok {
				break
			}
			text = rest
			key, val, _ := strings.Cut(string(line), "=")
			files = l.heard(key, val, files)
		}
	}
}

func received(oob []byte) (files []*os.File) {
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

// heard takes a line and returns the files that belong to later ones.
func (l *link) heard(key, val string, files []*os.File) []*os.File {
	number, why, _ := strings.Cut(val, " ")
	switch key {
	case keyOpened:
		if len(files) == 0 {
			l.answered(number, answer{err: errors.New("the supervisor's answer came without the file")})
			return nil
		}
		l.answered(number, answer{file: files[0]})
		return files[1:]
	case keyRefused:
		l.answered(number, answer{err: errors.New(why)})
	case keyProposed, keyDecided:
		l.heardOf(key, val)
	default:
		l.obey(l, key, val)
	}
	return files
}

// answered hands an answer to who waits for it.
func (l *link) answered(number string, a answer) {
	n, _ := strconv.ParseUint(number, 10, 64) // 0 is nobody's number
	l.mu.Lock()
	defer l.mu.Unlock()
	if waiter, ok := l.waiting[n]; ok {
		delete(l.waiting, n)
		waiter <- a // it has room for one
	} else if a.file != nil {
		a.file.Close()
	}
}

// open asks the supervisor for a file.
func (l *link) open(path string) (*os.File, error) {
	if strings.ContainsRune(path, '\n') {
		return nil, fs.ErrInvalid
	}
	waiter := make(chan answer, 1)
	l.mu.Lock()
	l.number++
	number := l.number
	l.waiting[number] = waiter
	l.mu.Unlock()
	if err := l.say(keyOpen, fmt.Sprintf("%d %s", number, path)); err != nil {
		return nil, fmt.Errorf("asking the supervisor: %w", err)
	}
	timeout := time.NewTimer(openWithin)
	defer timeout.Stop()
	select {
	case a := <-waiter:
		return a.file, a.err
	case <-timeout.C:
		// From now on an answer that comes late finds nobody.
		l.answered(strconv.FormatUint(number, 10), answer{err: errors.New("the supervisor did not answer in time")})
		a := <-waiter
		return a.file, a.err
	case <-l.gone:
		return nil, errors.New("the supervisor is gone")
	}
}

// Open opens a file for reading. Where this process may not, and a supervisor
// is there, the supervisor opens it: it decides which files it gives to whom.
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

// Link is the supervisor's end of the link to one process.
type Link struct {
	socket *net.UnixConn
	raw    syscall.RawConn
	open   func(path string) (*os.File, error)

	mu      sync.Mutex
	number  uint64
	waiting map[uint64]chan<- string

	asks      Ask          // nil: the process may not propose
	start     func(func()) // runs what asks
	proposals proposals
}

// NewLink makes both ends: ours, and the file that the process gets as
// NOTIFY_FD. Whoever calls it closes that file after the start. The function
// open decides which files the process may read through us; nil is none.
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
	return &Link{socket: socket, raw: raw, open: open, waiting: map[uint64]chan<- string{}}, theirs, nil
}

// Listen passes on each line of news until the process hangs up, and closes
// the link. It answers questions for files itself.
func (l *Link) Listen(heard func(key, val string)) {
	defer l.Close()
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(errors.New("the daemon has ended"))
	lines := bufio.NewScanner(l.socket)
	lines.Buffer(make([]byte, 0, 4<<10), maxLine)
	for lines.Scan() {
		switch key, val, ok := strings.Cut(lines.Text(), "="); {
		case !ok:
		case key == keyOpen:
			number, path, _ := strings.Cut(val, " ")
			l.give(number, path)
		case key == keyPropose:
			number, question, _ := strings.Cut(val, " ")
			l.propose(ctx, number, question)
		case key == keyWithdraw:
			number, why, _ := strings.Cut(val[:min(len(val), maxTold)], " ")
			l.withdraw(number, why)
		case key == keyAnswer:
			number, text, _ := strings.Cut(val, " ")
			l.answered(number, text)
		default:
			heard(key, val[:min(len(val), maxTold)]) // it may be shown to people
		}
	}
}

// give answers a question for a file. A process that does not read its
// answers gets none.
func (l *Link) give(number, path string) {
	f, err := (*os.File)(nil), error(fs.ErrPermission)
	if l.open != nil {
		f, err = l.open(path)
	}
	if err != nil {
		_ = l.Tell(keyRefused, number+" "+err.Error())
		return
	}
	defer f.Close()
	_ = l.send([]byte(keyOpened+"="+number+"\n"), unix.UnixRights(int(f.Fd())))
}

// Metrics asks the process for what it counts.
func (l *Link) Metrics(ctx context.Context) (families []metrics.Family, err error) {
	text, err := l.ask(ctx, keyMetrics, "")
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal([]byte(text), &families); err != nil {
		return nil, fmt.Errorf("reading metrics: %w", err)
	}
	return families, nil
}

// Conns asks the process for the number of its open connections.
func (l *Link) Conns(ctx context.Context) (int, error) {
	text, err := l.ask(ctx, keyConns, "")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(text)
}

// Ask asks the process something of a topic that it answers, and decodes what
// it says into the pointer answer.
func (l *Link) Ask(ctx context.Context, topic string, question, answer any) error {
	asked, err := json.Marshal(question)
	if err != nil {
		return fmt.Errorf("asking over the link: %w", err)
	}
	text, err := l.ask(ctx, keyAsk, topic+" "+string(asked))
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(text), answer); err != nil {
		return fmt.Errorf("reading an answer about %s: %w", topic, err)
	}
	return nil
}

func (l *Link) ask(ctx context.Context, key, question string) (string, error) {
	waiter := make(chan string, 1)
	l.mu.Lock()
	l.number++
	number := l.number
	l.waiting[number] = waiter
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.waiting, number)
	}()
	if err := l.Tell(key, strings.TrimSpace(strconv.FormatUint(number, 10)+" "+question)); err != nil {
		return "", fmt.Errorf("asking over the link: %w", err)
	}
	select {
	case text := <-waiter:
		return text, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (l *Link) answered(number, text string) {
	n, _ := strconv.ParseUint(number, 10, 64) // 0 is nobody's number
	l.mu.Lock()
	defer l.mu.Unlock()
	if waiter, ok := l.waiting[n]; ok {
		delete(l.waiting, n)
		waiter <- text // it has room for one
	}
}

// Tell sends one line. It never waits: a process that does not read its link
// fills the socket's buffer, and then the line is lost with an error.
func (l *Link) Tell(key, val string) error {
	line := fmt.Appendf(nil, "%s=%s\n", key, oneLine(val))
	if len(line) > maxTold {
		return fmt.Errorf("a line of %d bytes is too long for a link", len(line))
	}
	return l.send(line, nil)
}

func (l *Link) send(line, rights []byte) (err error) {
	n := 0
	if e := l.raw.Write(func(fd uintptr) bool {
		n, err = unix.SendmsgN(int(fd), line, rights, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		return true
	}); e != nil {
		return e
	}
	if err == nil && n < len(line) {
		l.Close() // the rest of a line that is cut would be taken for another
		return io.ErrShortWrite
	}
	return err
}

// Close hangs up.
func (l *Link) Close() error { return l.socket.Close() }
