package pipelock

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"airlock/internal/lab"
	"airlock/internal/policy"
	"airlock/internal/secrets"
)

// ordinary are names as clouds and services make them; the part before the
// bar is what is below the wildcard.
var ordinary = strings.Fields(`
	www|example.com api|example.com api.v2|example.com cdn-1|example.com a.b.c.d|example.com
	d111111abcdef8|cloudfront.net d3k81ch9hvuctc|cloudfront.net dxxxxxxxxxxxxx|cloudfront.net
	my-bucket|s3.amazonaws.com my-bucket-1a2b3c4d5e6f.s3.eu-west-1|amazonaws.com elasticbeanstalk-us-east-1-123456789012.s3|amazonaws.com
	cdk-hnb659fds-assets-123456789012-us-east-1.s3|amazonaws.com aws-cloudtrail-logs-123456789012-7a3f9c1e.s3|amazonaws.com
	my-alb-1234567890.us-east-1.elb|amazonaws.com k8s-default-nginx-0123456789-0123456789abcdef.elb.us-east-1|amazonaws.com
	a0b1c2d3e4f5061728394a5b6c7d8e9f-1234567890.us-west-2.elb|amazonaws.com abcdef0123456789abcdef0123456789.gr7.us-west-2.eks|amazonaws.com
	abcdef1234.execute-api.us-east-1|amazonaws.com 123456789012.dkr.ecr.us-east-1|amazonaws.com mydb.c9akciq32rgv.us-east-1.rds|amazonaws.com
	search-mydomain-a1b2c3d4e5f6g7h8i9j0k1l2m3.us-east-1.es|amazonaws.com abcdefghijklmnopqrstuvwxyz012345.lambda-url.us-east-1|on.aws
	q7x2mzk4wjbd5nvt3hcr6gyfs8pa1e9u.lambda-url.eu-west-1|on.aws ec2-203-0-113-25.compute-1|amazonaws.com ip-10-0-12-34.ec2|internal.test
	z1234abcdefgh.iot.us-east-1|amazonaws.com vpce-0a1b2c3d4e5f67890-abcd1234.s3.us-east-1.vpce|amazonaws.com
	mystorageacct|blob.core.windows.net md-hdd-x1w2v3u4t5s6.z12|blob.storage.azure.net stg7f3a9c1e5b2d4a6f|blob.core.windows.net
	my-app-bqgzfxaedfhfhxe7.westeurope-01|azurewebsites.net myaks-dns-1a2b3c4d.hcp.westeurope|azmk8s.io
	myresource|openai.azure.com mycluster-123456.eastus2|cloudapp.azure.com adb-1234567890123456.7|azuredatabricks.net
	myservice-abcdefghij-uc|a.run.app myservice-123456789012.us-central1|run.app us-central1-my-project-123456|cloudfunctions.net
	my-project-123456|appspot.com 20241121t194158-dot-default-dot-my-project|appspot.com storage|googleapis.com us-docker|pkg.dev
	rr4---sn-4g5e6nez|googlevideo.com lh3|googleusercontent.com 9001-cs-550e8400-e29b-41d4-a716-446655440000.cs-europe-west4|cloudshell.dev
	my-project-git-feature-branch-name-my-team|vercel.app my-project-9x8y7z6w5-my-team|vercel.app my-app-k3j9d8s7f-acme-corp|vercel.app
	deploy-preview-123--my-site|netlify.app 64f1c2d3e4b5a60008abcdef--my-site|netlify.app a1b2c3d4.my-project|pages.dev branch-name.my-project|pages.dev
	my-worker.my-account|workers.dev 0123456789abcdef0123456789abcdef|r2.cloudflarestorage.com pub-0123456789abcdef0123456789abcdef|r2.dev
	da39a3ee5e6b4b0d3255bfef95601890afd80709|preview.example.com pr-123-3f786850e387550f|preview.example.com
	550e8400-e29b-41d4-a716-446655440000|tenants.example.com 550e8400-e29b-41d4-a716-446655440000-00-2x9kq7vbn4mzt.worf|replit.dev
	fuzzy-space-adventure-pxg7wq5v9r6f9q7-3000|app.github.dev 8080-gitpodio-template-abc123def45.ws-eu114|gitpod.io
	1a2b-203-0-113-25|ngrok-free.app abcdefghijklmnopqrst|supabase.co ep-cool-darkness-123456-pooler.us-east-2|aws.neon.tech
	cluster0-shard-00-00.ab1cd|mongodb.net my-deployment-1a2b3c.es.us-central1|gcp.cloud.es.io o123456|ingest.sentry.io o4505012345678901.ingest.us|sentry.io
	xn--mnchen-3ya|example.com xn--fiqs8s|example.com xn--bcher-kva.shop|example.com registry-1|docker.io production|cloudflare.docker.com
	objects|githubusercontent.com raw|githubusercontent.com results-receiver.actions|githubusercontent.com pipelinesghubeus2.actions|githubusercontent.com
	registry|npmjs.org files|pythonhosted.org static|crates.io proxy|golang.org repo1|maven.org
	the-quick-brown-fox-jumps-over-the-lazy-dog-and-runs-away-now|example.com internationalization-service|example.com
	s3-eu-west-1-r-w|example.com prod-eu-west-1-mongodb-replica-set-02.internal|example.com
	mynamespace-myservice-7d9f8b6c5d-x2k4j|apps.example.com argo-workflow-template-abc12-1234567890|apps.example.com
`)

