package gitgate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"airlock/internal/bundle"
	"airlock/internal/lab"
)

// lfsClient passes a test over where git-lfs is missing; .ci/run installs it.
func lfsClient(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("git-lfs"); err != nil {
		t.Skip("git-lfs is not installed (apt-get install git-lfs): the real client is not tested")
	}
}

func basic(token string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte("x-access-token:"+token))
}

// besideGit serves LFS where its paths are, and git elsewhere.
func besideGit(l *lab.LFS) func(http.Handler) http.Handler {
	return func(git http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/info/lfs/") || strings.Contains(r.URL.Path, "/storage/") {
				l.ServeHTTP(w, r)
				return
			}
			git.ServeHTTP(w, r)
		})
	}
}

// lfsOverHTTPS is a gate whose upstream has LFS, by https with a token.
func lfsOverHTTPS(t *testing.T) (*rig, *lab.LFS) {
	own := token(41)
	l := &lab.LFS{Authorization: basic(own), Signed: "by the storage"}
	return viaHTTPS(t, own, own, besideGit(l)), l
}

// lfsOverSSH is a gate whose upstream tells by ssh where its LFS server is, and what opens it.
func lfsOverSSH(t *testing.T) (*rig, *lab.LFS) {
	l := &lab.LFS{Authorization: "RemoteAuth " + token(42), Signed: "by the storage"}
	_, url, roots := httpsUpstream(t, token(43), besideGit(l))
	r := newRig(t, func(c *Config) { c.Roots = roots })
	r.ssh.LFS = func(path, operation string) string {
		if path != "app.git" || (operation != "download" && operation != "upload") {
			return "no such repository"
		}
		text, _ := json.Marshal(map[string]any{"href": url + "/elsewhere/info/lfs", "header": map[string]string{"Authorization": l.Authorization}, "expires_in": 600})
		return string(text)
	}
	// The server of LFS is on loopback, which no upstream may name by itself.
	r.edit(func(c *Config) { c.File.Hosts["127.0.0.1"] = c.File.Hosts["upstream.test"] })
	return r, l
}

// inLFS makes a clone track *.bin.
func (r *rig) inLFS(w string) {
	r.t.Helper()
	r.run(w, "git", "lfs", "install", "--local")
	r.run(w, "git", "lfs", "track", "*.bin")
}

// TestLFS is what a person does: commit and push large files, clone them elsewhere, change them.
func TestLFS(t *testing.T) {
	lfsClient(t)
	for name, make := range map[string]func(*testing.T) (*rig, *lab.LFS){"https": lfsOverHTTPS, "ssh": lfsOverSSH} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, l := make(t)
			r.seed("main", map[string]string{"a": "1"})
			w := r.clone("http")
			r.inLFS(w)
			noise := rand.NewChaCha8([32]byte{7})
			large := strings.Repeat("many words without a secret\n", 80_000)
			raw := make3MB(noise)
			r.commit(w, "large", map[string]string{"words.bin": large, "raw.bin": string(raw), "empty.bin": ""})
			r.run(w, "git", "push", "-q", "origin", "HEAD")
			if all, verified := l.Objects(); all != 2 || verified != 2 {
				t.Errorf("expected two objects upstream, verified, got %d and %d", all, verified)
			}
			dir := t.TempDir()
			r.run(dir, "git", "-c", "filter.lfs.process=git-lfs filter-process", "-c", "filter.lfs.smudge=git-lfs smudge -- %f", "-c", "filter.lfs.required=true", "clone", "-q", r.url("http", "app"), "again")
			for file, want := range map[string][]byte{"words.bin": []byte(large), "raw.bin": raw, "empty.bin": {}} {
				if got, err := os.ReadFile(filepath.Join(dir, "again", file)); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s: expected %d bytes as they were, got %d, %v", file, len(want), len(got), err)
				}
			}
			r.commit(w, "more", map[string]string{"words.bin": large + "and more\n"})
			r.run(w, "git", "push", "-q", "origin", "HEAD")
			if all, _ := l.Objects(); all != 3 {
				t.Errorf("expected three objects upstream, got %d", all)
			}
			if leaks := l.Leaks(); len(leaks) > 0 {
				t.Errorf("expected the storage to see no credential of the API, got %q", leaks)
			}
			r.agree()
		})
	}
}

