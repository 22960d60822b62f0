package egress

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
)

// maxLFSBatch bounds the request of a batch of Git LFS, in bytes: clients ask for
// 100 objects at once, of some 150 bytes each.
const maxLFSBatch = 1 << 20

// lfsPlaces are where uploads of Git LFS are asked for: the batch API
// (github.com/git-lfs/git-lfs, docs/api/batch.md) and the one before it.
var lfsPlaces = []string{"/objects/batch", "/lfs/objects"}

// asksLFS reports whether a request is one by which a client of Git LFS begins to
// upload or to download, in any spelling that a server might read as one.
func asksLFS(a requestInfo, h http.Header) bool {
	if a.method == http.MethodGet || a.method == http.MethodHead {
		return false
	}
	named := strings.Contains(strings.ToLower(a.content+" "+strings.Join(h["Accept"], " ")), "git-lfs")
	return slices.ContainsFunc(lowered(a.path), func(path string) bool {
		path = strings.TrimRight(path, "/")
		return slices.ContainsFunc(lfsPlaces, func(place string) bool {
			return strings.HasSuffix(path, place) && (named || strings.Contains(path, "/lfs/") || strings.Contains(path, ".git/"))
		})
	})
}

var errLFSUpload = refused("git push", "an upload of Git LFS over HTTPS would pass the gate by; push to the remote on git-gate, which git is set up for")

// refuseLFSUpload refuses a request of Git LFS that asks for an upload, or of which
// that cannot be told. It holds the body.
func refuseLFSUpload(ctx context.Context, out *http.Request, a requestInfo) error {
	if !asksLFS(a, out.Header) {
		return nil
	}
	if !hasBody(out) {
		return nil
	}
	if encoded(out.Header) {
		return refused("git push", "a compressed request of Git LFS cannot be read; only its downloads pass")
	}
	text, err := bufferBody(ctx, out, maxLFSBatch)
	if err != nil {
		return err
	}
	download, err := onlyDownloads(string(text))
	if err != nil {
		return refused("git push", "a request of Git LFS that is not the JSON of its batch API; only its downloads pass")
	}
	if !download {
		return errLFSUpload
	}
	return nil
}

// onlyDownloads reports whether a batch names the operation download and no other. A
// name that stands there twice is read by some servers as the first, by others as
// the last.
func onlyDownloads(text string) (download bool, err error) {
	dec := json.NewDecoder(strings.NewReader(text))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return false, errors.New("expected an object")
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return false, err
		}
		var value any
		if err := dec.Decode(&value); err != nil {
			return false, err
		}
		if text, ok := name.(string); ok && strings.EqualFold(text, "operation") {
			if value != "download" {
				return false, nil
			}
			download = true
		}
	}
	if _, err := dec.Token(); err != nil {
		return false, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return false, errors.New("expected nothing after the object")
	}
	return download, nil
}
