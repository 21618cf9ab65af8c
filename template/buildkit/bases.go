package buildkit

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/blobdir"
	"github.com/soulbox/soulbox/internal/jsonfile"
)

// A base is a template that is built on: its root image as one layer of an OCI
// image, from which BuildKit reads.
type base struct {
	template *soulbox.Template
	source   string // for people
	id       string // of the store, to BuildKit
	manifest digest.Digest
	store    content.Store
}

// ref returns the name by which BuildKit reads it.
func (b *base) ref() string { return "docker.io/soulbox/" + b.id + "@" + b.manifest.String() }

const (
	layerFile = "layer.json" // in the folder of a base; written last
	layerPart = ".tree"      // where an image is unpacked on the way
	keepBases = 8            // that were used last
)

// base returns the template as BuildKit reads it. The layer is made once for
// each root image; the rest is small and made each time.
func (e *Engine) base(ctx context.Context, t *soulbox.Template) (*base, error) {
	if !isImage(t.Image) {
		return nil, soulbox.Errorf(soulbox.Conflict, "template '%s' has no build that is ready", t.Name)
	}
	dir := filepath.Join(e.dir(baseDir), t.Image)
	layer, err := e.layer(ctx, t.Image, dir)
	if err != nil {
		return nil, fmt.Errorf("unpack template %s: %w", t.ID, err)
	}
	manifest, err := describe(dir, t, layer)
	if err != nil {
		return nil, fmt.Errorf("describe template %s: %w", t.ID, err)
	}
	source := t.Name
	if t.Build != "" {
		source += "@" + string(t.Build)
	}
	return &base{template: t, source: source, id: "soulbox-" + t.Image[:32], manifest: manifest, store: blobdir.Store(dir)}, nil
}

// isImage reports whether s is the name of a root image, which becomes that of
// a folder.
func isImage(s string) bool {
	return len(s) == 2*sha256.Size && strings.Trim(s, "0123456789abcdef") == ""
}

// layer returns the one layer of the base in dir, and makes it if need be.
func (e *Engine) layer(ctx context.Context, image, dir string) (ocispecs.Descriptor, error) {
	e.bases.Lock() // one is made at a time: it is all the disk can do
	defer e.bases.Unlock()
	layer, err := jsonfile.Load[ocispecs.Descriptor](filepath.Join(dir, layerFile))
	if err == nil {
		now := time.Now()
		return layer, os.Chtimes(dir, now, now) // see sweepBases
	}
	if !errors.Is(err, os.ErrNotExist) {
		return layer, err
	}
	if err := os.RemoveAll(dir); err != nil { // what was not finished
		return layer, err
	}
	tree := dir + layerPart
	defer os.RemoveAll(tree)
	if err := e.Unpack(ctx, image, tree); err != nil {
		return layer, err
	}
	if err := os.MkdirAll(filepath.Join(dir, blobdir.Folder), 0o700); err != nil {
		return layer, err
	}
	if layer, err = writeLayer(ctx, tree, filepath.Join(dir, blobdir.Folder)); err != nil {
		return layer, err
	}
	if err := jsonfile.Replace(filepath.Join(dir, layerFile), layer); err != nil {
		return layer, err
	}
	return layer, sweepBases(e.dir(baseDir))
}

