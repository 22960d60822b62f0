package main

import (
	"bufio"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"airlock/internal/ca"
	"airlock/internal/policy"
)

// TestConstrainedAuthority tells a refusal on the CONNECT when no leaf that
// the agent takes could tell it.
func TestConstrainedAuthority(t *testing.T) {
	b := prepare(t, nil)
	p, err := policy.ParsePattern("api.ok.test")
	must(t, err)
	cert, key, err := ca.New("test", time.Now(), p)
	must(t, err)
	b.write("ca/ca.crt", string(cert))
	b.write("ca/ca.key", string(key))
	b.pairCA = x509.NewCertPool()
	b.pairCA.AppendCertsFromPEM(cert)
	b.run()
	if status, body := b.get(b.url("api.ok.test", "/v1/x")); status != 200 {
		t.Errorf("%d %s", status, body)
	}
	if status, body := b.get(b.url("api.ok.test", "/admin")); status != 403 {
		t.Errorf("%d %s", status, body)
	}
	port := b.origin.Port()
	for host, want := range map[string]string{"evil.test": "no route", "a.cdn.test": "ca", "127.0.0.1": "no route"} {
		c := b.dial()
		_, err := fmt.Fprintf(c, "CONNECT %s:%d HTTP/1.1\r\nHost: %[1]s:%[2]d\r\n\r\n", host, port)
		must(t, err)
		res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: "GET"}) // read the body, whatever was asked
		must(t, err)
		body, err := io.ReadAll(res.Body)
		must(t, err)
		if _, rule, why := refusal(t, string(body)); res.StatusCode != 403 || rule != want {
			t.Errorf("%s: %d, %s: %s", host, res.StatusCode, rule, why)
		}
	}
	if res, err := b.throughSocks(nil, false).Get("https://evil.test/"); err == nil {
		res.Body.Close()
		t.Errorf("by SOCKS: %v", res.Status)
	}
	b.until("may not speak for evil.test")
	if e, err := b.ctl.Explain(context.Background(), "GET", b.url("a.cdn.test", "/")); err != nil || e.Allow || e.Daemons[0].Rule != "ca" {
		t.Errorf("explained: %+v, %v", e, err)
	}
}
