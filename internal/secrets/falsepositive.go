package secrets

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/pem"
	"regexp"
	"slices"
	"strings"
)

// genericRule is gitleaks' rule for anything that is called a key, a token or the like and looks
// random.
const genericRule = "generic-api-key"

var (
	// positionNames match names of positions and selectors, which are not secret: cursors of pages,
	// keys of caches and tables, the nonce of a WebSocket (RFC 6455 §4.1), the key that makes a
	// request idempotent.
	positionNames = regexp.MustCompile(`(?:^|[^a-z])(?:` +
		`(?:(?:next|prev|previous|page|paging|continuation|start|sync|cursor|resume|scroll|delta|skip)[-_. ]?)+token` +
		`|(?:cache|idempotency|surrogate|partition|sort|primary|object|foreign|row|routing|dedup|dedupe|group|shard|index|storage|message|websocket)[-_. ]?key)$`)
	// secretNames match names that leave no doubt.
	secretNames = regexp.MustCompile(`api|secret|passw|auth|access|cred|private|client|sign|encrypt`)
	// identifiers are UUIDs (RFC 9562 §4) and digests: of SHA-1, which names git's objects, and of
	// SHA-2.
	identifiers = regexp.MustCompile(`^(?:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{40}|[0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128})$`)
)

// isFalsePositive reports whether what a rule matched is not a secret, by its own form.
func isFalsePositive(id, match, secret string) bool {
	switch id {
	case genericRule:
		return isFalseGeneric(match, secret) || isChecksum(match, secret) || isIdentifier(secret)
	case "clickhouse-cloud-api-secret-key", "square-access-token", "facebook-page-access-token":
		return isHash(secret) // a commit's id, a fingerprint or a checksum that begins like such a key
	case "sourcegraph-access-token":
		return identifiers.MatchString(secret) // the rule takes any 40 hexadecimal digits in a text that has the word
	case "jwt":
		return isDemoToken(secret)
	case "curl-auth-header", "curl-auth-user":
		return isIdentifier(secret) // YOUR_API_KEY, as documentation has it
	}
	return false
}

// isFalseGeneric reports whether a match of the generic rule is not a secret: by its name, or by
// its form where the name says little.
func isFalseGeneric(match, secret string) bool {
	name, _, _ := strings.Cut(match, secret)
	name = strings.ToLower(strings.Trim(name, " \t\r\n'\"`=:>|?,\\"))
	if i := strings.LastIndexAny(name, " \t\r\n'\"`=:>|?,&;"); i >= 0 {
		name = name[i+1:]
	}
	if strings.HasPrefix(secret, "age1") && len(secret) == agePublic { // the public key of age (Bech32)
		return true
	}
	return positionNames.MatchString(name) || identifiers.MatchString(strings.ToLower(secret)) && !secretNames.MatchString(name)
}

// agePublic is the length of a public key of age.
const agePublic = 62

// digestLabel matches what is directly before a checksum in the files of package managers and in
// integrity metadata (W3C Subresource Integrity): the name of the algorithm, or that of the field.
var digestLabel = regexp.MustCompile(`(?i)(?:^|[^a-z0-9])(?:h1|zh|10c0|sha-?(?:1|224|256|384|512)(?:sum)?|md5(?:sum)?|integrity|check_?sum|shasum|digest|[a-z]*hash|rev|revision|reference|resolved)` +
	`(?:\\?["'])?(?:[-:=@/ ]| = |: )(?:\\?["'])?$`)

// digestSizes are the sizes of digests in bytes: MD5, SHA-1, and those of SHA-2.
var digestSizes = []int{16, 20, 28, 32, 48, 64}

// isChecksum reports whether a secret is a checksum by its form: it has the length of a digest, in
// hexadecimal or base64, and its label before it.
func isChecksum(match, secret string) bool {
	before := match[:max(0, strings.Index(match, secret))]
	if i := strings.IndexAny(secret, "-:/"); i > 0 && i < 8 && digestLabel.MatchString(secret[:i+1]) { // the label is a part of it
		before, secret = secret[:i+1], secret[i+1:]
	}
	if !digestLabel.MatchString(before) {
		return false
	}
	return slices.ContainsFunc(digestSizes, func(size int) bool {
		n := base64.RawStdEncoding.EncodedLen(size)
		return len(secret) == 2*size && hexOnly(secret) || len(secret) >= n && goesOnInWords(secret[n:])
	})
}

