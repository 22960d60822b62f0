package gitgate

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"airlock/internal/hostkey"
	"airlock/internal/policy"
	"golang.org/x/crypto/ssh"
)

// session is one use of a service of upstream: what it says first, then one request and its answer.
type session interface {
	// Greeting is where the advertisement is read from.
	Greeting() *bufio.Reader
	// Ask sends body and returns the answer. With an error there may be one, too: of an upstream that stopped listening.
	Ask(body io.Reader, size int64) (*bufio.Reader, error)
	// Said is what upstream has told people beside the protocol; empty: nothing. It waits for the end of that for a moment.
	Said() string
	Close() error
}

// transport opens sessions with one upstream. The context ends them.
type transport interface {
	open(ctx context.Context, service string) (session, error)
}

// dialer connects to a host by the configured address or, without one, by DNS.
type dialer map[policy.Host]netip.Addr

func (d dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if h, err := policy.ParseHost(host); err == nil {
		if addr, ok := d[h]; ok {
			address = net.JoinHostPort(addr.String(), port)
		}
	}
	return new(net.Dialer).DialContext(ctx, network, address)
}

// silence is the error of an upstream that said nothing for too long.
type silence time.Duration

func (s silence) Error() string {
	return fmt.Sprintf("upstream said nothing for %s", time.Duration(s))
}

// watchdog ends a context when nobody has touched it for a while.
type watchdog struct {
	timer  *time.Timer
	limit  atomic.Int64
	cancel context.CancelCauseFunc
}

func watch(ctx context.Context, limit time.Duration) (context.Context, *watchdog) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watchdog{cancel: cancel}
	w.limit.Store(int64(limit))
	w.timer = time.AfterFunc(limit, func() { cancel(silence(w.limit.Load())) })
	return ctx, w
}

func (w *watchdog) touch() { w.timer.Reset(time.Duration(w.limit.Load())) }

// allow changes how long nobody need touch it, from now on.
func (w *watchdog) allow(limit time.Duration) {
	w.limit.Store(int64(limit))
	w.touch()
}

func (w *watchdog) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

// rest is for the time in which nobody waits for upstream.
func (w *watchdog) rest() { w.timer.Stop() }

// listening is what upstream says. Only waiting for it counts, not what is done with it in between.
type listening struct {
	io.Reader
	dog *watchdog
}

func (l listening) Read(p []byte) (int, error) {
	l.dog.touch()
	defer l.dog.rest()
	return l.Reader.Read(p)
}

// talking is what upstream is told. When all is said, upstream may take the time `then` to answer.
type talking struct {
	io.Reader
	dog  *watchdog
	then time.Duration
}

func (t talking) Read(p []byte) (int, error) {
	n, err := t.Reader.Read(p)
	if err == io.EOF {
		t.dog.allow(t.then)
	} else {
		t.dog.touch()
	}
	return n, err
}

// sshTransport speaks to one server, known by its pinned keys.
type sshTransport struct {
	url        *url.URL
	dial       func(ctx context.Context, network, address string) (net.Conn, error)
	identity   string // file of the private key
	passphrase string // of that file; may be empty
	pins       []hostkey.Key
}

// errWrongHostKey says that somebody else answered.
var errWrongHostKey = errors.New("upstream's host key is not the pinned one")

func (t *sshTransport) open(ctx context.Context, service string) (session, error) {
	s, err := t.session(ctx, service+" "+quote(remotePath(t.url.Path)))
	if err != nil {
		return nil, err
	}
	return s, nil
}

// maxCommandAnswer bounds what a command that is no service of git says, in bytes.
const maxCommandAnswer = 64 << 10

// command runs a command on the server and returns what it wrote, and what it said on its standard error.
func (t *sshTransport) command(ctx context.Context, line string) (out []byte, said string, err error) {
	s, err := t.session(ctx, line)
	if err != nil {
		return nil, "", err
	}
	defer s.Close()
	s.asked = true
	_ = s.in.Close() // it is told nothing
	out, err = io.ReadAll(io.LimitReader(s.out, maxCommandAnswer+1))
	if err == nil && len(out) > maxCommandAnswer {
		err = fmt.Errorf("upstream answers with more than %d bytes", maxCommandAnswer)
	}
	return out, s.Said(), err
}

