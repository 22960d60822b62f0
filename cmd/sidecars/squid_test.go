package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"airlock/internal/lab"
)

// squid is a real proxy, which asks for a credential and resolves names itself.
type squid struct {
	plain, secure string // addresses: in clear, and over TLS
	user          string // user:password
	log           string
}

// startSquid starts Debian's squid on loopback, and skips where it is not installed.
func startSquid(t *testing.T, authority *lab.CA, names ...string) *squid {
	t.Helper()
	program, err := exec.LookPath("squid")
	if err != nil {
		if program = "/usr/sbin/squid"; !exists(program) {
			t.Skip("squid is not installed")
		}
	}
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o777)) // as root it becomes another user
	must(t, os.Chmod(filepath.Dir(dir), 0o755))
	s := &squid{plain: freeAddress(t), secure: freeAddress(t), user: "agent:" + strings.ToLower(lab.Token()[4:20]), log: filepath.Join(dir, "access.log")}
	leaf, err := authority.Leaf("proxy.test")
	must(t, err)
	key, err := x509.MarshalPKCS8PrivateKey(leaf.PrivateKey)
	must(t, err)
	var chain []byte
	for _, der := range leaf.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	hosts := ""
	for _, name := range names {
		hosts += "127.0.0.1 " + name + "\n"
	}
	user, password, _ := strings.Cut(s.user, ":")
	for name, text := range map[string]string{
		"hosts":    hosts,
		"leaf.pem": string(chain) + string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})),
		"helper":   fmt.Sprintf("#!/bin/sh\nwhile read line; do if [ \"$line\" = '%s %s' ]; then echo OK; else echo ERR; fi; done\n", user, password),
		"squid.conf": fmt.Sprintf(`http_port %[1]s
https_port %[2]s tls-cert=%[3]s/leaf.pem
hosts_file %[3]s/hosts
pid_filename none
cache_log %[3]s/cache.log
access_log stdio:%[4]s
coredump_dir %[3]s
cache deny all
cache_mem 8 MB
shutdown_lifetime 0 seconds
pinger_enable off
auth_param basic program %[3]s/helper
auth_param basic children 1
acl known proxy_auth REQUIRED
acl closed dstdomain closed.ok.test
http_access deny closed
http_access allow known
http_access deny all
`, s.plain, s.secure, dir, s.log),
	} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755))
	}
	ctx, cancel := context.WithCancel(context.Background())
	// Its shared memory bears the name of the service: another's, of another user even, would be in the way.
	service := "airlock" + strconv.Itoa(os.Getpid()) + "n" + strconv.Itoa(int(squids.Add(1)))
	cmd := exec.CommandContext(ctx, program, "-N", "-n", service, "-f", filepath.Join(dir, "squid.conf"))
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	out := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = 5 * time.Second
	must(t, cmd.Start())
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it was ended
		left, _ := filepath.Glob("/dev/shm/" + service + "-*")
		for _, path := range left {
			_ = os.Remove(path)
		}
		if t.Failed() {
			text, _ := os.ReadFile(filepath.Join(dir, "cache.log"))
			t.Logf("squid printed %s and %s", out, text)
		}
	})
	for _, address := range []string{s.plain, s.secure} {
		eventually(t, "squid listens on "+address, func() bool {
			c, err := net.DialTimeout("tcp", address, time.Second)
			if err == nil {
				c.Close()
			}
			return err == nil
		})
	}
	return s
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// squids counts those that were started.
var squids atomic.Int64

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}

