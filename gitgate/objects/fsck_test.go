package objects

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
)

// bad is a set of objects that git is asked about, too: blobs, then a tree that may name them, then what is judged.
type bad struct {
	blob []byte // with the name that the tree gives it
	name string
	typ  Type
	data string
}

const emptyTree = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"

var blobHash = plumbing.ComputeHash(plumbing.BlobObject, []byte("hello"))

// lines makes a tree of "mode name" lines, which all name the same blob; "mode name !" has no object.
func lines(entries ...string) string {
	var b strings.Builder
	for _, e := range entries {
		hash := blobHash
		if e, null := strings.CutSuffix(e, " !"); null {
			b.WriteString(e + "\x00" + strings.Repeat("\x00", 20))
			continue
		}
		if strings.HasPrefix(e, "40000") || strings.HasPrefix(e, "040000") {
			raw, _ := hex.DecodeString(emptyTree)
			copy(hash[:], raw)
		}
		b.WriteString(e + "\x00" + string(hash[:]))
	}
	return b.String()
}

func commitWith(change func(lines []string) []string) string {
	return strings.Join(change([]string{"tree " + emptyTree, "author A <a@example.com> 1700000000 +0000", "committer A <a@example.com> 1700000000 +0000", "", "message", ""}), "\n")
}

func replaced(line int, text string) string {
	return commitWith(func(l []string) []string { l[line] = text; return l })
}

func tagWith(line int, text string) string {
	l := []string{"object " + blobHash.String(), "type blob", "tag v1", "tagger A <a@example.com> 1700000000 +0000", "", "message", ""}
	l[line] = text
	return strings.Join(l, "\n")
}

func moduleFile(lines ...string) bad {
	return bad{blob: []byte("[submodule \"x\"]\n\t" + strings.Join(lines, "\n\t") + "\n"), name: ".gitmodules"}
}

// stricter are cases that git lets pass: it has no other kind of mode, and no link here, that anybody would want, and names are compared as they stand.
var stricter = map[string]bool{"mode of no kind": true, "attributes as a link": true, "upper case": true}

