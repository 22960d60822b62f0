package egress

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"airlock/internal/bundle"
)

// maxHashed is the longest body in bytes that is buffered to compute its hash, if the client has not
// sent one.
const maxHashed = 32 << 20

// Values that a request may have in place of the hash of its body.
const (
	unsignedPayload  = "UNSIGNED-PAYLOAD"
	unsignedTrailer  = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
	streamingPayload = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
	streamingTrailer = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
)

// Header fields of Signature Version 4.
const (
	amzDate    = "X-Amz-Date"
	amzSession = "X-Amz-Security-Token"
	amzHash    = "X-Amz-Content-Sha256"
)

var (
	hexDigest = regexp.MustCompile(`^[0-9a-fA-F]{64}$`)
	// ownPaths are the services whose paths are encoded once and not cleaned, and that accept a body
	// without a hash.
	ownPaths = []string{"s3", "s3-object-lambda", "s3-outposts", "s3express"}
	// presigned are the parameters of a presigned query.
	presigned = []string{"x_amz_algorithm", "x_amz_credential", "x_amz_date", "x_amz_expires", "x_amz_signedheaders", "x_amz_signature", "x_amz_security_token", "awsaccesskeyid"}
)

// awsKey signs with AWS Signature Version 4
// (docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html).
type awsKey struct {
	id, secret, session string
	region, service     string
}

// sign replaces the signature of the request. The hash of the body that the request names is kept, and
// signed chunks are signed again one by one while they are sent.
func (l *activeConfig) sign(ctx context.Context, out *http.Request, a *bundle.Auth) (injected []string, err error) {
	k := awsKey{l.credentials[a.IDSlot], l.credentials[a.SecretSlot], l.credentials[a.SessionSlot], a.Region, a.Service}
	removeField(out.Header, amzDate)
	out.URL.RawQuery = withoutParameters(out.URL.RawQuery, presigned...)
	hash, err := k.payload(ctx, out)
	if err != nil {
		return nil, err
	}
	injected = []string{"Authorization"}
	if k.session != "" {
		out.Header[amzSession] = []string{k.session}
		injected = append(injected, amzSession)
	}
	seed, err := k.signHead(out, hash, time.Now())
	if err != nil {
		return nil, err
	}
	if (hash == streamingPayload || hash == streamingTrailer) && hasBody(out) {
		out.Body = newChunkSigner(out.Body, seed, hash == streamingTrailer)
	}
	return injected, nil
}

// payload returns the value that is signed in place of the body: that of the client, or a hash of the
// buffered body.
func (k awsKey) payload(ctx context.Context, out *http.Request) (string, error) {
	given := out.Header.Values(amzHash)
	if len(given) > 1 {
		return "", refused("credential", amzHash+" is sent twice")
	}
	own := slices.Contains(ownPaths, k.service)
	if len(given) == 1 {
		switch text := strings.TrimSpace(given[0]); {
		case hexDigest.MatchString(text), text == unsignedPayload, text == unsignedTrailer, text == streamingPayload, text == streamingTrailer:
			return text, nil
		}
		return "", refused("credential", amzHash+" says something that cannot be signed; a hash, "+unsignedPayload+" and "+streamingPayload+" can")
	}
	hash := unsignedPayload
	if !own || out.URL.Scheme != "https" {
		var text []byte
		if hasBody(out) {
			var err error
			if text, err = bufferBody(ctx, out, maxHashed); err != nil {
				return "", err
			}
		}
		hash = hexHash(text)
	}
	if own {
		out.Header[amzHash] = []string{hash}
	}
	return hash, nil
}

// signature is the chain of signatures of a request and its chunks.
type signature struct {
	key         []byte
	date, scope string
	last        string // in hexadecimal
}