func make3MB(r io.Reader) []byte {
	raw := make([]byte, 3<<20)
	_, _ = io.ReadFull(r, raw) // it never ends
	return raw
}

// TestLFSSecretIsRefused: an object is scanned as a blob is, decoded too, and nothing of it goes upstream.
func TestLFSSecretIsRefused(t *testing.T) {
	lfsClient(t)
	r, l := lfsOverHTTPS(t)
	r.seed("main", map[string]string{"a": "1"})
	w := r.clone("http")
	r.inLFS(w)
	r.commit(w, "tracked", nil)
	secret := token(51)
	plain := strings.Repeat("words\n", 50_000) + secret + "\n" + strings.Repeat("words\n", 50_000)
	var outputs []string
	for name, text := range map[string]string{"plain": plain, "base64": base64.StdEncoding.EncodeToString([]byte(plain)), "own": "x" + hex.EncodeToString([]byte(token(41)))} {
		r.commit(w, "leak", map[string]string{name + ".bin": text})
		want := "secret, so it did not go upstream: github-pat in LFS object"
		if name == "own" {
			want = "it is never let through"
		}
		// git-lfs would send an object eight times; it gives up where the next batch refuses it.
		outputs = append(outputs, r.fails(w, []string{want, "[422]"}, "git", "push", "origin", "HEAD"))
		r.run(w, "git", "reset", "-q", "--hard", "HEAD~1")
	}
	if all, _ := l.Objects(); all != 0 {
		t.Errorf("expected no object upstream, got %d", all)
	}
	r.noLeftovers()
	r.absent(secret, outputs...)
}

// TestLFSRefusedPushFails: where an object is refused, git-lfs gives up at once, and the references are not pushed.
func TestLFSRefusedPushFails(t *testing.T) {
	lfsClient(t)
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"large":     {func(c *Config) { c.File.Limits.ObjectBytes = 1000 }, "over limits.object_bytes (1000)"},
		"read-only": {func(c *Config) { repo(c, func(x *repoT) { x.Push = new(bool) }) }, "push is false"},
		"no room":   {func(c *Config) { c.File.Limits.QuarantineBytes = 1000 }, "no room in quarantine"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, l := lfsOverHTTPS(t)
			r.seed("main", map[string]string{"a": "1"})
			w := r.clone("http")
			r.inLFS(w)
			r.run(w, "git", "config", "lfs.transfer.maxretries", "1")
			r.commit(w, "large", map[string]string{"a.bin": strings.Repeat("words ", 200)})
			before := r.refs(r.ssh.Dir("app"))
			r.edit(c.change)
			r.run(w, "git", "remote", "set-url", "origin", r.url("http", "app"))
			r.fails(w, []string{c.want}, "git", "push", "origin", "HEAD")
			if all, _ := l.Objects(); all != 0 || r.refs(r.ssh.Dir("app")) != before {
				t.Errorf("expected nothing upstream, got %d objects and %s", all, r.refs(r.ssh.Dir("app")))
			}
		})
	}
}

// TestLFSLocks are passed on, without what upstream tells of the gate's credential.
func TestLFSLocks(t *testing.T) {
	lfsClient(t)
	r, _ := lfsOverSSH(t)
	r.seed("main", map[string]string{"a": "1"})
	w := r.clone("http")
	r.inLFS(w)
	r.commit(w, "large", map[string]string{"a.bin": "large"})
	r.run(w, "git", "push", "-q", "origin", "HEAD")
	if out := r.run(w, "git", "lfs", "lock", "a.bin"); !strings.Contains(out, "Locked a.bin") {
		t.Errorf("expected the lock, got %q", out)
	}
	if out := r.run(w, "git", "lfs", "locks"); !strings.Contains(out, "a.bin") || !strings.Contains(out, "[redacted]") || strings.Contains(out, token(42)) {
		t.Errorf("expected the lock without the credential, got %q", out)
	}
	r.run(w, "git", "push", "-q", "origin", "HEAD:refs/heads/other") // verifies the locks
	if out := r.run(w, "git", "lfs", "unlock", "a.bin"); !strings.Contains(out, "Unlocked a.bin") {
		t.Errorf("expected the unlock, got %q", out)
	}
	secret := token(52)
	r.fails(w, []string{"secret found: github-pat"}, "git", "lfs", "lock", secret)
}

