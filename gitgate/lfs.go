package gitgate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"airlock/internal/policy"
	"airlock/internal/secrets"
)

// Git LFS (github.com/git-lfs/git-lfs, docs/api): the batch API with basic transfers, and locks. A client finds it below the
// repository on the HTTP port. Whatever it is told to fetch or to send leads back here, where each transfer asks upstream anew:
// nothing is kept between requests, and nothing that lets the gate in reaches the client.

const (
	// maxLFSRequest bounds what a client asks the API, in bytes: it asks for 100 objects at once, of some 150 bytes each.
	maxLFSRequest = 1 << 20
	// maxLFSObjects bounds the objects of one batch.
	maxLFSObjects = 1000
)

var (
	oidForm  = regexp.MustCompile(`^[0-9a-f]{64}$`)
	lockForm = regexp.MustCompile(`^[A-Za-z0-9_.~=+-]{1,128}$`)
)

// lfsRoute takes "/app.git/info/lfs/objects/batch" apart.
func lfsRoute(path string) (repo, rest string, ok bool) {
	repo, rest, ok = strings.Cut(path, "/info/lfs/")
	return repoName(repo), rest, ok
}

// lfs serves one request. A transfer that has been read goes on until ctx ends.
func (g *gate) lfs(ctx context.Context, w http.ResponseWriter, r *http.Request, repo, rest string) {
	err := g.lfsDo(ctx, w, r, repo, rest)
	if err == nil || r.Context().Err() != nil {
		return
	}
	var answer *lfsAnswer
	var refused errRefused
	status, why := http.StatusBadGateway, ""
	switch {
	case errors.As(err, &answer):
		status, why = answer.status, answer.why
	case errors.As(err, &refused):
		status, why = g.status(request{service: uploadPack, repo: repo}), refused.Error()
		switch {
		case errors.Is(err, errNoAudit):
			status = http.StatusServiceUnavailable
		case status == http.StatusBadGateway: // the repository may be read
			status = http.StatusForbidden
		}
	default:
		g.log.Warn("a request of LFS failed", "repo", repo, "error", forLog(err))
		why = clean(err.Error())
	}
	if r.Method == http.MethodPut && status == http.StatusUnprocessableEntity {
		// A 422 git-lfs takes for a matter of the Content-Type, and pushes the references without the object.
		status = http.StatusBadRequest
	}
	w.Header().Set("Content-Type", lfsType)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"message": "airlock: " + why}) // the client may be gone
}

func (g *gate) lfsDo(ctx context.Context, w http.ResponseWriter, r *http.Request, repo, rest string) error {
	m, known := g.mirrors[repo]
	if !known {
		_, err := g.admit(request{service: uploadPack, repo: repo})
		return err
	}
	defer m.reading()()
	r.Body = io.NopCloser(slow{r.Body, http.NewResponseController(w), newPace(g.idle)})
	oid, isObject := strings.CutPrefix(rest, "objects/")
	switch {
	case rest == "objects/batch" && r.Method == http.MethodPost:
		return g.lfsBatch(w, r, m)
	case isObject && (r.Method == http.MethodGet || r.Method == http.MethodPut):
		done, err := g.lfsTurn(r, m)
		if err != nil {
			return err
		}
		defer done()
		if r.Method == http.MethodPut {
			return g.lfsPut(ctx, w, r, m, oid)
		}
		return g.lfsGet(ctx, w, r, m, oid)
	case rest == "locks" || strings.HasPrefix(rest, "locks/"):
		return g.lfsLocks(w, r, m, strings.TrimPrefix(rest, "locks"))
	}
	return &lfsAnswer{http.StatusNotFound, "lfs", "git-gate serves the batch API, basic transfers and locks of Git LFS, and nothing else of it"}
}

// lfsService is the service of git that an operation of LFS counts as.
func lfsService(operation string) string {
	if operation == lfsUpload {
		return receivePack
	}
	return uploadPack
}

// lfsAdmit decides whether an operation may be done at all, and writes that down: an upload only where it is refused, because
// its own verdict comes with the content.
func (g *gate) lfsAdmit(m *mirror, operation string) error {
	_, err := g.admit(request{service: lfsService(operation), repo: m.name})
	return err
}

// lfsWords refuses a request of which a text, which upstream would be told, holds a secret: also in pieces.
func (g *gate) lfsWords(ctx context.Context, m *mirror, method string, texts ...string) error {
	for _, text := range []string{strings.Join(texts, "\n"), strings.Join(texts, "")} {
		found, err := g.scanner.Scan(ctx, []byte(text))
		if err != nil {
			return errors.New("the request cannot be looked at")
		}
		if len(found) > 0 {
			return g.lfsRefuse(m, method, found[0].Rule, http.StatusForbidden, "secret found: "+found[0].Rule+" in a request of LFS")
		}
	}
	return nil
}

