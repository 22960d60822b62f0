package docker

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"airlock/hostctl/pair"
)

// sidecarsImage is the plan's image or, without one, an image made from the
// binary, which is named by the binary's digest: another binary is another
// image.
func (b *Backend) sidecarsImage(ctx context.Context, p pair.Plan) (string, error) {
	if p.Image != "" {
		_, err := b.image(ctx, p.Image)
		return p.Image, err
	}
	digest, err := digestOf(p.Sidecars)
	if err != nil {
		return "", fmt.Errorf("reading the sidecars binary: %w", err)
	}
	ref := "airlock-sidecars:" + digest[:16]
	_, err = b.engine.ImageInspect(ctx, ref)
	if err == nil {
		return ref, nil
	}
	if !errdefs.IsNotFound(err) {
		return "", fmt.Errorf("looking for the sidecars image: %w", err)
	}
	changes := []string{`ENTRYPOINT ["` + binary + `"]`, "USER 65532:65532", "ENV PATH=/", "LABEL airlock.binary=" + digest}
	return ref, b.importImage(ctx, ref, changes, func(w *tar.Writer) error { return sidecarsFiles(w, p.Sidecars) })
}

func digestOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// sidecarsFiles is the whole image: the binary, which has its root
// certificates compiled in, and the folders that things are mounted on.
func sidecarsFiles(w *tar.Writer, path string) error {
	for _, dir := range []string{"etc/airlock/", "run/airlock/", "tmp/", "var/lib/airlock/", "proc/", "sys/", "dev/"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}); err != nil {
			return err
		}
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: binary[1:], Mode: 0o755, Size: info.Size()}); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}

// importImage makes an image of the files that write puts into the archive.
func (b *Backend) importImage(ctx context.Context, ref string, changes []string, write func(*tar.Writer) error) error {
	r, w := io.Pipe()
	written := make(chan struct{})
	go func() {
		defer close(written)
		archive := tar.NewWriter(w)
		_ = w.CloseWithError(errors.Join(write(archive), archive.Close())) // the reader gets the error
	}()
	res, err := b.engine.ImageImport(ctx, client.ImageImportSource{Source: r, SourceName: "-"}, ref, client.ImageImportOptions{Changes: changes})
	if err == nil {
		err = errors.Join(messages(res), res.Close())
	}
	r.Close() // so that the writer ends, whatever happened
	<-written
	if err != nil {
		return fmt.Errorf("making the image %s: %w", ref, err)
	}
	return nil
}

// messages reads the engine's progress to its end and returns its error.
func messages(r io.Reader) error {
	dec := json.NewDecoder(r)
	for {
		var m struct{ Error string }
		if err := dec.Decode(&m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if m.Error != "" {
			return errors.New(m.Error)
		}
	}
}

// image looks at an image, which is pulled when the engine has not got it.
func (b *Backend) image(ctx context.Context, ref string) (agentImage, error) {
	found, err := b.engine.ImageInspect(ctx, ref)
	if errdefs.IsNotFound(err) {
		var pull client.ImagePullResponse
		if pull, err = b.engine.ImagePull(ctx, ref, client.ImagePullOptions{}); err == nil {
			err = pull.Wait(ctx)
		}
		if err != nil {
			return agentImage{}, fmt.Errorf("image %s: the engine has not got it, and pulling it failed: %w", ref, err)
		}
		found, err = b.engine.ImageInspect(ctx, ref)
	}
	if err != nil {
		return agentImage{}, fmt.Errorf("looking at image %s: %w", ref, err)
	}
	if found.Config == nil {
		return agentImage{}, nil
	}
	return agentImage{entrypoint: found.Config.Entrypoint, user: found.Config.User}, nil
}