// Git and we agree about each of these.
func TestCheckAgreesWithGit(t *testing.T) {
	author := func(ident string) bad { return bad{typ: plumbing.CommitObject, data: replaced(1, "author "+ident)} }
	tree := func(entries ...string) bad { return bad{typ: plumbing.TreeObject, data: lines(entries...)} }
	commit := func(data string) bad { return bad{typ: plumbing.CommitObject, data: data} }
	tag := func(line int, text string) bad { return bad{typ: plumbing.TagObject, data: tagWith(line, text)} }
	cases := map[string]struct {
		bad
		want string
	}{
		"commit":                      {commit(commitWith(func(l []string) []string { return l })), ""},
		"no tree":                     {commit(commitWith(func(l []string) []string { return l[1:] })), "missingTree"},
		"bad tree":                    {commit(replaced(0, "tree "+emptyTree[1:])), "badTreeSha1"},
		"upper case":                  {commit(replaced(0, "tree "+strings.ToUpper(emptyTree))), "badTreeSha1"},
		"bad parent":                  {commit(replaced(0, "tree "+emptyTree+"\nparent x")), "badParentSha1"},
		"no author":                   {commit(commitWith(func(l []string) []string { return append(l[:1:1], l[2:]...) })), "missingAuthor"},
		"two authors":                 {commit(replaced(1, "author A <a@example.com> 1 +0000\nauthor B <b@example.com> 1 +0000")), "multipleAuthors"},
		"no committer":                {commit(commitWith(func(l []string) []string { return append(l[:2:2], l[3:]...) })), "missingCommitter"},
		"committer first":             {commit(commitWith(func(l []string) []string { l[1], l[2] = l[2], l[1]; return l })), "missingAuthor"},
		"NUL in a header":             {commit(replaced(1, "author A\x00 <a@example.com> 1 +0000")), "nulInHeader"},
		"NUL in the message":          {commit(replaced(4, "mess\x00age")), "nulInCommit"},
		"no end":                      {commit("tree " + emptyTree), "unterminatedHeader"},
		"no body":                     {commit(commitWith(func(l []string) []string { return append(l[:3:3], "") })), ""},
		"no name":                     {author(" <a@example.com> 1 +0000"), ""},
		"no name, no space":           {author("<a@example.com> 1 +0000"), "missingNameBeforeEmail"},
		"bad name":                    {author("A> <a@example.com> 1 +0000"), "badName"},
		"no mail":                     {author("A 1 +0000"), "missingEmail"},
		"no space before the mail":    {author("A<a@example.com> 1 +0000"), "missingSpaceBeforeEmail"},
		"bad mail":                    {author("A <a@example.com 1 +0000"), "badEmail"},
		"mail in mail":                {author("A <a<b> 1 +0000"), "badEmail"},
		"no space before the date":    {author("A <a@example.com>1 +0000"), "missingSpaceBeforeDate"},
		"no date":                     {author("A <a@example.com> x +0000"), "badDate"},
		"padded date":                 {author("A <a@example.com> 01 +0000"), "zeroPaddedDate"},
		"date 0":                      {author("A <a@example.com> 0 +0000"), ""},
		"date out of range":           {author("A <a@example.com> 18446744073709551617 +0000"), "badDateOverflow"},
		"date just out of range":      {author("A <a@example.com> 9223372036854775808 +0000"), "badDateOverflow"},
		"latest date":                 {author("A <a@example.com> 9223372036854775807 +0000"), ""},
		"no zone":                     {author("A <a@example.com> 1 "), "badTimezone"},
		"long zone":                   {author("A <a@example.com> 1 +00000"), "badTimezone"},
		"zone without sign":           {author("A <a@example.com> 1 00000"), "badTimezone"},
		"odd zone":                    {author("A <a@example.com> 1 +9999"), ""},
		"tree":                        {tree("100644 a", "100755 b", "120000 c", "40000 d"), ""},
		"padded mode":                 {tree("0100644 a"), "zeroPaddedFilemode"},
		"no mode":                     {tree(" a"), "badTree"},
		"mode that is no number":      {tree("10064x a"), "badTree"},
		"group may write":             {tree("100664 a"), ""},
		"odd permissions":             {tree("100600 a"), ""},
		"mode of no kind":             {tree("10644 a"), "badFilemode"},
		"no name in a tree":           {tree("100644 "), "badTree"},
		"slash":                       {tree("100644 a/b"), "fullPathname"},
		"dot":                         {tree("40000 ."), "hasDot"},
		"dots":                        {tree("40000 .."), "hasDotdot"},
		"three dots":                  {tree("40000 ..."), ""},
		"null":                        {tree("100644 a !"), "nullSha1"},
		"cut":                         {bad{typ: plumbing.TreeObject, data: lines("100644 a")[:20]}, "badTree"},
		"unsorted":                    {tree("100644 b", "100644 a"), "treeNotSorted"},
		"folder sorted as a file":     {tree("40000 a", "100644 a.b"), "treeNotSorted"},
		"folder sorted as a folder":   {tree("100644 a.b", "40000 a"), ""},
		"twice":                       {tree("100644 a", "100644 a"), "duplicateEntries"},
		"file and folder":             {tree("100644 a", "100644 a.b", "40000 a"), "duplicateEntries"},
		".git":                        {tree("40000 .git"), "hasDotgit"},
		".GIT":                        {tree("40000 .GIT"), "hasDotgit"},
		".git of HFS+":                {tree("40000 .g\u200cit"), "hasDotgit"},
		".git of HFS+, order mark":    {tree("40000 \ufeff.git"), "hasDotgit"},
		"git~1":                       {tree("40000 git~1"), "hasDotgit"},
		"GIT~1.":                      {tree("40000 GIT~1."), "hasDotgit"},
		"git~2":                       {tree("40000 git~2"), ""},
		".git and spaces":             {tree("40000 .git . "), "hasDotgit"},
		".git stream":                 {tree("40000 .git::$INDEX_ALLOCATION"), "hasDotgit"},
		".git behind a backslash":     {tree("40000 a\\.git"), "hasDotgit"},
		".git before a backslash":     {tree("40000 .git\\config"), "hasDotgit"},
		".gitx":                       {tree("40000 .gitx"), ""},
		"x.git":                       {tree("40000 x.git"), ""},
		"modules as a link":           {tree("120000 .gitmodules"), "gitmodulesSymlink"},
		"modules as a folder":         {tree("40000 .gitmodules"), "gitmodulesBlob"},
		"modules, short":              {tree("120000 GITMOD~1"), "gitmodulesSymlink"},
		"modules, short, fifth":       {tree("120000 gitmod~5"), ""},
		"modules, hashed":             {tree("120000 gi7eba~1"), "gitmodulesSymlink"},
		"modules, hashed, tenth":      {tree("120000 gi7eb~10"), "gitmodulesSymlink"},
		"modules of HFS+":             {tree("120000 .git\u200dmodules"), "gitmodulesSymlink"},
		"modules, stream":             {tree("120000 .gitmodules:x"), "gitmodulesSymlink"},
		"modules behind a backslash":  {tree("120000 a\\.gitmodules"), "gitmodulesSymlink"},
		"attributes as a link":        {tree("120000 .gitattributes"), "gitattributesSymlink"},
		"attributes as a folder":      {tree("40000 .gitattributes"), "gitattributesBlob"},
		"ignore as a link":            {tree("120000 .gitignore"), ""},
		"tag":                         {tag(5, "message"), ""},
		"tag of nothing":              {tag(0, "x"), "missingObject"},
		"tag of a bad object":         {tag(0, "object x"), "badObjectSha1"},
		"tag of no type":              {tag(1, "x"), "missingTypeEntry"},
		"tag of a bad type":           {tag(1, "type x"), "badType"},
		"tag without a name":          {tag(2, "x"), "missingTagEntry"},
		"tag without a tagger":        {tag(3, "x y"), ""},
		"tag with a bad tagger":       {tag(3, "tagger A"), "missingEmail"},
		"tag with a bad name":         {tag(2, "tag a..b"), ""},
		"modules":                     {moduleFile("path = x", "url = https://example.com/x.git", "update = rebase"), ""},
		"module of the upper folder":  {bad{blob: []byte("[submodule \"../x\"]\n\tpath = x\n"), name: ".gitmodules"}, "gitmodulesName"},
		"module of an upper folder":   {bad{blob: []byte("[submodule \"a\\\\..\\\\b\"]\n\tpath = x\n"), name: ".gitmodules"}, "gitmodulesName"},
		"module with dots":            {bad{blob: []byte("[submodule \"a..b\"]\n\tpath = x\n"), name: ".gitmodules"}, ""},
		"module of no name":           {bad{blob: []byte("[submodule \"\"]\n\tpath = x\n"), name: ".gitmodules"}, "gitmodulesName"},
		"url that is an option":       {moduleFile("url = --upload-pack=evil"), "gitmodulesUrl"},
		"quoted url":                  {moduleFile("url = \"-u\" # a comment"), "gitmodulesUrl"},
		"url with a line break":       {moduleFile("url = https://example.com/%0ahost=evil"), "gitmodulesUrl"},
		"relative url":                {moduleFile("url = ../x.git"), ""},
		"relative url, line break":    {moduleFile("url = ./%0a"), "gitmodulesUrl"},
		"relative url without a host": {moduleFile("url = ../../:x"), "gitmodulesUrl"},
		"url without a host":          {moduleFile("url = https:///x"), "gitmodulesUrl"},
		"ssh url":                     {moduleFile("url = git@example.com:x.git"), ""},
		"path that is an option":      {moduleFile("path = -x"), "gitmodulesPath"},
		"command":                     {moduleFile("update = !echo"), "gitmodulesUpdate"},
		"command behind garbage":      {moduleFile("]]]", "update = !echo"), ""},
		"modules in another case":     {bad{blob: []byte("[SubModule \"x\"]\n\tUpdate = !echo\n"), name: ".GITmodules"}, "gitmodulesUpdate"},
		"module in two parts":         {bad{blob: []byte("[submodule.. \"/x\"]\n\tpath = x\n"), name: ".gitmodules"}, "gitmodulesName"},
		"option behind a return":      {moduleFile("url = \r-u"), "gitmodulesUrl"},
		"option on the next line":     {moduleFile("url = \\\n  -u"), "gitmodulesUrl"},
		"option behind quotes":        {moduleFile("path = \"\" -u"), "gitmodulesPath"},
		"url of git, line break":      {moduleFile("url = git://%0Ax"), "gitmodulesUrl"},
		"url of the other slash":      {moduleFile("url = ..\\\\:x"), "gitmodulesUrl"},
		"url of no scheme":            {moduleFile("url = https:://x"), "gitmodulesUrl"},
		"dots in a name":              {moduleFile("url = .../x", "url = ..x/y"), ""},
		"git, then no UTF-8":          {tree("100644 .git\xff"), "hasDotgit"},
		"modules, then no UTF-8":      {tree("120000 .gitmodules\xc3"), "gitmodulesSymlink"},
		"another section":             {bad{blob: []byte("[other \"..\"]\n\turl = -x\n"), name: ".gitmodules"}, ""},
		"attributes":                  {bad{blob: []byte("*.go text\n"), name: ".gitattributes"}, ""},
		"attributes in a long line":   {bad{blob: []byte("a\n" + strings.Repeat("x", 2048) + "\n"), name: ".gitattributes"}, "gitattributesLineLength"},
		"attributes in a line":        {bad{blob: []byte("a\n" + strings.Repeat("x", 2047) + "\n"), name: ".gitattributes"}, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			all := []Object{{blobHash, plumbing.BlobObject, []byte("hello")}, {plumbing.NewHash(emptyTree), plumbing.TreeObject, nil}}
			o := Object{Type: c.typ, Data: []byte(c.data)}
			if c.name != "" {
				o = Object{Type: plumbing.BlobObject, Data: c.blob}
				o.Hash = plumbing.ComputeHash(o.Type, o.Data)
				data := "100644 " + c.name + "\x00" + string(o.Hash[:])
				all = append(all, Object{plumbing.ComputeHash(plumbing.TreeObject, []byte(data)), plumbing.TreeObject, []byte(data)})
			}
			o.Hash = plumbing.ComputeHash(o.Type, o.Data)
			git := gitTakes(t, append(all, o))
			if git == (c.want != "") && !stricter[name] {
				t.Errorf("git takes it: %v", git)
			}
			err := Check(o)
			if IsModules(c.name) {
				err = CheckModules(o)
			} else if IsAttributes(c.name) {
				err = CheckAttributes(o)
			}
			var fault Fault
			if errors.As(err, &fault); fault.ID != c.want || err != nil && !errors.Is(err, ErrCorrupt) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// gitTakes tells whether git takes a pack of the objects as receive-pack with receive.fsckObjects does.
func gitTakes(t *testing.T, all []Object) bool {
	t.Helper()
	r := &raw{}
	for _, o := range all {
		r.entry(entryHead(o.Type, int64(len(o.Data))), o.Data)
	}
	dir := t.TempDir()
	git(t, dir, "", "init", "-q", "--bare")
	cmd := exec.Command("git", "index-pack", "--stdin", "--strict")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(r.bytes())
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1", "LC_ALL=C"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Logf("git: %s", out)
	}
	return err == nil
}

// FuzzCheck: nothing panics, and what is refused is a fault.
func FuzzCheck(f *testing.F) {
	f.Add(byte(1), []byte(commitWith(func(l []string) []string { return l })))
	f.Add(byte(2), []byte(lines("100644 a", "40000 gi7eb~10")))
	f.Add(byte(4), []byte(tagWith(0, "object x")))
	f.Add(byte(3), []byte("[submodule \"a\\\"b\"]\n\turl = \"x\" y ; c\n"))
	f.Fuzz(func(t *testing.T, typ byte, data []byte) {
		o := Object{Type: Type(typ&7) % 5, Data: data}
		for _, err := range []error{Check(o), CheckModules(o), CheckAttributes(o)} {
			if err != nil && !errors.As(err, new(Fault)) {
				t.Fatal(err)
			}
		}
	})
}
