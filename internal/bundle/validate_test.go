package bundle

import (
	"fmt"
	"strings"
	"testing"

	"airlock/internal/config"
)

// whole are files without a fault. The text that a case of TestEveryRuleRefuses names is exchanged in one.
var whole = map[string]string{
	"egress.yaml": `version: 1
upstream: unix:/run/airlock/pipelock.sock
ca: {cert: /etc/airlock/ca/ca.crt, key: /etc/airlock/ca/ca.key}
mode: learn
learn: [learn.example.com]
routes:
  - {host: a.example.com, methods: [GET], paths: ["/v1/*"], git: fetch, kind: llm, auth: {type: bearer, slot: EGRESS_TOKEN_0}}
  - {host: basic.example.com, auth: {type: basic, slot: EGRESS_TOKEN_1, user: me}}
  - {host: header.example.com, auth: {type: header, slot: EGRESS_TOKEN_2, name: X-Key}}
  - {host: query.example.com, auth: {type: query, slot: EGRESS_TOKEN_3, name: key}}
  - {host: replace.example.com, auth: {type: replace, slot: EGRESS_TOKEN_4, placeholder: placeholder-4, in: [query]}}
  - {host: s3.example.com, auth: {type: sigv4, region: eu-central-1, service: s3, id_slot: AWS_ID, secret_slot: AWS_SECRET}}
  - {host: oauth.example.com, auth: {type: oauth, token_url: "https://id.example.com/token", client_id_slot: ID, client_secret_slot: SECRET, client_auth: body}}
  - {host: app.example.com, auth: {type: github_app, app_id: "12", installation_id: "34", key_slot: KEY, api_url: "https://api.example.com"}}
  - {host: "plain.example.com:80", plain_http: true, auth: {type: bearer, slot: EGRESS_TOKEN_5}}
mirrors:
  - {url: "https://git.example.com/acme/app.git", to: "http://git-gate:9420/app.git"}
`,
	"pipelock.yaml": `version: 1
ca: {cert: /etc/airlock/ca/ca.crt, key: /etc/airlock/ca/ca.key}
allow: [a.example.com, {host: b.example.com, expires: 2026-12-31T00:00:00Z}]
hosts: {a.example.com: 192.0.2.1}
addresses: {allow: [10.1.0.0/16]}
client_certificates:
  - {host: m.example.com, cert: /etc/airlock/m.crt, key: /etc/airlock/m.key}
secrets:
  action: redact
  hosts: {"*.example.com": {action: warn}}
  entropy: {bits: 4.5, length: 32}
  values: [EGRESS_DIGEST_0]
answers: {action: block}
limits:
  requests_per_minute: 100
  tunnels: 10
  hosts: {a.example.com: {requests_per_minute: 1, tunnels: 2}}
upstream_proxy: {url: "http://proxy.example.com:3128", auth: PROXY_AUTH_0}
`,
	"git-gate.yaml": `version: 1
hosts: {git.example.com: 192.0.2.1}
protect: [refs/heads/main]
limits: {refs: 10}
scan:
  allow:
    - {repo: app, rule: github-pat, digest: 0000000000000000000000000000000000000000000000000000000000000000}
repos:
  app: {url: "ssh://git@git.example.com/acme/app.git", identity: /etc/airlock/id, passphrase: GIT_PASS_0}
  web: {url: "https://git.example.com/acme/web.git", token: GIT_TOKEN_0}
`,
	"supervise.yaml": `version: 1
wait: 30s
limits: {open_proposals: 50}
`,
}

// parse reads a file of the bundle by its name.
func parse(name, text string) error {
	var file any
	switch name {
	case "egress.yaml":
		file = &EgressFile{}
	case "pipelock.yaml":
		file = &PipelockFile{}
	case "git-gate.yaml":
		file = &GitGateFile{}
	default:
		file = &SuperviseFile{}
	}
	return config.Decode(name, []byte(text), file)
}

