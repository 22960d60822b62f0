package gitgate

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"airlock/internal/policy"
	"airlock/internal/secrets"
)

// lfsType is the media type of Git LFS's API.
const lfsType = "application/vnd.git-lfs+json"

const (
	// maxLFSAnswer bounds an answer of upstream's LFS API, in bytes.
	maxLFSAnswer = 4 << 20
	// lfsEndpointFor is how long an answer of git-lfs-authenticate is used, at most.
	lfsEndpointFor = time.Minute
)

// The operations of LFS's API.
const (
	lfsDownload = "download"
	lfsUpload   = "upload"
)

// lfsUpstream is the LFS server of one repository's upstream, to which the gate's own credential goes. It is safe for concurrent
// use.
type lfsUpstream struct {
	url    *url.URL
	ssh    *sshTransport // nil: https
	token  string
	empty  bool                // a slot is named, and nothing is in it
	hide   func(string) string // takes the gate's credential out of what upstream says
	client *http.Client
	times  times

	mu     sync.Mutex
	cached map[string]lfsEndpoint // by operation
}

// lfsEndpoint is where the API is, and what lets the gate in. The header is a credential.
type lfsEndpoint struct {
	Href      string            `json:"href"`
	Header    map[string]string `json:"header"`
	ExpiresIn int64             `json:"expires_in"` // seconds
	ExpiresAt time.Time         `json:"expires_at"`

	until time.Time
	hide  func(string) string // takes the header out of what upstream says; nil: there is none
}

// lfsAction is what a client does with one object (docs/api/batch.md and basic-transfers.md of git-lfs).
type lfsAction struct {
	Href   string            `json:"href"`
	Header map[string]string `json:"header,omitempty"`
}

type lfsObjectError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

type lfsObject struct {
	OID           string                `json:"oid"`
	Size          int64                 `json:"size"`
	Authenticated bool                  `json:"authenticated,omitempty"`
	Actions       map[string]*lfsAction `json:"actions,omitempty"`
	Error         *lfsObjectError       `json:"error,omitempty"`
}

type lfsBatch struct {
	Operation string      `json:"operation,omitempty"`
	Transfers []string    `json:"transfers,omitempty"`
	Transfer  string      `json:"transfer,omitempty"`
	Objects   []lfsObject `json:"objects"`
	HashAlgo  string      `json:"hash_algo,omitempty"`
}

// lfsAnswer is an error that tells the client a status of HTTP.
type lfsAnswer struct {
	status int
	rule   string
	why    string
}

func (e *lfsAnswer) Error() string { return e.why }

// newLFSUpstream prepares the way to the LFS server that belongs to an upstream; nothing is dialled.
func newLFSUpstream(u *url.URL, up transport, d dialer, roots *x509.CertPool, hide func(string) string, t times) *lfsUpstream {
	l := &lfsUpstream{url: u, hide: hide, times: t, cached: map[string]lfsEndpoint{}}
	switch up := up.(type) {
	case *sshTransport:
		l.ssh = up
	case *httpTransport:
		l.token, l.empty = up.token, up.empty
	}
	l.client = &http.Client{
		CheckRedirect: lfsRedirect,
		Transport: &http.Transport{
			DialContext:           lfsDialer{d, u.Hostname()}.dial,
			TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			ForceAttemptHTTP2:     true,
			TLSHandshakeTimeout:   15 * time.Second,
			ResponseHeaderTimeout: t.report,
			IdleConnTimeout:       time.Minute,
			MaxIdleConnsPerHost:   8, // as many as a client has transfers at a time
		},
	}
	return l
}

// lfsDialer connects to the upstream's host as the other transports do. An upstream may name other hosts, where its objects are
// stored: these have to be in the configuration, or at public addresses.
type lfsDialer struct {
	dialer
	upstream string
}

