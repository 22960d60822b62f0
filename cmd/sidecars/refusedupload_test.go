package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"airlock/internal/lab"
)

// Clients that print the status and the body of the answer to an upload: of
// the file $BODY to $TARGET, through $HTTPS_PROXY, with the authority in $CA.
const (
	uploadUrllib = `
import os, ssl, urllib.request, urllib.error
opener = urllib.request.build_opener(urllib.request.ProxyHandler({"https": os.environ["HTTPS_PROXY"]}),
    urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=os.environ["CA"])))
try:
    res = opener.open(urllib.request.Request(os.environ["TARGET"], data=open(os.environ["BODY"], "rb").read(), method="POST"), timeout=20)
except urllib.error.HTTPError as e:
    res = e
print(res.status if hasattr(res, "status") else res.code, res.read().decode())
`
	uploadRequests = `
import os, requests
res = requests.post(os.environ["TARGET"], data=open(os.environ["BODY"], "rb").read(), proxies={"https": os.environ["HTTPS_PROXY"]}, verify=os.environ["CA"], timeout=20)
print(res.status_code, res.text)
`
	uploadNode = `
const http = require("http"), https = require("https"), tls = require("tls"), fs = require("fs");
const target = new URL(process.env.TARGET), proxy = new URL(process.env.HTTPS_PROXY);
const tunnel = http.request({host: proxy.hostname, port: proxy.port, method: "CONNECT", path: target.host});
tunnel.on("connect", (_, socket) => {
  const secure = tls.connect({socket, servername: target.hostname, ca: fs.readFileSync(process.env.CA)}, () => {
    const req = https.request(target, {method: "POST", createConnection: () => secure}, res => {
      let body = "";
      res.on("data", d => body += d);
      res.on("end", () => { console.log(res.statusCode, body); process.exit(0); });
    });
    req.on("error", e => { console.log("error", e.message); process.exit(1); });
    req.end(fs.readFileSync(process.env.BODY));
  });
});
tunnel.end();
`
)

