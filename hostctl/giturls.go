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
//
// All of it is by HTTP: Git LFS derives the place of its API from the URL of the
// remote, and that is right for the direct spellings. For the others, whose redirect
// from https it does not follow, the API is named (lfsConfig).

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
		all = append(all, bundle.Mirror{URL: homeOf(id) + id.Path + ".git", To: onGate(name)})
	}
	return all
}

// onGate is where git-gate has a repository.
func onGate(name string) string {
	return fmt.Sprintf("http://git-gate:%d/%s.git", bundle.PortGitHTTP, name)
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
			all = append(all, instead{onGate(name), spelling})
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
		set(fmt.Sprintf("http.http://git-gate:%d/.proxy", bundle.PortGitHTTP), "") // also where the manifest has a NO_PROXY of its own
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
	lfsConfig(&b, m)
	return b.Bytes()
}

// lfsFile is the name of the file that tells Git LFS where a repository's API is.
func lfsFile(name string) string { return "gitconfig-lfs-" + name }

// lfsConfig includes that file in a clone with a remote that is the repository in a
// spelling that is not a direct one (git-config(1), hasconfig; git 2.36).
func lfsConfig(b *bytes.Buffer, m *Manifest) {
	taken := map[string]bool{}
	for _, r := range direct(m) {
		taken[r.from] = true
	}
	for _, name := range slices.Sorted(maps.Keys(m.Git.Repos)) {
		u, id, err := identityOf(m.Git.Repos[name].URL)
		if err != nil {
			continue
		}
		for _, before := range beginnings(u, id) {
			for _, after := range []string{"", ".git", "/", ".git/"} {
				spelling := before + escapeGlob(id.Path) + after
				if taken[spelling] {
					continue
				}
				taken[spelling] = true
				fmt.Fprintf(b, "[includeIf %s]\n\tpath = %s/%s\n", quoteGit("hasconfig:remote.*.url:"+spelling), pair.FilesDir, lfsFile(name))
			}
		}
	}
}

// beginnings are the spellings of a repository's host, as patterns of wildmatch, in
// which a user is any user.
func beginnings(u *url.URL, id bundle.GitIdentity) []string {
	all := []string{homeOf(id), strings.Replace(homeOf(id), "//", "//*@", 1)}
	if id.At.Port == 443 {
		host := strings.TrimSuffix(homeOf(id), "/")
		all = append(all, host+":443/", strings.Replace(host, "//", "//*@", 1)+":443/")
	}
	return append(all, sshSpellings(u)...)
}

func escapeGlob(text string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(text)
}

// lfsFiles are the files that lfsConfig includes.
func lfsFiles(m *Manifest) map[string][]byte {
	files := map[string][]byte{}
	for name := range m.Git.Repos {
		files[lfsFile(name)] = []byte("[lfs]\n\turl = " + onGate(name) + "/info/lfs\n")
	}
	return files
}

// quoteGit writes a text as git's configuration has it (git-config(1), Syntax).
func quoteGit(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
}
