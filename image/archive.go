package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"math"
	"os"
	"path"
	"strings"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/soulbox/soulbox"
)

// An archiveFile is a tar file, perhaps compressed, that is read again for each
// file that is wanted of it. Without compression that only costs seeking.
type archiveFile struct {
	path  string
	sizes map[string]int64 // of the files that an image could consist of
}

// load unpacks an archive after looking at what kind it is.
func load(ctx context.Context, file string, u *unpacker) (Image, error) {
	a := &archiveFile{path: file, sizes: map[string]int64{}}
	if err := a.scan(ctx, u); err != nil {
		return Image{}, damaged("the archive", err)
	}
	img, err := a.unpack(ctx, u)
	if err != nil {
		return Image{}, damaged("the archive", err)
	}
	img.Reference = file
	return img, nil
}

func (a *archiveFile) unpack(ctx context.Context, u *unpacker) (Image, error) {
	_, layout := a.sizes["oci-layout"]
	_, index := a.sizes["index.json"]
	// Newer versions of `docker save` write both; theirs holds one image
	// more surely than the index, where attestations count as images.
	if a.small("manifest.json") == nil {
		saved, err := a.saved()
		if err != nil {
			return Image{}, err
		}
		if len(saved) > 0 {
			return a.dockerSave(ctx, u, saved)
		}
	}
	if layout && index {
		return a.layout(ctx, u)
	}
	return a.plain(ctx, u)
}

// saved returns what manifest.json lists, and nothing when it is just a file
// of that name.
func (a *archiveFile) saved() (tarball.Manifest, error) {
	b, err := a.json("manifest.json")
	if err != nil {
		return nil, err
	}
	var m tarball.Manifest
	if json.Unmarshal(b, &m) != nil || len(m) == 0 || m[0].Config == "" {
		return nil, nil //nolint:nilerr // any image may have a file of that name
	}
	return m, nil
}

func (a *archiveFile) dockerSave(ctx context.Context, u *unpacker, saved tarball.Manifest) (Image, error) {
	if len(saved) != 1 {
		return Image{}, soulbox.Errorf(soulbox.Invalid, "the archive holds %d images; save only one", len(saved))
	}
	if len(saved[0].Layers) > maxLayers {
		return Image{}, soulbox.Errorf(soulbox.TooLarge, "the image has %d layers, more than %d", len(saved[0].Layers), maxLayers)
	}
	// The library reads the configuration whole.
	if err := a.small(saved[0].Config); err != nil {
		return Image{}, err
	}
	img, err := tarball.Image(a.open, nil)
	if err != nil {
		return Image{}, err
	}
	got, err := u.image(ctx, img)
	if err != nil {
		return Image{}, err
	}
	// Such an archive has no manifest of its own; Docker names the image by
	// its configuration.
	id, err := img.ConfigName()
	got.Digest = id.String()
	return got, err
}

// plain unpacks an archive that is itself the root file system.
func (a *archiveFile) plain(ctx context.Context, u *unpacker) (Image, error) {
	rc, err := a.open()
	if err != nil {
		return Image{}, err
	}
	defer rc.Close()
	var total int64
	if f, ok := rc.(*os.File); ok {
		fi, err := f.Stat()
		if err != nil {
			return Image{}, err
		}
		total = fi.Size()
	}
	end := &lastBlock{r: u.watch(ctx, "archive", total, rc)}
	_, err = archive.Apply(ctx, u.dir, end, archive.WithFilter(u.accept),
		// A file that begins with .wh. is a file here, not a whiteout.
		archive.WithConvertWhiteout(func(*tar.Header, string) (bool, error) { return true, nil }))
	if err != nil {
		return Image{}, err
	}
	if !end.zero() {
		return Image{}, io.ErrUnexpectedEOF
	}
	if _, err := io.Copy(io.Discard, end); err != nil { // to gzip's checksum
		return Image{}, err
	}
	return u.count(Image{}), nil
}

