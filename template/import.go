package template

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/image"
	"github.com/soulbox/soulbox/template/facts"
)

// Import makes a template of an image. A name that the team uses already gets
// the new image and keeps its id, its size and, unless the request says
// otherwise, its isolation; sandboxes that run keep theirs. progress is called
// with lines for people, unless it is nil.
//
// The image's environment and working directory become the template's. Its
// user does not: as at E2B, programs run as the user called "user".
func (r *Registry) Import(ctx context.Context, req soulbox.ImportRequest, progress func(string)) (*soulbox.Template, error) {
	ref, err := soulbox.ParseTemplateRef(req.Name)
	if err != nil {
		return nil, err
	}
	if ref.Namespace != "" || ref.Tag != "" || ref.Versions != (soulbox.VersionRange{}) {
		return nil, soulbox.Errorf(soulbox.Invalid, "template %.200q: give a plain name, without namespace and tag", req.Name)
	}
	if req.Isolation != nil {
		if err := req.Isolation.Allowed(r.Allowed); err != nil {
			return nil, err
		}
	}
	if err := r.free(ctx, req.Team, ref.Name); err != nil {
		return nil, err
	}
	source := req.Source
	from := source.Ref
	if source.Tar == nil && source.Parts == nil && local(from) {
		return nil, soulbox.Errorf(soulbox.Invalid, "image %.200q is a path; send its content instead", from)
	}
	progress = orQuiet(progress)
	started := time.Now()
	work, err := os.MkdirTemp(r.Dir, "import-")
	if err != nil {
		return nil, fmt.Errorf("import template %s: %w", ref.Name, err)
	}
	defer os.RemoveAll(work)
	if source.Tar != nil {
		progress("receiving the archive")
		from = filepath.Join(work, "archive.tar")
		n, err := r.spool(ctx, source.Tar, from)
		if err != nil {
			return nil, fmt.Errorf("import template %s: %w", ref.Name, err)
		}
		progress(fmt.Sprintf("received %d MiB", n>>20))
	}
	tree := filepath.Join(work, "tree")
	build := FromImage(from)
	if source.Parts != nil {
		build = fromParts(*source.Parts)
	}
	img, err := build(ctx, tree, progress)
	if err != nil {
		return nil, fmt.Errorf("import template %s: %w", ref.Name, err)
	}
	if source.Tar != nil {
		img.Reference = "archive"
	}
	req.Name = ref.Name
	return r.publish(ctx, req, tree, img, started, progress)
}

// A Builder makes the tree of one of the house's own templates in dir, which
// does not exist, and says where it came from and how it is meant to be run.
type Builder func(ctx context.Context, dir string, progress func(string)) (image.Image, error)

// FromImage builds of what [image.Import] can bring in, files of this machine
// too: it is for operators.
func FromImage(source string) Builder {
	return func(ctx context.Context, dir string, progress func(string)) (image.Image, error) {
		return image.Import(ctx, source, dir, image.Options{Progress: throttle(progress)})
	}
}

// fromParts builds of an image that was pushed.
func fromParts(parts soulbox.ImageParts) Builder {
	return func(ctx context.Context, dir string, progress func(string)) (image.Image, error) {
		return image.Assemble(ctx, parts, dir, image.Options{Progress: throttle(progress)})
	}
}

// Ensure makes the house's template called name unless it exists. progress is
// called with lines for people, unless it is nil.
func (r *Registry) Ensure(ctx context.Context, name string, build Builder, progress func(string)) (*soulbox.Template, error) {
	t, err := r.Store.TemplateByName(ctx, house, name)
	if soulbox.KindOf(err) != soulbox.NotFound {
		return t, err
	}
	progress = orQuiet(progress)
	started := time.Now()
	work, err := os.MkdirTemp(r.Dir, "build-")
	if err != nil {
		return nil, fmt.Errorf("build template %s: %w", name, err)
	}
	defer os.RemoveAll(work)
	tree := filepath.Join(work, "tree")
	img, err := build(ctx, tree, progress)
	if err != nil {
		return nil, fmt.Errorf("build template %s: %w", name, err)
	}
	return r.publish(ctx, soulbox.ImportRequest{Team: house, Name: name}, tree, img, started, progress)
}