// goesOnInWords reports whether what follows a checksum is nothing, or the words of the next line
// where lines were joined: a checksum that ends in an equals sign looks like quoted-printable.
func goesOnInWords(rest string) bool {
	rest = strings.TrimLeft(rest, "=")
	return len(rest) < minPlainSecret || isIdentifier(rest)
}

// minPlainSecret is the shortest secret of the generic rule.
const minPlainSecret = 10

func hexOnly(text string) bool {
	return strings.Trim(text, "0123456789abcdefABCDEF") == ""
}

// isIdentifier reports whether a secret is a name in source code or a row of words: letters and
// digits come in runs too long for random text. Text in lower case alone, or in one piece, must
// have longer ones.
func isIdentifier(secret string) bool {
	runs, letters, digits, upper, separators, vowels, words := 0, 0, 0, 0, 0, false, true
	run := 0 // the length of the run of letters at hand
	before := byte(0)
	end := func() {
		words = words && (run < 4 || vowels)
		run, vowels = 0, false
	}
	for i := range len(secret) {
		kind := kindOf(secret[i])
		switch kind {
		case 0:
			separators++
			end()
		case 'd':
			digits++
			end()
		case 'u':
			upper++
			if before != 'u' {
				end()
			}
			fallthrough
		default:
			letters++
			run++
			vowels = vowels || strings.IndexByte("aeiouyAEIOUY", secret[i]) >= 0
		}
		if kind != 0 && kind != before && !(kind == 'l' && before == 'u') {
			runs++
		}
		before = kind
	}
	end()
	size := 28 // of ten runs
	if upper == 0 && separators == 0 {
		size = 40
	}
	return words && letters > digits && runs > 0 && 10*(letters+digits) >= size*runs && spelledLikeWords(secret)
}

// pairs are the pairs of letters that make up 93 of 100 in the words of Go's standard library, by
// the first one.
var pairs = map[byte]string{
	'a': "abcdfgiklmnprstuvxy",
	'b': "aceilorsuy",
	'c': "acdehikloprstuy",
	'd': "abcdefilnoprsu",
	'e': "abcdefgilmnopqrstvwxy",
	'f': "acefilmorstu",
	'g': "aehilnorst",
	'h': "aeimotu",
	'i': "abcdefglmnoprstvxz",
	'k': "aceilsu",
	'l': "acdefgilnostuvy",
	'm': "aeimopsu",
	'n': "acdefghiklnoprstuv",
	'o': "abcdfgiklmnoprstuvwx",
	'p': "acehiloprstuy",
	'q': "u",
	'r': "abcdefgiklmnoprstuvy",
	's': "acdefhiklmopqstuy",
	't': "abcdefghilmnoprstuwy",
	'u': "abcefilmnoprst",
	'v': "aefi",
	'w': "aeinors",
	'x': "abipt",
	'y': "pst",
	'z': "e",
}

var isPair = func() (t [26 * 26]bool) {
	for first, seconds := range pairs {
		for _, second := range []byte(seconds) {
			t[int(first-'a')*26+int(second-'a')] = true
		}
	}
	return t
}()

// spelledLikeWords reports whether seven of ten pairs of letters in a text are those of words. A
// change from lower to upper case begins a word. Of the pairs in random text 44 in 100 are such.
func spelledLikeWords(text string) bool {
	all, known := 0, 0
	for i := 1; i < len(text); i++ {
		a, b := kindOf(text[i-1]), kindOf(text[i])
		if a != 'l' && a != 'u' || b != 'l' && b != 'u' || a == 'l' && b == 'u' {
			continue
		}
		all++
		if isPair[int(text[i-1]|0x20-'a')*26+int(text[i]|0x20-'a')] {
			known++
		}
	}
	return 10*known >= 7*all
}

// demoKeys are the keys with which documentation signs JSON Web Tokens; they are written beside
// these.
var demoKeys = []string{"your-256-bit-secret", "a-string-secret-at-least-256-bits-long", "secret", "your-secret", "your-secret-key", "your-384-bit-secret", "your-512-bit-secret"}

