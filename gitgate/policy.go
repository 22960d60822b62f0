package gitgate

import (
	"fmt"
	"slices"
	"strings"

	"airlock/gitgate/objects"
	"airlock/internal/bundle"
	"airlock/internal/policy"
)

// The two services of git.
const (
	uploadPack  = "git-upload-pack"
	receivePack = "git-receive-pack"
)

// request is what a client asks for, parsed.
type request struct {
	service string
	repo    string // the configured name
	version int    // of the protocol, as far as the client speaks it
}

// method is how the audit calls it.
func (q request) method() string {
	if q.service == receivePack {
		return "push"
	}
	return "fetch"
}

// parseRequest reads the first line of git://: "git-upload-pack /app.git\0host=…\0\0version=2\0".
func parseRequest(line string) (request, error) {
	head, rest, _ := strings.Cut(line, "\x00")
	service, path, ok := strings.Cut(strings.TrimSuffix(head, "\n"), " ")
	if !ok || (service != uploadPack && service != receivePack) {
		return request{}, fmt.Errorf("no such service; %s and %s are here", uploadPack, receivePack)
	}
	version := 0
	if _, extra, ok := strings.Cut(rest, "\x00\x00"); ok {
		version = versionOf(strings.ReplaceAll(extra, "\x00", ":"))
	}
	return request{service, repoName(path), version}, nil
}

// repoName takes "/app.git", "/app" or either with a slash behind it for "app". Whatever else comes is no name of a repository,
// and is looked up as it is, in vain.
func repoName(path string) string {
	name := strings.TrimSuffix(strings.TrimPrefix(path, "/"), "/")
	return strings.TrimSuffix(name, ".git")
}

// rules is what decides: the configuration, without the upstreams.
type rules struct {
	repos   map[string]bundle.Repo
	protect []string
	refs    int // most references in one push
	allow   []bundle.GitAllowed
}

// open decides whether a service of a repository may be used at all.
func (r rules) open(q request) policy.Verdict {
	repo, ok := r.repos[q.repo]
	if !ok {
		return policy.Denied("repos", "there is no repository of that name here")
	}
	if q.service == receivePack && !repo.MayPush() {
		return policy.Denied("repos."+q.repo+".push", "this mirror is read-only: push is false")
	}
	return policy.Allowed("repos." + q.repo)
}

// update is one line of a push.
type update struct {
	old, new objects.Hash
	ref      string
}

func (u update) creates() bool { return u.old.IsZero() }
func (u update) deletes() bool { return u.new.IsZero() }

// facts are what must be known of an update to judge it.
type facts struct {
	current objects.Hash // what the mirror has under that name
	known   bool         // the new object is here, with everything behind it
	forward bool         // the old one is an ancestor of the new one

	conflict string // a reference that cannot stand beside this one; "" is none
	other    string // the type of the new object, where it is no commit
}

// conflictOf is a reference, of upstream's or of the push, that cannot be beside one that is created: a folder and a file of
// one name. What the push deletes is no obstacle.
func conflictOf(now *snapshot, updates []update, u update) string {
	if u.deletes() || !u.creates() {
		return ""
	}
	deleted := map[string]bool{}
	for _, o := range updates {
		switch {
		case o.deletes():
			deleted[o.ref] = true
		case o.ref != u.ref && (strings.HasPrefix(o.ref, u.ref+"/") || strings.HasPrefix(u.ref, o.ref+"/")):
			return o.ref
		}
	}
	for i, c := range u.ref {
		if c == '/' && !now.get(u.ref[:i]).IsZero() && !deleted[u.ref[:i]] {
			return u.ref[:i]
		}
	}
	below := u.ref + "/"
	i, _ := slices.BinarySearchFunc(now.refs, below, func(r ref, name string) int { return strings.Compare(r.name, name) })
	for ; i < len(now.refs) && strings.HasPrefix(now.refs[i].name, below); i++ {
		if !deleted[now.refs[i].name] {
			return now.refs[i].name
		}
	}
	return ""
}

// update decides about one reference.
func (r rules) update(u update, f facts) policy.Verdict {
	switch {
	case !validRef(u.ref):
		return policy.Denied("ref-name", "malformed name of a reference")
	case reserved(u.ref):
		return policy.Denied("ref-namespace", "references of that kind are the server's own, or change what others see: they are not pushed")
	case u.old != f.current:
		return policy.Denied("old-value", "the reference has moved: fetch first")
	case u.deletes() && u.creates():
		return policy.Denied("old-value", "nothing to delete")
	case !u.deletes() && !f.known:
		return policy.Denied("objects", "the new object did not come along")
	case f.other != "" && strings.HasPrefix(u.ref, "refs/heads/"):
		return policy.Denied("ref-type", "a branch is a commit, and this is a "+f.other)
	case f.conflict != "":
		return policy.Denied("ref-conflict", "there is "+visible(f.conflict)+", which cannot be beside it")
	}
	line, protected := r.protected(u.ref)
	switch {
	case protected && u.deletes():
		return policy.Denied(line, "protected: may not be deleted")
	case protected && !u.creates() && !f.forward:
		return policy.Denied(line, "protected: may not be forced")
	}
	return policy.Allowed("push")
}

// reserved tells names that no client pushes to: replacements, which change what others see of a history, configuration that servers keep in
// references, and what they make of proposals. refs/for/ and other doors to a review are not among them.
func reserved(name string) bool {
	return slices.ContainsFunc([]string{"refs/replace/", "refs/meta/", "refs/pull/", "refs/merge-requests/", "refs/changes/"}, func(space string) bool {
		return strings.HasPrefix(name, space)
	})
}

// protected finds the line that protects a reference: its full name, or a prefix that ends in "/*".
func (r rules) protected(name string) (line string, ok bool) {
	for _, p := range r.protect {
		prefix, wide := strings.CutSuffix(p, "*")
		if name == p || wide && strings.HasPrefix(name, prefix) {
			return "protect: " + p, true
		}
	}
	return "", false
}

// count decides about the size of a push.
func (r rules) count(n int) policy.Verdict {
	if n > r.refs {
		return policy.Denied("limits.refs", fmt.Sprintf("more than %d references in one push", r.refs))
	}
	return policy.Allowed("push")
}
