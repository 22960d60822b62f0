//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	h2config "github.com/summerwind/h2spec/config"
	h2generic "github.com/summerwind/h2spec/generic"
	h2hpack "github.com/summerwind/h2spec/hpack"
	h2http2 "github.com/summerwind/h2spec/http2"
	h2spec "github.com/summerwind/h2spec/spec"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"airlock/internal/bundle"
	"airlock/internal/ca"
	"airlock/internal/lab"
)

// chain is a bundle with an origin behind it, for clients that people use.
type chain struct {
	t      *testing.T
	egress string // address
	cert   string // file of the pair's authority
	roots  *x509.CertPool
	port   int // of the origin
}

// behind starts a bundle before the handler, which is api.ok.test, git.ok.test
// and localhost. Credentials are injected for none.
func behind(t *testing.T, h http.Handler) *chain {
	t.Helper()
	authority, err := lab.NewCA()
	must(t, err)
	leaf, err := authority.Leaf("api.ok.test", "git.ok.test", "localhost")
	must(t, err)
	origin := httptest.NewUnstartedServer(h)
	origin.Listener.Close()
	origin.Listener, err = net.Listen("tcp", "127.0.0.2:0") // its port is free on 127.0.0.1
	must(t, err)
	origin.TLS = &tls.Config{Certificates: []tls.Certificate{leaf}}
	origin.EnableHTTP2 = true
	origin.StartTLS()
	t.Cleanup(origin.Close)
	_, text, err := net.SplitHostPort(origin.Listener.Addr().String())
	must(t, err)
	port, err := strconv.Atoi(text)
	must(t, err)
	cert, key, err := ca.New("clients", time.Now())
	must(t, err)
	dir := t.TempDir()
	for name, text := range map[string]string{
		"ca/ca.crt": string(cert), "ca/ca.key": string(key), "ca/upstream.crt": string(authority.PEM),
		"egress.yaml": fmt.Sprintf("version: 1\nlisten: 127.0.0.1:0\nca: {cert: /etc/airlock/ca/ca.crt, key: /etc/airlock/ca/ca.key}\n"+
			"routes: [{host: 'api.ok.test:%[1]d'}, {host: 'localhost:%[1]d'}, {host: 'git.ok.test:%[1]d', git: fetch}]\n", port),
		"pipelock.yaml": fmt.Sprintf("version: 1\nallow: ['api.ok.test:%[1]d', 'git.ok.test:%[1]d', 'localhost:%[1]d']\n"+
			"hosts: {api.ok.test: 127.0.0.2, git.ok.test: 127.0.0.2, localhost: 127.0.0.2}\naddresses: {allow: [127.0.0.2/32]}\nupstream_ca: /etc/airlock/ca/upstream.crt\n", port),
	} {
		path := filepath.Join(dir, "etc", name)
		must(t, errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)))
	}
	c := &chain{t: t, port: port, cert: filepath.Join(dir, "etc/ca/ca.crt"), roots: x509.NewCertPool()}
	c.roots.AppendCertsFromPEM(cert)
	c.egress = start(t, dir, "pipelock,egress").address(t, bundle.Egress, bundle.FDEgress)
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// try runs a program as an agent's: {proxy}, {ca} and {port} stand for what
// they say. It skips what is not installed.
func (c *chain) try(env []string, argv ...string) (string, error) {
	c.t.Helper()
	if _, err := exec.LookPath(argv[0]); err != nil {
		c.t.Skip(argv[0] + " is not installed")
	}
	fill := strings.NewReplacer("{proxy}", c.egress, "{ca}", c.cert, "{port}", strconv.Itoa(c.port))
	for i := range argv {
		argv[i] = fill.Replace(argv[i])
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "no_proxy=", "NO_PROXY=", "https_proxy=http://"+c.egress, "HTTPS_PROXY=http://"+c.egress, "http_proxy=http://"+c.egress,
		"SSL_CERT_FILE="+c.cert, "CURL_CA_BUNDLE="+c.cert, "REQUESTS_CA_BUNDLE="+c.cert, "NODE_EXTRA_CA_CERTS="+c.cert, "GIT_SSL_CAINFO="+c.cert, "GIT_TERMINAL_PROMPT=0")
	for _, e := range env {
		cmd.Env = append(cmd.Env, fill.Replace(e))
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// dial opens a tunnel through egress.
func (c *chain) dial(ctx context.Context, target string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", c.egress)
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", target); err != nil {
		return nil, err
	}
	res, err := http.ReadResponse(bufio.NewReaderSize(conn, 16), nil) // a server does not speak first in TLS
	if err != nil || res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("CONNECT: %v, %v", res, err)
	}
	return conn, nil
}

