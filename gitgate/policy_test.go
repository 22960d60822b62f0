package gitgate

import (
	"bufio"
	"bytes"
	"reflect"
	"strings"
	"testing"

	"airlock/gitgate/objects"
	"airlock/internal/bundle"
	"airlock/internal/policy"
)

func id(c string) objects.Hash {
	h, err := objects.ParseHash(strings.Repeat(c, 40))
	if err != nil {
		panic(err)
	}
	return h
}

func TestOpen(t *testing.T) {
	no := false
	r := rules{repos: map[string]bundle.Repo{"app": {}, "lib": {Push: &no}}}
	cases := map[request]policy.Verdict{
		{uploadPack, "app", 0}:     {Allow: true, Rule: "repos.app"},
		{receivePack, "app", 0}:    {Allow: true, Rule: "repos.app"},
		{uploadPack, "lib", 0}:     {Allow: true, Rule: "repos.lib"},
		{receivePack, "lib", 0}:    {Rule: "repos.lib.push", Why: "this mirror is read-only: push is false"},
		{uploadPack, "", 0}:        {Rule: "repos", Why: "there is no repository of that name here"},
		{uploadPack, "APP", 0}:     {Rule: "repos", Why: "there is no repository of that name here"},
		{receivePack, "../app", 0}: {Rule: "repos", Why: "there is no repository of that name here"},
	}
	for q, want := range cases {
		if got := r.open(q); got != want {
			t.Errorf("%v: got %+v, want %+v", q, got, want)
		}
	}
}

func TestUpdate(t *testing.T) {
	r := rules{protect: []string{"refs/heads/main", "refs/tags/*"}}
	zero, a, b := objects.Hash{}, id("a"), id("b")
	cases := []struct {
		name string
		u    update
		f    facts
		want policy.Verdict
	}{
		{"create", update{zero, a, "refs/heads/x"}, facts{known: true}, policy.Allowed("push")},
		{"force", update{a, b, "refs/heads/x"}, facts{current: a, known: true}, policy.Allowed("push")},
		{"delete", update{a, zero, "refs/heads/x"}, facts{current: a}, policy.Allowed("push")},
		{"create what is protected", update{zero, a, "refs/heads/main"}, facts{known: true}, policy.Allowed("push")},
		{"forward what is protected", update{a, b, "refs/heads/main"}, facts{current: a, known: true, forward: true}, policy.Allowed("push")},
		{"force what is protected", update{a, b, "refs/heads/main"}, facts{current: a, known: true}, policy.Denied("protect: refs/heads/main", "protected: may not be forced")},
		{"delete what is protected", update{a, zero, "refs/tags/v1"}, facts{current: a, known: true}, policy.Denied("protect: refs/tags/*", "protected: may not be deleted")},
		{"nothing protects a longer name", update{a, zero, "refs/heads/main2"}, facts{current: a}, policy.Allowed("push")},
		{"moved", update{a, b, "refs/heads/x"}, facts{current: b, known: true}, policy.Denied("old-value", "the reference has moved: fetch first")},
		{"created meanwhile", update{zero, b, "refs/heads/x"}, facts{current: a, known: true}, policy.Denied("old-value", "the reference has moved: fetch first")},
		{"delete nothing", update{zero, zero, "refs/heads/x"}, facts{}, policy.Denied("old-value", "nothing to delete")},
		{"object missing", update{zero, a, "refs/heads/x"}, facts{}, policy.Denied("objects", "the new object did not come along")},
		{"odd name", update{zero, a, "refs/heads/../x"}, facts{known: true}, policy.Denied("ref-name", "malformed name of a reference")},
		{"HEAD", update{zero, a, "HEAD"}, facts{known: true}, policy.Denied("ref-name", "malformed name of a reference")},
	}
	for _, c := range cases {
		if got := r.update(c.u, c.f); got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestValidRef(t *testing.T) {
	for name, want := range map[string]bool{
		"refs/heads/main": true, "refs/heads/a/b-c_d.e": true, "refs/heads/ü": true, "refs/notes/commits": true,
		"main": false, "refs/": false, "refs/heads/": false, "refs//x": false, "refs/heads/a..b": false, "refs/heads/a.lock": false, "refs/heads/.a": false,
		"refs/heads/a b": false, "refs/heads/a\x00b": false, "refs/heads/a\nb": false, "refs/heads/a~1": false, "refs/heads/a^": false, "refs/heads/a:b": false,
		"refs/heads/a*": false, "refs/heads/a[": false, "refs/heads/a\\b": false, "refs/heads/a@{1}": false, "refs/heads/a.": false,
	} {
		if got := validRef(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}

func TestParseRequest(t *testing.T) {
	for line, want := range map[string]request{
		"git-upload-pack /app.git\x00host=git-gate\x00":              {uploadPack, "app", 0},
		"git-upload-pack /app\x00host=git-gate\x00\x00version=2\x00": {uploadPack, "app", 2},
		"git-receive-pack app.git":                                   {receivePack, "app", 0},
		"git-upload-pack /app.git/../..\x00":                         {uploadPack, "app.git/../..", 0},
		"git-upload-pack /../../etc\x00":                             {uploadPack, "../../etc", 0},
		"git-upload-archive /app.git\x00":                            {},
		"git-upload-pack":                                            {},
		"":                                                           {},
	} {
		got, err := parseRequest(line)
		if got != want || (err != nil) != (want == request{}) {
			t.Errorf("%q: %v, %v", line, got, err)
		}
	}
}

// No request line leads to anything but a name that is looked up.
func FuzzParseRequest(f *testing.F) {
	f.Add("git-upload-pack /app.git\x00host=x\x00")
	f.Add("git-receive-pack /../x\x00")
	r := rules{repos: map[string]bundle.Repo{"app": {}}}
	f.Fuzz(func(t *testing.T, line string) {
		q, err := parseRequest(line)
		if err == nil && r.open(q).Allow && q.repo != "app" {
			t.Fatalf("%q opens %q", line, q.repo)
		}
	})
}

func FuzzPktLine(f *testing.F) {
	f.Add([]byte("0009hello0000"))
	f.Add([]byte("0001"))
	f.Add([]byte("fff0"))
	f.Add([]byte("+009hello"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bufio.NewReader(bytes.NewReader(data))
		for range 1000 {
			pkt, err := readPkt(r)
			if err == errFlush {
				continue
			}
			if err != nil {
				return
			}
			var b bytes.Buffer
			if err := writePkt(&b, string(pkt)); err != nil {
				t.Fatal(err)
			}
			back, err := readPkt(bufio.NewReader(&b))
			if err != nil || !bytes.Equal(back, pkt) {
				t.Fatalf("%q comes back as %q, %v", pkt, back, err)
			}
		}
	})
}

func FuzzCommands(f *testing.F) {
	line := strings.Repeat("0", 40) + " " + strings.Repeat("a", 40) + " refs/heads/x\x00report-status"
	var b bytes.Buffer
	_ = writePkt(&b, line)
	_ = writeFlush(&b)
	f.Add(b.Bytes())
	b.Reset()
	_ = writePkt(&b, line+" push-options object-format=sha1")
	_ = writeFlush(&b)
	_ = writePkt(&b, "an=option")
	_ = writeFlush(&b)
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := readCommands(bufio.NewReader(bytes.NewReader(data)), nil)
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, u := range c.updates {
			if seen[u.ref] {
				t.Fatalf("%q twice", u.ref)
			}
			seen[u.ref] = true
		}
		if len(c.options) > 0 && !c.caps.has("push-options") {
			t.Fatal("options that were not announced")
		}
	})
}

// Whatever upstream says, nothing is ok that was not asked for, and what a client is told can be read again as the same.
func FuzzReport(f *testing.F) {
	seed := func(lines ...string) {
		var b bytes.Buffer
		for _, l := range lines {
			_ = writePkt(&b, l)
		}
		_ = writeFlush(&b)
		f.Add(b.Bytes())
	}
	seed("unpack ok\n", "ok refs/heads/a\n", "ng refs/heads/b not this one\n")
	seed("unpack ok", "ok refs/heads/a", "option refname refs/changes/1", "option forced-update", "ok refs/heads/a", "option refname refs/changes/2")
	seed("unpack index-pack abnormal exit", "ng refs/heads/a", "ok refs/heads/a", "option old-oid x")
	asked := map[string]bool{"refs/heads/a": true, "refs/heads/b": true}
	updates := []update{{ref: "refs/heads/a"}, {ref: "refs/heads/b"}}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := readReport(bufio.NewReader(bytes.NewReader(data)), asked)
		if err != nil {
			return
		}
		for name := range got.said {
			if !asked[name] {
				t.Fatalf("%q was not asked about", name)
			}
		}
		if len(got.said) != len(updates) {
			return
		}
		var b bytes.Buffer
		if err := writeReport(&b, true, "ok", updates, got.said); err != nil {
			t.Fatal(err)
		}
		back, err := readReport(bufio.NewReader(&b), asked)
		if err != nil || !reflect.DeepEqual(back.said, got.said) {
			t.Fatalf("%v comes back as %v, %v", got.said, back.said, err)
		}
	})
}