// lfsRefuse writes a refusal down and returns it.
func (g *gate) lfsRefuse(m *mirror, method, rule string, status int, why string) error {
	if err := g.record(policy.Denied(rule, why), method, m.name, ""); err != nil {
		return errNoAudit
	}
	return &lfsAnswer{status, rule, why}
}

// readLFS reads the JSON of a request.
func readLFS(r *http.Request, in any) error {
	if r.Header.Get("Content-Encoding") != "" {
		return &lfsAnswer{http.StatusUnsupportedMediaType, "lfs", "the request is compressed"}
	}
	text, err := io.ReadAll(io.LimitReader(r.Body, maxLFSRequest+1))
	if err != nil {
		return err
	}
	if len(text) > maxLFSRequest {
		return &lfsAnswer{http.StatusRequestEntityTooLarge, "lfs", fmt.Sprintf("the request has more than %d bytes", maxLFSRequest)}
	}
	if err := json.Unmarshal(text, in); err != nil {
		return &lfsAnswer{http.StatusUnprocessableEntity, "lfs", "the request is not the JSON of LFS's API"}
	}
	return nil
}

func writeLFS(w http.ResponseWriter, status int, out any) error {
	w.Header().Set("Content-Type", lfsType)
	w.WriteHeader(status)
	return json.NewEncoder(w).Encode(out)
}

// lfsBatch tells a client where to fetch or send objects: here. Of its request nothing goes upstream but names and sizes.
func (g *gate) lfsBatch(w http.ResponseWriter, r *http.Request, m *mirror) error {
	var in lfsBatch
	if err := readLFS(r, &in); err != nil {
		return err
	}
	if in.Operation != lfsDownload && in.Operation != lfsUpload {
		return &lfsAnswer{http.StatusUnprocessableEntity, "lfs", "an operation that is neither download nor upload"}
	}
	if err := g.lfsAdmit(m, in.Operation); err != nil {
		return err
	}
	wanted, answers, err := g.lfsWanted(r, m, in)
	if err != nil {
		return err
	}
	found := map[string]lfsObject{}
	if len(wanted) > 0 {
		if _, found, err = m.lfs.batch(r.Context(), in.Operation, wanted); err != nil {
			return err
		}
	}
	for _, o := range wanted {
		got := found[o.OID]
		o.Error, o.Authenticated = got.Error, true
		switch {
		case got.OID == "":
			o.Error = &lfsObjectError{http.StatusNotFound, "upstream's LFS server says nothing of the object"}
		case got.Error == nil && got.Actions[in.Operation] != nil:
			href := "http://" + r.Host + strings.TrimSuffix(r.URL.EscapedPath(), "/batch") + "/" + o.OID + "?size=" + strconv.FormatInt(o.Size, 10)
			o.Actions = map[string]*lfsAction{in.Operation: {Href: href}}
		}
		answers = append(answers, o)
	}
	return writeLFS(w, http.StatusOK, lfsBatch{Transfer: "basic", Objects: answers, HashAlgo: "sha256"})
}

// lfsWanted checks the objects of a batch. Those that are refused are answers already.
func (g *gate) lfsWanted(r *http.Request, m *mirror, in lfsBatch) (wanted, refused []lfsObject, err error) {
	if len(in.Objects) > maxLFSObjects {
		return nil, nil, &lfsAnswer{http.StatusRequestEntityTooLarge, "lfs", fmt.Sprintf("more than %d objects in one batch", maxLFSObjects)}
	}
	if in.HashAlgo != "" && in.HashAlgo != "sha256" {
		return nil, nil, &lfsAnswer{http.StatusConflict, "lfs", "objects are named by sha256 here"}
	}
	refused = []lfsObject{}
	var names []string
	for _, o := range in.Objects {
		o = lfsObject{OID: o.OID, Size: o.Size}
		if !oidForm.MatchString(o.OID) || o.Size < 0 {
			return nil, nil, &lfsAnswer{http.StatusUnprocessableEntity, "lfs", "an object without a name or a size"}
		}
		names = append(names, o.OID)
		if name, limit := g.lfsLimit(in.Operation); o.Size > limit {
			o.Error = &lfsObjectError{http.StatusUnprocessableEntity, tooLargeForLFS(o.Size, name, limit)}
			refused = append(refused, o)
			continue
		}
		if why := g.lfsHeld.get(m.name, o.OID); in.Operation == lfsUpload && why != "" {
			o.Error = &lfsObjectError{http.StatusUnprocessableEntity, why}
			refused = append(refused, o)
			continue
		}
		wanted = append(wanted, o)
	}
	return wanted, refused, g.lfsWords(r.Context(), m, request{service: lfsService(in.Operation)}.method(), names...)
}

