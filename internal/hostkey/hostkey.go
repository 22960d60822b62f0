// Package hostkey reads pinned ssh host keys: lines as they stand in a .pub file, or in a known_hosts file (sshd(8), "SSH_KNOWN_HOSTS FILE
// FORMAT"). It checks nothing but their form: to speak ssh is git-gate's business.
package hostkey

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// Key is one line.
type Key struct {
	Authority bool   // @cert-authority: it signs the keys of hosts
	Revoked   bool   // @revoked: whoever shows it is refused
	Type      string // as "ssh-ed25519"
	Blob      []byte // the key in ssh's own encoding (RFC 4253 §6.6)

	hosts []string // patterns, or one hashed name; none: every host
}

// types are the keys that are taken, and of how many fields they are made. DSA is not taken: no server of today has one.
var types = map[string]int{
	"ssh-ed25519": 2, "ssh-rsa": 3, "ecdsa-sha2-nistp256": 3, "ecdsa-sha2-nistp384": 3, "ecdsa-sha2-nistp521": 3,
	"sk-ssh-ed25519@openssh.com": 3, "sk-ecdsa-sha2-nistp256@openssh.com": 4,
}

// Parse reads one line or several; empty ones and comments are left out, and so are those of a sample ("ssh-ed25519 AAAA..."), which
// pin nothing.
func Parse(text string) (keys []Key, err error) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		k, err := parse(strings.Fields(line))
		if err != nil {
			return nil, err
		}
		if k.Blob != nil {
			keys = append(keys, k)
		}
	}
	return keys, nil
}

var errForm = errors.New(`"TYPE BASE64" was wanted, as in a .pub file, or a line of known_hosts`)

func parse(words []string) (k Key, err error) {
	switch words[0] {
	case "@cert-authority":
		k.Authority, words = true, words[1:]
	case "@revoked":
		k.Revoked, words = true, words[1:]
	}
	if len(words) > 0 && types[words[0]] == 0 {
		k.hosts, words = strings.Split(words[0], ","), words[1:]
	}
	if len(words) < 2 {
		return k, errForm
	}
	if types[words[0]] == 0 {
		return k, fmt.Errorf("%q is no type of key that is taken: %s", words[0], strings.Join(slices.Sorted(maps.Keys(types)), ", "))
	}
	k.Type = words[0]
	if strings.Trim(words[1], "A.…") == "" {
		return k, nil // a sample
	}
	blob, err := base64.StdEncoding.DecodeString(words[1])
	if err != nil {
		return k, errors.New("the key is no base64: was it cut?")
	}
	all, ok := fields(blob)
	if len(all) > 0 && all[0] != k.Type {
		return k, fmt.Errorf("the key is not of the type %s that stands before it", k.Type)
	}
	if !ok || len(all) != types[k.Type] {
		return k, errors.New("the key is not whole: was it cut?")
	}
	k.Blob = blob
	return k, nil
}

// fields takes a key apart; it is not ok when something is missing at the end.
func fields(blob []byte) (all []string, ok bool) {
	for len(blob) > 0 {
		if len(blob) < 4 || uint64(binary.BigEndian.Uint32(blob)) > uint64(len(blob)-4) {
			return all, false
		}
		n := 4 + int(binary.BigEndian.Uint32(blob))
		all, blob = append(all, string(blob[4:n])), blob[n:]
	}
	return all, len(all) > 0
}

// For tells whether the line is about a host. A line without hosts is about every one. A port other than 22 stands in the line as
// "[host]:port" or, as ssh has it too, not at all.
func (k Key) For(host, port string) bool {
	if len(k.hosts) == 0 {
		return true
	}
	host = strings.ToLower(host)
	names := []string{host}
	if port != "" && port != "22" {
		names = append(names, "["+host+"]:"+port)
	}
	return slices.ContainsFunc(names, k.named)
}

// named applies the patterns: one that says no counts for more than those that say yes.
func (k Key) named(name string) (yes bool) {
	for _, entry := range k.hosts {
		pattern, not := strings.CutPrefix(strings.ToLower(entry), "!")
		switch {
		case strings.HasPrefix(entry, "|"):
			yes = yes || hashed(entry, name)
		case matches(pattern, name) && not:
			return false
		case matches(pattern, name):
			yes = true
		}
	}
	return yes
}

// matches knows the stars and question marks of ssh; a bracket is itself.
func matches(pattern, name string) bool {
	ok, err := path.Match(strings.NewReplacer("[", `\[`, "]", `\]`, `\`, `\\`).Replace(pattern), name)
	return ok && err == nil
}

// hashed compares "|1|SALT|HMAC-SHA1".
func hashed(entry, name string) bool {
	parts := strings.Split(entry, "|")
	if len(parts) != 4 || parts[1] != "1" {
		return false
	}
	salt, err := base64.StdEncoding.DecodeString(parts[2])
	sum, sumErr := base64.StdEncoding.DecodeString(parts[3])
	if err != nil || sumErr != nil {
		return false
	}
	h := hmac.New(sha1.New, salt)
	h.Write([]byte(name))
	return bytes.Equal(h.Sum(nil), sum)
}