// lfsDo makes one request as a client that is not git-lfs.
func (r *rig) lfsDo(method, path string, body []byte) (status int, text string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+r.http+path, bytes.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		return resp.StatusCode, "cut: " + err.Error()
	}
	return resp.StatusCode, string(out)
}

func oidOf(content string) string {
	sum := sha256.Sum256([]byte(content))
	return hex.EncodeToString(sum[:])
}

// TestLFSRefusals are requests that reach upstream in no case.
func TestLFSRefusals(t *testing.T) {
	r, l := lfsOverHTTPS(t)
	r.edit(func(c *Config) {
		c.File.Limits.ObjectBytes, c.File.Limits.LFSDownloadBytes = 1000, 2000
		c.File.Repos["read"] = bundle.Repo{URL: c.File.Repos["app"].URL, Token: "GIT_TOKEN_0", Push: new(bool)}
	})
	large := strings.Repeat("x", 1001)
	hidden := hex.EncodeToString([]byte(token(53) + strings.Repeat(" ", 24)))
	batch := func(operation string, objects ...string) []byte {
		return []byte(fmt.Sprintf(`{"operation": %q, "objects": [%s]}`, operation, strings.Join(objects, ",")))
	}
	object := func(oid string, size int) string { return fmt.Sprintf(`{"oid": %q, "size": %d}`, oid, size) }
	const api = "/app.git/info/lfs/"
	for _, c := range []struct {
		what, method, path string
		body               []byte
		status             int
		want               string
	}{
		{"too large, in a batch", "POST", api + "objects/batch", batch("upload", object(oidOf(large), 1001)), 200, "limits.object_bytes (1000)"},
		{"too large", "PUT", api + "objects/" + oidOf(large) + "?size=1001", []byte(large), 400, "limits.object_bytes (1000)"},
		{"too large to be fetched, in a batch", "POST", api + "objects/batch", batch("download", object(oidOf(large), 2001)), 200, "limits.lfs_download_bytes (2000)"},
		{"too large to be fetched", "GET", api + "objects/" + oidOf(large) + "?size=2001", nil, 422, "limits.lfs_download_bytes (2000)"},
		{"too many in a batch", "POST", api + "objects/batch", batch("download", slices.Repeat([]string{object(oidOf(large), 1)}, 1001)...), 413, "more than 1000 objects"},
		{"larger than named", "PUT", api + "objects/" + oidOf("abc") + "?size=3", []byte("abcd"), 400, "not the object that was named"},
		{"smaller than named", "PUT", api + "objects/" + oidOf("abc") + "?size=3", []byte("ab"), 400, "not the object that was named"},
		{"another object", "PUT", api + "objects/" + oidOf("abc") + "?size=3", []byte("abd"), 400, "not the object that was named"},
		{"no size", "PUT", api + "objects/" + oidOf("abc"), []byte("abc"), 404, "no such object"},
		{"no name", "PUT", api + "objects/../../etc?size=3", []byte("abc"), 404, "no such object"},
		{"read-only", "PUT", "/read.git/info/lfs/objects/" + oidOf("abc") + "?size=3", []byte("abc"), 403, "push is false"},
		{"read-only, in a batch", "POST", "/read.git/info/lfs/objects/batch", batch("upload", object(oidOf("abc"), 3)), 403, "push is false"},
		{"read-only, a lock", "POST", "/read.git/info/lfs/locks", []byte(`{"path": "a"}`), 403, "push is false"},
		{"another repository", "POST", "/other.git/info/lfs/objects/batch", batch("download", object(oidOf("abc"), 3)), 404, "there is no repository"},
		{"another operation", "POST", api + "objects/batch", batch("verify", object(oidOf("abc"), 3)), 422, "neither download nor upload"},
		{"no JSON", "POST", api + "objects/batch", []byte("operation=upload"), 422, "not the JSON"},
		{"a secret in names", "POST", api + "objects/batch", batch("download", object(hidden[:64], 3), object(hidden[64:], 3)), 403, "secret found: github-pat"},
		{"a secret in a lock's query", "GET", api + "locks?path=" + token(54), nil, 403, "secret found: github-pat"},
		{"a secret in a lock", "POST", api + "locks", []byte(`{"path": "a", "ref": {"name": "refs/heads/\u0067` + token(54)[1:] + `"}}`), 403, "secret found: github-pat"},
		{"another part of the API", "POST", api + "verify", []byte("{}"), 404, "nothing else of it"},
		{"absent upstream", "GET", api + "objects/" + oidOf("abc") + "?size=3", nil, 404, "[redacted]"},
		{"absent upstream, in a batch", "POST", api + "objects/batch", batch("download", object(oidOf("abc"), 3)), 200, "[redacted]"},
	} {
		status, text := r.lfsDo(c.method, c.path, c.body)
		if status != c.status || !strings.Contains(text, c.want) {
			t.Errorf("%s: expected %d and %q, got %d and %q", c.what, c.status, c.want, status, text)
		}
		for _, secret := range []string{token(41), basic(token(41))[6:], token(53), token(54)} {
			if strings.Contains(text, secret) {
				t.Errorf("%s: the answer tells a secret", c.what)
			}
		}
	}
	if all, _ := l.Objects(); all != 0 {
		t.Errorf("expected no object upstream, got %d", all)
	}
	r.noLeftovers()
	r.absent(token(53))
}