func (d lfsDialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	name, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	host, err := policy.ParseHost(name)
	if err != nil {
		return nil, err
	}
	own, err := policy.ParseHost(d.upstream)
	if _, configured := d.dialer[host]; configured || (err == nil && host == own) {
		return d.dialer.dial(ctx, network, address)
	}
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", name)
	if err != nil {
		return nil, err
	}
	err = errors.New("the host has no address")
	for _, addr := range found {
		addr = addr.Unmap()
		if v := policy.JudgeAddr(addr, nil); !v.Allow {
			return nil, fmt.Errorf("upstream stores its objects on %s, at an address that is not public: %s", clean(name), v.Why)
		}
	}
	for _, addr := range found {
		var conn net.Conn
		if conn, err = new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(addr.Unmap().String(), port)); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// lfsRedirect lets a download follow upstream to where the object is stored, without what lets the gate in upstream.
func lfsRedirect(next *http.Request, via []*http.Request) error {
	if err := sameHost(next, via); err == nil {
		return nil
	}
	if len(via) > 5 || next.Method != http.MethodGet || next.URL.Scheme != "https" {
		return errors.New("upstream redirects to another host")
	}
	next.Header = http.Header{"User-Agent": {"git-lfs/airlock"}}
	return nil
}

// endpoint is where the API of an operation is.
func (u *lfsUpstream) endpoint(ctx context.Context, operation string) (lfsEndpoint, error) {
	if u.ssh == nil {
		if u.empty {
			return lfsEndpoint{}, errors.New("the slot of this repository's token is empty: nothing is fetched and nothing forwarded")
		}
		return lfsEndpoint{Href: "https://" + u.url.Host + lfsPath(u.url.Path)}, nil
	}
	u.mu.Lock()
	e, ok := u.cached[operation]
	u.mu.Unlock()
	if ok && time.Now().Before(e.until) {
		return e, nil
	}
	e, err := u.authenticate(ctx, operation)
	if err != nil {
		return e, err
	}
	u.mu.Lock()
	u.cached[operation] = e
	u.mu.Unlock()
	return e, nil
}

// lfsPath is where the API of a repository is, unless upstream says otherwise (docs/api/server-discovery.md of git-lfs).
func lfsPath(path string) string {
	return "/" + strings.TrimSuffix(strings.Trim(path, "/"), ".git") + ".git/info/lfs"
}

// authenticate asks an upstream by ssh where its API is (docs/api/authentication.md of git-lfs).
func (u *lfsUpstream) authenticate(ctx context.Context, operation string) (e lfsEndpoint, err error) {
	ctx, cancel := context.WithTimeout(ctx, u.times.answer)
	defer cancel()
	path := strings.TrimPrefix(u.url.Path, "/") // git-lfs leaves it out, and servers expect that
	text, said, err := u.ssh.command(ctx, "git-lfs-authenticate "+quotePlain(path)+" "+operation)
	if err != nil {
		return e, err
	}
	if err := json.Unmarshal(text, &e); err != nil {
		return e, errors.New("upstream does not answer git-lfs-authenticate" + afterColon(said))
	}
	if e.Href == "" {
		e.Href = "https://" + u.url.Hostname() + lfsPath(u.url.Path)
	}
	e.until, e.hide = time.Now().Add(lfsEndpointFor), hideHeader(e.Header)
	if e.ExpiresIn > 0 {
		e.until = soonest(e.until, time.Now().Add(time.Duration(min(e.ExpiresIn, 1<<20))*time.Second-5*time.Second))
	}
	if !e.ExpiresAt.IsZero() {
		e.until = soonest(e.until, e.ExpiresAt.Add(-5*time.Second))
	}
	return e, nil
}

// quotePlain quotes a path for a remote shell where that is needed; servers that are no shell read a plain one as it is.
func quotePlain(path string) string {
	const plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._/~-+"
	if strings.Trim(path, plain) == "" {
		return path
	}
	return quote(path)
}

func afterColon(text string) string {
	if text = clean(text); text == "" {
		return ""
	}
	return ": " + text
}

func soonest(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// framing are fields that upstream may not choose for a request of ours.
var framing = map[string]bool{"Host": true, "Content-Length": true, "Transfer-Encoding": true, "Connection": true, "Upgrade": true, "Expect": true, "Te": true, "Trailer": true}

// request makes one to a URL that upstream has named: only https leaves the gate. The credential goes with it where it is the API
// itself, or where upstream has not said that something else lets us in, and to the API's own host alone.
func (u *lfsUpstream) request(ctx context.Context, e lfsEndpoint, method, href string, header map[string]string, body io.Reader, own bool) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, href, body)
	if err != nil || req.URL.Scheme != "https" || req.URL.Host == "" {
		return nil, errors.New("upstream names a place for its objects that is not https")
	}
	req.URL.User = nil
	req.Header.Set("User-Agent", "git-lfs/airlock")
	set := func(fields map[string]string) {
		for name, value := range fields {
			if !framing[http.CanonicalHeaderKey(name)] {
				req.Header.Set(name, value)
			}
		}
	}
	if api, err := url.Parse(e.Href); err == nil && own && api.Host == req.URL.Host {
		set(e.Header)
		if u.token != "" {
			req.SetBasicAuth("x-access-token", u.token)
		}
	}
	set(header)
	return req, nil
}

