package image

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"runtime"
	"strings"

	"github.com/containerd/containerd/v2/pkg/archive"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
)

// An unpacker fills one directory and keeps count of what goes in.
type unpacker struct {
	dir      string
	limits   Limits
	arch     string
	progress func(Progress)
	pulling  bool // progress counts what the network brings, not what comes out of it

	entries, skipped int
	bytes            int64
}

func newUnpacker(dir string, opts Options) *unpacker {
	u := &unpacker{dir: dir, limits: opts.Limits, arch: opts.Architecture, progress: opts.Progress}
	if u.limits.Bytes <= 0 {
		u.limits.Bytes = defaultBytes
	}
	if u.limits.Entries <= 0 {
		u.limits.Entries = defaultEntries
	}
	if u.arch == "" {
		u.arch = runtime.GOARCH
	}
	if u.progress == nil {
		u.progress = func(Progress) {}
	}
	return u
}

// image unpacks all layers of img, the lowest first. Its configuration must be
// known to be small.
func (u *unpacker) image(ctx context.Context, img v1.Image) (Image, error) {
	cfg, err := img.ConfigFile()
	if err != nil {
		return Image{}, damaged("its configuration", err)
	}
	if cfg.OS != "" && cfg.OS != "linux" || cfg.Architecture != "" && cfg.Architecture != u.arch {
		return Image{}, soulbox.Errorf(soulbox.Invalid, "the image is made for %.40s/%.40s, and this machine needs linux/%s", cfg.OS, cfg.Architecture, u.arch)
	}
	raw, err := img.RawConfigFile()
	if err != nil {
		return Image{}, damaged("its configuration", err)
	}
	layers, err := img.Layers()
	if err != nil {
		return Image{}, damaged("its layers", err)
	}
	if len(layers) > maxLayers {
		return Image{}, soulbox.Errorf(soulbox.TooLarge, "the image has %d layers, more than %d", len(layers), maxLayers)
	}
	if len(layers) != len(cfg.RootFS.DiffIDs) {
		return Image{}, soulbox.Errorf(soulbox.Invalid, "the image is damaged: %d layers, and %d in its configuration", len(layers), len(cfg.RootFS.DiffIDs))
	}
	for i, layer := range layers {
		step := fmt.Sprintf("layer %d of %d", i+1, len(layers))
		if err := u.layer(ctx, step, layer, cfg.RootFS.DiffIDs[i]); err != nil {
			return Image{}, fmt.Errorf("%s: %w", step, err)
		}
	}
	return u.count(describe(cfg, raw)), nil
}

func (u *unpacker) count(img Image) Image {
	img.Entries, img.Bytes, img.Skipped = u.entries, u.bytes, u.skipped
	return img
}

// layer applies one layer and compares it with the digest that the
// configuration gives for its content, compression removed.
func (u *unpacker) layer(ctx context.Context, step string, layer v1.Layer, want v1.Hash) error {
	rc, err := layer.Uncompressed()
	if err != nil {
		return err
	}
	defer rc.Close()
	sum := sha256.New()
	r := u.watch(ctx, step, 0, io.TeeReader(rc, sum))
	if err := u.apply(ctx, r); err != nil {
		return err
	}
	// What follows the archive's end belongs to the digest.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return damaged("its content", err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != want.Hex || want.Algorithm != "sha256" {
		return soulbox.Errorf(soulbox.Invalid, "the image is damaged: a layer has digest sha256:%s instead of %s", got, want)
	}
	return nil
}

// apply applies one archive to the tree, as a layer on what is there.
func (u *unpacker) apply(ctx context.Context, r io.Reader) error {
	_, err := archive.Apply(ctx, u.dir, r, archive.WithFilter(u.accept))
	if err != nil {
		return damaged("its content", err)
	}
	return nil
}