// publish packs a tree and writes the row that req asks for.
func (r *Registry) publish(ctx context.Context, req soulbox.ImportRequest, tree string, img image.Image, started time.Time, progress func(string)) (*soulbox.Template, error) {
	team, name := req.Team, req.Name
	env, workdir, err := settings(img)
	if err != nil {
		return nil, fmt.Errorf("import template %s: %w", name, err)
	}
	found, err := facts.Read(ctx, tree)
	if err != nil {
		return nil, fmt.Errorf("import template %s: %w", name, err)
	}
	release, err := r.take(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	if err := r.sweep(ctx); err != nil {
		r.Log.WarnContext(ctx, "images not swept", "err", err)
	}
	progress("packing the root file system")
	packed, user, err := r.Packer.Pack(ctx, tree, img.Reference, started)
	if err != nil {
		return nil, fmt.Errorf("pack template %s: %w", name, err)
	}
	r.Faults.Reach("import/packed")
	now := time.Now()
	t := &soulbox.Template{ID: newID(), Team: team, Name: name, Public: team == house, CreatedAt: now, UpdatedAt: now}
	b := &soulbox.Build{
		ID: soulbox.NewBuildID(), Team: team, CreatedAt: started, QueuedAt: started, StartedAt: started, EndedAt: now,
		Image: packed, Size: r.Defaults, Env: env, User: user, Workdir: workdir, Facts: factsOf(img, found),
	}
	b.Tags = req.Tags
	if req.Source.Parts != nil {
		b.Manifest = req.Source.Parts.Manifest.Digest
	}
	if have, err := r.Store.TemplateByName(ctx, team, name); err == nil && have.Build != "" {
		b.Size, b.Isolation = have.Size, have.Isolation
	}
	if req.Isolation != nil {
		b.Isolation = *req.Isolation
	}
	if t, err = r.Store.AddBuild(ctx, t, b, "", bump(b)); err != nil {
		return nil, err
	}
	r.Log.InfoContext(ctx, "template published", "template", t.ID, "name", name, "build", b.ID, "version", b.Version.String(), "image", packed)
	return t, nil
}

// factsOf returns what an image's author said about it, and what was found in
// it.
func factsOf(img image.Image, found soulbox.BuildFacts) soulbox.BuildFacts {
	f := found
	f.Base, f.Ports, f.Entrypoint, f.Command, f.Meant = img.Reference, img.Ports, img.Entrypoint, img.Cmd, img.Meant
	if img.Digest != "" && !strings.Contains(f.Base, "@") {
		f.Base += "@" + img.Digest
	}
	return f
}

// newID returns an id of the shape of E2B's: twenty of [a-z0-9].
func newID() soulbox.TemplateID {
	return soulbox.TemplateID(strings.ToLower(rand.Text()[:20]))
}

// settings returns the environment and the working directory that an image's
// author meant. PATH is like any other variable: the login profile keeps what
// it finds there and only adds the usual places.
func settings(img image.Image) (env map[string]string, workdir string, err error) {
	env = make(map[string]string, len(img.Env))
	for _, l := range img.Env {
		name, value, ok := strings.Cut(l, "=")
		if ok && name != "" {
			env[name] = value
		}
	}
	// Relative ones start at the root, in Docker too. The root itself is what
	// every image has that names none; here that means the user's home.
	if workdir = path.Clean("/" + img.WorkDir); workdir == "/" {
		workdir = ""
	}
	return env, workdir, checkSettings(env, workdir)
}

// checkSettings refuses what cannot be handed on as text.
func checkSettings(env map[string]string, workdir string) error {
	for name, value := range env {
		if strings.ContainsRune(name, 0) || strings.ContainsRune(value, 0) || !utf8.ValidString(name) || !utf8.ValidString(value) {
			return soulbox.Errorf(soulbox.Invalid, "the image's environment variable %.200q holds NUL, or is not UTF-8", name)
		}
	}
	if strings.ContainsAny(workdir, "\x00\n\r") || !utf8.ValidString(workdir) {
		return soulbox.Errorf(soulbox.Invalid, "the image's working directory %.200q holds a control character, or is not UTF-8", workdir)
	}
	return nil
}

// local reports whether ref could mean a file of this machine, which a client
// must not name. No reference to a registry begins like that.
func local(ref string) bool {
	return strings.HasPrefix(ref, "/") || strings.HasPrefix(ref, ".")
}

// spool writes an archive into a file, because its kind shows only at its end,
// and returns its length.
func (r *Registry) spool(ctx context.Context, archive io.Reader, to string) (int64, error) {
	f, err := os.Create(to)
	if err != nil {
		return 0, err
	}
	in := &sender{ctx: ctx, r: io.LimitReader(archive, int64(r.MaxArchive)+1)}
	n, err := io.Copy(f, in)
	err = errors.Join(err, f.Close())
	switch {
	case ctx.Err() != nil:
		return n, context.Cause(ctx)
	case in.err != nil:
		kind := soulbox.KindOf(in.err)
		if kind == soulbox.Internal {
			return n, soulbox.Hide(soulbox.Invalid, in.err, fmt.Sprintf("the archive was cut off after %d bytes", n))
		}
		return n, soulbox.Errorf(kind, "the archive was cut off after %d bytes: %w", n, in.err)
	case errors.Is(err, unix.ENOSPC):
		return n, soulbox.Hide(soulbox.Unavailable, err, "the disk that keeps images is full")
	case err != nil:
		return n, err
	case n > int64(r.MaxArchive):
		return n, soulbox.Errorf(soulbox.TooLarge, "the archive is larger than %d bytes", r.MaxArchive)
	}
	return n, nil
}

// A sender reads what a client sends until its context ends, and keeps what
// went wrong apart from what goes wrong with our disk.
type sender struct {
	ctx context.Context //nolint:containedctx // lives no longer than the one call it is made for
	r   io.Reader
	err error
}

func (s *sender) Read(p []byte) (int, error) {
	if err := context.Cause(s.ctx); err != nil {
		return 0, err
	}
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

func orQuiet(progress func(string)) func(string) {
	if progress == nil {
		return func(string) {}
	}
	return progress
}

// throttle turns frequent byte counts into a line a second.
func throttle(progress func(string)) func(image.Progress) {
	var step string
	var last time.Time
	return func(p image.Progress) {
		if p.Step == step && time.Since(last) < time.Second {
			return
		}
		step, last = p.Step, time.Now()
		line := fmt.Sprintf("%s: %d MiB", p.Step, p.Done>>20)
		if p.Total > 0 {
			line = fmt.Sprintf("%s: %d of %d MiB", p.Step, p.Done>>20, p.Total>>20)
		}
		progress(line)
	}
}
