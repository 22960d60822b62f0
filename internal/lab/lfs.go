package lab

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// LFS is a server of Git LFS in memory: the batch API with basic transfers and
// verification, and locks (github.com/git-lfs/git-lfs, docs/api). It serves
// every path that has /info/lfs/ or /storage/ in it.
type LFS struct {
	// Authorization is what the API wants in that field; empty: nothing.
	Authorization string
	// Storage is where clients find objects, like https://host; empty: here.
	Storage string
	// Signed is what the storage wants in the field X-Signed; it is told in each action.
	Signed string
	// NoLocks makes the locks API absent.
	NoLocks bool

	mu       sync.Mutex
	objects  map[string][]byte
	verified map[string]bool
	locks    []lfsLock
	leaks    []string
}

type lfsLock struct {
	ID    string            `json:"id"`
	Path  string            `json:"path"`
	At    string            `json:"locked_at"`
	Owner map[string]string `json:"owner"`
}

// Put gives the server an object and returns its name.
func (l *LFS) Put(content []byte) (oid string) {
	sum := sha256.Sum256(content)
	oid = hex.EncodeToString(sum[:])
	l.mu.Lock()
	defer l.mu.Unlock()
	l.put(oid, content)
	return oid
}

func (l *LFS) put(oid string, content []byte) {
	if l.objects == nil {
		l.objects, l.verified = map[string][]byte{}, map[string]bool{}
	}
	l.objects[oid] = content
}

// Get is an object of the server's; nil where there is none.
func (l *LFS) Get(oid string) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.objects[oid]
}

// Objects is how many the server has, and how many of them were verified.
func (l *LFS) Objects() (all, verified int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.objects), len(l.verified)
}

// Leaks are requests to the storage that carried the credential of the API.
func (l *LFS) Leaks() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leaks
}

// ServeHTTP implements http.Handler.
func (l *LFS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, oid, ok := strings.Cut(r.URL.Path, "/storage/"); ok {
		l.store(w, r, oid)
		return
	}
	_, api, _ := strings.Cut(r.URL.Path, "/info/lfs/")
	if l.Authorization != "" && r.Header.Get("Authorization") != l.Authorization {
		lfsSays(w, http.StatusUnauthorized, map[string]any{"message": "who are you"})
		return
	}
	switch {
	case api == "objects/batch" && r.Method == http.MethodPost:
		l.batch(w, r)
	case api == "verify" && r.Method == http.MethodPost:
		var o struct {
			OID  string `json:"oid"`
			Size int    `json:"size"`
		}
		if json.NewDecoder(r.Body).Decode(&o) != nil || len(l.objects[o.OID]) != o.Size {
			lfsSays(w, http.StatusUnprocessableEntity, map[string]any{"message": "not as sent"})
			return
		}
		l.verified[o.OID] = true
		w.WriteHeader(http.StatusOK)
	case (api == "locks" || strings.HasPrefix(api, "locks/")) && !l.NoLocks:
		l.lock(w, r, strings.TrimPrefix(api, "locks"))
	default:
		lfsSays(w, http.StatusNotFound, map[string]any{"message": "no such thing"})
	}
}

func lfsSays(w http.ResponseWriter, status int, out any) {
	w.Header().Set("Content-Type", "application/vnd.git-lfs+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(out)
}

func (l *LFS) batch(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Operation string
		Objects   []struct {
			OID  string `json:"oid"`
			Size int    `json:"size"`
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		lfsSays(w, http.StatusUnprocessableEntity, map[string]any{"message": err.Error()})
		return
	}
	base := "https://" + r.Host
	storage := base
	if l.Storage != "" {
		storage = l.Storage
	}
	api := base + strings.TrimSuffix(r.URL.Path, "/objects/batch")
	objects := []any{}
	for _, o := range in.Objects {
		answer := map[string]any{"oid": o.OID, "size": o.Size, "authenticated": true}
		have, ok := l.objects[o.OID]
		transfer := map[string]any{"href": storage + "/storage/" + o.OID, "header": map[string]string{"X-Signed": l.Signed}}
		switch {
		case in.Operation == "download" && ok && len(have) == o.Size:
			answer["actions"] = map[string]any{"download": transfer}
		case in.Operation == "download":
			answer["error"] = map[string]any{"code": 404, "message": "Object does not exist for " + r.Header.Get("Authorization")}
		case !ok:
			answer["actions"] = map[string]any{"upload": transfer, "verify": map[string]any{"href": api + "/verify", "header": map[string]string{"Authorization": l.Authorization}}}
		}
		objects = append(objects, answer)
	}
	lfsSays(w, http.StatusOK, map[string]any{"transfer": "basic", "objects": objects})
}

func (l *LFS) store(w http.ResponseWriter, r *http.Request, oid string) {
	if l.Authorization != "" && r.Header.Get("Authorization") == l.Authorization {
		l.leaks = append(l.leaks, r.Method+" "+r.URL.Path)
	}
	if r.Header.Get("X-Signed") != l.Signed {
		http.Error(w, "not signed", http.StatusForbidden)
		return
	}
	switch r.Method {
	case http.MethodGet:
		content, ok := l.objects[oid]
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(content)
	case http.MethodPut:
		content, err := io.ReadAll(r.Body)
		sum := sha256.Sum256(content)
		if err != nil || hex.EncodeToString(sum[:]) != oid {
			http.Error(w, "not that object", http.StatusUnprocessableEntity)
			return
		}
		l.put(oid, content)
	}
}

func (l *LFS) lock(w http.ResponseWriter, r *http.Request, rest string) {
	var in struct{ Path string }
	if r.Method == http.MethodPost && json.NewDecoder(r.Body).Decode(&in) != nil {
		lfsSays(w, http.StatusBadRequest, map[string]any{"message": "no JSON"})
		return
	}
	id, unlocks := strings.CutSuffix(strings.TrimPrefix(rest, "/"), "/unlock")
	switch {
	case rest == "" && r.Method == http.MethodGet:
		lfsSays(w, http.StatusOK, map[string]any{"locks": append([]lfsLock{}, l.locks...)})
	case rest == "":
		lock := lfsLock{strconv.Itoa(len(l.locks) + 1), in.Path, "2026-01-01T00:00:00Z", map[string]string{"name": "gate " + r.Header.Get("Authorization")}}
		l.locks = append(l.locks, lock)
		lfsSays(w, http.StatusCreated, map[string]any{"lock": lock})
	case rest == "/verify":
		lfsSays(w, http.StatusOK, map[string]any{"ours": append([]lfsLock{}, l.locks...), "theirs": []lfsLock{}})
	case unlocks:
		for i, lock := range l.locks {
			if lock.ID == id {
				l.locks = append(l.locks[:i:i], l.locks[i+1:]...)
				lfsSays(w, http.StatusOK, map[string]any{"lock": lock})
				return
			}
		}
		lfsSays(w, http.StatusNotFound, map[string]any{"message": "no such lock"})
	}
}