// echo answers with what came, and in which protocol it came to the agent's
// side cannot be seen here: the clients say that.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	fmt.Fprintf(w, "%s %s %d", r.Method, r.URL.RequestURI(), len(body))
}

const nodeH1 = `const http = require('http'), https = require('https'), fs = require('fs');
http.request({host: '{proxy}'.split(':')[0], port: '{proxy}'.split(':')[1], method: 'CONNECT', path: 'api.ok.test:{port}'}).on('connect', (res, socket) => {
  https.request({host: 'api.ok.test', port: {port}, path: '/node?x', method: 'PUT', socket, agent: false}, r => { r.on('data', d => process.stdout.write(r.statusCode + ' ' + d)); r.on('end', () => process.exit()) }).end('12345');
}).end();`

const nodeH2 = `const http = require('http'), http2 = require('http2'), tls = require('tls');
http.request({host: '{proxy}'.split(':')[0], port: '{proxy}'.split(':')[1], method: 'CONNECT', path: 'api.ok.test:{port}'}).on('connect', (res, socket) => {
  const s = tls.connect({socket, servername: 'api.ok.test', ALPNProtocols: ['h2']}, () => {
    const c = http2.connect('https://api.ok.test:{port}', {createConnection: () => s});
    let left = 3;
    for (const path of ['/a', '/b', '/c']) {
      const r = c.request({':path': path, ':method': 'POST'});
      r.on('response', h => process.stdout.write(s.alpnProtocol + ' ' + h[':status'] + ' '));
      r.on('data', d => process.stdout.write(d + '\n'));
      r.on('end', () => { if (--left == 0) process.exit() });
      r.end('x'.repeat(100000));
    }
  });
}).end();`

// TestClients speaks through the whole chain with what is installed here.
func TestClients(t *testing.T) {
	c := behind(t, http.HandlerFunc(echo))
	big := filepath.Join(t.TempDir(), "big")
	must(t, os.WriteFile(big, bytes.Repeat([]byte("words, "), 1<<18), 0o600))
	for _, x := range []struct {
		name string
		argv []string
		want string
	}{
		{"curl h1", []string{"curl", "-sS", "--http1.1", "-w", " %{http_version}", "https://api.ok.test:{port}/x?y"}, "GET /x?y 0 1.1"},
		{"curl h2", []string{"curl", "-sS", "--http2", "-w", " %{http_version}", "https://api.ok.test:{port}/x?y"}, "GET /x?y 0 2"},
		{"curl h1 body", []string{"curl", "-sS", "--http1.1", "-T", big, "https://api.ok.test:{port}/put"}, "PUT /put 1835008"},
		{"curl h2 body", []string{"curl", "-sS", "--http2", "-H", "Expect: 100-continue", "--data-binary", "@" + big, "https://api.ok.test:{port}/post"}, "POST /post 1835008"},
		{"curl chunked", []string{"curl", "-sS", "--http1.1", "-H", "Transfer-Encoding: chunked", "--data-binary", "@" + big, "https://api.ok.test:{port}/post"}, "POST /post 1835008"},
		{"curl HTTP/1.0", []string{"curl", "-sS", "--http1.0", "-w", " %{http_version}", "https://api.ok.test:{port}/x"}, "GET /x 0 1."},
		{"curl HEAD", []string{"curl", "-sS", "-I", "-w", "%{http_code}", "https://api.ok.test:{port}/x"}, "200"},
		{"curl socks", []string{"curl", "-sS", "--proxy", "socks5h://{proxy}", "-w", " %{http_version}", "https://api.ok.test:{port}/x"}, "GET /x 0 2"},
		{"curl refused", []string{"curl", "-sS", "https://evil.test/"}, "no route names evil.test:443"},
		{"wget", []string{"wget", "-q", "-O", "-", "--ca-certificate={ca}", "https://api.ok.test:{port}/wget"}, "GET /wget 0"},
		{"node h1", []string{"node", "-e", nodeH1}, "200 PUT /node?x 5"},
		{"node h2", []string{"node", "-e", nodeH2}, "h2 200 "},
		{"python urllib", []string{"python3", "-c", "import urllib.request as u; print(u.urlopen('https://api.ok.test:{port}/py', data=b'123').read().decode())"}, "POST /py 3"},
		{"python http.client", []string{"python3", "-c", `import http.client, ssl
h, p = '{proxy}'.split(':')
c = http.client.HTTPSConnection(h, int(p), context=ssl.create_default_context(cafile='{ca}')); c.set_tunnel('api.ok.test', {port})
for path in ('/one', '/two'):
    c.request('GET', path); print(c.getresponse().read().decode())`}, "GET /two 0"},
		{"python requests", []string{"python3", "-c", "import requests; s = requests.Session(); print(s.get('https://api.ok.test:{port}/r').text, s.get('https://evil.test/').json()['error']['rule'])"}, "GET /r 0 no route"},
	} {
		t.Run(x.name, func(t *testing.T) {
			c := *c
			c.t = t
			if out, err := c.try(nil, x.argv...); strings.Contains(out, "No module named") {
				t.Skip(out)
			} else if err != nil || !strings.Contains(out, x.want) {
				t.Errorf("%v: %q, want %q", err, out, x.want)
			}
		})
	}
}