// TestLFSNamesAreNoFindings: the names of objects are random, and a batch of them is scanned also without what is between them.
func TestLFSNamesAreNoFindings(t *testing.T) {
	scanner, err := newScanner(Config{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	noise := rand.NewChaCha8([32]byte{9})
	for range 100 {
		raw := make([]byte, 100*32)
		_, _ = io.ReadFull(noise, raw) // it never ends
		found, err := scanner.Scan(t.Context(), []byte(hex.EncodeToString(raw)))
		if err != nil || len(found) > 0 {
			t.Fatalf("expected no finding in names of objects, got %v, %v", found, err)
		}
	}
}

// TestLFSFetchOfWhatUpstreamSays bounds what a server may do with the gate.
func TestLFSFetchOfWhatUpstreamSays(t *testing.T) {
	r, l := lfsOverHTTPS(t)
	oid := l.Put([]byte("content"))
	get := func() (int, string) { return r.lfsDo("GET", "/app.git/info/lfs/objects/"+oid+"?size=7", nil) }
	if status, text := get(); status != 200 || text != "content" {
		t.Fatalf("expected the object, got %d, %q", status, text)
	}
	for storage, want := range map[string]string{
		"http://127.0.0.1:1":               "not https",
		"https://localhost:1":              "not public",
		"https://[::1]:1":                  "not public",
		"https://169.254.169.254":          "not public",
		"https://metadata.google.internal": "",
	} {
		l.Storage = storage
		if status, text := get(); status != 502 || !strings.Contains(text, want) {
			t.Errorf("%s: expected 502 and %q, got %d, %q", storage, want, status, text)
		}
	}
	l.Storage = ""
	if status, text := r.lfsDo("GET", "/app.git/info/lfs/objects/"+oid+"?size=9", nil); status == 200 && !strings.HasPrefix(text, "cut: ") {
		t.Errorf("expected no whole answer of another size, got %d, %q", status, text)
	}
}

// TestLFSDownloadsAreBounded: what comes of an object ends with its size, has to come at a rate, and so many come at a time.
func TestLFSDownloadsAreBounded(t *testing.T) {
	own := token(41)
	l := &lab.LFS{Authorization: basic(own)}
	slow, longer, held, other := l.Put(bytes.Repeat([]byte("s"), 1000)), l.Put([]byte("longer")), l.Put([]byte("held")), l.Put([]byte("other"))
	begun := make(chan struct{}, lfsAtOnceEach)
	release := make(chan struct{})
	r := viaHTTPS(t, own, own, func(git http.Handler) http.Handler {
		next := besideGit(l)(git)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch _, oid, _ := strings.Cut(r.URL.Path, "/storage/"); oid {
			case slow:
				for range 1000 {
					_, _ = w.Write([]byte("s"))
					_ = http.NewResponseController(w).Flush()
					select {
					case <-r.Context().Done():
						return
					case <-time.After(50 * time.Millisecond): // never silent for long
					}
				}
			case longer:
				_, _ = w.Write([]byte("longer and longer"))
			case held:
				begun <- struct{}{}
				select {
				case <-release:
				case <-r.Context().Done():
				}
				_, _ = w.Write([]byte("held"))
			default:
				next.ServeHTTP(w, r)
			}
		})
	})
	r.edit(func(c *Config) { c.Answer, c.Report = 2*time.Second, time.Minute })
	path := func(oid string, size int) string {
		return fmt.Sprintf("/app.git/info/lfs/objects/%s?size=%d", oid, size)
	}
	if status, text := r.lfsDo("GET", path(longer, 6), nil); status != 200 || text != "longer" {
		t.Errorf("expected 6 bytes, got %d and %q", status, text)
	}
	began := time.Now()
	if status, text := r.lfsDo("GET", path(slow, 1000), nil); !strings.HasPrefix(text, "cut: ") || time.Since(began) > 30*time.Second {
		t.Errorf("expected a slow upstream to be cut, got %d and %d bytes after %s", status, len(text), time.Since(began))
	}
	type answer struct {
		status int
		text   string
	}
	answers := make(chan answer, lfsAtOnceEach)
	for range lfsAtOnceEach {
		go func() {
			status, text := r.lfsDo("GET", path(held, 4), nil)
			answers <- answer{status, text}
		}()
	}
	for range lfsAtOnceEach {
		lab.Receive(t, begun, "every transfer begins")
	}
	if status, text := r.lfsDo("GET", path(other, 5), nil); status != 503 || !strings.Contains(text, "too many transfers") {
		t.Errorf("one more transfer: expected 503, got %d and %q", status, text)
	}
	elsewhere := &http.Client{Timeout: time.Minute, Transport: &http.Transport{DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).DialContext}}
	defer elsewhere.CloseIdleConnections()
	resp, err := elsewhere.Get("http://" + r.http + path(other, 5))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != 200 || string(text) != "other" || err != nil {
		t.Errorf("another client: expected its object, got %d, %q and %v", resp.StatusCode, text, err)
	}
	close(release)
	for range lfsAtOnceEach {
		if a := lab.Receive(t, answers, "the transfer goes on"); a.status != 200 || a.text != "held" {
			t.Errorf("expected the object, got %d and %q", a.status, a.text)
		}
	}
	if status, text := r.lfsDo("GET", path(other, 5), nil); status != 200 || text != "other" {
		t.Errorf("later: expected the object, got %d and %q", status, text)
	}
}

// TestLFSTransfersOfAllAreBounded: clients of many addresses share one limit.
func TestLFSTransfersOfAllAreBounded(t *testing.T) {
	l := newLFSTransfers()
	var ends []func()
	for i := range lfsAtOnce {
		done, err := l.next(t.Context(), fmt.Sprintf("192.0.2.%d:1", i))
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, done)
	}
	over, cancel := context.WithCancelCause(t.Context())
	cancel(errLFSBusy)
	for range 9 {
		if done, err := l.next(over, "198.51.100.1:1"); err == nil {
			done()
			t.Fatal("expected no turn beyond those of all")
		}
	}
	for _, done := range ends {
		done()
	}
	if len(l.each) != 0 || len(l.all) != 0 {
		t.Errorf("expected nothing to be left, got %d clients and %d turns", len(l.each), len(l.all))
	}
}
