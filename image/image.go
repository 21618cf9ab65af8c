// Package image brings container images in: from an OCI registry, from an
// archive, or from a directory, each as one plain directory tree. It also makes
// an image of a tree; see [Export].
//
// A source is unpacked into a folder that does not exist yet, and that is gone
// again when anything fails. Layers are applied with their whiteouts, hard
// links, owners, modes and times; extended attributes are dropped, because the
// root file systems made of these trees cannot keep them, and device nodes are
// skipped and counted, because a sandbox gets its own.
//
// Nothing about a source is trusted. Names that leave the tree are refused,
// links inside it are resolved with the tree as root, every digest is compared,
// and [Limits] bound what an image may cost before it is known to be one.
// What the tree contains is still hostile afterwards: whoever edits it must
// follow no link out of it.
package image

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/soulbox/soulbox"
)

// An Image says what was brought in and how its author meant it to be run.
type Image struct {
	Reference    string   // where it came from: a full reference or a path
	Digest       string   // sha256:… of the manifest; empty for a plain tree
	Architecture string   // as Go spells it; empty for a plain tree
	Env          []string // NAME=value
	User         string   // as in Dockerfile's USER; empty means root
	WorkDir      string
	Entrypoint   []string
	Cmd          []string
	Ports        []string // exposed ones, such as 8080/tcp, sorted
	Meant        []byte   // all that its author meant, for [Export]; nil for a plain tree
	Entries      int      // files, folders and links that were unpacked
	Bytes        int64    // of file content that was unpacked
	Skipped      int      // device nodes and the like that were left out
}

// Limits bound one image, all its layers together. Zero stands for the default.
type Limits struct {
	Bytes   int64 // of file content; default 20 GiB
	Entries int   // of archives, or files of a directory; default 2,000,000
}

const (
	defaultBytes   = 20 << 30
	defaultEntries = 2_000_000

	// maxJSON bounds every manifest and configuration: they are read into
	// memory, and the largest that registries accept is 4 MiB.
	maxJSON   = 4 << 20
	maxLayers = 1000 // Docker stops at 127
)

// Progress says how far an import has come. Done and Total count bytes; Total
// is zero when nobody can know it.
type Progress struct {
	Step  string // such as "layer 2 of 5", for people
	Done  int64
	Total int64
}

// Options are what [Import] may be told; the zero value is usable.
type Options struct {
	Limits       Limits
	Architecture string            // as Go spells it; empty: this machine's
	Progress     func(Progress)    // nil: nobody listens. Called from the goroutine of the caller, often
	Transport    http.RoundTripper // to registries; nil: the library's own, with its time-outs
	Keychain     authn.Keychain    // who we are at registries; nil: what `docker login` wrote, else nobody
}

// Import brings source in as a tree at dir, which must not exist. A source that
// starts with /, ./ or ../ is an archive or a directory on this machine, and
// anything else a reference such as python:3.12 or ghcr.io/org/name@sha256:….
//
// An archive may come from `docker save`, be an OCI layout, or simply hold a
// root file system; its content decides. It may be compressed with gzip.
//
// A wrong reference, a damaged source, one that breaks its limits and one for
// another architecture are Invalid or TooLarge; what a registry does not have
// is NotFound, and one that does not answer Unavailable.
func Import(ctx context.Context, source, dir string, opts Options) (Image, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return Image{}, fmt.Errorf("import %s: %w", source, err)
	}
	img, err := bring(ctx, source, newUnpacker(dir, opts), opts)
	if err != nil {
		return Image{}, undo(ctx, dir, source, err)
	}
	return img, nil
}

// undo removes the tree that err has left unfinished, and says what it was of.
func undo(ctx context.Context, dir, source string, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if rm := os.RemoveAll(dir); rm != nil {
		err = errors.Join(err, rm)
	}
	return fmt.Errorf("import %s: %w", source, err)
}

// readable lets the users of a system read its root.
func readable(dir string) error { return os.Chmod(dir, 0o755) } //nolint:gosec // see above

func bring(ctx context.Context, source string, u *unpacker, opts Options) (Image, error) {
	if err := readable(u.dir); err != nil {
		return Image{}, err
	}
	if !isPath(source) {
		return pull(ctx, source, u, opts)
	}
	fi, err := os.Stat(source)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return Image{}, soulbox.Errorf(soulbox.NotFound, "%s does not exist", source)
	case err != nil:
		return Image{}, err
	case fi.IsDir():
		return copyTree(ctx, source, u)
	case fi.Mode().IsRegular():
		return load(ctx, source, u)
	default:
		return Image{}, soulbox.Errorf(soulbox.Invalid, "%s is neither a file nor a directory", source)
	}
}

func isPath(source string) bool {
	return filepath.IsAbs(source) || source == "." || source == ".." ||
		strings.HasPrefix(source, "./") || strings.HasPrefix(source, "../")
}

// describe turns a configuration, and its JSON, into an [Image].
func describe(cfg *v1.ConfigFile, raw []byte) Image {
	img := Image{
		Meant:        Meant(raw),
		Architecture: cfg.Architecture,
		Env:          cfg.Config.Env,
		User:         cfg.Config.User,
		WorkDir:      cfg.Config.WorkingDir,
		Entrypoint:   cfg.Config.Entrypoint,
		Cmd:          cfg.Config.Cmd,
	}
	for port := range cfg.Config.ExposedPorts {
		img.Ports = append(img.Ports, port)
	}
	slices.Sort(img.Ports)
	return img
}