// TestGitOverHTTPS clones through the chain and is told where a push goes.
func TestGitOverHTTPS(t *testing.T) {
	root := t.TempDir()
	git := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("git", args...).CombinedOutput(); err != nil {
			t.Fatalf("git %q: %v\n%s", args, err, out)
		}
	}
	work := filepath.Join(t.TempDir(), "work")
	git("init", "-q", "--bare", "-b", "main", filepath.Join(root, "app.git"))
	git("-C", filepath.Join(root, "app.git"), "config", "http.receivepack", "true")
	git("init", "-q", "-b", "main", work)
	must(t, os.WriteFile(filepath.Join(work, "file"), bytes.Repeat([]byte("a line\n"), 100_000), 0o600))
	git("-C", work, "add", "file")
	git("-C", work, "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-qm", "first")
	git("-C", work, "push", "-q", filepath.Join(root, "app.git"), "main")
	exe, err := exec.Command("git", "--exec-path").Output()
	must(t, err)
	c := behind(t, &cgi.Handler{Path: filepath.Join(strings.TrimSpace(string(exe)), "git-http-backend"), Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1"}})
	clone := filepath.Join(t.TempDir(), "clone")
	if out, err := c.try(nil, "git", "clone", "-q", "https://git.ok.test:{port}/app.git", clone); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if text, err := os.ReadFile(filepath.Join(clone, "file")); err != nil || len(text) != 700_000 {
		t.Errorf("%d bytes, %v", len(text), err)
	}
	must(t, os.WriteFile(filepath.Join(clone, "file"), []byte("changed"), 0o600))
	git("-C", clone, "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-qam", "second")
	if out, err := c.try(nil, "git", "-C", clone, "push", "origin", "main"); err == nil || !strings.Contains(out, "403") {
		t.Errorf("a push over HTTPS: %v\n%s", err, out)
	}
	if out, err := c.try(nil, "git", "-C", clone, "-c", "http.proxy=socks5h://{proxy}", "fetch", "-q", "origin"); err != nil {
		t.Errorf("by SOCKS: %v\n%s", err, out)
	}
	if out, err := c.try(nil, "git", "clone", "-q", "https://api.ok.test:{port}/app.git", clone+"2"); err == nil || !strings.Contains(out, "403") {
		t.Errorf("a clone by a route that is not for git: %v\n%s", err, out)
	}
}

// testService is gRPC's own test service, as far as it is needed.
type testService struct {
	grpc_testing.UnimplementedTestServiceServer
}

func (testService) UnaryCall(ctx context.Context, r *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
	if s := r.GetResponseStatus(); s != nil {
		return nil, status.Error(codes.Code(s.Code), s.Message)
	}
	return &grpc_testing.SimpleResponse{Payload: r.Payload}, grpc.SetTrailer(ctx, metadata.Pairs("x-sum", strconv.Itoa(len(r.GetPayload().GetBody()))))
}

func (testService) FullDuplexCall(s grpc_testing.TestService_FullDuplexCallServer) error {
	n := 0
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			s.SetTrailer(metadata.Pairs("x-messages", strconv.Itoa(n)))
			return nil
		}
		if err != nil {
			return err
		}
		n++
		if err := s.Send(&grpc_testing.StreamingOutputCallResponse{Payload: r.Payload}); err != nil {
			return err
		}
	}
}