// accept decides over one entry of an archive before anything of it is written.
func (u *unpacker) accept(h *tar.Header) (bool, error) {
	if err := u.admit(h.Name, h.Size); err != nil {
		return false, err
	}
	if escapes(h.Name) {
		return false, soulbox.Errorf(soulbox.Invalid, "the image is refused: %.200q leads out of it", h.Name)
	}
	if h.Uid < 0 || h.Gid < 0 {
		return false, soulbox.Errorf(soulbox.Invalid, "the image is refused: %.200q belongs to nobody", h.Name)
	}
	h.PAXRecords = nil // among them the extended attributes
	switch h.Typeflag {
	case tar.TypeLink:
		if escapes(path.Clean(h.Linkname)) {
			return false, soulbox.Errorf(soulbox.Invalid, "the image is refused: the hard link %.200q leads out of it", h.Name)
		}
	case tar.TypeChar, tar.TypeBlock:
		u.skipped++
		return false, nil
	case tar.TypeXGlobalHeader:
		return false, nil
	case tar.TypeCont, tar.TypeGNUSparse:
		h.Typeflag = tar.TypeReg // the reader has filled the holes already
	}
	return true, nil
}

// admit counts an entry and refuses it when the image becomes too large.
func (u *unpacker) admit(name string, size int64) error {
	if u.entries++; u.entries > u.limits.Entries {
		return soulbox.Errorf(soulbox.TooLarge, "the image has more than %d files", u.limits.Entries)
	}
	if size < 0 || size > u.limits.Bytes-u.bytes {
		return soulbox.Errorf(soulbox.TooLarge, "the image has more than %d bytes of files; %.200q is too many", u.limits.Bytes, name)
	}
	u.bytes += size
	return nil
}

// escapes reports whether a cleaned name climbs out of where it starts. An
// absolute one starts at the image's root, as it does for Docker.
func escapes(name string) bool { return name == ".." || strings.HasPrefix(name, "../") }

// watch returns r with progress, cancellation and a bound on everything that
// is not file content: headers, and padding that an archive may have for ever.
func (u *unpacker) watch(ctx context.Context, step string, total int64, r io.Reader) io.Reader {
	const perEntry = 8 << 10
	w := &watcher{ctx: ctx, r: r, left: u.limits.Bytes + int64(u.limits.Entries)*perEntry}
	if !u.pulling {
		w.say = func(done int64) { u.progress(Progress{Step: step, Done: done, Total: total}) }
	}
	return w
}

type watcher struct {
	ctx  context.Context //nolint:containedctx // lives no longer than the call it is made for
	r    io.Reader
	say  func(done int64) // nil: nobody listens
	done int64
	said int64 // done, when say was last called
	left int64
}

func (w *watcher) Read(p []byte) (int, error) {
	const often = 1 << 20
	if err := context.Cause(w.ctx); err != nil {
		return 0, err
	}
	n, err := w.r.Read(p)
	w.done += int64(n)
	if w.left -= int64(n); w.left < 0 {
		return n, soulbox.Errorf(soulbox.TooLarge, "the image's archive has no end")
	}
	if w.say != nil && w.done-w.said >= often || w.say != nil && err != nil && w.done > w.said {
		w.said = w.done
		w.say(w.done)
	}
	return n, err
}

// damaged turns an error of unpacking into one that says whose fault it is:
// the machine's, when its disk is full or broken; a customer's sentence stays;
// anything else is the image's.
func damaged(what string, err error) error {
	_, told := errors.AsType[*soulbox.Error](err)
	_, sys := errors.AsType[unix.Errno](err)
	switch {
	case told, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return soulbox.Hide(soulbox.Unavailable, err, "the disk is full")
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return soulbox.Errorf(soulbox.Invalid, "the image is cut off: %s ends too early", what)
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EEXIST), errors.Is(err, unix.EISDIR), errors.Is(err, unix.ELOOP),
		errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, unix.EINVAL), errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.EMLINK):
		return soulbox.Hide(soulbox.Invalid, err, "the image is damaged: "+what+" contradicts itself")
	case sys:
		return err
	default:
		return soulbox.Hide(soulbox.Invalid, err, "the image is damaged: "+what+" cannot be read")
	}
}