// lfsLimit is the largest object that may be transferred, and the setting that says so.
func (g *gate) lfsLimit(operation string) (setting string, bytes int64) {
	if operation == lfsDownload {
		return "limits.lfs_download_bytes", g.lfsDownload
	}
	return "limits.object_bytes", g.pushLimits.ObjectBytes
}

func tooLargeForLFS(size int64, setting string, limit int64) string {
	return fmt.Sprintf("airlock: an object of %d bytes is over %s (%d)", size, setting, limit)
}

// lfsNamed reads which object a transfer is about.
func (g *gate) lfsNamed(r *http.Request, m *mirror, oid string) (lfsObject, error) {
	size, err := strconv.ParseInt(r.URL.Query().Get("size"), 10, 64)
	if !oidForm.MatchString(oid) || err != nil || size < 0 {
		return lfsObject{}, &lfsAnswer{http.StatusNotFound, "lfs", "no such object: the batch API says where they are"}
	}
	method := "fetch"
	if r.Method == http.MethodPut {
		method = "push"
	}
	return lfsObject{OID: oid, Size: size}, g.lfsWords(r.Context(), m, method, oid)
}

// lfsGet passes an object on, which the client compares with its name. It ends with the size that was named. Upstream has to keep pace, and so
// has the client, which has a deadline for each 256 KiB.
func (g *gate) lfsGet(ctx context.Context, w http.ResponseWriter, r *http.Request, m *mirror, oid string) error {
	if err := g.lfsAdmit(m, lfsDownload); err != nil {
		return err
	}
	o, err := g.lfsNamed(r, m, oid)
	if err != nil {
		return err
	}
	if name, limit := g.lfsLimit(lfsDownload); o.Size > limit {
		return g.lfsRefuse(m, "fetch", name, http.StatusUnprocessableEntity, tooLargeForLFS(o.Size, name, limit))
	}
	ctx, cancel := context.WithTimeout(ctx, m.times.transfer)
	defer cancel()
	ctx, dog := watch(ctx, m.times.answer+m.times.report)
	defer dog.stop()
	defer context.AfterFunc(r.Context(), cancel)()
	content, err := m.lfs.get(ctx, o)
	if err != nil {
		return err
	}
	defer content.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(o.Size, 10))
	in := keepingPace{listening{content, dog}, newPace(m.times.answer)}
	out := flushing{w, http.NewResponseController(w), g.idle}
	// A Writer that is nothing else: the copy must pass through the deadlines of each write.
	n, err := io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{io.LimitReader(in, o.Size)}, make([]byte, 256<<10))
	if err != nil || n < o.Size {
		g.log.Info("an LFS object was cut", "repo", m.name, "bytes", n)
		panic(http.ErrAbortHandler) // the connection ends, so that the client does not take a part for the whole
	}
	return nil
}

