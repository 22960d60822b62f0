package pipelock

import (
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"go/build"
	"image"
	"image/color"
	"image/png"
	"io"
	"io/fs"
	"math/big"
	mathrand "math/rand/v2"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"airlock/internal/lab"
	"airlock/internal/policy"
)

// chances is where all that looks random comes from. It is the same in each run: of some ten
// thousand requests with as much in them, one is refused by chance.
var chances = mathrand.NewChaCha8([32]byte([]byte("what must pass must not pass by c")[:32]))

func someBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = chances.Read(b) // never fails
	return b
}

func aUUID() string {
	h := hex.EncodeToString(someBytes(16))
	return h[:8] + "-" + h[8:12] + "-4" + h[13:16] + "-a" + h[17:20] + "-" + h[20:]
}

func aPNG(side int) []byte {
	m := image.NewNRGBA(image.Rect(0, 0, side, side))
	for i := range m.Pix {
		m.Pix[i] = byte(i * i / 7)
	}
	m.Set(1, 1, color.Black)
	for i, c := range someBytes(side * side) {
		m.Pix[i] = c
	}
	var b bytes.Buffer
	_ = png.Encode(&b, m)
	return b.Bytes()
}

func asJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// benign is one kind of what agents and their tools send all day.
type benign struct {
	name, method, target, kind string
	body                       func(n int) string
	header                     func(n int) map[string]string
}

type object = map[string]any

func lines(n int, line func(i int) string) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(line(i) + "\n")
	}
	return b.String()
}

var worldText = []string{
	"Съешь же ещё этих мягких французских булок, да выпей чаю. Хорошо, что рассвет наступил рано, и роса осела на траве.",
	"Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. Ο καιρός είναι καλός σήμερα και η θάλασσα ήρεμη.",
	"敏捷的棕色狐狸跳过了懒狗。今天天气很好，我们去公园散步吧。",
	"いろはにほへと ちりぬるを わかよたれそ つねならむ。ファイルを開いてください。",
	"الطقس جميل اليوم، فلنذهب إلى الحديقة ونقرأ كتابا معا.",
	"Falsches Üben von Xylophonmusik quält jeden größeren Zwerg — “ja”, sagte er… ça va? ½ × 2 ≥ 1, 100 ℃, ﬁn, №5 ™",
	"👩‍👩‍👧‍👦 family, 🏳️‍🌈 flag, ✅ done, 🚀 ship it, e\u0301 decomposed, zero\u200bwidth, soft\u00adhyphen, \ufefftext",
}