// words makes what upstream says fit for the agent: without what lets the gate in.
func (u *lfsUpstream) words(e lfsEndpoint) func(text string) string {
	if e.hide == nil {
		return u.hide
	}
	return func(text string) string { return e.hide(u.hide(text)) }
}

// hideHeader takes the values of fields that let the gate in, with and without their scheme, out of a text.
func hideHeader(header map[string]string) func(string) string {
	hide := func(text string) string { return text }
	for _, value := range header {
		_, credential, _ := strings.Cut(value, " ")
		for _, v := range []string{value, credential} {
			if len(v) >= secrets.MinLength {
				before, next := hide, redactor(v)
				hide = func(text string) string { return next(before(text)) }
			}
		}
	}
	return hide
}

// call asks the API. It returns the status and what upstream said; an error is told to the client as it is.
func (u *lfsUpstream) call(ctx context.Context, operation, method, path string, query url.Values, in any) (e lfsEndpoint, status int, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, u.times.answer+u.times.report)
	defer cancel()
	if e, err = u.endpoint(ctx, operation); err != nil {
		return e, 0, nil, err
	}
	var sent io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return e, 0, nil, err
		}
		sent = bytes.NewReader(text)
	}
	href := strings.TrimSuffix(e.Href, "/") + path
	if len(query) > 0 {
		href += "?" + query.Encode()
	}
	req, err := u.request(ctx, e, method, href, nil, sent, true)
	if err != nil {
		return e, 0, nil, err
	}
	req.Header.Set("Accept", lfsType)
	if in != nil {
		req.Header.Set("Content-Type", lfsType)
	}
	resp, err := u.client.Do(req)
	if err != nil {
		return e, 0, nil, fmt.Errorf("asking upstream's LFS server: %w", withoutURL(err))
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxLFSAnswer+1))
	if err == nil && len(body) > maxLFSAnswer {
		err = fmt.Errorf("upstream's LFS server answers with more than %d bytes", maxLFSAnswer)
	}
	return e, resp.StatusCode, body, err
}

// withoutURL is the cause alone: a URL of stored objects may be signed, and so be a credential.
func withoutURL(err error) error {
	if e := new(url.Error); errors.As(err, &e) {
		return e.Err
	}
	return err
}

// refusal is what the client is told of an answer that is no success.
func (u *lfsUpstream) refusal(e lfsEndpoint, status int, body []byte) error {
	var said struct {
		Message string `json:"message"`
	}
	_ = json.Unmarshal(body, &said) // without words the status says it
	why := fmt.Sprintf("upstream's LFS server answers %d %s%s", status, http.StatusText(status), afterColon(u.words(e)(said.Message)))
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return &lfsAnswer{http.StatusForbidden, "upstream", why}
	case status/100 == 4:
		return &lfsAnswer{status, "upstream", why}
	}
	return &lfsAnswer{http.StatusBadGateway, "upstream", why}
}

// batch asks for what can be done with objects.
func (u *lfsUpstream) batch(ctx context.Context, operation string, objects []lfsObject) (lfsEndpoint, map[string]lfsObject, error) {
	in := lfsBatch{Operation: operation, Transfers: []string{"basic"}, HashAlgo: "sha256"}
	for _, o := range objects {
		in.Objects = append(in.Objects, lfsObject{OID: o.OID, Size: o.Size})
	}
	e, status, body, err := u.call(ctx, operation, http.MethodPost, "/objects/batch", nil, in)
	if err != nil {
		return e, nil, err
	}
	if status != http.StatusOK {
		return e, nil, u.refusal(e, status, body)
	}
	var out lfsBatch
	if err := json.Unmarshal(body, &out); err != nil {
		return e, nil, errors.New("upstream's LFS server does not answer with the JSON of the batch API")
	}
	if t := cmp.Or(out.Transfer, "basic"); t != "basic" {
		return e, nil, errors.New("upstream's LFS server does not offer basic transfers")
	}
	found, words := map[string]lfsObject{}, u.words(e)
	for _, o := range out.Objects {
		if o.Error != nil {
			o.Error = &lfsObjectError{o.Error.Code, clean(words(o.Error.Message))}
		}
		found[o.OID] = o
	}
	return e, found, nil
}