// session starts a command on the server.
func (t *sshTransport) session(ctx context.Context, line string) (*sshSession, error) {
	config, wrong, err := t.config()
	if err != nil {
		return nil, err
	}
	address := net.JoinHostPort(t.url.Hostname(), cmp.Or(t.url.Port(), "22"))
	conn, err := t.dial(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("connecting to upstream: %w", err)
	}
	s := &sshSession{conn: conn, release: context.AfterFunc(ctx, func() { conn.Close() })}
	s.version = protocolOf(ctx)
	if err := s.start(config, address, line); err != nil {
		s.Close()
		if *wrong != nil {
			return nil, *wrong
		}
		if strings.Contains(err.Error(), "no common algorithm for host key") {
			return nil, errWrongHostKey
		}
		return nil, err
	}
	return s, nil
}

// config pins the keys, and asks for these kinds of keys alone: the server may have others. What the server showed instead is told by
// wrong.
func (t *sshTransport) config() (config *ssh.ClientConfig, wrong *error, err error) {
	if len(t.pins) == 0 {
		return nil, nil, errors.New("no host_key is pinned for this repository: nothing is fetched and nothing forwarded")
	}
	if t.identity == "" {
		return nil, nil, errors.New("no identity is configured for this repository: nothing is fetched and nothing forwarded")
	}
	signer, err := readIdentity(t.identity, t.passphrase)
	if err != nil {
		return nil, nil, fmt.Errorf("reading identity: %w", err)
	}
	wrong = new(error)
	return &ssh.ClientConfig{
		User:              cmp.Or(t.url.User.Username(), "git"),
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyAlgorithms: algorithms(t.pins),
		ClientVersion:     "SSH-2.0-airlock",
		HostKeyCallback: func(address string, remote net.Addr, key ssh.PublicKey) error {
			*wrong = t.check(address, remote, key)
			return *wrong
		},
	}, wrong, nil
}

// check compares what the server shows with the pins. A certificate of a host is good when a pinned authority has signed it for
// that name and time.
func (t *sshTransport) check(address string, remote net.Addr, key ssh.PublicKey) error {
	pinned := func(k ssh.PublicKey, fits func(hostkey.Key) bool) bool {
		return slices.ContainsFunc(t.pins, func(p hostkey.Key) bool { return fits(p) && bytes.Equal(p.Blob, k.Marshal()) })
	}
	revoked := func(k ssh.PublicKey) bool { return pinned(k, func(p hostkey.Key) bool { return p.Revoked }) }
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		if revoked(key) {
			return errors.New("upstream's host key is revoked")
		}
		if !pinned(key, func(p hostkey.Key) bool { return !p.Revoked && !p.Authority }) {
			return errWrongHostKey
		}
		return nil
	}
	if revoked(cert.Key) || revoked(cert.SignatureKey) {
		return errors.New("upstream's host key is revoked")
	}
	checker := ssh.CertChecker{IsHostAuthority: func(by ssh.PublicKey, _ string) bool {
		return pinned(by, func(p hostkey.Key) bool { return p.Authority && !p.Revoked })
	}}
	if err := checker.CheckHostKey(address, remote, key); err != nil {
		return fmt.Errorf("%w: %v", errWrongHostKey, err)
	}
	return nil
}

// certificates are the kinds that an authority, of whatever kind itself, may sign.
var certificates = []string{
	ssh.CertAlgoED25519v01, ssh.CertAlgoECDSA256v01, ssh.CertAlgoECDSA384v01, ssh.CertAlgoECDSA521v01,
	ssh.CertAlgoRSASHA512v01, ssh.CertAlgoRSASHA256v01, ssh.CertAlgoSKED25519v01, ssh.CertAlgoSKECDSA256v01,
}