func TestOrdinaryNamesPass(t *testing.T) {
	if len(ordinary) < 60 {
		t.Fatalf("only %d names", len(ordinary))
	}
	s := testScanner(t, "")
	for _, name := range ordinary {
		below, domain, _ := strings.Cut(name, "|")
		a := policy.Authority{Host: host(t, below+"."+domain), Port: 443}
		if v := s.checkName(t.Context(), a, strings.Split(below, "."), "*."+domain); !v.Allow {
			t.Errorf("%s: %+v (%d)", name, v, randomChars(strings.Split(below, ".")))
		}
	}
}

// TestNamesThatCarryDataAreRefused has a token in the alphabets of names, and what
// programs that tunnel through DNS ask for.
func TestNamesThatCarryDataAreRefused(t *testing.T) {
	s := testScanner(t, "")
	k := lab.Token()
	b32 := func(text string) string {
		return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString([]byte(text)))
	}
	b36 := func(text string) string { return new(big.Int).SetBytes([]byte(text)).Text(36) }
	pieces := func(text string, n int) string {
		var all []string
		for len(text) > 0 {
			all = append(all, text[:min(n, len(text))])
			text = text[min(n, len(text)):]
		}
		return strings.Join(all, ".")
	}
	noise := sha256.Sum256([]byte(k))
	for name, below := range map[string]string{
		"hex, two labels":            pieces(hex.EncodeToString([]byte(k)), 60),
		"half of it in hex":          hex.EncodeToString([]byte(k[:20])),
		"with hyphens":               strings.ReplaceAll(pieces(hex.EncodeToString([]byte(k[:25])), 6), ".", "-"),
		"many short labels of hex":   pieces(hex.EncodeToString([]byte(k[:24])), 8),
		"base32":                     pieces(b32(k), 60),
		"base32 behind a letter":     "x" + b32(k[:24]),
		"base32 with extended hex":   strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString([]byte(k[:30]))),
		"short labels of base32":     pieces(b32(k[:30]), 10),
		"labels in reverse":          reversedLabels(pieces(b32(k[:30]), 10)),
		"base36":                     b36(k[:30]),
		"a password in base32":       b32("hunter2=correct horse"),
		"an AWS key as it is":        strings.ToLower("AKIA") + "x." + b32("AKIAQYLPMN5HFIQR7XYA"),
		"cipher text in base32":      b32(string(noise[:])),
		"cipher text in hex, halves": pieces(hex.EncodeToString(noise[:]), 32),
		"long labels of cipher text": pieces(b32(strings.Repeat(string(noise[:]), 3)), 60),
		"decimal":                    strings.ReplaceAll(pieces(new(big.Int).SetBytes([]byte(k[:24])).Text(10), 15), ".", "-"),
		"a name of 200 characters":   pieces(strings.Repeat("hello", 40), 50),
	} {
		a := policy.Authority{Host: host(t, below+".cdn.test"), Port: 443}
		for range 2 {
			if v := s.checkName(t.Context(), a, strings.Split(below, "."), "*.cdn.test"); v.Allow {
				t.Errorf("%s passes: %s (%d)", name, below, randomChars(strings.Split(below, ".")))
			} else if strings.Contains(v.Why, below) {
				t.Errorf("%s: told", name)
			}
		}
	}
}