func FuzzAdvertisement(f *testing.F) {
	var b bytes.Buffer
	_ = advertiseFetch(&b, source{snap: &snapshot{head: "refs/heads/main", refs: []ref{{name: "refs/heads/main", hash: id("a")}, {name: "refs/tags/v1", hash: id("b"), peeled: id("a")}}}}, false)
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := readAdvertisement(bufio.NewReader(bytes.NewReader(data)))
		if err != nil {
			return
		}
		for _, r := range a.snapshot().refs {
			if !mirrored(r.name) {
				t.Fatalf("%q got in", r.name)
			}
		}
	})
}

func TestAdvertisementRoundTrip(t *testing.T) {
	want := &snapshot{head: "refs/heads/main", refs: []ref{
		{name: "refs/heads/main", hash: id("a")}, {name: "refs/notes/commits", hash: id("c")}, {name: "refs/tags/v1", hash: id("b"), peeled: id("a")},
	}}
	var b bytes.Buffer
	if err := advertiseFetch(&b, source{snap: want}, true); err != nil {
		t.Fatal(err)
	}
	a, err := readAdvertisement(bufio.NewReader(&b))
	if err != nil {
		t.Fatal(err)
	}
	got := a.snapshot()
	if got.head != want.head || len(got.refs) != len(want.refs) {
		t.Fatalf("%+v", got)
	}
	for i := range got.refs {
		if got.refs[i] != want.refs[i] {
			t.Errorf("%+v, want %+v", got.refs[i], want.refs[i])
		}
	}
}