// algorithms are the signatures that the pinned keys can make; ssh-rsa alone would mean SHA-1.
func algorithms(pins []hostkey.Key) (all []string) {
	for _, p := range pins {
		switch {
		case p.Revoked:
		case p.Authority:
			all = append(all, certificates...)
		case p.Type == ssh.KeyAlgoRSA:
			all = append(all, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		default:
			all = append(all, p.Type)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Errors of an identity that is encrypted.
var (
	errPassphrase   = errors.New("the passphrase does not open the key")
	errNoPassphrase = errors.New("the key is encrypted, and no slot with its passphrase is named or filled")
)

// readIdentity reads a private key in OpenSSH's form, PEM or PKCS #8, encrypted or not.
func readIdentity(path, passphrase string) (ssh.Signer, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, errors.New("the file cannot be read")
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("no private key in OpenSSH's form, PEM or PKCS #8")
	}
	if block.Type == "ENCRYPTED PRIVATE KEY" {
		if passphrase == "" {
			return nil, errNoPassphrase
		}
		key, err := openPKCS8(block, passphrase)
		if err != nil {
			return nil, err
		}
		return ssh.NewSignerFromKey(key)
	}
	signer, err := ssh.ParsePrivateKey(text)
	locked := new(ssh.PassphraseMissingError)
	switch {
	case err == nil:
		return signer, nil
	case !errors.As(err, &locked):
		return nil, errors.New("no private key in OpenSSH's form, PEM or PKCS #8")
	case passphrase == "":
		return nil, errNoPassphrase
	}
	if signer, err = ssh.ParsePrivateKeyWithPassphrase(text, []byte(passphrase)); err != nil {
		return nil, errPassphrase
	}
	return signer, nil
}

// remotePath is what a URL's path means on the server: "/~user/x" is below a home.
func remotePath(path string) string {
	if strings.HasPrefix(path, "/~") {
		return path[1:]
	}
	return path
}

type sshSession struct {
	version string // of the protocol, where it is not v0
	conn    net.Conn
	release func() bool
	client  *ssh.Client
	in      io.WriteCloser
	out     *bufio.Reader
	asked   bool
	stderr  firstWords
	ended   chan struct{} // closed when the remote command has ended, and all that it said is in stderr
}

// firstWords keeps the beginning of what upstream's command writes on its standard error, where servers say why they refuse.
type firstWords struct {
	mu   sync.Mutex
	text []byte
}

// maxFirstWords bounds it, in bytes.
const maxFirstWords = 2 << 10

// Write implements io.Writer. It takes everything.
func (f *firstWords) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.text = append(f.text, p[:min(len(p), maxFirstWords-len(f.text))]...)
	return len(p), nil
}

// lastWordsWithin is how long the end of an upstream's standard error is waited for.
const lastWordsWithin = 2 * time.Second

func (s *sshSession) Said() string {
	if s.ended == nil {
		return ""
	}
	select {
	case <-s.ended:
	case <-time.After(lastWordsWithin):
	}
	s.stderr.mu.Lock()
	defer s.stderr.mu.Unlock()
	return strings.Join(strings.Fields(string(s.stderr.text)), " ")
}

func (s *sshSession) start(config *ssh.ClientConfig, address, line string) error {
	conn, chans, reqs, err := ssh.NewClientConn(s.conn, address, config)
	if broken := new(net.OpError); errors.As(err, &broken) {
		return fmt.Errorf("connecting to upstream: %w", err)
	}
	if err != nil {
		return fmt.Errorf("logging in upstream: %w", err)
	}
	s.client = ssh.NewClient(conn, chans, reqs)
	remote, err := s.client.NewSession()
	if err != nil {
		return fmt.Errorf("opening a session upstream: %w", err)
	}
	out, err := remote.StdoutPipe()
	if err != nil {
		return err
	}
	if s.in, err = remote.StdinPipe(); err != nil {
		return err
	}
	s.out = bufio.NewReaderSize(out, 64<<10)
	remote.Stderr = &s.stderr
	if s.version != "" {
		_ = remote.Setenv("GIT_PROTOCOL", s.version) // a server that does not take it answers in v0
	}
	if err := remote.Start(line); err != nil {
		name, _, _ := strings.Cut(line, " ")
		return fmt.Errorf("starting %s upstream: %w", name, err)
	}
	s.ended = make(chan struct{})
	go func() { // ends with the connection, which Close closes
		defer close(s.ended)
		_ = remote.Wait() // how it ended is told by the protocol
	}()
	return nil
}

// quote is how git quotes a path for a remote shell.
func quote(path string) string {
	return "'" + strings.NewReplacer("'", `'\''`, "!", `'\!'`).Replace(path) + "'"
}

func (s *sshSession) Greeting() *bufio.Reader { return s.out }

func (s *sshSession) Ask(body io.Reader, _ int64) (*bufio.Reader, error) {
	s.asked = true
	if _, err := io.Copy(s.in, body); err != nil {
		return s.out, fmt.Errorf("sending to upstream: %w", err)
	}
	return s.out, nil
}

// Close takes leave with a flush when nothing was asked, so that the server does not log a broken connection.
func (s *sshSession) Close() error {
	if s.in != nil && !s.asked {
		_ = writeFlush(s.in)
	}
	s.release()
	if s.client != nil {
		s.client.Close()
	}
	return s.conn.Close()
}

// httpTransport speaks smart HTTP over TLS.
type httpTransport struct {
	url    *url.URL
	token  string
	empty  bool // a slot is named, and nothing is in it
	client *http.Client
}

func newHTTPTransport(u *url.URL, dial dialer, roots *x509.CertPool) *httpTransport {
	return &httpTransport{url: u, client: &http.Client{
		CheckRedirect: sameHost,
		Transport: &http.Transport{
			DialContext:         dial.dial,
			TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			ForceAttemptHTTP2:   true,
			TLSHandshakeTimeout: 15 * time.Second,
			IdleConnTimeout:     time.Minute,
		},
	}}
}

// sameHost refuses to carry the credential elsewhere.
func sameHost(next *http.Request, via []*http.Request) error {
	if len(via) > 5 {
		return errors.New("too many redirects")
	}
	if first := via[0].URL; next.URL.Host != first.Host || next.URL.Scheme != first.Scheme {
		return errors.New("upstream redirects to another host")
	}
	return nil
}

func (t *httpTransport) open(ctx context.Context, service string) (session, error) {
	if t.empty {
		return nil, errors.New("the slot of this repository's token is empty: nothing is fetched and nothing forwarded")
	}
	s := &httpSession{ctx: ctx, transport: t, service: service, base: strings.TrimSuffix(t.url.String(), "/")}
	body, final, err := s.do(http.MethodGet, "/info/refs?service="+service, nil, 0, "advertisement")
	if err != nil {
		return nil, err
	}
	s.base = strings.TrimSuffix(final, "/info/refs?service="+service)
	s.body = body
	s.greeting = bufio.NewReaderSize(body, 64<<10)
	if begins, _ := s.greeting.Peek(len("000eversion 2")); protocolOf(ctx) != "" && string(begins) == "000eversion 2" {
		return s, nil // without a line about the service
	}
	if line, err := readLine(s.greeting); err != nil || line != "# service="+service {
		s.Close()
		return nil, errors.New("upstream does not speak smart HTTP")
	}
	if _, err := readPkt(s.greeting); err != errFlush {
		s.Close()
		return nil, errors.New("upstream does not speak smart HTTP")
	}
	return s, nil
}

type httpSession struct {
	ctx       context.Context
	transport *httpTransport
	service   string
	base      string
	body      io.Closer
	greeting  *bufio.Reader
}

func (s *httpSession) Greeting() *bufio.Reader { return s.greeting }

// Said implements session: an answer that refuses is an error with its text.
func (s *httpSession) Said() string { return "" }

func (s *httpSession) Ask(body io.Reader, size int64) (*bufio.Reader, error) {
	s.body.Close()
	answer, _, err := s.do(http.MethodPost, "/"+s.service, body, size, "result")
	if err != nil {
		return nil, err
	}
	s.body = answer
	return bufio.NewReaderSize(answer, 64<<10), nil
}

// do makes one request and returns the answer's body and the URL that gave it.
func (s *httpSession) do(method, path string, body io.Reader, size int64, kind string) (io.ReadCloser, string, error) {
	req, err := http.NewRequestWithContext(s.ctx, method, s.base+path, body)
	if err != nil {
		return nil, "", fmt.Errorf("asking upstream: %w", err)
	}
	req.ContentLength = size
	req.Header.Set("User-Agent", "git/airlock")
	if version := protocolOf(s.ctx); version != "" {
		req.Header.Set("Git-Protocol", version)
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-"+s.service+"-request")
	}
	if s.transport.token != "" {
		req.SetBasicAuth("x-access-token", s.transport.token)
	}
	resp, err := s.transport.client.Do(req)
	if err != nil {
		return nil, "", fmt.Errorf("asking upstream: %w", err)
	}
	if err := checkAnswer(resp, "application/x-"+s.service+"-"+kind); err != nil {
		resp.Body.Close()
		return nil, "", err
	}
	return resp.Body, resp.Request.URL.String(), nil
}

// errNotTaken is an answer that says for certain that nothing was done.
var errNotTaken = errors.New("nothing was taken")

func checkAnswer(resp *http.Response, contentType string) error {
	switch {
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden:
		return fmt.Errorf("upstream refuses the gate's credential (%s%s); %w", resp.Status, bodyText(resp), errNotTaken)
	case resp.StatusCode/100 == 4:
		return fmt.Errorf("upstream answers %s%s; %w", resp.Status, bodyText(resp), errNotTaken)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("upstream answers %s%s", resp.Status, bodyText(resp))
	case resp.Header.Get("Content-Type") != contentType:
		return errors.New("upstream does not speak smart HTTP")
	}
	return nil
}

// bodyText is what a refusal says in plain text, behind a colon, as git shows it; empty where it says nothing so.
func bodyText(resp *http.Response) string {
	if kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";"); strings.TrimSpace(kind) != "text/plain" {
		return ""
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 200)) // what has come is told
	words := strings.Join(strings.Fields(string(text)), " ")
	if words == "" {
		return ""
	}
	return ": " + words
}

func (s *httpSession) Close() error { return s.body.Close() }