var benigns = []benign{
	{name: "a chat", body: func(n int) string {
		return asJSON(object{"model": "some-model-1", "max_tokens": 1024, "messages": []object{
			{"role": "system", "content": "You are a helpful assistant. Answer in one sentence; think step by step."},
			{"role": "user", "content": fmt.Sprintf("Why does test %d fail?\n\nExpected: 3\nGot: \"4\"\n\tat foo (bar.js:%d:3)\n", n, n)},
		}})
	}},
	{name: "a chat with an image", body: func(n int) string {
		return asJSON(object{"messages": []object{{"role": "user", "content": []object{
			{"type": "text", "text": "What is in this picture?"},
			{"type": "image", "source": object{"type": "base64", "media_type": "image/png", "data": base64.StdEncoding.EncodeToString(aPNG(40 + 20*n))}}}}}})
	}},
	{name: "tool calls", body: func(n int) string {
		arguments := asJSON(object{"path": "src/main.go", "old_string": "func main() {\n\tfmt.Println(\"hi\")\n}", "new_string": "x := map[string]string{\"a\": \"b\"}", "count": n})
		return asJSON(object{"messages": []object{
			{"role": "assistant", "tool_calls": []object{{"id": "call_" + hex.EncodeToString(someBytes(12)), "type": "function", "function": object{"name": "edit", "arguments": arguments}}}},
			{"role": "tool", "tool_call_id": "toolu_" + hex.EncodeToString(someBytes(12)), "content": "{\"ok\":true,\"stdout\":\"PASS\\nok  \\tpkg\\t0.01s\\n\"}"}}})
	}},
	{name: "a lockfile", body: func(n int) string {
		packages := object{}
		for i := range 100 {
			sum := sha512.Sum512(fmt.Appendf(someBytes(4), "%d", i))
			packages[fmt.Sprintf("node_modules/pkg-%d", i)] = object{"version": fmt.Sprintf("1.%d.%d", i, n), "resolved": fmt.Sprintf("https://packages.example/pkg-%d/-/pkg-%d-1.%d.0.tgz", i, i, i),
				"integrity": "sha512-" + base64.StdEncoding.EncodeToString(sum[:]), "engines": object{"node": ">=18"}}
		}
		return asJSON(object{"lockfileVersion": 3, "packages": packages})
	}},
	{name: "go.sum", kind: "text/plain", body: func(int) string {
		return lines(200, func(i int) string {
			return fmt.Sprintf("example.com/mod/m%d v1.%d.0/go.mod h1:%s=", i, i, base64.StdEncoding.EncodeToString(someBytes(32))[:43])
		})
	}},
	{name: "hashes and ids", body: func(int) string {
		sum := sha256.Sum256(someBytes(8))
		return asJSON(object{"id": aUUID(), "parent": aUUID(), "sha": hex.EncodeToString(someBytes(20)), "digest": "sha256:" + hex.EncodeToString(sum[:]), "etag": `W/"` + hex.EncodeToString(someBytes(8)) + `"`,
			"trace_id": hex.EncodeToString(someBytes(16)), "cursor": base64.URLEncoding.EncodeToString(someBytes(24)), "ids": []string{aUUID(), aUUID(), aUUID(), aUUID()}, "key": aUUID()})
	}},
	{name: "a commit", method: "POST", body: func(int) string {
		return asJSON(object{"message": "Fix the build", "tree": hex.EncodeToString(someBytes(20)), "parents": []string{hex.EncodeToString(someBytes(20)), hex.EncodeToString(someBytes(20))},
			"author": object{"name": "A", "email": "a@example.com", "date": "2026-11-21T12:00:00Z"}})
	}},
	{name: "GraphQL", body: func(n int) string {
		return asJSON(object{"operationName": "Issues", "variables": object{"first": n, "after": base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "cursor:v2:%d", n))},
			"query": "query Issues($first: Int!, $after: String) {\n  repository(owner: \"o\", name: \"r\") {\n    issues(first: $first, after: $after) { pageInfo { endCursor hasNextPage } nodes { id number title } }\n  }\n}\n"})
	}},
	{name: "an embedding", body: func(int) string {
		var v []float64
		var ids []int
		r := mathrand.New(chances)
		for range 1000 {
			v = append(v, r.NormFloat64())
			ids = append(ids, r.IntN(50_000))
		}
		return asJSON(object{"vector": v, "tokens": ids, "bytes": []int{0, 1, 2, 255, 254, 17, 3, 200, 9, 128, 64, 32, 16, 8}, "small": []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17}})
	}},
	{name: "ASCII as numbers", body: func(int) string {
		return asJSON([]int{72, 101, 108, 108, 111, 44, 32, 119, 111, 114, 108, 100, 33, 32, 104, 111, 119, 32, 97, 114, 101, 32, 121, 111, 117})
	}},
	{name: "a hex dump", kind: "text/plain", body: func(int) string {
		return lines(100, func(i int) string {
			b := someBytes(16)
			return fmt.Sprintf("%08x  % x  |%s|", 16*i, b, strings.Map(func(c rune) rune {
				if c < ' ' || c > '~' {
					return '.'
				}
				return c
			}, string(b)))
		})
	}},
	{name: "a certificate", kind: "text/plain", body: func(int) string {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			panic(err)
		}
		about := &x509.Certificate{SerialNumber: new(big.Int).SetBytes(someBytes(8)), Subject: pkix.Name{CommonName: "a.example"}, NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, about, about, key.Public(), key)
		if err != nil {
			panic(err)
		}
		public, _ := x509.MarshalPKIXPublicKey(key.Public())
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})) + string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})) +
			"ssh-ed25519 " + base64.StdEncoding.EncodeToString(append([]byte("\x00\x00\x00\x0bssh-ed25519\x00\x00\x00 "), someBytes(32)...)) + " me@example\n"
	}},
	{name: "documentation keys", kind: "text/markdown", body: func(int) string {
		return "Set `AWS_ACCESS_KEY_ID=AKIA" + "IOSFODNN7EXAMPLE` and put `Authorization: Bearer <token>` into the header, or `token: ${{ secrets.TOKEN }}`;\nnever write `password = \"changeme\"` or `api_key: YOUR_API_KEY_HERE`. Tokens begin with `gh" + "p_`, `sk-` or `xo" + "xb-`.\n"
	}},
	{name: "the world's text", kind: "text/plain; charset=utf-8", body: func(n int) string { return strings.Repeat(worldText[n%len(worldText)]+"\n", 30) }},
	{name: "the world's text in JSON", body: func(n int) string { return asJSON(object{"text": worldText, "n": n}) }},
	{name: "a minified script", kind: "text/javascript", body: func(n int) string {
		return strings.Repeat(`!function(e,t){"object"==typeof exports&&"undefined"!=typeof module?module.exports=t():e.x=t()}(this,function(){var e=[0,1,2],t=function(e){return e&&e.__esModule?e:{default:e}};return t(e[0]|`+fmt.Sprint(n)+`)});`, 20)
	}},
	{name: "a style sheet with a font", kind: "text/css", body: func(n int) string {
		return "@font-face{font-family:x;src:url(data:font/woff2;base64," + base64.StdEncoding.EncodeToString(append([]byte("wOF2\x00\x01\x00\x00"), someBytes(4000+n)...)) + ") format('woff2')}\n.a:hover>.b::after{content:\"\\201C\";color:#fa8072}\n"
	}},
	{name: "an SVG", kind: "image/svg+xml", body: func(n int) string {
		return `<svg viewBox="0 0 24 24"><path d="` + lines(40, func(i int) string {
			return fmt.Sprintf("M%d.%d %dl%d-%d.%dc%d %d", i, n, i*3, i, i*2, i*7, n, i)
		}) + `"/><text>&lt;hi&gt; &amp; &#169; &eacute;</text></svg>`
	}},
	{name: "a log", kind: "text/plain", body: func(n int) string {
		return lines(200, func(i int) string {
			return fmt.Sprintf(`2026-11-21T12:%02d:%02d.%03dZ level=INFO msg="request served" method=GET path=/v1/items/%d?page=%d status=200 duration=%dms id=%s remote=192.0.2.%d:%d`, i%60, n%60, i, i, n, i*3, aUUID(), i%255, 1024+i)
		})
	}},
	{name: "an error report", body: func(n int) string {
		var frames []object
		for i := range 40 {
			frames = append(frames, object{"filename": fmt.Sprintf("app:///node_modules/pkg/dist/index-%s.js", hex.EncodeToString(someBytes(4))), "function": "Object.<anonymous>", "lineno": i, "colno": n, "in_app": i%2 == 0, "instruction_addr": fmt.Sprintf("0x%012x", i*7919)})
		}
		return asJSON(object{"event_id": hex.EncodeToString(someBytes(16)), "timestamp": 1795262400.123, "exception": object{"values": []object{{"type": "TypeError", "value": "x is not a function", "stacktrace": object{"frames": frames}}}}, "release": "app@1.2.3+" + hex.EncodeToString(someBytes(4)), "user": object{"id": aUUID()}})
	}},
	{name: "a form", kind: "application/x-www-form-urlencoded", body: func(n int) string {
		return url.Values{"name": {"Jörg Müller"}, "text": {"a & b = c; 100% sure?"}, "page": {fmt.Sprint(n)}, "grant_type": {"client_credentials"}, "scope": {"read:items write:items"}, "state": {aUUID()}}.Encode()
	}},
	{name: "CSV", kind: "text/csv", body: func(int) string {
		return "id,name,amount,when\n" + lines(300, func(i int) string {
			return fmt.Sprintf("%d,\"Name %d\",%d.%02d,2026-11-%02d", i, i, i*17, i%100, 1+i%28)
		})
	}},
	{name: "random bytes", method: "PUT", kind: "application/octet-stream", body: func(n int) string { return string(someBytes(10_000 * (n + 1))) }},
	{name: "a tarball of nothing special", method: "PUT", kind: "application/gzip", body: func(n int) string {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = io.WriteString(z, lines(1000, func(i int) string { return fmt.Sprintf("line %d of file %d", i, n) }))
		_ = z.Close()
		return b.String()
	}},
	{name: "gRPC", kind: "application/grpc", body: func(n int) string {
		var b []byte
		for i := range 20 {
			message := append([]byte{0x0a, 16}, someBytes(16)...)
			message = append(append(message, 0x12, byte(len("name"))), "name"...)
			message = binary.AppendUvarint(append(message, 0x18), uint64(i*n))
			b = binary.BigEndian.AppendUint32(append(b, 0), uint32(len(message)))
			b = append(b, message...)
		}
		return string(b)
	}},
	{name: "a multipart upload", body: func(n int) string { return string(aPNG(30 + n)) }},
	{name: "a query", method: "GET", target: "/v1/search?q=how+to+write+a+parser&page_token=%s&fields=id%%2Cname&t=1795262400&sort=-created_at&utm_source=x", header: func(int) map[string]string {
		return map[string]string{"If-None-Match": `"` + hex.EncodeToString(someBytes(16)) + `"`, "Traceparent": "00-" + hex.EncodeToString(someBytes(16)) + "-" + hex.EncodeToString(someBytes(8)) + "-01", "Idempotency-Key": aUUID(),
			"X-Request-Id": aUUID(), "Cookie": "_ga=GA1.2.1234567890.1795262400; theme=dark; lang=de-DE; consent=" + aUUID() + "; visited=1%2C2%2C3", "Accept-Language": "de-DE,de;q=0.9,en;q=0.8"}
	}},
	{name: "a package's page", method: "GET", target: "/@scope%%2fpackage-name/-/package-name-1.2.3.tgz?integrity=sha512-%s", header: func(int) map[string]string {
		return map[string]string{"User-Agent": "npm/10.8.2 node/v22.9.0 linux x64 workspaces/false", "Npm-Command": "ci", "Accept": "application/vnd.npm.install-v1+json; q=1.0, application/json; q=0.8, */*"}
	}},
	{name: "a layer", method: "GET", target: "/v2/library/thing/blobs/sha256:%s", header: func(int) map[string]string {
		return map[string]string{"User-Agent": "docker/27.0 go/go1.23 kernel/6.10 os/linux arch/amd64", "Range": "bytes=0-1048575"}
	}},
}