// lfsPut takes an object into quarantine, looks at all of it, and sends it upstream.
func (g *gate) lfsPut(ctx context.Context, w http.ResponseWriter, r *http.Request, m *mirror, oid string) error {
	if err := g.lfsAdmit(m, lfsUpload); err != nil {
		return err
	}
	o, err := g.lfsNamed(r, m, oid)
	if err != nil {
		return err
	}
	if name, limit := g.lfsLimit(lfsUpload); o.Size > limit {
		return g.lfsRefuse(m, "push", name, http.StatusUnprocessableEntity, tooLargeForLFS(o.Size, name, limit))
	}
	if r.Header.Get("Content-Encoding") != "" {
		return &lfsAnswer{http.StatusUnsupportedMediaType, "lfs", "the object is compressed"}
	}
	ctx, cancel := context.WithTimeout(ctx, m.times.transfer)
	defer cancel()
	q, err := m.newQuarantine()
	if err != nil {
		return err
	}
	q.room = g.room.open()
	defer q.remove()
	path := filepath.Join(q.dir, "lfs")
	if err := receiveLFS(r.Body, path, o, q.take); err != nil {
		return g.lfsFailed(m, err)
	}
	if err := g.lfsInspect(ctx, m, path, o); err != nil {
		return g.lfsFailed(m, err)
	}
	if err := g.record(policy.Allowed("push"), "push", m.name, "lfs "+o.OID[:12]); err != nil {
		return errNoAudit
	}
	content, err := os.Open(path)
	if err != nil {
		return err
	}
	defer content.Close()
	if err := m.lfs.put(ctx, o, content); err != nil {
		g.log.Warn("an LFS upload failed", "repo", m.name, "error", forLog(err))
		var answer *lfsAnswer
		if !errors.As(err, &answer) {
			answer = &lfsAnswer{http.StatusBadGateway, "upstream", clean(err.Error())}
		}
		return g.lfsRefuse(m, "push", answer.rule, answer.status, answer.why)
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// lfsFailed makes an answer of an error, and writes it down unless that is done.
func (g *gate) lfsFailed(m *mirror, err error) error {
	var answer *lfsAnswer
	if errors.As(err, &answer) {
		return err
	}
	status := http.StatusUnprocessableEntity
	if errors.Is(err, errNoRoom) || errors.Is(err, errBusy) {
		status = http.StatusServiceUnavailable // git-lfs tries again
	}
	g.log.Warn("an LFS upload failed", "repo", m.name, "error", forLog(err))
	return g.lfsRefuse(m, "push", "push", status, explain(err))
}

// receiveLFS writes an object that is sent to a file. It must have the size and the name that were told before.
func receiveLFS(in io.Reader, path string, o lfsObject, take func(int) error) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	sum := sha256.New()
	n, err := io.CopyBuffer(roomed{io.MultiWriter(f, sum), take}, struct{ io.Reader }{io.LimitReader(in, o.Size+1)}, make([]byte, 256<<10))
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if n != o.Size || hex.EncodeToString(sum.Sum(nil)) != o.OID {
		return errRefused("what was sent is not the object that was named")
	}
	return nil
}

// roomed asks for room on the disk before each write.
type roomed struct {
	io.Writer
	take func(int) error
}

func (r roomed) Write(p []byte) (int, error) {
	if err := r.take(len(p)); err != nil {
		return 0, err
	}
	return r.Writer.Write(p)
}

// lfsInspect scans an object as a blob of a push is scanned, when it is its turn.
func (g *gate) lfsInspect(ctx context.Context, m *mirror, path string, o lfsObject) (err error) {
	defer survived(&err)
	waiting, cancel := context.WithTimeoutCause(ctx, g.scanTime, errBusy)
	done, err := g.turns.next(waiting)
	cancel()
	if err != nil {
		return err
	}
	defer done()
	ctx, cancel = context.WithTimeout(ctx, g.scanTime)
	defer cancel()
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if len(content) > largeObject {
		m.heavy.Store(true)
	}
	found, err := g.scanner.Scan(ctx, content)
	if err != nil {
		return err
	}
	p := &pushing{gate: g, mirror: m}
	s := &inspection{value: p.value}
	hits := s.judge(content, found, "LFS object "+o.OID[:12])
	if len(hits) == 0 {
		return nil
	}
	for i := range hits {
		hits[i].object = o.OID[:12]
	}
	why := explainLFSHits(hits, p.ask(ctx, hits))
	g.lfsHeld.add(m.name, o.OID, "airlock: "+why)
	return g.lfsRefuse(m, "push", hits[0].rule, http.StatusForbidden, why)
}

// lfsHeld remembers objects that hold a secret, and what their client was told. git-lfs repeats a transfer that fails, whatever the
// status, up to eight times within 40 seconds; before each it asks for a batch, and gives up an object that is refused there. A
// grant of an operator's restarts git-gate, which forgets.
type lfsHeld struct {
	mu  sync.Mutex
	all map[string]heldObject
}

type heldObject struct {
	why   string
	until time.Time
}

const (
	lfsHeldFor = time.Minute
	maxLFSHeld = 1000
)

func (h *lfsHeld) add(repo, oid, why string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.all) >= maxLFSHeld || h.all == nil {
		h.all = map[string]heldObject{}
	}
	h.all[repo+"/"+oid] = heldObject{why, time.Now().Add(lfsHeldFor)}
}

// get is why an object was refused a moment ago; empty: it was not.
func (h *lfsHeld) get(repo, oid string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	held := h.all[repo+"/"+oid]
	if time.Now().After(held.until) {
		return ""
	}
	return held.why
}

// explainLFSHits is what the person at the client reads.
func explainLFSHits(hits []hit, next string) string {
	var b strings.Builder
	b.WriteString("this LFS object holds a secret, so it did not go upstream: ")
	for i, h := range hits[:min(len(hits), maxHits)] {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(h.String())
		if h.rule == secrets.Unreadable {
			b.WriteString(" (an archive that nobody here can read)")
		}
	}
	b.WriteString(". Find its file with: git lfs ls-files -l. Take it out of every commit that holds it, then push again. ")
	b.WriteString(strings.TrimSpace(next))
	return b.String()
}

