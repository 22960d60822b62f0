// Command peer is what a developer would write in an afternoon instead of
// Airlock: an intercepting proxy on goproxy that adds one header. The
// benchmarks measure the chain against it. It checks, scans and records
// nothing.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"sync"

	"github.com/elazarl/goproxy"
)

// certificates keeps the leaves that goproxy has made.
type certificates struct {
	mu   sync.Mutex
	have map[string]*tls.Certificate
}

// Fetch implements goproxy.CertStorage.
func (c *certificates) Fetch(host string, make func() (*tls.Certificate, error)) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if leaf := c.have[host]; leaf != nil {
		return leaf, nil
	}
	leaf, err := make()
	if err == nil {
		c.have[host] = leaf
	}
	return leaf, err
}

func main() {
	cert := flag.String("cert", "", "the authority's certificate")
	key := flag.String("key", "", "the authority's key")
	roots := flag.String("roots", "", "the origins' authority")
	token := flag.String("token", "", "what is injected")
	h2 := flag.Bool("h2", false, "offer HTTP/2 to the client")
	flag.Parse()
	if err := run(*cert, *key, *roots, *token, *h2); err != nil {
		log.Fatal(err)
	}
}

func run(cert, key, roots, token string, h2 bool) error {
	authority, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(roots)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	proxy := goproxy.NewProxyHttpServer()
	proxy.AllowHTTP2 = h2
	proxy.CertStore = &certificates{have: map[string]*tls.Certificate{}}
	var dialer net.Dialer
	proxy.Tr = &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: pool},
		MaxIdleConnsPerHost: 64, // with the usual two it is eight times slower
		ForceAttemptHTTP2:   h2,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			_, port, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			return dialer.DialContext(ctx, network, "127.0.0.1:"+port) // every name of the laboratory is here
		},
	}
	intercept := &goproxy.ConnectAction{Action: goproxy.ConnectMitm, TLSConfig: goproxy.TLSConfigFromCA(&authority)}
	proxy.OnRequest().HandleConnectFunc(func(host string, _ *goproxy.ProxyCtx) (*goproxy.ConnectAction, string) { return intercept, host })
	proxy.OnRequest().DoFunc(func(r *http.Request, _ *goproxy.ProxyCtx) (*http.Request, *http.Response) {
		r.Header.Set("Authorization", "Bearer "+token)
		return r, nil
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	return http.Serve(l, proxy)
}