// isDemoToken reports whether a JSON Web Token is signed with one of demoKeys (RFC 7515, HS256):
// anyone can make it.
func isDemoToken(token string) bool {
	i := strings.LastIndexByte(token, '.')
	if i < 0 {
		return false
	}
	last, _, _ := strings.Cut(token[i+1:], `\`) // the end of a line in JSON
	signature, err := base64.RawURLEncoding.DecodeString(last)
	return err == nil && slices.ContainsFunc(demoKeys, func(key string) bool {
		h := hmac.New(sha256.New, []byte(key))
		h.Write([]byte(token[:i]))
		return hmac.Equal(h.Sum(nil), signature)
	})
}

// isPublic reports whether a match is not a secret because of the text around it.
func isPublic(text string, s span) bool {
	switch s.rule {
	case awsRule:
		return inScope(text[s.end:])
	case "kubernetes-secret-yaml":
		return onlyCertificates(text, s)
	case genericRule:
		return listedChecksum(text, s)
	}
	return false
}

// awsRule is the rule for the identifiers of access keys.
const awsRule = "aws-access-token"

// scope is what follows an access key's identifier in a signature of AWS, version 4 ("Credential
// Scope"): the date and the region. Such an identifier is public: it is a part of each signed URL.
var scope = regexp.MustCompile(`^(?:/|\\/|\\u002[fF]|%(?:25){0,3}2[fF])(?:19|20)[0-9]{6}(?:/|\\/|\\u002[fF]|%(?:25){0,3}2[fF])[a-z0-9-]{2,30}(?:/|\\/|\\u002[fF]|%(?:25){0,3}2[fF])`)

// inScope reports whether text begins with a credential scope.
func inScope(text string) bool { return scope.MatchString(text[:min(len(text), 128)]) }

// entry is a line of the data of a Kubernetes Secret.
var entry = regexp.MustCompile(`^[ \t]+["']?[\w.-]+["']?:[ \t]*["']?([A-Za-z0-9+/]{10,}={0,3})["']?[ \t]*$`)

// maxEntries bounds the lines of a Secret or of a list of checksums that are looked at.
const maxEntries = 4096

// onlyCertificates reports whether all data of a Kubernetes Secret is certificates or public keys
// in PEM: these are no secrets.
func onlyCertificates(text string, s span) bool {
	data := strings.LastIndex(text[s.start:s.end], "data:")
	if data < 0 {
		return false
	}
	rest, n := text[s.start+data+len("data:"):], 0
	rest = rest[strings.IndexByte(rest, '\n')+1:]
	for line := range strings.Lines(rest) {
		text := strings.TrimRight(line, " \t\r\n")
		if bare := strings.TrimLeft(text, " \t"); bare == "" || bare[0] == '#' {
			continue
		} else if bare == text { // the data ends
			break
		}
		found := entry.FindStringSubmatch(text)
		if n++; found == nil || n > maxEntries || !isCertificate(found[1]) {
			return false
		}
	}
	return n > 0
}

// isCertificate reports whether base64 holds certificates or public keys in PEM (RFC 7468), and
// nothing else.
func isCertificate(encoded string) bool {
	rest, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return false
	}
	for len(bytes.TrimSpace(rest)) > 0 {
		var block *pem.Block
		if !bytes.HasPrefix(bytes.TrimSpace(rest), []byte("-----BEGIN ")) {
			return false
		}
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" && block.Type != "PUBLIC KEY" || len(block.Headers) > 0 {
			return false
		}
	}
	return true
}

var (
	// listHead begins a list of checksums of CocoaPods; listEntry is a line of it. The checksum is
	// SHA-1.
	listHead  = regexp.MustCompile(`(?:^|[\n"]|\\n)SPEC CHECKSUMS:$`)
	listEntry = regexp.MustCompile(`^  [\w"./+-]+: [0-9a-f]{40}$`)
)

// listedChecksum reports whether a finding lies in a line of a list of checksums. Lines may end as
// they do in JSON.
func listedChecksum(text string, s span) bool {
	text = text[:s.end]
	text = strings.TrimSuffix(strings.TrimSuffix(strings.TrimRight(text, "\n"), `\n`), `\`)
	sep := "\n"
	if !strings.Contains(text[max(0, len(text)-256):], sep) {
		sep = `\n`
	}
	for range maxEntries {
		at := strings.LastIndex(text, sep)
		if at < 0 {
			return false
		}
		if !listEntry.MatchString(text[at+len(sep):]) {
			return listHead.MatchString(text)
		}
		text = text[:at]
	}
	return false
}
