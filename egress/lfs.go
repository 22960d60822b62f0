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

// maxLFSBatch bounds a batch request of Git LFS, in bytes: clients list 100 objects of some 150 bytes
// each.
const maxLFSBatch = 1 << 20

// lfsPlaces are the endpoints at which Git LFS requests uploads: the batch API (github.com/git-lfs/git-lfs,
// docs/api/batch.md) and its predecessor.
var lfsPlaces = []string{"/objects/batch", "/lfs/objects"}

// isLFSRequest reports whether a server may read the request as one with which Git LFS begins an
// upload or a download.
func isLFSRequest(a requestInfo, h http.Header) bool {
	if a.method == http.MethodGet || a.method == http.MethodHead {
		return false
	}
	named := strings.Contains(strings.ToLower(a.content+" "+strings.Join(h["Accept"], " ")), "git-lfs")
	return slices.ContainsFunc(lenientPaths(a.path), func(path string) bool {
		path = strings.TrimRight(path, "/")
		return slices.ContainsFunc(lfsPlaces, func(place string) bool {
			return strings.HasSuffix(path, place) && (named || strings.Contains(path, "/lfs/") || strings.Contains(path, ".git/"))
		})
	})
}

var errLFSUpload = refused("git push", "an upload of Git LFS over HTTPS would pass the gate by; push to the remote on git-gate, which git is set up for")

// refuseLFSUpload refuses a request of Git LFS for an upload, and one whose body does not say clearly
// what it is for. It buffers the body.
func refuseLFSUpload(ctx context.Context, out *http.Request, a requestInfo) error {
	if !isLFSRequest(a, out.Header) {
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

// onlyDownloads reports whether a batch names only the operation download. It looks at duplicate names,
// too: some servers read the first, others the last.
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