// TestRefusedUpload: clients that write all of a long request before they read see
// why it is refused: by a route, by the allowlist, and for a secret in the middle.
func TestRefusedUpload(t *testing.T) {
	b := prepare(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	b.write("egress.yaml", b.egressYAML(fmt.Sprintf("  - host: new.ok.test:%d\n", b.origin.Port())))
	b.run()
	clean := bytes.Repeat([]byte("nothing to see here\n"), 5<<20/20)
	leak := bytes.Clone(clean)
	copy(leak[2<<20:], "\n"+lab.Token()+"\n")
	dir := t.TempDir()
	for name, text := range map[string][]byte{"clean": clean, "leak": leak} {
		must(t, os.WriteFile(filepath.Join(dir, name), text, 0o600))
	}
	clients := []struct {
		name string
		argv []string
		need []string // tried before
	}{
		{"urllib", []string{"python3", "-c", uploadUrllib}, nil},
		{"requests", []string{"python3", "-c", uploadRequests}, []string{"python3", "-c", "import requests"}},
		{"node", []string{"node", "-e", uploadNode}, nil},
		{"curl", []string{"sh", "-c", `curl -sS --http1.1 --cacert "$CA" -w ' %{http_code}' --data-binary @"$BODY" "$TARGET"`}, []string{"curl", "--version"}},
		{"curl with HTTP/2", []string{"sh", "-c", `curl -sS --http2 --cacert "$CA" -w ' %{http_code}' --data-binary @"$BODY" "$TARGET"`}, []string{"curl", "--version"}},
	}
	for _, c := range []struct{ name, url, body, want string }{
		{"no route", b.url("other.test", "/"), "clean", "no route"},
		{"a path", b.url("api.ok.test", "/admin"), "clean", "route is for the paths"},
		{"not in the allowlist", b.url("new.ok.test", "/"), "clean", "the allowlist does not have"},
		{"a secret", b.url("api.ok.test", "/v1/x"), "leak", "secret: "},
	} {
		for _, client := range clients {
			t.Run(c.name+" by "+client.name, func(t *testing.T) {
				t.Parallel()
				if _, err := exec.LookPath(client.argv[0]); err != nil || client.need != nil && exec.Command(client.need[0], client.need[1:]...).Run() != nil {
					t.Skip("it is not installed")
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				for range 3 {
					cmd := exec.CommandContext(ctx, client.argv[0], client.argv[1:]...)
					cmd.Env = append(os.Environ(), "HTTPS_PROXY=http://"+b.egress, "https_proxy=http://"+b.egress, "no_proxy=", "NO_PROXY=", "CA="+b.dirs.Etc+"/ca/ca.crt", "TARGET="+c.url, "BODY="+filepath.Join(dir, c.body))
					out, err := cmd.CombinedOutput()
					if err != nil || !strings.Contains(string(out), "403") || !strings.Contains(string(out), c.want) {
						t.Fatalf("expected 403 and %q, got %v and %.500s", c.want, err, out)
					}
				}
			})
		}
	}
}

// TestRefusedUploadAtBothPorts: Go's client sees the refusal over HTTP/1.1 and 2, of
// egress and of pipelock as first hop.
func TestRefusedUploadAtBothPorts(t *testing.T) {
	lab.Long(t)
	b := start(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	leak := bytes.Repeat([]byte("nothing to see here\n"), 8<<20/20)
	copy(leak[4<<20:], "\n"+lab.Token()+"\n")
	b.atBothDoors(func(t *testing.T, b *running) {
		for _, h2 := range []bool{false, true} {
			for _, length := range []int64{-1, int64(len(leak))} {
				t.Run(fmt.Sprintf("HTTP/2 %v, length %d", h2, length), func(t *testing.T) {
					c := b.client(b.egress)
					c.Transport.(*http.Transport).ForceAttemptHTTP2 = h2
					for range 2 {
						req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.url("api.ok.test", "/v1/x"), bytes.NewReader(leak))
						must(t, err)
						req.ContentLength = length
						res, err := c.Do(req)
						if err != nil {
							t.Fatalf("expected an answer, got %v", err)
						}
						text, err := io.ReadAll(res.Body)
						must(t, errors.Join(err, res.Body.Close()))
						if _, rule, _ := refusal(t, string(text)); res.StatusCode != 403 || !strings.HasPrefix(rule, "secret: ") || h2 != (res.ProtoMajor == 2) {
							t.Fatalf("%s %d: %s", res.Proto, res.StatusCode, text)
						}
					}
				})
			}
		}
	})
}

// TestRefusalIsShown: git and the go command print why they were refused.
func TestRefusalIsShown(t *testing.T) {
	b := start(t, nil)
	env := append(os.Environ(), "HTTPS_PROXY=http://"+b.egress, "https_proxy=http://"+b.egress, "no_proxy=", "NO_PROXY=", "HOME="+t.TempDir(),
		"GIT_SSL_CAINFO="+b.dirs.Etc+"/ca/ca.crt", "SSL_CERT_FILE="+b.dirs.Etc+"/ca/ca.crt", "GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_NOSYSTEM=1",
		"GOFLAGS=-mod=mod", "GOPROXY="+b.url("proxy.test", ""), "GONOSUMDB=*", "GONOSUMCHECK=1", "GOFLAGS=-modcacherw", "GOPATH="+t.TempDir(), "GOTOOLCHAIN=local")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, argv := range [][]string{
		{"git", "ls-remote", b.url("git.test", "/a/b.git")},
		{"go", "mod", "download", "example.com/m@v1.0.0"},
	} {
		if _, err := exec.LookPath(argv[0]); err != nil {
			t.Logf("%s is not installed", argv[0])
			continue
		}
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Env, cmd.Dir = env, t.TempDir()
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "no route names") || !strings.Contains(string(out), "request_access") {
			t.Errorf("%s: expected the reason, got %v and %s", strings.Join(argv, " "), err, out)
		}
	}
}