// passes sends one request through all that pipelock reads.
func passes(t *testing.T, s *scanner, h policy.Host, name string, r *http.Request) {
	t.Helper()
	if v := s.head(r, scanContext{host: h}); !v.Allow {
		t.Errorf("%s: %+v", name, v)
		return
	}
	if r.Body == nil || r.ContentLength == 0 {
		return
	}
	length := r.ContentLength
	v, err := s.body(r, scanContext{host: h, report: silent})
	n := int64(0)
	if err == nil && v.Allow {
		n, err = io.Copy(io.Discard, r.Body)
	}
	if err != nil || !v.Allow || n != length {
		t.Errorf("%s: %+v, %v, %d bytes of %d", name, v, err, n, length)
	}
}

// TestBenignRequests has what must pass: each kind eight times, no two alike, to one host, so that
// they are pieces to each other.
func TestBenignRequests(t *testing.T) {
	s := testScanner(t, "")
	h := host(t, "api.ok.test")
	sent, rounds := 0, 8 // each round has about 29 requests
	if testing.Short() {
		rounds = 2
	}
	for n := range rounds {
		for _, b := range benigns {
			target := "https://api.ok.test/v1/items"
			if b.target != "" {
				target = "https://api.ok.test" + fmt.Sprintf(b.target, hex.EncodeToString(someBytes(32)))
			}
			var body io.Reader
			kind := b.kind
			if b.body != nil {
				body = strings.NewReader(b.body(n))
			}
			if b.name == "a multipart upload" {
				var parts bytes.Buffer
				w := multipart.NewWriter(&parts)
				part, _ := w.CreateFormFile("file", fmt.Sprintf("screenshot-%d.png", n))
				_, _ = io.Copy(part, body)
				_ = w.WriteField("purpose", "vision")
				_ = w.Close()
				body, kind = &parts, w.FormDataContentType()
			}
			method := b.method
			if method == "" {
				method = http.MethodPost
			}
			r := httptest.NewRequest(method, target, body)
			r.Header.Set("User-Agent", "an-agent/1.0")
			if kind == "" {
				kind = "application/json"
			}
			r.Header.Set("Content-Type", kind)
			if b.header != nil {
				for name, value := range b.header(n) {
					r.Header.Set(name, value)
				}
			}
			passes(t, s, h, b.name, r)
			sent++
		}
	}
	if sent < 25*rounds {
		t.Fatalf("only %d requests", sent)
	}
}

