package gitgate

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A shallow clone that is deepened to the end gets nothing of what upstream has dropped, though the client has its last commit and the store the
// rest.
func TestUnshallowLeavesDroppedHistory(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t)
		r.seed("main", map[string]string{"a": "1"})
		kept := r.seed("kept", map[string]string{"b": "1"})
		r.seed("kept", map[string]string{"b": "2"})
		dropped := r.seed("gone", map[string]string{"c": "1"})
		r.seed("gone", map[string]string{"c": "2"})
		w := filepath.Join(t.TempDir(), "w")
		r.run(t.TempDir(), "git", "clone", "-q", "--depth=1", "--no-single-branch", r.url(protocol, "app"), w)
		r.run(r.ssh.Dir("app"), "git", "update-ref", "-d", "refs/heads/gone")
		r.run(w, "git", "ls-remote", "origin")
		r.edit(func(*Config) {}) // nothing is remembered of what was shown
		r.run(w, "git", "remote", "set-url", "origin", r.url(protocol, "app"))
		r.run(w, "git", "fetch", "-q", "--unshallow", "origin", "main")
		r.run(w, "git", "cat-file", "-e", kept)
		r.fails(w, nil, "git", "cat-file", "-e", dropped)
	})
}

// An upstream that tells the gate's credential, with characters in it that are not drawn, beyond what is shown of a long line, or as a name, does not
// tell it to the agent.
func TestCredentialInUpstreamsWords(t *testing.T) {
	secret := token(71)
	line := func(text string) string { return fmt.Sprintf("%04x%s", len(text)+4, text) }
	half, rest := secret[:20], secret[20:]
	says := func(text string) hostile {
		return hostile{advertise: func(w io.Writer, _ string) error { return writePkt(w, "ERR "+text) }}
	}
	pushed := func(band byte, text string) hostile {
		return hostile{refs(zeros + " capabilities^{}"), func(w io.Writer) error {
			if band == bandMessage {
				return errorsOf(banded(w, band, text), banded(w, bandData, line("unpack ok\n")+line("ok refs/heads/x\n")+"0000"))
			}
			return banded(w, band, text)
		}}
	}
	for name, bad := range map[string]hostile{
		"escape":     says("no " + half + "\x1b" + rest),
		"lines":      says("no " + half + "\r\n" + rest),
		"no width":   says("no " + half + "\u200b" + rest),
		"long":       says(strings.Repeat("y", 270) + secret),
		"branch":     {advertise: refs(zeros + " refs/heads/" + secret)},
		"head":       {advertise: refs(zeros + " capabilities^{}\x00symref=HEAD:refs/heads/" + secret + " ")},
		"message":    pushed(bandMessage, half+"\x1b"+rest+"\n"),
		"message 2":  pushed(bandMessage, half+"\u2066"+rest+"\n"),
		"fatal":      pushed(bandError, half+"\x07"+rest),
		"option":     pushed(bandData, line("unpack ok\n")+line("ok refs/heads/x\n")+line("option refname refs/heads/"+secret)+"0000"),
		"reason":     pushed(bandData, line("unpack ok\n")+line("ng refs/heads/x "+half+"\x7f"+rest)+"0000"),
		"unpack":     pushed(bandData, line("unpack "+half+"\x1b"+rest)+"0000"),
		"other name": pushed(bandData, line("unpack ok\n")+line("ok refs/heads/"+secret)+"0000"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := viaHTTPS(t, secret, secret, func(http.Handler) http.Handler { return bad })
			r.edit(func(c *Config) { c.Answer, c.Report, c.Transfer = 3*time.Second, 2*time.Second, 6*time.Second })
			w := t.TempDir()
			r.run(w, "git", "init", "-q")
			r.commit(w, "mine", map[string]string{"a": "1"})
			listed, _ := r.try(w, "git", "ls-remote", "--symref", r.url("git", "app"))
			told, _ := r.try(w, "git", "push", r.url("git", "app"), "HEAD:refs/heads/x")
			if strings.Contains(listed+told, half) {
				t.Error("the agent was told the credential, or half of it")
			}
			r.absent(half, listed, told)
		})
	}
}

// What steers a terminal, or makes one name look like another, is spelled out for people and taken out of upstream's chatter.
func TestUnseenCharacters(t *testing.T) {
	for text, want := range map[string]string{
		"a\u202etxt.exe": `a\u202etxt.exe`, "x\u2066y\u2069z": `x\u2066y\u2069z`, "a\u200bb": `a\u200bb`, "a\u2028b": `a\u2028b`, "a\U000e0041b": `a\ue0041b`,
		"soft\u00adhyphen": `soft\u00adhyphen`, "\ufefftop": `\ufefftop`, "naïve 日本語": "naïve 日本語", "a\x1bb\x9bc": "a b c", "a\u0085b": "a b",
	} {
		if got := clean(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	if got := tame("a\u202eb\x1b[1m\u200bc\r\n"); got != "ab[1mc\r\n" {
		t.Errorf("%q", got)
	}
}