// TestGRPC calls through the chain: one answer, a status, both ways at once
// with an answer awaited before each next message, trailers, and a call that
// the client gives up.
func TestGRPC(t *testing.T) {
	server := grpc.NewServer()
	grpc_testing.RegisterTestServiceServer(server, testService{})
	c := behind(t, server)
	conn, err := grpc.NewClient("passthrough:///api.ok.test:"+strconv.Itoa(c.port), grpc.WithContextDialer(c.dial), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: c.roots})))
	must(t, err)
	defer conn.Close()
	client := grpc_testing.NewTestServiceClient(conn)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()

	var trailer metadata.MD
	body := bytes.Repeat([]byte("words "), 50_000)
	res, err := client.UnaryCall(ctx, &grpc_testing.SimpleRequest{Payload: &grpc_testing.Payload{Body: body}}, grpc.Trailer(&trailer))
	if err != nil || !bytes.Equal(res.GetPayload().GetBody(), body) || len(trailer["x-sum"]) != 1 || trailer["x-sum"][0] != "300000" {
		t.Errorf("unary: %d bytes, trailer %v, %v", len(res.GetPayload().GetBody()), trailer, err)
	}
	_, err = client.UnaryCall(ctx, &grpc_testing.SimpleRequest{ResponseStatus: &grpc_testing.EchoStatus{Code: int32(codes.ResourceExhausted), Message: "not today"}})
	if s := status.Convert(err); s.Code() != codes.ResourceExhausted || s.Message() != "not today" {
		t.Errorf("status: %v", err)
	}
	if _, err := client.EmptyCall(ctx, &grpc_testing.Empty{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("a status without a message: %v", err)
	}
	stream, err := client.FullDuplexCall(ctx)
	must(t, err)
	began := time.Now()
	for i := range 50 {
		text := []byte("message " + strconv.Itoa(i))
		must(t, stream.Send(&grpc_testing.StreamingOutputCallRequest{Payload: &grpc_testing.Payload{Body: text}}))
		if r, err := stream.Recv(); err != nil || !bytes.Equal(r.GetPayload().GetBody(), text) {
			t.Fatalf("message %d: %v, %v", i, r, err)
		}
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("50 messages and their answers took %v", took)
	}
	must(t, stream.CloseSend())
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) || strings.Join(stream.Trailer()["x-messages"], "") != "50" {
		t.Errorf("the end: %v, %v", err, stream.Trailer())
	}
	given, giveUp := context.WithCancel(ctx)
	stream, err = client.FullDuplexCall(given)
	must(t, err)
	giveUp()
	if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("given up: %v", err)
	}
}

// unlike are the tests of h2spec that end otherwise, and why that is right.
var unlike = map[string]string{
	"Sends multiple values of SETTINGS_INITIAL_WINDOW_SIZE":                                          "net/http closes a connection on which a setting is given twice in a frame",
	"Sends a HEADERS frame that contains the connection-specific header field":                       "refused with 400",
	"Sends a HEADERS frame that contains the TE header field with any value other than \"trailers\"": "refused with 400",
}

// TestH2Spec runs the conformance tests of HTTP/2 against the agent's side of
// egress, through a door that opens a tunnel for each connection.
func TestH2Spec(t *testing.T) {
	c := behind(t, http.HandlerFunc(echo))
	door, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(c.port)) // the tests speak of the host and port that they dial
	must(t, err)
	var group sync.WaitGroup
	defer group.Wait()
	defer door.Close()
	group.Go(func() {
		for {
			in, err := door.Accept()
			if err != nil {
				return
			}
			go c.pass(in)
		}
	})
	conf := &h2config.Config{Host: "localhost", Port: c.port, Path: "/", Timeout: 2 * time.Second, MaxHeaderLen: 4000, TLS: true, Insecure: true}
	failed, passed := []string{}, 0
	var count func(g *h2spec.TestGroup)
	count = func(g *h2spec.TestGroup) {
		for _, test := range g.Tests {
			switch {
			case test.Result == nil || test.Result.Skipped || unlike[test.Desc] != "":
			case test.Result.Failed:
				failed = append(failed, g.ID()+" "+test.Desc+": "+fmt.Sprint(test.Result.Error))
			default:
				passed++
			}
		}
		for _, sub := range g.Groups {
			count(sub)
		}
	}
	for _, g := range []*h2spec.TestGroup{h2generic.Spec(), h2http2.Spec(), h2hpack.Spec()} {
		g.Test(conf)
		count(g)
	}
	t.Logf("%d passed", passed)
	if len(failed) > 0 || passed < 142 {
		t.Errorf("%d passed, failed:\n%s", passed, strings.Join(failed, "\n"))
	}
}

// pass joins a connection with a tunnel to the origin.
func (c *chain) pass(in net.Conn) {
	defer in.Close()
	out, err := c.dial(context.Background(), "localhost:"+strconv.Itoa(c.port))
	if err != nil {
		return
	}
	defer out.Close()
	go func() {
		_, _ = io.Copy(out, in) // either may end it
		out.Close()
	}()
	_, _ = io.Copy(in, out)
}
