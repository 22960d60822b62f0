package secrets

import (
	"regexp"
	"strings"
)

// genericRule is gitleaks' rule for anything that is called a key, a token or the like and looks random.
const genericRule = "generic-api-key"

var (
	// positions are names of what says where one is, or which of many: cursors of pages, keys of caches and tables, the nonce of a
	// WebSocket (RFC 6455 §4.1), the key that makes a request idempotent.
	positions = regexp.MustCompile(`(?:^|[^a-z])(?:` +
		`(?:(?:next|prev|previous|page|paging|continuation|start|sync|cursor|resume|scroll|delta|skip)[-_. ]?)+token` +
		`|(?:cache|idempotency|surrogate|partition|sort|primary|object|foreign|row|routing|dedup|dedupe|group|shard|index|storage|message|websocket)[-_. ]?key)$`)
	// serious are names that leave no doubt.
	serious = regexp.MustCompile(`api|secret|passw|auth|access|cred|private|client|sign|encrypt`)
	// identifiers are UUIDs (RFC 9562 §4) and digests: of SHA-1, which names git's objects, and of SHA-2.
	identifiers = regexp.MustCompile(`^(?:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{40}|[0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128})$`)
)

// harmless tells whether what the generic rule found is no secret: by its name, or by its form where the name says little.
func harmless(match, secret string) bool {
	name, _, _ := strings.Cut(match, secret)
	name = strings.ToLower(strings.Trim(name, " \t\r\n'\"`=:>|?,\\"))
	if i := strings.LastIndexAny(name, " \t\r\n'\"`=:>|?,&;"); i >= 0 {
		name = name[i+1:]
	}
	return positions.MatchString(name) || identifiers.MatchString(strings.ToLower(secret)) && !serious.MatchString(name)
}
