package lab

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
)

// Benign is a text without a secret in it, of a kind that agents and their tools send or push.
type Benign struct {
	Kind, Path string
	Data       []byte
}

// maker makes benign texts; the same seed gives the same texts.
type maker struct{ *rand.Rand }

// projects are names of packages that scanners like to take for names of secrets.
var projects = []string{
	"golang.org/x/oauth2", "cloud.google.com/go/auth", "google.golang.org/api", "github.com/moby/moby/api", "passport-auth-token", "api-key-manager",
	"aws-credential-providers", "oauth4webapi", "jsonwebtoken", "secret-service", "password-hash", "token-types", "keyring", "access-control", "left-pad",
}

func (m maker) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(m.Uint32())
	}
	return b
}

func (m maker) hex(n int) string { return hex.EncodeToString(m.bytes(n)) }
func (m maker) b64(n int) string { return base64.StdEncoding.EncodeToString(m.bytes(n)) }
func (m maker) name() string     { return projects[m.IntN(len(projects))] }
func (m maker) base() string     { n := m.name(); return n[strings.LastIndexByte(n, '/')+1:] }
func (m maker) version() string {
	return fmt.Sprintf("%d.%d.%d", m.IntN(30), m.IntN(90), m.IntN(20))
}

func (m maker) words(n int) string {
	all := strings.Fields("the parser reads each key and its value from the table of tokens then writes an access log entry for every api call that a user of the service made today")
	var b strings.Builder
	for b.Len() < n {
		b.WriteString(all[m.IntN(len(all))] + []string{" ", " ", ", ", ".\n"}[m.IntN(4)])
	}
	return b.String()
}

// lines repeats a line, each time with new values.
func (m maker) lines(n int, line func() string) string {
	var b strings.Builder
	for range n {
		b.WriteString(line() + "\n")
	}
	return b.String()
}

// uuid is a random one (RFC 9562, version 4).
func (m maker) uuid() string {
	h := m.hex(16)
	return h[:8] + "-" + h[8:12] + "-4" + h[13:16] + "-a" + h[17:20] + "-" + h[20:]
}

// field is one of protobuf's, of the wire type that carries bytes.
func field(n int, data []byte) []byte {
	return append(binary.AppendUvarint(binary.AppendUvarint(nil, uint64(n<<3|2)), uint64(len(data))), data...)
}

// trace is an export request of OTLP in protobuf: random ids beside words.
func (m maker) trace() []byte {
	attribute := func(k, v string) []byte {
		return field(9, append(field(1, []byte(k)), field(2, field(1, []byte(v)))...))
	}
	var spans []byte
	for range 40 {
		var s []byte
		s = append(s, field(1, m.bytes(16))...)
		s = append(s, field(2, m.bytes(8))...)
		s = append(s, field(4, m.bytes(8))...)
		s = append(s, field(5, []byte("GET /v1/"+m.base()))...)
		s = append(append(s, 0x39), m.bytes(8)...)
		s = append(append(s, 0x41), m.bytes(8)...)
		s = append(s, attribute("http.request.header.x-request-id", m.uuid())...)
		s = append(s, attribute("token.usage.input", fmt.Sprint(m.IntN(9000)))...)
		spans = append(spans, field(2, s)...)
	}
	return field(1, append(field(1, field(1, []byte("service.name"))), field(2, spans)...))
}

// demoJWT is a token as documentation shows it, signed with a key that is written beside it.
func demoJWT(payload, key string) string {
	enc := base64.RawURLEncoding
	signed := enc.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + enc.EncodeToString([]byte(payload))
	h := hmac.New(sha256.New, []byte(key))
	h.Write([]byte(signed))
	return signed + "." + enc.EncodeToString(h.Sum(nil))
}