// scan reads all headers once, so that everything later knows what it asks for.
func (a *archiveFile) scan(ctx context.Context, u *unpacker) error {
	const maxNames = 10_000 // two files for each layer, and some more
	rc, err := a.open()
	if err != nil {
		return err
	}
	defer rc.Close()
	tr := tar.NewReader(rc)
	var entries int
	var total int64
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if entries++; entries > u.limits.Entries {
			return soulbox.Errorf(soulbox.TooLarge, "the archive has more than %d files", u.limits.Entries)
		}
		if h.Size > u.limits.Bytes-total {
			return soulbox.Errorf(soulbox.TooLarge, "the archive has more than %d bytes of files", u.limits.Bytes)
		}
		total += h.Size
		name := path.Clean(h.Name)
		if len(a.sizes) >= maxNames || strings.Contains(name, "/") && !strings.HasPrefix(name, "blobs/") {
			continue
		}
		size := h.Size
		if h.Typeflag != tar.TypeReg {
			size = math.MaxInt64 // a link may lead to anything
		}
		a.sizes[name] = max(size, a.sizes[name])
	}
	if entries == 0 {
		return soulbox.Errorf(soulbox.Invalid, "the archive is empty")
	}
	return nil
}

// open returns the archive without its compression; a plain one is the
// *os.File itself, in which the tar reader can skip by seeking.
func (a *archiveFile) open() (io.ReadCloser, error) {
	f, err := os.Open(a.path)
	if err != nil {
		return nil, err
	}
	magic := make([]byte, 6)
	n, err := f.ReadAt(magic, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		f.Close()
		return nil, err
	}
	magic = magic[:n]
	switch {
	case bytes.HasPrefix(magic, []byte("\x1f\x8b")):
		z, err := gzip.NewReader(bufio.NewReaderSize(f, 1<<16))
		if err != nil {
			f.Close()
			return nil, err
		}
		return struct {
			io.Reader
			io.Closer
		}{z, f}, nil
	case bytes.HasPrefix(magic, []byte("\x28\xb5\x2f\xfd")), bytes.HasPrefix(magic, []byte("\xfd7zXZ")), bytes.HasPrefix(magic, []byte("BZh")):
		f.Close()
		return nil, soulbox.Errorf(soulbox.Invalid, "the archive is compressed with something other than gzip; decompress it first")
	default:
		return f, nil
	}
}

// small makes sure that name is there and may be read into memory.
func (a *archiveFile) small(name string) error {
	size, ok := a.sizes[path.Clean(name)]
	if !ok {
		return soulbox.Errorf(soulbox.Invalid, "the image is damaged: the archive has no file %.200q", name)
	}
	if size > maxJSON {
		return soulbox.Errorf(soulbox.TooLarge, "the image's %.200q has %d bytes, more than %d", name, size, maxJSON)
	}
	return nil
}

// json returns a small file.
func (a *archiveFile) json(name string) ([]byte, error) {
	if err := a.small(name); err != nil {
		return nil, err
	}
	rc, err := a.find(name)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	return io.ReadAll(io.LimitReader(rc, maxJSON))
}

// find opens the regular file name.
func (a *archiveFile) find(name string) (io.ReadCloser, error) {
	rc, err := a.open()
	if err != nil {
		return nil, err
	}
	tr := tar.NewReader(rc)
	for {
		h, err := tr.Next()
		if err != nil {
			rc.Close()
			if errors.Is(err, io.EOF) {
				err = soulbox.Errorf(soulbox.Invalid, "the image is damaged: the archive has no file %.200q", name)
			}
			return nil, err
		}
		if h.Typeflag == tar.TypeReg && path.Clean(h.Name) == name {
			return struct {
				io.Reader
				io.Closer
			}{tr, rc}, nil
		}
	}
}

// blob returns a small file that is named by its SHA-256, which is checked.
func (a *archiveFile) blob(digest, name string) ([]byte, error) {
	b, err := a.json(name)
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != digest {
		return nil, soulbox.Errorf(soulbox.Invalid, "the image is damaged: %.200q does not have its digest", name)
	}
	return b, nil
}

// A lastBlock remembers the last 512 bytes that were read. A tar ends with
// blocks of zeros; one that was cut off between two files does not, and no
// reader complains.
type lastBlock struct {
	r    io.Reader
	last []byte
}

func (l *lastBlock) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	l.last = append(l.last, p[max(0, n-512):n]...)
	l.last = l.last[max(0, len(l.last)-512):]
	return n, err
}

func (l *lastBlock) zero() bool {
	return len(l.last) == 512 && len(bytes.Trim(l.last, "\x00")) == 0
}