// lfsLock is what the locks API says of one lock.
type lfsLock struct {
	ID       string        `json:"id"`
	Path     string        `json:"path"`
	LockedAt string        `json:"locked_at,omitempty"`
	Owner    *lfsLockOwner `json:"owner,omitempty"`
}

type lfsLockOwner struct {
	Name string `json:"name"`
}

type lfsRef struct {
	Name string `json:"name"`
}

// lfsLockRequest is all that goes upstream of a request about locks.
type lfsLockRequest struct {
	Path   string  `json:"path,omitempty"`
	Ref    *lfsRef `json:"ref,omitempty"`
	Force  bool    `json:"force,omitempty"`
	Cursor string  `json:"cursor,omitempty"`
	Limit  int     `json:"limit,omitempty"`
}

// lfsLockAnswer is all that comes back.
type lfsLockAnswer struct {
	Lock       *lfsLock   `json:"lock,omitempty"`
	Locks      *[]lfsLock `json:"locks,omitempty"`
	Ours       *[]lfsLock `json:"ours,omitempty"`
	Theirs     *[]lfsLock `json:"theirs,omitempty"`
	NextCursor string     `json:"next_cursor,omitempty"`
	Message    string     `json:"message,omitempty"`
}

// lfsLocks passes the locks API on (docs/api/locking.md of git-lfs). To lock, to unlock and to verify is a matter of those who may push.
func (g *gate) lfsLocks(w http.ResponseWriter, r *http.Request, m *mirror, rest string) error {
	operation, method := lfsUpload, http.MethodPost
	id, unlocks := strings.CutSuffix(strings.TrimPrefix(rest, "/"), "/unlock")
	switch {
	case rest == "" && r.Method == http.MethodGet:
		operation, method = lfsDownload, http.MethodGet
	case (rest == "" || rest == "/verify") && r.Method == http.MethodPost:
		id = ""
	case unlocks && lockForm.MatchString(id) && strings.Trim(id, ".") != "" && r.Method == http.MethodPost:
	default:
		return &lfsAnswer{http.StatusNotFound, "lfs", "no such request about locks"}
	}
	if err := g.lfsAdmit(m, operation); err != nil {
		return err
	}
	var in any
	query := url.Values{}
	texts := []string{id}
	if method == http.MethodGet {
		for _, name := range []string{"path", "id", "cursor", "limit", "refspec"} {
			if v := r.URL.Query().Get(name); v != "" {
				query.Set(name, v)
				texts = append(texts, v)
			}
		}
	} else {
		var body lfsLockRequest
		if err := readLFS(r, &body); err != nil {
			return err
		}
		texts = append(texts, body.Path, body.Cursor)
		if body.Ref != nil {
			texts = append(texts, body.Ref.Name)
		}
		in = body
	}
	if err := g.lfsWords(r.Context(), m, request{service: lfsService(operation)}.method(), texts...); err != nil {
		return err
	}
	if operation == lfsUpload {
		if err := g.record(policy.Allowed("repos."+m.name), "push", m.name, "lfs locks"); err != nil {
			return errNoAudit
		}
	}
	e, status, body, err := m.lfs.call(r.Context(), operation, method, "/locks"+rest, query, in)
	if err != nil {
		return err
	}
	conflict := status == http.StatusConflict // holds the lock that is there
	if status/100 != 2 && !conflict {
		return m.lfs.refusal(e, status, body)
	}
	var out lfsLockAnswer
	if err := json.NewDecoder(bytes.NewReader(body)).Decode(&out); err != nil {
		return errors.New("upstream's LFS server does not answer with the JSON of the locks API")
	}
	out.tidy(m.lfs.words(e))
	return writeLFS(w, status, out)
}

// tidy takes what lets the gate in out of an answer.
func (a *lfsLockAnswer) tidy(words func(string) string) {
	each := func(l *lfsLock) {
		if l == nil {
			return
		}
		l.ID, l.Path, l.LockedAt = words(l.ID), words(l.Path), words(l.LockedAt)
		if l.Owner != nil {
			l.Owner.Name = words(l.Owner.Name)
		}
	}
	each(a.Lock)
	for _, list := range []*[]lfsLock{a.Locks, a.Ours, a.Theirs} {
		if list == nil {
			continue
		}
		for i := range *list {
			each(&(*list)[i])
		}
	}
	a.NextCursor, a.Message = words(a.NextCursor), words(a.Message)
}