func reversedLabels(name string) string {
	labels := strings.Split(name, ".")
	for i, j := 0, len(labels)-1; i < j; i, j = i+1, j-1 {
		labels[i], labels[j] = labels[j], labels[i]
	}
	return strings.Join(labels, ".")
}

// TestKnownValuesInNames, which are nothing that a rule knows, in base36.
func TestKnownValuesInNames(t *testing.T) {
	value := "\x01\x02 hold \xfe my beer \x7f"
	d, err := secrets.NewDigest(value, "0123456789abcdef")
	if err != nil {
		t.Fatal(err)
	}
	s, err := newScanner(parse(t, "version: 1\nallow: []\nsecrets: {values: [EGRESS_DIGEST_0]}\n"), "", func(string) string { return d })
	if err != nil {
		t.Fatal(err)
	}
	label := new(big.Int).SetBytes([]byte(value)).Text(36)
	v := s.checkName(t.Context(), policy.Authority{Host: host(t, label+".cdn.test"), Port: 443}, []string{label}, "*.cdn.test")
	if v.Rule != "secret: EGRESS_DIGEST_0" {
		t.Errorf("%+v", v)
	}
}

// TestManyNewRandomNamesAreRefused: each of them could be an ordinary one.
func TestManyNewRandomNamesAreRefused(t *testing.T) {
	s := testScanner(t, "")
	passed := 0
	for i := range 500 {
		label := fmt.Sprintf("%x", sha256.Sum256([]byte{byte(i), byte(i >> 8)}))[:40]
		a := policy.Authority{Host: host(t, label+".cdn.test"), Port: 443}
		if s.checkName(t.Context(), a, []string{label}, "*.cdn.test").Allow {
			passed++
		}
	}
	if passed != maxNewNames {
		t.Errorf("%d passed", passed)
	}
	for i := range 500 {
		label := fmt.Sprintf("worker-%d", i)
		if v := s.checkName(t.Context(), policy.Authority{Host: host(t, label+".cdn.test"), Port: 443}, []string{label}, "*.cdn.test"); !v.Allow {
			t.Fatalf("%s: %+v", label, v)
		}
	}
}

func TestAgentLabelsUnderWildcards(t *testing.T) {
	r := newRules(parse(t, "version: 1\nhosts: {named.cdn.test: 192.0.2.1}\nallow: [{host: old.cdn.test, expires: 2020-01-01T00:00:00Z}, \"*.cdn.test\", a.exact.cdn.test, \"*.deep.cdn.test\", \"*.x.test:8443\"]\n"))
	for name, want := range map[string]string{
		"a.cdn.test:443": "a|*.cdn.test", "a.b.cdn.test:443": "a b|*.cdn.test", "a.exact.cdn.test:443": "|", "a.b.deep.cdn.test:443": "a b|*.deep.cdn.test",
		"q.x.test:8443": "q|*.x.test:8443", "other.test:443": "|", "named.cdn.test:443": "|", "old.cdn.test:443": "old|*.cdn.test",
	} {
		a, err := policy.ParseAuthority(name, 0)
		if err != nil {
			t.Fatal(err)
		}
		labels, pattern := r.agentLabels(a, time.Now())
		if got := strings.Join(labels, " ") + "|" + pattern; got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