// TestBenignSources sends source files: those of the standard library, as they are, in JSON and in
// base64.
func TestBenignSources(t *testing.T) {
	lab.Long(t)
	s := testScanner(t, "")
	h := host(t, "api.ok.test")
	sent, size := 0, 0
	for _, folder := range []string{"net/http", "encoding", "compress", "go/types", "strings", "time", "os", "html", "image", "database", "text", "regexp", "unicode"} {
		err := filepath.WalkDir(filepath.Join(build.Default.GOROOT, "src", folder), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() && d.Name() == "testdata" {
				return fs.SkipDir
			}
			if filepath.Ext(path) != ".go" || sent%3 == 2 && size > 1<<20 {
				sent++
				return nil
			}
			text, err := os.ReadFile(path)
			if err != nil || len(text) > 500_000 {
				return err
			}
			sent, size = sent+1, size+len(text)
			body := string(text)
			switch sent % 3 {
			case 1:
				body = asJSON(object{"path": path, "content": body})
			case 2:
				body = asJSON(object{"content": base64.StdEncoding.EncodeToString(text)})
			}
			r := httptest.NewRequest(http.MethodPost, "https://api.ok.test/v1/files", strings.NewReader(body))
			passes(t, s, h, path, r)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if size < 4<<20 {
		t.Fatalf("only %d bytes of source", size)
	}
}
