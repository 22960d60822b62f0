package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"airlock/internal/lab"
)

// bucket is an origin that verifies signatures with Amazon's own signer.
type bucket struct {
	creds aws.Credentials
}

func (b *bucket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := b.verify(r); err != nil {
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, "<Error><Code>SignatureDoesNotMatch</Code><Message>%s, %s</Message></Error>", err, b.creds.AccessKeyID)
		return
	}
	switch {
	case r.URL.Query().Get("list-type") == "2":
		fmt.Fprintf(w, "<ListBucketResult><Name>bucket</Name><Prefix>%s</Prefix></ListBucketResult>", r.URL.Query().Get("prefix"))
	case r.Method == http.MethodGet:
		fmt.Fprintf(w, "%s %s %s", r.URL.Path, r.Header.Get("Authorization"), r.Header.Get("X-Amz-Security-Token"))
	default:
		w.Header().Set("ETag", `"x"`)
	}
}

func (b *bucket) verify(r *http.Request) error {
	given := r.Header.Get("Authorization")
	_, names, _ := strings.Cut(given, "SignedHeaders=")
	names, seed, _ := strings.Cut(names, ", Signature=")
	again := &http.Request{Method: r.Method, URL: &url.URL{Scheme: "https", Host: r.Host, Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery}, Host: r.Host, Header: http.Header{}}
	for name := range strings.SplitSeq(names, ";") {
		if name != "host" {
			again.Header[http.CanonicalHeaderKey(name)] = r.Header.Values(name)
		}
	}
	for name := range r.Header {
		if strings.HasPrefix(name, "X-Amz-") && again.Header[name] == nil {
			return fmt.Errorf("%s is not signed", name)
		}
	}
	date := r.Header.Get("X-Amz-Date")
	at, err := time.Parse("20060102T150405Z", date)
	if err != nil || time.Since(at).Abs() > 15*time.Minute {
		return fmt.Errorf("the date is %q", date)
	}
	hash := r.Header.Get("X-Amz-Content-Sha256")
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	if len(hash) == 64 && hash != hex.EncodeToString(sum[:]) {
		return fmt.Errorf("the hash is another")
	}
	err = v4.NewSigner().SignHTTP(r.Context(), b.creds, again, hash, "s3", "eu-central-1", at, func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	if err != nil {
		return err
	}
	if again.Header.Get("Authorization") != given {
		return fmt.Errorf("signature %s, not %s", given, again.Header.Get("Authorization"))
	}
	if strings.HasPrefix(hash, "STREAMING-AWS4") {
		return b.verifyChunks(body, date, seed)
	}
	return nil
}

func (b *bucket) verifyChunks(body []byte, date, last string) error {
	sign := func(key []byte, text string) []byte {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	key := []byte("AWS4" + b.creds.SecretAccessKey)
	for _, part := range []string{date[:8], "eu-central-1", "s3", "aws4_request"} {
		key = sign(key, part)
	}
	for {
		head, rest, _ := bytes.Cut(body, []byte("\r\n"))
		size, given, _ := strings.Cut(string(head), ";chunk-signature=")
		n, err := strconv.ParseUint(size, 16, 31)
		if err != nil || int(n) > len(rest) {
			return fmt.Errorf("a chunk of %q bytes", size)
		}
		text := fmt.Sprintf("AWS4-HMAC-SHA256-PAYLOAD\n%s\n%s/eu-central-1/s3/aws4_request\n%s\n%x\n%x", date, date[:8], last, sha256.Sum256(nil), sha256.Sum256(rest[:n]))
		if last = hex.EncodeToString(sign(key, text)); last != given {
			return fmt.Errorf("the signature of a chunk of %d bytes is another", n)
		}
		if n == 0 && len(bytes.TrimSpace(rest)) == 0 {
			return nil
		}
		if n == 0 {
			fields, given, _ := strings.Cut(string(rest), "x-amz-trailer-signature:")
			fields = strings.ReplaceAll(fields, "\r\n", "\n")
			fields = strings.TrimRight(fields, "\n") + "\n"
			text := fmt.Sprintf("AWS4-HMAC-SHA256-TRAILER\n%s\n%s/eu-central-1/s3/aws4_request\n%s\n%x", date, date[:8], last, sha256.Sum256([]byte(fields)))
			if hex.EncodeToString(sign(key, text)) != strings.TrimSpace(given) {
				return fmt.Errorf("the signature of the trailer is another")
			}
			return nil
		}
		body = rest[n+2:]
	}
}

// TestSigV4 sends a real client of S3, whose keys are worth nothing, through
// the bundle to an origin that verifies.
func TestSigV4(t *testing.T) {
	origin := &bucket{creds: aws.Credentials{AccessKeyID: "AKIA" + strings.ToUpper(lab.Token()[4:20]), SecretAccessKey: lab.Token()[4:] + "/+", SessionToken: "session-" + lab.Token()[4:]}}
	b := withRoutes(t, origin, "  - {host: 'api.ok.test:PORT', auth: {type: sigv4, region: eu-central-1, service: s3, id_slot: EGRESS_TOKEN_0, secret_slot: EGRESS_TOKEN_1, session_slot: EGRESS_TOKEN_2}}\n", "")
	b.token = origin.creds.AccessKeyID
	b.run("EGRESS_TOKEN_1="+origin.creds.SecretAccessKey, "EGRESS_TOKEN_2="+origin.creds.SessionToken)
	client := s3.New(s3.Options{
		BaseEndpoint: aws.String(b.url("api.ok.test", "")), UsePathStyle: true, Region: "us-east-1", HTTPClient: b.client(b.egress), RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider("an-id-of-the-agent", "a-key-of-the-agent", "a-session-of-the-agent"),
	})
	ctx := context.Background()
	big := strings.Repeat("the quick brown fox jumps over the lazy dog\n", 60_000) // 2.6 MB
	for name, text := range map[string]string{"k": "hello", "a b/ü+*&=~.txt": "hello", "big": big, "empty": ""} {
		_, err := client.PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String("bucket"), Key: &name, Body: strings.NewReader(text), Metadata: map[string]string{"note": " a   b "}})
		if err != nil {
			t.Errorf("putting %q: %v", name, err)
		} else if got := string(b.last().Body); !strings.Contains(got, text) {
			t.Errorf("putting %q: %d bytes arrived", name, len(got))
		}
		got, err := client.GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String("bucket"), Key: &name})
		if err != nil {
			t.Errorf("getting %q: %v", name, err)
			continue
		}
		body, err := io.ReadAll(got.Body)
		must(t, err)
		if s := string(body); !strings.HasPrefix(s, "/bucket/"+name+" AWS4") || !strings.Contains(s, "[redacted:EGRESS_TOKEN_0]") || !strings.Contains(s, "[redacted:EGRESS_TOKEN_2]") {
			t.Errorf("getting %q: %s", name, body)
		}
	}
	list, err := client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: aws.String("bucket"), Prefix: aws.String("a b+c/*(é")})
	if err != nil || *list.Prefix != "a b+c/*(é" {
		t.Errorf("listing: %v, %v", list, err)
	}
	t.Run("a link that the agent has signed", func(t *testing.T) {
		link, err := s3.NewPresignClient(client).PresignGetObject(ctx, &s3.GetObjectInput{Bucket: aws.String("bucket"), Key: aws.String("k")})
		must(t, err)
		if status, body := b.get(link.URL); status != 200 || strings.Contains(b.last().URI, "X-Amz-Signature") {
			t.Errorf("status %d: %s", status, body)
		}
	})
	for kind, trailer := range map[string]string{"": "", "-TRAILER": fmt.Sprintf("x-amz-checksum-crc32c:AAAAAA==\r\nx-amz-trailer-signature:%064d\r\n", 0)} {
		t.Run("signed chunks"+kind, func(t *testing.T) {
			var framed strings.Builder
			for at := 0; at < len(big); at += 64 << 10 {
				piece := big[at:min(at+64<<10, len(big))]
				fmt.Fprintf(&framed, "%x;chunk-signature=%064d\r\n%s\r\n", len(piece), 0, piece)
			}
			fmt.Fprintf(&framed, "0;chunk-signature=%064d\r\n%s\r\n", 0, trailer)
			status, body := b.send(b.client(b.egress), http.MethodPut, b.url("api.ok.test", "/bucket/chunks"), strings.NewReader(framed.String()), func(r *http.Request) {
				r.Header.Set("X-Amz-Content-Sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"+kind)
				r.Header.Set("X-Amz-Decoded-Content-Length", fmt.Sprint(len(big)))
				r.Header.Set("Content-Encoding", "aws-chunked")
			})
			if status != 200 {
				t.Errorf("status %d: %s", status, body)
			}
		})
	}
	t.Run("a secret cut by chunks", func(t *testing.T) {
		leak, before := lab.Token(), len(b.origin.Seen())
		text := fmt.Sprintf("14;chunk-signature=%064d\r\n%s\r\n14;chunk-signature=%064d\r\n%s\r\n0;chunk-signature=%064d\r\n\r\n", 0, leak[:20], 0, leak[20:], 0)
		status, body := b.send(b.client(b.egress), http.MethodPut, b.url("api.ok.test", "/bucket/leak"), strings.NewReader(text), func(r *http.Request) {
			r.Header.Set("X-Amz-Content-Sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD")
		})
		if _, rule, _ := refusal(t, body); status != 403 || !strings.HasPrefix(rule, "secret: ") || len(b.origin.Seen()) != before {
			t.Errorf("status %d: %s", status, body)
		}
	})
	for _, s := range b.origin.Seen() {
		if strings.Contains(fmt.Sprint(s.Header, s.URI), "of-the-agent") {
			t.Error("the agent's own keys arrived")
		}
	}
	b.keptSecret(origin.creds.AccessKeyID, origin.creds.SecretAccessKey, origin.creds.SessionToken)
}
