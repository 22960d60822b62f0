package lab

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
)

// GitSSH is an ssh server that runs git's own upload-pack and receive-pack on the bare repositories in one folder. It
// lets in exactly one key.
type GitSSH struct {
	Root string // holds NAME.git

	// LFS answers git-lfs-authenticate, which names a path and an operation; nil: there is no such command.
	LFS func(path, operation string) (json string)

	listener net.Listener
	config   *ssh.ServerConfig
	hostKey  ssh.PublicKey
	identity []byte
	clients  sync.WaitGroup
	ctx      context.Context
	stop     context.CancelFunc

	mu    sync.Mutex
	conns map[net.Conn]bool
}

// NewGitSSH starts a server on a port of its own on loopback.
func NewGitSSH(root string) (*GitSSH, error) {
	return NewGitSSHAt(root, "127.0.0.1:0")
}

// NewGitSSHAt starts a server on the given address.
func NewGitSSHAt(root, address string) (*GitSSH, error) {
	s := &GitSSH{Root: root, conns: map[net.Conn]bool{}}
	if err := s.keys(); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("starting ssh server: %w", err)
	}
	s.listener = l
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.clients.Go(s.accept)
	return s, nil
}

func (s *GitSSH) keys() error {
	client, pemText, err := newKey()
	if err != nil {
		return err
	}
	s.identity = pemText
	s.config = &ssh.ServerConfig{PublicKeyCallback: admit(client.PublicKey())}
	host, _, err := newKey()
	if err != nil {
		return err
	}
	s.hostKey = host.PublicKey()
	s.config.AddHostKey(host)
	return nil
}

func newKey() (ssh.Signer, []byte, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, "airlock lab")
	if err != nil {
		return nil, nil, err
	}
	signer, err := ssh.NewSignerFromKey(private)
	return signer, pem.EncodeToMemory(block), err
}

// AddHostKey gives the server one more host key, which HostKey does not name.
func (s *GitSSH) AddHostKey(key ssh.Signer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := *s.config
	changed.AddHostKey(key)
	s.config = &changed
}

// Admit lets in another key instead.
func (s *GitSSH) Admit(client ssh.PublicKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := *s.config
	changed.PublicKeyCallback = admit(client)
	s.config = &changed
}

func admit(client ssh.PublicKey) func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
	return func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if string(key.Marshal()) != string(client.Marshal()) {
			return nil, errors.New("unknown key")
		}
		return nil, nil
	}
}

// Identity is the private key of the one client that may come in, in OpenSSH's PEM.
func (s *GitSSH) Identity() []byte { return s.identity }

// HostKey is the line to pin: "ssh-ed25519 AAAA…".
func (s *GitSSH) HostKey() string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(s.hostKey)))
}

// Port is where the server listens.
func (s *GitSSH) Port() int { return s.listener.Addr().(*net.TCPAddr).Port }

// URL names the repository NAME.git on this server, by the given host name.
func (s *GitSSH) URL(host, name string) string {
	return fmt.Sprintf("ssh://git@%s:%d/%s.git", host, s.Port(), name)
}

// Dir is the folder of the repository NAME.git.
func (s *GitSSH) Dir(name string) string { return filepath.Join(s.Root, name+".git") }

// Close stops the server, cuts its connections, and waits until everything it started is gone.
func (s *GitSSH) Close() error {
	s.stop()
	err := s.listener.Close()
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.clients.Wait()
	return err
}

func (s *GitSSH) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns[conn] = true
		s.mu.Unlock()
		s.clients.Go(func() { s.serve(conn) })
	}
}

func (s *GitSSH) serve(conn net.Conn) {
	defer func() {
		conn.Close()
		s.mu.Lock()
		delete(s.conns, conn)
		s.mu.Unlock()
	}()
	if s.ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	config := s.config
	s.mu.Unlock()
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	s.clients.Go(func() { ssh.DiscardRequests(requests) })
	for c := range channels {
		if c.ChannelType() != "session" {
			_ = c.Reject(ssh.UnknownChannelType, "sessions only")
			continue
		}
		channel, requests, err := c.Accept()
		if err != nil {
			return
		}
		s.clients.Go(func() { s.session(channel, requests) })
	}
}

func (s *GitSSH) session(channel ssh.Channel, requests <-chan *ssh.Request) {
	defer channel.Close()
	protocol := ""
	for r := range requests {
		var env struct{ Name, Value string }
		if r.Type == "env" && ssh.Unmarshal(r.Payload, &env) == nil && env.Name == "GIT_PROTOCOL" {
			protocol = env.Value
		}
		if r.Type != "exec" {
			_ = r.Reply(r.Type == "env", nil)
			continue
		}
		_ = r.Reply(true, nil)
		s.clients.Go(func() { ssh.DiscardRequests(requests) })
		status := s.run(channel, r.Payload, protocol)
		_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
		return
	}
}

// run executes "git-upload-pack '/app.git'" on the repository in Root.
func (s *GitSSH) run(channel ssh.Channel, payload []byte, protocol string) uint32 {
	var command struct{ Line string }
	if ssh.Unmarshal(payload, &command) != nil {
		return 128
	}
	service, arg, _ := strings.Cut(command.Line, " ")
	if service == "git-lfs-authenticate" && s.LFS != nil {
		path, operation, _ := strings.Cut(arg, " ")
		_, _ = io.WriteString(channel, s.LFS(path, operation))
		return 0
	}
	verb, ok := strings.CutPrefix(service, "git-")
	if !ok || (verb != "upload-pack" && verb != "receive-pack") {
		fmt.Fprintln(channel.Stderr(), "no such command")
		return 127
	}
	dir := filepath.Join(s.Root, filepath.FromSlash(path.Clean("/"+strings.Trim(arg, "'"))))
	cmd := exec.CommandContext(s.ctx, "git", verb, dir)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "GIT_CONFIG_NOSYSTEM=1", "HOME=/nonexistent", "GIT_PROTOCOL=" + protocol}
	in, err := cmd.StdinPipe()
	if err != nil {
		return 128
	}
	cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
	if err := cmd.Start(); err != nil {
		return 128
	}
	s.clients.Go(func() {
		_, _ = io.Copy(in, channel)
		_ = in.Close()
	})
	if err := cmd.Wait(); err != nil {
		return 1
	}
	return 0
}