// signHead sets the date and the signature of the head.
func (k awsKey) signHead(out *http.Request, hash string, now time.Time) (*signature, error) {
	wire, query, err := signedQuery(out.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	out.URL.RawQuery = wire
	date := now.UTC().Format("20060102T150405Z")
	out.Header[amzDate] = []string{date}
	fields, names := signedFields(out)
	request := strings.Join([]string{out.Method, k.path(out.URL), query, fields, names, hash}, "\n")
	s := &signature{key: k.derive(date[:8]), date: date, scope: date[:8] + "/" + k.region + "/" + k.service + "/aws4_request"}
	s.next("AWS4-HMAC-SHA256", hexHash([]byte(request)))
	out.Header["Authorization"] = []string{fmt.Sprintf("AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s", k.id, s.scope, names, s.last)}
	return s, nil
}

// next signs lines and keeps the signature as the last one.
func (s *signature) next(algorithm string, lines ...string) string {
	text := append([]string{algorithm, s.date, s.scope}, lines...)
	s.last = hex.EncodeToString(mac(s.key, strings.Join(text, "\n")))
	return s.last
}

// derive returns the key of one day, region and service.
func (k awsKey) derive(day string) []byte {
	key := []byte("AWS4" + k.secret)
	for _, part := range []string{day, k.region, k.service, "aws4_request"} {
		key = mac(key, part)
	}
	return key
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

func hexHash(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// path returns the canonical path: for most services the path that is sent, cleaned and encoded once
// more; for some the decoded path, encoded once.
func (k awsKey) path(u *url.URL) string {
	if slices.Contains(ownPaths, k.service) {
		return cmp.Or(awsEncode(u.Path, "/"), "/")
	}
	sent := u.EscapedPath()
	cleaned := path.Clean("/" + sent)
	if strings.HasSuffix(sent, "/") && cleaned != "/" {
		cleaned += "/"
	}
	return awsEncode(cleaned, "/")
}

// signedQuery returns the query as it is sent, rewritten so that all servers read it in the same way, and
// the canonical query that is signed.
func signedQuery(raw string) (wire, canonical string, err error) {
	type parameter struct{ name, value string }
	var sent []string
	var all []parameter
	for part := range strings.SplitSeq(raw, "&") {
		if part == "" {
			continue
		}
		key, text, has := strings.Cut(part, "=")
		name, err1 := url.QueryUnescape(key)
		value, err2 := url.QueryUnescape(text)
		if err1 != nil || err2 != nil {
			return "", "", refused("credential", "the query has a percent sign without two hexadecimal digits; it cannot be signed")
		}
		p := parameter{awsEncode(name, ""), awsEncode(value, "")}
		all = append(all, p)
		if has {
			sent = append(sent, p.name+"="+p.value)
		} else {
			sent = append(sent, p.name)
		}
	}
	slices.SortFunc(all, func(a, b parameter) int { return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.value, b.value)) })
	var signed []string
	for _, p := range all {
		signed = append(signed, p.name+"="+p.value)
	}
	return strings.Join(sent, "&"), strings.Join(signed, "&"), nil
}

// signedFields returns the lines and the names of the fields that are signed: those that matter to the
// service and that no proxy on the way changes.
func signedFields(out *http.Request) (lines, names string) {
	fields := map[string]string{"host": out.Host}
	for name, values := range out.Header {
		low := strings.ToLower(name)
		if low != "content-type" && low != "content-md5" && !strings.HasPrefix(low, "x-amz-") {
			continue
		}
		for _, v := range values {
			v = strings.Join(strings.FieldsFunc(v, func(c rune) bool { return c == ' ' }), " ")
			if have, twice := fields[low]; twice {
				v = have + "," + v
			}
			fields[low] = v
		}
	}
	order := slices.Sorted(maps.Keys(fields))
	for _, name := range order {
		lines += name + ":" + fields[name] + "\n"
	}
	return lines, strings.Join(order, ";")
}

// awsEncode percent-encodes all but the unreserved characters of RFC 3986 and those in keep.
func awsEncode(text, keep string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(text) {
		c := text[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~"+keep, c) >= 0 {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', digits[c>>4], digits[c&15]})
		}
	}
	return b.String()
}