// writeLayer writes the tree as an archive into the folder of blobs. The same
// tree gives the same archive.
func writeLayer(ctx context.Context, tree, blobs string) (layer ocispecs.Descriptor, err error) {
	f, err := os.CreateTemp(blobs, ".layer-*")
	if err != nil {
		return layer, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum := sha256.New()
	counted := &counter{w: io.MultiWriter(f, sum)}
	if err := archive(ctx, tree, counted); err != nil {
		return layer, err
	}
	if err := f.Sync(); err != nil { // the name says what is in it, also after a power cut
		return layer, err
	}
	layer = ocispecs.Descriptor{
		MediaType: ocispecs.MediaTypeImageLayer, Digest: digest.NewDigest(digest.SHA256, sum), Size: counted.n,
	}
	return layer, os.Rename(f.Name(), filepath.Join(blobs, layer.Digest.Encoded()))
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// archive writes a tree. What has several names is written once; sockets, which
// archives cannot hold, are left out.
func archive(ctx context.Context, tree string, w io.Writer) error {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return err
	}
	defer root.Close()
	out := tar.NewWriter(w)
	type inode struct{ dev, ino uint64 }
	seen := map[inode]string{}
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		fi, err := d.Info()
		if err != nil || fi.Mode()&os.ModeSocket != 0 {
			return err
		}
		link := ""
		if fi.Mode()&os.ModeSymlink != 0 {
			if link, err = root.Readlink(name); err != nil {
				return err
			}
		}
		h, err := tar.FileInfoHeader(fi, link)
		if err != nil {
			return err
		}
		h.Name, h.Uname, h.Gname = name, "", "" // names of users would be this machine's
		h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
		h.Format = tar.FormatPAX
		if fi.IsDir() {
			h.Name += "/"
		}
		if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 && !fi.IsDir() {
			key := inode{st.Dev, st.Ino}
			if first, ok := seen[key]; ok {
				h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
				return out.WriteHeader(h)
			}
			seen[key] = name
		}
		if err := out.WriteHeader(h); err != nil || !fi.Mode().IsRegular() {
			return err
		}
		f, err := root.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(out, f)
		return err
	})
	return errors.Join(err, out.Close())
}

// describe writes what makes an image of a layer, and returns the digest of its
// manifest.
func describe(dir string, t *soulbox.Template, layer ocispecs.Descriptor) (digest.Digest, error) {
	img := ocispecs.Image{
		Platform: ocispecs.Platform{OS: "linux", Architecture: runtime.GOARCH},
		RootFS:   ocispecs.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.Digest}},
	}
	for _, name := range slices.Sorted(maps.Keys(t.Env)) {
		img.Config.Env = append(img.Config.Env, name+"="+t.Env[name])
	}
	// "user" is whom programs run as where nobody has said anything. In a
	// Dockerfile that is root.
	if t.User != firstUser {
		img.Config.User = t.User
	}
	img.Config.WorkingDir = t.Workdir
	config, err := writeBlob(dir, ocispecs.MediaTypeImageConfig, img)
	if err != nil {
		return "", err
	}
	manifest, err := writeBlob(dir, ocispecs.MediaTypeImageManifest, ocispecs.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageManifest,
		Config: config, Layers: []ocispecs.Descriptor{layer},
	})
	return manifest.Digest, err
}

func writeBlob(dir, kind string, v any) (ocispecs.Descriptor, error) {
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(v); err != nil {
		return ocispecs.Descriptor{}, err
	}
	d := ocispecs.Descriptor{MediaType: kind, Digest: digest.FromBytes(b.Bytes()), Size: int64(b.Len())}
	path := filepath.Join(dir, blobdir.Folder, d.Digest.Encoded())
	if _, err := os.Stat(path); err == nil {
		return d, nil
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".blob-*")
	if err != nil {
		return ocispecs.Descriptor{}, err
	}
	_, err = f.Write(b.Bytes())
	if err = errors.Join(err, f.Close()); err != nil {
		return ocispecs.Descriptor{}, err
	}
	return d, os.Rename(f.Name(), path)
}

// sweepBases removes what was not finished, and the bases that were not used
// for longest when there are many. BuildKit has copies of what it has read.
func sweepBases(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	type used struct {
		path string
		at   time.Time
	}
	var whole []used
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		if _, err := os.Stat(filepath.Join(path, layerFile)); err != nil {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
			continue
		}
		if d, err := entry.Info(); err == nil {
			whole = append(whole, used{path, d.ModTime()})
		}
	}
	slices.SortFunc(whole, func(a, b used) int { return b.at.Compare(a.at) })
	for _, old := range whole[min(keepBases, len(whole)):] {
		if err := os.RemoveAll(old.path); err != nil {
			return err
		}
	}
	return nil
}