// one asks for what can be done with one object; the action is nil where upstream wants nothing done.
func (u *lfsUpstream) one(ctx context.Context, operation string, o lfsObject) (lfsEndpoint, lfsObject, error) {
	e, found, err := u.batch(ctx, operation, []lfsObject{o})
	if err != nil {
		return e, o, err
	}
	got, ok := found[o.OID]
	switch {
	case !ok:
		return e, o, errors.New("upstream's LFS server says nothing of the object")
	case got.Error != nil && got.Error.Code/100 == 4:
		status := got.Error.Code
		if status == http.StatusUnauthorized { // it is the gate that would have to come with another credential
			status = http.StatusForbidden
		}
		return e, got, &lfsAnswer{status, "upstream", "upstream's LFS server says: " + cmp.Or(got.Error.Message, http.StatusText(got.Error.Code))}
	case got.Error != nil:
		return e, got, errors.New("upstream's LFS server says: " + got.Error.Message)
	}
	return e, got, nil
}

// get opens an object for reading. The context ends the transfer.
func (u *lfsUpstream) get(ctx context.Context, o lfsObject) (io.ReadCloser, error) {
	e, got, err := u.one(ctx, lfsDownload, o)
	if err != nil {
		return nil, err
	}
	action := got.Actions[lfsDownload]
	if action == nil {
		return nil, errors.New("upstream's LFS server does not say where the object is")
	}
	req, err := u.request(ctx, e, http.MethodGet, action.Href, action.Header, nil, !got.Authenticated && !has(action.Header, "Authorization"))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := u.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("fetching an LFS object: %w", withoutURL(err))
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, u.refusal(e, resp.StatusCode, nil)
	}
	return resp.Body, nil
}

// put sends an object, unless upstream has it, and has upstream verify it where it wants to.
func (u *lfsUpstream) put(ctx context.Context, o lfsObject, content io.Reader) error {
	e, got, err := u.one(ctx, lfsUpload, o)
	if err != nil {
		return err
	}
	action := got.Actions[lfsUpload]
	if action == nil {
		return nil // upstream has it
	}
	own := func(a *lfsAction) bool { return !got.Authenticated && !has(a.Header, "Authorization") }
	req, err := u.request(ctx, e, http.MethodPut, action.Href, action.Header, content, own(action))
	if err != nil {
		return err
	}
	req.ContentLength = o.Size
	if o.Size == 0 {
		req.Body = http.NoBody
	}
	if req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/octet-stream")
	}
	if err := u.succeeds(e, req); err != nil {
		return err
	}
	verify := got.Actions["verify"]
	if verify == nil {
		return nil
	}
	text, err := json.Marshal(lfsObject{OID: o.OID, Size: o.Size})
	if err != nil {
		return err
	}
	if req, err = u.request(ctx, e, http.MethodPost, verify.Href, verify.Header, bytes.NewReader(text), own(verify)); err != nil {
		return err
	}
	req.Header.Set("Accept", lfsType)
	req.Header.Set("Content-Type", lfsType)
	return u.succeeds(e, req)
}

// succeeds makes a request of which only the outcome matters.
func (u *lfsUpstream) succeeds(e lfsEndpoint, req *http.Request) error {
	resp, err := u.client.Do(req)
	if err != nil {
		return fmt.Errorf("sending an LFS object: %w", withoutURL(err))
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // what has come is told
	if resp.StatusCode/100 != 2 {
		return u.refusal(e, resp.StatusCode, body)
	}
	return nil
}

func has(header map[string]string, name string) bool {
	for n := range header {
		if strings.EqualFold(n, name) {
			return true
		}
	}
	return false
}
