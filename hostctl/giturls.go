package hostctl

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"airlock/hostctl/pair"
	"airlock/internal/bundle"
)

// How git finds the mirrors. git's insteadOf replaces the beginning of a URL, where
// what is meant is a repository. So the usual spellings of a mirror lead to it
// directly; every longer URL that begins like one is led back to itself; and
// whatever else is spelled by ssh becomes https. Then git asks egress, which knows
// the repositories by their identity (bundle.Mirror) and sends git on to git-gate.

// gitConfigFile is the name of the file that leads longer URLs back.
const gitConfigFile = "gitconfig"

// identityOf reads the URL of a repository of the manifest.
func identityOf(text string) (*url.URL, bundle.GitIdentity, error) {
	u, err := bundle.ParseGitURL(text)
	if err != nil {
		return nil, bundle.GitIdentity{}, err
	}
	id, err := bundle.IdentityOf(u)
	return u, id, err
}

// mirrorsOf are the manifest's repositories, as egress is told of them. Of two with
// the same identity it is told of the first.
func mirrorsOf(m *Manifest) (all []bundle.Mirror) {
	seen := map[bundle.GitIdentity]bool{}
	for _, name := range slices.Sorted(maps.Keys(m.Git.Repos)) {
		_, id, err := identityOf(m.Git.Repos[name].URL)
		if err != nil || seen[id] {
			continue
		}
		seen[id] = true
		all = append(all, bundle.Mirror{URL: homeOf(id) + id.Path + ".git", To: fmt.Sprintf("http://git-gate:%d/%s.git", bundle.PortGitHTTP, name)})
	}
	return all
}

// homeOf is the beginning of all https URLs of a repository's host.
func homeOf(id bundle.GitIdentity) string { return "https://" + id.At.HostFor(443) + "/" }

// instead is one rule of git's: what begins with from begins with to.
type instead struct{ to, from string }

// direct are the spellings of each mirror that lead to it at once: of each repository
// the manifest's own and the two usual ones. All end with .git.
func direct(m *Manifest) (all []instead) {
	taken := map[string]bool{}
	add := func(name, spelling string) {
		if strings.HasSuffix(spelling, ".git") && !taken[spelling] {
			taken[spelling] = true
			all = append(all, instead{fmt.Sprintf("git://git-gate/%s.git", name), spelling})
		}
	}
	names := slices.Sorted(maps.Keys(m.Git.Repos))
	for _, name := range names {
		add(name, m.Git.Repos[name].URL)
	}
	for _, name := range names {
		u, id, err := identityOf(m.Git.Repos[name].URL)
		if err != nil {
			continue
		}
		add(name, homeOf(id)+id.Path+".git")
		add(name, cmp.Or(u.User.Username(), "git")+"@"+u.Hostname()+":"+id.Path+".git")
	}
	return all
}

// overHTTPS leads every URL by ssh, or git, of the mirrors' hosts to https: nothing else
// of them can be reached from a pair.
func overHTTPS(m *Manifest) (all []instead) {
	taken := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(m.Git.Repos)) {
		u, id, err := identityOf(m.Git.Repos[name].URL)
		if err != nil {
			continue
		}
		for _, from := range sshSpellings(u) {
			if !taken[from] {
				taken[from] = true
				all = append(all, instead{homeOf(id), from})
			}
		}
	}
	return all
}

// sshSpellings are the beginnings of the URLs by ssh, and by git's own protocol, of a host.
func sshSpellings(u *url.URL) (all []string) {
	host := u.Hostname()
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	ports := []string{"", ":22"}
	if u.Scheme == "ssh" && u.Port() != "" {
		ports = append(ports, ":"+u.Port())
	}
	users := []string{"", "git@"}
	if name := u.User.Username(); name != "" && u.Scheme == "ssh" {
		users = append(users, name+"@")
	}
	for _, user := range users {
		for _, scheme := range []string{"ssh", "git+ssh", "ssh+git"} {
			for _, port := range ports {
				all = append(all, scheme+"://"+user+host+port+"/")
			}
		}
		all = append(all, user+host+":", user+host+":/")
	}
	return append(all, "git://"+host+"/", "git://"+host+":9418/")
}

// gitEnv sets the rules for git in the agent's environment, and has it read the file
// with the others.
func gitEnv(m *Manifest) map[string]string {
	env := map[string]string{}
	n := 0
	set := func(key, value string) {
		env[fmt.Sprintf("GIT_CONFIG_KEY_%d", n)], env[fmt.Sprintf("GIT_CONFIG_VALUE_%d", n)] = key, value
		n++
	}
	for _, r := range append(direct(m), overHTTPS(m)...) {
		set("url."+r.to+".insteadOf", r.from)
	}
	if n > 0 {
		set("include.path", pair.FilesDir+"/"+gitConfigFile)
		env["GIT_CONFIG_COUNT"] = strconv.Itoa(n)
	}
	return env
}

// continues are the characters that may follow a spelling in the URL of another
// repository: unreserved and reserved ones of RFC 3986, and bytes of UTF-8.
const continues = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~%!$&'()*+,;=:@/?"

// gitConfig leads back what begins with a direct spelling and goes on.
func gitConfig(m *Manifest) []byte {
	var b bytes.Buffer
	b.WriteString("# URLs that begin like a mirror's and are not: they stay what they are.\n")
	for _, r := range direct(m) {
		plain := r.from
		if u, id, err := identityOf(r.from); err == nil && u.Scheme == "ssh" {
			plain = homeOf(id) + id.Path + ".git" // as overHTTPS has it
		}
		for _, c := range continues {
			fmt.Fprintf(&b, "[url %s]\n\tinsteadOf = %s\n", quoteGit(plain+string(c)), quoteGit(r.from+string(c)))
		}
	}
	return b.Bytes()
}

// quoteGit writes a text as git's configuration has it (git-config(1), Syntax).
func quoteGit(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
}