// certificate has the form of one in PEM.
func (m maker) certificate() string {
	body := m.b64(700)
	var b strings.Builder
	for i := 0; i < len(body); i += 64 {
		b.WriteString(body[i:min(len(body), i+64)] + "\n")
	}
	return "-----BEGIN CERTIFICATE-----\n" + b.String() + "-----END CERTIFICATE-----\n"
}

// accessKey is an identifier of an access key of AWS, which signed URLs have in them.
func (m maker) accessKey() string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
	b := []byte([]string{"AK" + "IA", "AS" + "IA"}[m.IntN(2)])
	for range 16 {
		b = append(b, alphabet[m.IntN(len(alphabet))])
	}
	return string(b)
}

func asJSON(v any) string {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic(err) // of a value that this file makes
	}
	return string(b)
}

// times encodes as base64 again and again.
func times(n int, s string) string {
	for range n {
		s = base64.StdEncoding.EncodeToString([]byte(s))
	}
	return s
}

type object = map[string]any

// kinds are the benign texts, by kind and path.
var kinds = map[string]func(m maker) string{
	"go.sum": func(m maker) string {
		return m.lines(60, func() string {
			return m.name() + " v" + m.version() + []string{" h1:", "/go.mod h1:"}[m.IntN(2)] + m.b64(32)
		})
	},
	"package-lock.json": func(m maker) string {
		all := object{}
		for range 30 {
			n := m.base()
			all["node_modules/"+n+m.version()] = object{"version": m.version(), "resolved": "https://packages.example/" + n + "/-/" + n + "-" + m.version() + ".tgz", "integrity": "sha512-" + m.b64(64), "license": "MIT"}
		}
		return asJSON(object{"lockfileVersion": 3, "packages": all})
	},
	"npm-shrinkwrap.json": func(m maker) string {
		return asJSON(object{"dependencies": object{m.base(): object{"version": m.version(), "integrity": "sha1-" + m.b64(20), "resolved": "https://packages.example/a#" + m.hex(20)}}})
	},
	"yarn.lock": func(m maker) string {
		return m.lines(30, func() string {
			n, v := m.base(), m.version()
			return fmt.Sprintf("%s@^%s:\n  version %q\n  resolved \"https://packages.example/%s/-/%s-%s.tgz#%s\"\n  integrity sha512-%s\n", n, v, v, n, n, v, m.hex(20), m.b64(64))
		})
	},
	"berry/yarn.lock": func(m maker) string {
		return m.lines(30, func() string {
			n, v := m.base(), m.version()
			return fmt.Sprintf("\"%s@npm:^%s\":\n  version: %s\n  resolution: \"%s@npm:%s\"\n  checksum: 10c0/%s\n  languageName: node\n", n, v, v, n, v, m.hex(64))
		})
	},
	"pnpm-lock.yaml": func(m maker) string {
		return "lockfileVersion: '9.0'\npackages:\n" + m.lines(30, func() string {
			return fmt.Sprintf("  %s@%s:\n    resolution: {integrity: sha512-%s}\n    engines: {node: '>=12'}\n", m.base(), m.version(), m.b64(64))
		})
	},
	"Cargo.lock": func(m maker) string {
		return m.lines(30, func() string {
			return fmt.Sprintf("[[package]]\nname = %q\nversion = %q\nsource = \"registry+https://index.example/\"\nchecksum = %q\n", m.base(), m.version(), m.hex(32))
		})
	},
	"poetry.lock": func(m maker) string {
		return m.lines(20, func() string {
			n := m.base()
			return fmt.Sprintf("[[package]]\nname = %q\nfiles = [\n    {file = \"%s-%s-py3-none-any.whl\", hash = \"sha256:%s\"},\n    {file = \"%s.tar.gz\", hash = \"sha256:%s\"},\n]\n", n, n, m.version(), m.hex(32), n, m.hex(32))
		})
	},
	"uv.lock": func(m maker) string {
		return m.lines(20, func() string {
			n := m.base()
			return fmt.Sprintf("[[package]]\nname = %q\nsdist = { url = \"https://packages.example/%s/%s/%s/%s-1.0.tar.gz\", hash = \"sha256:%s\", size = 41 }\n", n, m.hex(1), m.hex(1), m.hex(30), n, m.hex(32))
		})
	},
	"Pipfile.lock": func(m maker) string {
		return asJSON(object{"_meta": object{"hash": object{"sha256": m.hex(32)}}, "default": object{m.base(): object{"hashes": []string{"sha256:" + m.hex(32), "sha256:" + m.hex(32)}, "version": "==" + m.version()}}})
	},
	"requirements.txt": func(m maker) string {
		return m.lines(20, func() string {
			return m.base() + "==" + m.version() + " \\\n    --hash=sha256:" + m.hex(32) + " \\\n    --hash=sha256:" + m.hex(32)
		})
	},
	"composer.lock": func(m maker) string {
		return asJSON(object{"content-hash": m.hex(16), "packages": []object{{"name": "acme/" + m.base(), "source": object{"type": "git", "url": "https://git.example/a.git", "reference": m.hex(20)}, "dist": object{"reference": m.hex(20), "shasum": m.hex(20)}}}})
	},
	"Gemfile.lock": func(m maker) string {
		return "GEM\n  specs:\n    rails (7.1)\n\nCHECKSUMS\n" + m.lines(30, func() string { return "  " + m.base() + " (" + m.version() + ") sha256=" + m.hex(32) })
	},
	"mix.lock": func(m maker) string {
		return "%{\n" + m.lines(20, func() string {
			n := strings.ReplaceAll(m.base(), "-", "_")
			return fmt.Sprintf("  %q: {:hex, :%s, %q, %q, [:mix], [{:plug, \"~> 1.0\", [hex: :plug, repo: \"hexpm\", optional: false]}], \"hexpm\", %q},", n, n, m.version(), m.hex(32), m.hex(32))
		}) + "}\n"
	},
	"pubspec.lock": func(m maker) string {
		return "packages:\n" + m.lines(20, func() string {
			n := strings.ReplaceAll(m.base(), "-", "_")
			return fmt.Sprintf("  %s:\n    dependency: transitive\n    description:\n      name: %s\n      sha256: %q\n      url: \"https://pub.example\"\n    version: %q\n", n, n, m.hex(32), m.version())
		})
	},
	"packages.lock.json": func(m maker) string {
		return asJSON(object{"version": 1, "dependencies": object{"net8.0": object{"Azure.Identity.Token": object{"type": "Direct", "resolved": m.version(), "contentHash": m.b64(64)}, "Microsoft.ApiKey": object{"resolved": m.version(), "contentHash": m.b64(64)}}}})
	},
	"gradle/verification-metadata.xml": func(m maker) string {
		return "<verification-metadata><components>\n" + m.lines(20, func() string {
			return fmt.Sprintf("<component group=\"com.acme\" name=\"%s\" version=%q><artifact name=\"%s.jar\"><sha256 value=%q origin=\"Generated by Gradle\"/><pgp value=%q/></artifact></component>\n<trusted-key id=%q group=\"com.acme\"/>", m.base(), m.version(), m.base(), m.hex(32), strings.ToUpper(m.hex(20)), strings.ToUpper(m.hex(20)))
		}) + "</components></verification-metadata>\n"
	},
	"gradle/wrapper/gradle-wrapper.properties": func(m maker) string {
		return "distributionSha256Sum=" + m.hex(32) + "\ndistributionUrl=https\\://services.example/gradle-8.7-bin.zip\n"
	},
	"flake.lock": func(m maker) string {
		nodes := object{}
		for _, n := range []string{"nixpkgs", "agenix-secrets", "api-token-tool"} {
			nodes[n] = object{"locked": object{"lastModified": m.IntN(1 << 30), "narHash": "sha256-" + m.b64(32), "owner": "acme", "repo": n, "rev": m.hex(20), "type": "github"}}
		}
		return asJSON(object{"nodes": nodes, "version": 7})
	},
	"MODULE.bazel.lock": func(m maker) string {
		return asJSON(object{"lockFileVersion": 11, "registryFileHashes": object{"https://bcr.example/modules/token/source.json": m.hex(32)}, "moduleExtensions": object{"//:api.bzl%auth": object{"general": object{"bzlTransitiveDigest": m.b64(32), "usagesDigest": m.b64(32)}}}})
	},
	"WORKSPACE": func(m maker) string {
		return m.lines(10, func() string {
			return fmt.Sprintf("http_archive(\n    name = \"%s\",\n    sha256 = %q,\n    integrity = \"sha256-%s\",\n    urls = [\"https://files.example/%s.tar.gz\"],\n)", m.base(), m.hex(32), m.b64(32), m.hex(20))
		})
	},
	".terraform.lock.hcl": func(m maker) string {
		return m.lines(6, func() string {
			return fmt.Sprintf("provider \"registry.example/hashicorp/%s\" {\n  version = %q\n  hashes = [\n    \"h1:%s\",\n    \"zh:%s\",\n    \"zh:%s\",\n  ]\n}\n", m.base(), m.version(), m.b64(32), m.hex(32), m.hex(32))
		})
	},
	"Chart.lock": func(m maker) string {
		return "dependencies:\n- name: " + m.base() + "\n  repository: https://charts.example\n  version: " + m.version() + "\ndigest: sha256:" + m.hex(32) + "\ngenerated: \"2026-01-01T00:00:00Z\"\n"
	},
	"compose.yaml": func(m maker) string {
		return m.lines(10, func() string {
			return "  " + m.base() + ":\n    image: registry.example/acme/" + m.base() + "@sha256:" + m.hex(32)
		})
	},
	"manifest.json": func(m maker) string {
		layer := func() object {
			return object{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": "sha256:" + m.hex(32), "size": m.IntN(1 << 28), "annotations": object{"org.example.token": "sha256:" + m.hex(32)}}
		}
		return asJSON(object{"schemaVersion": 2, "config": layer(), "layers": []object{layer(), layer(), layer()}})
	},
	"Packages": func(m maker) string {
		return m.lines(20, func() string {
			n := m.base()
			return fmt.Sprintf("Package: %s\nVersion: %s-1\nFilename: pool/main/%s.deb\nSize: %d\nMD5sum: %s\nSHA1: %s\nSHA256: %s\nDescription-md5: %s\n", n, m.version(), n, m.IntN(1<<20), m.hex(16), m.hex(20), m.hex(32), m.hex(16))
		})
	},
	"Release": func(m maker) string {
		return "Origin: Example\nSHA256:\n" + m.lines(40, func() string { return fmt.Sprintf(" %s %8d main/%s/Packages", m.hex(32), m.IntN(1<<20), m.base()) })
	},
	"index.html": func(m maker) string {
		return "<html><head>\n" + m.lines(10, func() string {
			return fmt.Sprintf("<script src=\"https://cdn.example/%s.js\" integrity=\"sha384-%s\" crossorigin=\"anonymous\"></script>", m.base(), m.b64(48))
		}) + "</head><body><form><input type=\"text\" id=\"key\" autocomplete=\"one-time-code\"><input id=\"token\" autocomplete=\"new-password\"><input name=\"api_key\" placeholder=\"paste-your-key-here\"></form></body></html>\n"
	},
	"Package.resolved": func(m maker) string {
		return asJSON(object{"pins": []object{{"identity": m.base(), "kind": "remoteSourceControl", "location": "https://git.example/a.git", "state": object{"revision": m.hex(20), "version": m.version()}}}, "originHash": m.hex(32)})
	},
	"Podfile.lock": func(m maker) string {
		return "PODS:\n  - GoogleSignInToken (7.0)\n\nSPEC CHECKSUMS:\n" + m.lines(20, func() string { return "  " + m.base() + ": " + m.hex(20) }) + "\nPODFILE CHECKSUM: " + m.hex(20) + "\n"
	},
	"deno.lock": func(m maker) string {
		return asJSON(object{"version": "4", "npm": object{m.base() + "@" + m.version(): object{"integrity": "sha512-" + m.b64(64)}}, "remote": object{"https://deno.example/token.ts": m.hex(32)}})
	},
	"bun.lock": func(m maker) string {
		return "{\n  \"packages\": {\n" + m.lines(20, func() string {
			return fmt.Sprintf("    %q: [\"%s@%s\", \"\", {}, \"sha512-%s\"],", m.base(), m.base(), m.version(), m.b64(64))
		}) + "  }\n}\n"
	},
	"conda-lock.yml": func(m maker) string {
		return m.lines(20, func() string {
			return "- name: " + m.base() + "\n  version: " + m.version() + "\n  hash:\n    md5: " + m.hex(16) + "\n    sha256: " + m.hex(32)
		})
	},
	"presigned.txt": func(m maker) string {
		return m.lines(10, func() string {
			return "https://bucket.s3.example/" + m.base() + ".tar?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=" + m.accessKey() + "%2F20261130%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20261130T000000Z&X-Amz-Expires=3600&X-Amz-SignedHeaders=host&X-Amz-Signature=" + m.hex(32)
		})
	},
	"presigned.json": func(m maker) string {
		return asJSON(object{"url": "https://bucket.s3.example/", "fields": object{"X-Amz-Credential": m.accessKey() + "/20261130/eu-central-1/s3/aws4_request", "X-Amz-Signature": m.hex(32), "key": "uploads/" + m.uuid()}})
	},
	"traces.pb": func(m maker) string { return string(m.trace()) },
	"random.pb": func(m maker) string {
		return string(field(1, append(field(2, m.bytes(4000)), field(3, []byte(m.words(500)))...)))
	},
	"random.bin": func(m maker) string { return string(m.bytes(30_000)) },
	"traces.json": func(m maker) string {
		var spans []object
		for range 30 {
			spans = append(spans, object{"traceId": m.hex(16), "spanId": m.hex(8), "parentSpanId": m.hex(8), "name": "token refresh", "attributes": []object{{"key": "session.id", "value": object{"stringValue": m.uuid()}}}})
		}
		return asJSON(object{"resourceSpans": []object{{"scopeSpans": []object{{"spans": spans}}}}})
	},
	"twice.b64":  func(m maker) string { return times(2, m.words(20_000)) },
	"thrice.b64": func(m maker) string { return times(3, m.words(20_000)) },
	"secret.yaml": func(m maker) string {
		return "apiVersion: v1\nkind: Secret\nmetadata:\n  name: ca\ntype: Opaque\ndata:\n  ca.crt: " + times(1, m.certificate()) + "\n  tls.crt: " + times(1, m.certificate()+m.certificate()) + "\n"
	},
	"jwt.md": func(m maker) string {
		return "A JWT looks like this:\n\n    " + demoJWT(`{"sub":"1234567890","name":"John Doe","iat":1516239022}`, "your-256-bit-secret") + "\n\nor\n\n    " +
			demoJWT(`{"sub":"1234567890","name":"John Doe","admin":true,"iat":1516239022}`, "a-string-secret-at-least-256-bits-long") + "\n"
	},
	"log.txt": func(m maker) string {
		return m.lines(30, func() string {
			return "commit 4b1d" + m.hex(18) + "\nAuthor: A U Thor <a@example.com>\n\n    sourcegraph: bump the api\n\n    (cherry picked from commit 4b1d" + m.hex(18) + ")\n"
		})
	},
	"commit": func(m maker) string {
		return "tree 4b1d" + m.hex(18) + "\nparent 4b1d" + m.hex(18) + "\nauthor A U Thor <a@example.com> 1764460800 +0000\ncommitter A U Thor <a@example.com> 1764460800 +0000\n\nauth: use the token\n"
	},
	"tag": func(m maker) string {
		return "object 4b1d" + m.hex(18) + "\ntype commit\ntag v" + m.version() + "\ntagger A U Thor <a@example.com> 1764460800 +0000\n\nrelease\n"
	},
	"keys.go": func(m maker) string {
		return "package ssh\n\nconst (\n\tKeyAlgoMLDSA44 = \"ssh-mldsa-44\"\n\tKeyAlgoED25519 = \"ssh-ed25519\"\n\tCertAlgoRSASHA256v01 = \"rsa-sha2-256-cert-v01@openssh.com\"\n)\n\nfunc f() {\n\tpk1.Keytype = KeyAlgoED25519\n\tdk.encryptionKey1024 = ek.encryptionKey1024\n\tsigAlgKey := x509.ECDSAWithSHA256\n\tauthInfo.TokenType = oauth2TokenTypeBearer\n}\n"
	},
	"known_hosts": func(m maker) string {
		return m.lines(5, func() string {
			return "git.example.com ssh-ed25519 " + base64.StdEncoding.EncodeToString(append([]byte("\x00\x00\x00\x0bssh-ed25519\x00\x00\x00 "), m.bytes(32)...))
		})
	},
	"ca.pem": func(m maker) string { return m.certificate() + m.certificate() },
	"chat.json": func(m maker) string {
		return asJSON(object{"model": "m", "messages": []object{{"role": "user", "content": m.words(4000)}, {"role": "user", "content": []object{{"type": "image", "source": object{"type": "base64", "media_type": "image/png", "data": m.b64(40_000)}}}}}})
	},
	"bundle.js.map": func(m maker) string {
		return asJSON(object{"version": 3, "sources": []string{"a.ts"}, "names": strings.Fields(m.words(300)), "mappings": strings.Repeat("AAAA,SAASA,MAAMC,GAAGC,OAAOC;", 200)})
	},
	"style.css": func(m maker) string {
		return "@font-face{font-family:X;src:url(data:font/woff2;base64," + m.b64(20_000) + ") format(\"woff2\")}\n"
	},
	"notebook.ipynb": func(m maker) string {
		return asJSON(object{"cells": []object{{"cell_type": "code", "id": m.hex(4), "outputs": []object{{"data": object{"image/png": m.b64(30_000)}}}, "source": []string{"import api\n", "key = table.primary_key\n"}}}, "nbformat": 4})
	},
	"ids.json": func(m maker) string {
		return asJSON(object{"request_token": nil, "idempotency_key": m.uuid(), "cache_key": m.hex(20), "next_page_token": m.b64(30), "object_key": "uploads/" + m.hex(16), "etag": m.hex(16), "commit": m.hex(20)})
	},
	"table.csv": func(m maker) string {
		return "id,key,checksum\n" + m.lines(60, func() string { return m.uuid() + "," + fmt.Sprint(m.IntN(1<<30)) + "," + m.hex(32) })
	},
	"docs.md": func(maker) string {
		return "Set `AWS_ACCESS_KEY_ID=AKIA" + "IOSFODNN7EXAMPLE` and `API_KEY=your-api-key-here`, or `TOKEN=<token>`, `password: changeme`, `secret: ${SECRET}`.\n"
	},
}

// BenignTexts are at least n benign texts, about as many of each kind. Real ones may not be copied, so they are made of the form that the tools
// write; the values are random, and the same for the same seed.
func BenignTexts(seed uint64, n int) (all []Benign) {
	m := maker{rand.New(rand.NewPCG(seed, 0xbe))}
	for len(all) < n {
		for _, path := range slices.Sorted(maps.Keys(kinds)) {
			all = append(all, Benign{Kind: path, Path: path, Data: []byte(kinds[path](m))})
		}
	}
	return all
}