// TestThroughSquid: pipelock reaches origins through an upstream proxy, in clear and over
// TLS, with its credential, over both versions of HTTP; what the allowlist lacks does
// not reach the proxy, and what no_proxy names does not either.
func TestThroughSquid(t *testing.T) {
	authority, err := lab.NewCA()
	must(t, err)
	proxy := startSquid(t, authority, "api.ok.test", "closed.ok.test", "new.ok.test", "plain.ok.test")
	_, plainPort, _ := net.SplitHostPort(proxy.plain)
	_, securePort, _ := net.SplitHostPort(proxy.secure)
	for _, way := range []struct{ name, url, more string }{
		{"in clear", "http://proxy.test:" + plainPort, ""},
		{"over TLS", "https://proxy.test:" + securePort, ", ca: /etc/airlock/ca/proxy.crt"},
	} {
		t.Run(way.name, func(t *testing.T) {
			b := prepare(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprintf(w, "%s %s", r.Host, r.Header.Get("Proxy-Authorization"))
			}))
			port := b.origin.Port()
			b.write("ca/proxy.crt", string(authority.PEM))
			egress, _, _ := strings.Cut(b.egressYAML(""), "routes:\n")
			routes, allow := "", ""
			for _, host := range []string{"api.ok.test", "new.ok.test", "closed.ok.test", "a.cdn.test", "127.0.0.2"} {
				routes += fmt.Sprintf("  - {host: '%s:%d'}\n", host, port)
				allow += fmt.Sprintf("  - %s:%d\n", host, port)
			}
			plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprintf(w, "%s %s %s", r.Host, r.URL, r.Header.Get("Proxy-Authorization"))
			}))
			t.Cleanup(plain.Close)
			_, plainly, _ := net.SplitHostPort(plain.Listener.Addr().String())
			routes += "  - {host: 'plain.ok.test:" + plainly + "', plain_http: true}\n  - {host: '127.0.0.3:" + plainly + "', plain_http: true}\n"
			allow += "  - plain.ok.test:" + plainly + "\n  - 127.0.0.3:" + plainly + "\n"
			b.write("egress.yaml", egress+"routes:\n"+routes+fmt.Sprintf("  - {host: 'unlisted.ok.test:%d'}\n", port))
			b.write("pipelock.yaml", fmt.Sprintf("version: 1\nlisten: 127.0.0.1:0\nca: {cert: /etc/airlock/ca/ca.crt, key: /etc/airlock/ca/ca.key}\nupstream_ca: /etc/airlock/ca/upstream.crt\n"+
				"hosts: {proxy.test: 127.0.0.1, a.cdn.test: 127.0.0.1}\naddresses: {allow: [127.0.0.1/32]}\nallow:\n%supstream_proxy: {url: '%s', auth: PROXY_AUTH_0%s, no_proxy: [a.cdn.test]}\n", allow, way.url, way.more))
			b.run("PROXY_AUTH_0=" + proxy.user)
			seen := func() string {
				text, err := os.ReadFile(proxy.log)
				if err != nil {
					return ""
				}
				return string(text)
			}
			for _, h2 := range []bool{false, true} {
				c := b.client(b.egress)
				c.Transport.(*http.Transport).ForceAttemptHTTP2 = h2
				for _, host := range []string{"api.ok.test", "new.ok.test", "a.cdn.test"} {
					if status, text := b.send(c, http.MethodGet, b.url(host, "/v1/x"), nil); status != 200 || text != fmt.Sprintf("%s:%d ", host, port) {
						t.Errorf("%s, HTTP/2 %v: %d %s", host, h2, status, text)
					}
				}
			}
			if status, text := b.get("http://plain.ok.test:" + plainly + "/x%2Fy?a=b"); status != 200 || text != "plain.ok.test:"+plainly+" /x%2Fy?a=b " {
				t.Errorf("plain http: %d %s", status, text)
			}
			if status, text := b.get("http://127.0.0.3:" + plainly + "/"); status != 403 || !strings.Contains(text, "loopback") {
				t.Errorf("plain http to an address: %d %s", status, text)
			}
			for _, c := range []struct {
				host   string
				status int
				rule   string
			}{
				{"closed.ok.test", 502, "upstream_proxy"}, // the proxy refuses it
				{"unlisted.ok.test", 403, "allow"},
				{"127.0.0.2", 403, "address"},
			} {
				status, text := b.get(b.url(c.host, "/"))
				if by, rule, _ := refusal(t, text); status != c.status || by != "pipelock" || rule != c.rule {
					t.Errorf("%s: %d %s", c.host, status, text)
				}
			}
			_, password, _ := strings.Cut(proxy.user, ":")
			b.keptSecret(password) // ends the bundle, and with it the tunnels, which squid writes down then
			eventually(t, "squid has written down what it did", func() bool { return strings.Contains(seen(), fmt.Sprintf("CONNECT new.ok.test:%d ", port)) })
			if !strings.Contains(seen(), "GET http://plain.ok.test:"+plainly+"/x%2Fy") {
				t.Errorf("plain http did not go as a request of the proxy's:\n%s", seen())
			}
			for _, absent := range []string{"unlisted", "a.cdn.test", "127.0.0.2", "127.0.0.3"} {
				if strings.Contains(seen(), absent) {
					t.Errorf("%s reached the proxy:\n%s", absent, seen())
				}
			}
		})
	}
	t.Run("a wrong credential", func(t *testing.T) {
		b := prepare(t, nil)
		b.write("pipelock.yaml", strings.Replace(b.pipelockYAML("upstream_proxy: {url: 'http://"+proxy.plain+"', auth: PROXY_AUTH_0}\n"), "a.cdn.test: 127.0.0.1", "a.cdn.test: 127.0.0.1, b.cdn.test: 127.0.0.1", 1))
		b.run("PROXY_AUTH_0=agent:wrong")
		if status, text := b.get(b.url("api.ok.test", "/v1/x")); status != 502 || !strings.Contains(text, "407") || strings.Contains(text, "wrong") {
			t.Errorf("%d %s", status, text)
		}
		b = prepare(t, nil)
		egress, _, _ := strings.Cut(b.egressYAML(""), "routes:\n")
		b.write("egress.yaml", egress+"routes: [{host: 'plain.ok.test', plain_http: true}]\n")
		b.write("pipelock.yaml", b.pipelockYAML("  - plain.ok.test\nupstream_proxy: {url: 'http://"+proxy.plain+"', auth: PROXY_AUTH_0}\n"))
		b.run("PROXY_AUTH_0=agent:wrong")
		if status, text := b.get("http://plain.ok.test/"); status != 502 || !strings.Contains(text, "407") || strings.Contains(text, "wrong") {
			t.Errorf("plain http: %d %s", status, text)
		}
	})
	t.Run("no credential", func(t *testing.T) {
		b := prepare(t, nil)
		b.write("pipelock.yaml", b.pipelockYAML("upstream_proxy: {url: 'http://"+proxy.plain+"', auth: PROXY_AUTH_0}\n"))
		b.run()
		if status, text := b.get(b.url("api.ok.test", "/v1/x")); status != 502 || !strings.Contains(text, "slot PROXY_AUTH_0 holds no credential") {
			t.Errorf("%d %s", status, text)
		}
	})
}