// TestEveryRuleRefuses exchanges one text of a good file at a time. The error names the file, the line, the key, and what is wrong there.
func TestEveryRuleRefuses(t *testing.T) {
	for name, text := range whole {
		if err := parse(name, text); err != nil {
			t.Errorf("the file without a fault: %v", err)
		}
	}
	for _, c := range []struct {
		name, old, new string
		want           string // in the error, after the line
	}{
		{"egress.yaml", "version: 1", "version: 2", "version"},
		{"egress.yaml", "unix:/run/airlock/pipelock.sock", "tcp:1.2.3.4:1", "upstream"},
		{"egress.yaml", "unix:/run/airlock/pipelock.sock", "direct", "upstream: expected unix:/path"},
		{"egress.yaml", "cert: /etc/airlock/ca/ca.crt, ", "", "ca: the files cert and key"},
		{"egress.yaml", "mode: learn", "mode: open", `mode: "open"`},
		{"egress.yaml", "learn: [learn.example.com]", "learn: []", "mode: learn mode needs the hosts"},
		{"egress.yaml", "mode: learn", "", "learn: hosts to learn about"},
		{"egress.yaml", "[learn.example.com]", "['']", "egress.yaml:5: pattern"},
		{"egress.yaml", "host: a.example.com, ", "", "routes[0]: a host is needed"},
		{"egress.yaml", "[GET]", "[get]", "routes[0].methods[0]"},
		{"egress.yaml", "[GET]", "[CONNECT]", "routes[0].methods[0]"},
		{"egress.yaml", "[GET]", "['G T']", "routes[0].methods[0]"},
		{"egress.yaml", "/v1/*", "v1", "routes[0].paths[0]"},
		{"egress.yaml", "git: fetch", "git: push", "routes[0].git"},
		{"egress.yaml", "kind: llm", "kind: model", "routes[0].kind"},
		{"egress.yaml", "plain_http: true, ", "", "routes[8].host: a credential would go over plain http"},
		{"egress.yaml", "type: bearer, slot: EGRESS_TOKEN_0", "type: cookie, slot: EGRESS_TOKEN_0", `routes[0].auth.type: "cookie"`},
		{"egress.yaml", "type: bearer, slot: EGRESS_TOKEN_0", "type: bearer", "routes[0].auth: slot is needed"},
		{"egress.yaml", "slot: EGRESS_TOKEN_0", "slot: secret-value", "routes[0].auth: slot"},
		{"egress.yaml", ", user: me", "", "routes[1].auth: user is needed"},
		{"egress.yaml", "user: me", "user: 'a:b'", "routes[1].auth.user"},
		{"egress.yaml", ", name: X-Key", "", "routes[2].auth: name is needed"},
		{"egress.yaml", "name: X-Key", "name: 'X Key'", "routes[2].auth.name"},
		{"egress.yaml", "name: X-Key", "name: Content-Length", "routes[2].auth.name"},
		{"egress.yaml", "name: X-Key", "name: Airlock-Injected", "routes[2].auth.name"},
		{"egress.yaml", ", name: key", "", "routes[3].auth: name is needed"},
		{"egress.yaml", ", placeholder: placeholder-4", "", "routes[4].auth: placeholder is needed"},
		{"egress.yaml", "placeholder: placeholder-4", "placeholder: short", "routes[4].auth.placeholder"},
		{"egress.yaml", "in: [query]", "in: [cookies]", "routes[4].auth.in"},
		{"egress.yaml", "region: eu-central-1, ", "", "routes[5].auth: region is needed"},
		{"egress.yaml", "region: eu-central-1", "region: EU/1", "routes[5].auth.region"},
		{"egress.yaml", "service: s3, ", "", "routes[5].auth: service is needed"},
		{"egress.yaml", "service: s3", "service: 'S 3'", "routes[5].auth.service"},
		{"egress.yaml", "id_slot: AWS_ID, ", "", "routes[5].auth: id_slot is needed"},
		{"egress.yaml", ", secret_slot: AWS_SECRET", "", "routes[5].auth: secret_slot is needed"},
		{"egress.yaml", `token_url: "https://id.example.com/token", `, "", "routes[6].auth: token_url is needed"},
		{"egress.yaml", "https://id.example.com/token", "ftp://id.example.com/token", "routes[6].auth.token_url"},
		{"egress.yaml", "https://id.example.com/token", "https://me@id.example.com/token", "routes[6].auth.token_url"},
		{"egress.yaml", "https://id.example.com/token", "https://id.example.com:0/token", "routes[6].auth.token_url"},
		{"egress.yaml", "https://id.example.com/token", "http://id.example.com/token", "routes[6].auth.token_url: a credential would go over plain http"},
		{"egress.yaml", "client_id_slot: ID, ", "", "routes[6].auth: client_id_slot is needed"},
		{"egress.yaml", "client_secret_slot: SECRET, ", "", "routes[6].auth: client_secret_slot is needed"},
		{"egress.yaml", "client_auth: body", "client_auth: form", "routes[6].auth.client_auth"},
		{"egress.yaml", `app_id: "12", `, "", "routes[7].auth: app_id is needed"},
		{"egress.yaml", `app_id: "12"`, `app_id: "a b"`, "routes[7].auth.app_id"},
		{"egress.yaml", `installation_id: "34", `, "", "routes[7].auth: installation_id is needed"},
		{"egress.yaml", `installation_id: "34"`, `installation_id: "x"`, "routes[7].auth.installation_id"},
		{"egress.yaml", "key_slot: KEY, ", "", "routes[7].auth: key_slot is needed"},
		{"egress.yaml", `api_url: "https://api.example.com"`, `api_url: "mailto:x"`, "routes[7].auth.api_url"},
		{"egress.yaml", "https://git.example.com/acme/app.git", "ssh://git@git.example.com/acme/app.git", "mirrors[0].url"},
		{"egress.yaml", "https://git.example.com/acme/app.git", "https://git.example.com/", "mirrors[0].url"},
		{"egress.yaml", "http://git-gate:9420/app.git", "https://git-gate:9420/app.git", "mirrors[0].to"},
		{"egress.yaml", "http://git-gate:9420/app.git", "http://git-gate:9420/app", "mirrors[0].to"},

		{"pipelock.yaml", "version: 1", "version: 0", "version"},
		{"pipelock.yaml", ", key: /etc/airlock/ca/ca.key", "", "ca: the files cert and key"},
		{"pipelock.yaml", "host: b.example.com, ", "", "allow[1]: a host is needed"},
		{"pipelock.yaml", "a.example.com: 192.0.2.1", "'a b': 192.0.2.1", "hosts.a b"},
		{"pipelock.yaml", "a.example.com: 192.0.2.1", "a.example.com: 192.0.2.1, A.example.com: 192.0.2.2", "one host has one address"},
		{"pipelock.yaml", "10.1.0.0/16", "0.0.0.0/0", "addresses.allow[0]"},
		{"pipelock.yaml", "10.1.0.0/16", "'::/0'", "addresses.allow[0]"},
		{"pipelock.yaml", "host: m.example.com, ", "", "client_certificates[0]"},
		{"pipelock.yaml", "cert: /etc/airlock/m.crt, ", "", "client_certificates[0]"},
		{"pipelock.yaml", ", key: /etc/airlock/m.key", "", "client_certificates[0]"},
		{"pipelock.yaml", "action: redact", "action: erase", `secrets.action: "erase"`},
		{"pipelock.yaml", "{action: warn}", "{action: loud}", `secrets.hosts.*.example.com: action "loud"`},
		{"pipelock.yaml", "bits: 4.5", "bits: 2.9", "secrets.entropy.bits"},
		{"pipelock.yaml", "bits: 4.5", "bits: 6.1", "secrets.entropy.bits"},
		{"pipelock.yaml", "length: 32", "length: 15", "secrets.entropy.length"},
		{"pipelock.yaml", "length: 32", "length: 201", "secrets.entropy.length"},
		{"pipelock.yaml", "[EGRESS_DIGEST_0]", "[the-value]", "secrets.values[0]"},
		{"pipelock.yaml", "action: block", "action: redact", `answers.action: "redact"`},
		{"pipelock.yaml", "  requests_per_minute: 100", "  requests_per_minute: -1", "limits.requests_per_minute"},
		{"pipelock.yaml", "  tunnels: 10", "  tunnels: -1", "limits.tunnels"},
		{"pipelock.yaml", "hosts: {a.example.com: {requests", "hosts: {'*.com': {requests", "limits.hosts.*.com"},
		{"pipelock.yaml", "requests_per_minute: 1,", "requests_per_minute: -1,", "limits.hosts.a.example.com.requests_per_minute"},
		{"pipelock.yaml", "tunnels: 2}", "tunnels: -2}", "limits.hosts.a.example.com.tunnels"},
		{"pipelock.yaml", "http://proxy.example.com:3128", "socks5://proxy.example.com:3128", "upstream_proxy.url"},
		{"pipelock.yaml", "http://proxy.example.com:3128", "http://me@proxy.example.com:3128", "upstream_proxy.url"},
		{"pipelock.yaml", "http://proxy.example.com:3128", "http://proxy.example.com:0", "upstream_proxy.url"},
		{"pipelock.yaml", "auth: PROXY_AUTH_0", "auth: 'me:pass'", "upstream_proxy.auth"},

		{"git-gate.yaml", "version: 1", "version: 3", "version"},
		{"git-gate.yaml", "git.example.com: 192.0.2.1", "git.example.com: 192.0.2.1, git.example.com.: 192.0.2.2", "one host has one address"},
		{"git-gate.yaml", "[refs/heads/main]", "[main]", "protect[0]"},
		{"git-gate.yaml", "refs: 10", "refs: -1", "limits.refs"},
		{"git-gate.yaml", "repo: app, ", "repo: other, ", "scan.allow[0].repo"},
		{"git-gate.yaml", "rule: github-pat", "rule: EGRESS_TOKEN_0", "scan.allow[0].rule"},
		{"git-gate.yaml", "digest: 0", "digest: x", "scan.allow[0].digest"},
		{"git-gate.yaml", "  web: {", "  web.git: {", "repos.web.git"},
		{"git-gate.yaml", "  web: {", "  'a b': {", "repos.a b"},
		{"git-gate.yaml", "https://git.example.com/acme/web.git", "ftp://git.example.com/acme/web.git", "repos.web.url"},
		{"git-gate.yaml", "https://git.example.com/acme/web.git", "https://git.example.com:0/acme/web.git", "repos.web.url"},
		{"git-gate.yaml", "https://git.example.com/acme/web.git", "https://me:pass@git.example.com/acme/web.git", "repos.web.url: a password"},
		{"git-gate.yaml", "passphrase: GIT_PASS_0", "passphrase: open", "repos.app.passphrase"},
		{"git-gate.yaml", "identity: /etc/airlock/id, ", "", "repos.app.passphrase: it opens an identity"},
		{"git-gate.yaml", "passphrase: GIT_PASS_0", "token: GIT_TOKEN_0", "repos.app.token"},
		{"git-gate.yaml", "passphrase: GIT_PASS_0", "host_key: nonsense", "repos.app.host_key"},
		{"git-gate.yaml", "passphrase: GIT_PASS_0", "host_key: other.example.com ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "none of the lines is about"},
		{"git-gate.yaml", "token: GIT_TOKEN_0", "identity: /etc/airlock/id", "repos.web: identity and host_key are for ssh"},
		{"git-gate.yaml", "token: GIT_TOKEN_0", "token: the-value", "repos.web.token"},

		{"supervise.yaml", "version: 1", "version: 2", "version"},
		{"supervise.yaml", "open_proposals: 50", "open_proposals: -1", "limits.open_proposals"},
		{"supervise.yaml", "wait: 30s", "wait: -1s", `supervise.yaml:2: duration "-1s"`},
		{"supervise.yaml", "wait: 30s", "wait: soon", `supervise.yaml:2: duration "soon"`},
	} {
		t.Run(fmt.Sprintf("%s %s", c.name, c.want), func(t *testing.T) {
			if strings.Count(whole[c.name], c.old) == 0 {
				t.Fatalf("%q is not in the file", c.old)
			}
			err := parse(c.name, strings.Replace(whole[c.name], c.old, c.new, 1))
			if err == nil {
				t.Fatal("expected an error, got none")
			}
			if !strings.HasPrefix(err.Error(), c.name+":") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("expected %s:LINE and %q, got %q", c.name, c.want, err)
			}
			if strings.Contains(err.Error(), "pass@") || strings.Contains(err.Error(), "the-value") || strings.Contains(err.Error(), "me:pass") {
				t.Errorf("the error holds what may be a secret: %s", err)
			}
		})
	}
}
