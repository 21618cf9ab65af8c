package template

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/image"
)

const (
	// maxPacking is how many layers are made at a time: each keeps a processor
	// busy. Who only sends one is in nobody's way.
	maxPacking = 2

	// maxExports is how many a team may have under way, since each has a
	// compressed copy of a template on the disk, however slowly it is read.
	maxExports = 4

	// spareDisk stays free beside what an export may write.
	spareDisk = soulbox.GiB
)

// Export writes the build that ref means as a tar with an OCI image of one
// layer, for whoever may see the template. The same build gives the same image.
// An error before the first byte has a kind.
//
// How the author meant it to be run is in the image, and how it was made is not.
func (r *Registry) Export(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef, w io.Writer) error {
	if _, _, err := r.pick(ctx, team, ref, toSee); err != nil {
		return err // without waiting
	}
	leave, err := r.exporting.enter(team)
	if err != nil {
		return err
	}
	defer leave()
	select {
	case r.ways <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	packed := sync.OnceFunc(func() { <-r.ways })
	defer packed()
	w = &sending{w: w, begin: packed}
	// Between the record and the image, another may take its place. That is
	// found when the image is opened, before anything is written.
	const tries = 3
	for try := 1; ; try++ {
		t, b, err := r.pick(ctx, team, ref, toSee)
		if err != nil {
			return err
		}
		gone := false
		err = r.export(ctx, t, b, w, &gone)
		if !gone {
			return err
		}
		if try == tries {
			return soulbox.Hide(soulbox.Unavailable, err, fmt.Sprintf("the files of template '%s' are not on this machine", t.Name))
		}
	}
}

// sending calls begin before each piece is written.
type sending struct {
	w     io.Writer
	begin func()
}

func (s *sending) Write(p []byte) (int, error) {
	s.begin()
	return s.w.Write(p)
}

// export writes one build, or says that its image is gone.
func (r *Registry) export(ctx context.Context, t *soulbox.Template, b *soulbox.Build, w io.Writer, gone *bool) error {
	if err := r.room(b.Facts.Bytes); err != nil {
		return err
	}
	e := image.Export{
		Name: t.Name, Version: b.Version.String(), Created: b.EndedAt, Meant: b.Facts.Meant, Dir: r.Dir,
		Tree: func(w io.Writer) error {
			err := r.Packer.Archive(ctx, b.Image, w)
			*gone = soulbox.KindOf(err) == soulbox.NotFound
			if err == nil {
				r.Faults.Reach("export/packed")
			}
			return err
		},
	}
	if e.Meant == nil {
		e.Meant = meant(b, nil)
	}
	if err := e.Write(ctx, w); err != nil {
		return fmt.Errorf("export template %s: %w", t.ID, err)
	}
	r.Log.InfoContext(ctx, "template exported", "template", t.ID, "build", b.ID)
	return nil
}

// room refuses to fill the disk with a copy of so many bytes.
func (r *Registry) room(bytes soulbox.Bytes) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(r.Dir, &fs); err != nil {
		return fmt.Errorf("look at the disk: %w", err)
	}
	if free := soulbox.Bytes(fs.Bavail) * soulbox.Bytes(fs.Bsize); free < bytes+spareDisk {
		return soulbox.Errorf(soulbox.Unavailable, "the disk of this machine is too full to make an image of the template")
	}
	return nil
}

// meant returns how the author of a build meant it to be run: as config says,
// which is that of an OCI image, or if there is none, as is known of the build.
func meant(b *soulbox.Build, config []byte) []byte {
	if m := image.Meant(config); m != nil {
		return m
	}
	c := ocispecs.ImageConfig{
		User: b.User, WorkingDir: b.Workdir, Entrypoint: b.Facts.Entrypoint, Cmd: b.Facts.Command, Labels: b.Facts.Labels,
		ExposedPorts: keys(b.Facts.Ports), Volumes: keys(b.Facts.Volumes),
	}
	for _, name := range slices.Sorted(maps.Keys(b.Env)) {
		c.Env = append(c.Env, name+"="+b.Env[name])
	}
	built := len(b.Recipe.Steps) > 0 || b.Recipe.Image != "" || b.Recipe.Template != ""
	switch {
	case !built && c.User == defaultUser:
		// That is whom programs of sandboxes run as where nobody has said
		// anything. In an image that is root.
		c.User = ""
	case built && b.Recipe.Start != "":
		// What E2B's builders start is what an image of it starts.
		c.Entrypoint, c.Cmd = nil, []string{"/bin/bash", "-l", "-c", b.Recipe.Start}
	}
	m, err := json.Marshal(ocispecs.Image{Author: b.Facts.Author, Config: c})
	if err != nil {
		return nil // cannot be: it is text
	}
	return image.Meant(m)
}

// defaultUser is whom programs of sandboxes run as unless somebody says otherwise.
const defaultUser = "user"

func keys(names []string) map[string]struct{} {
	if len(names) == 0 {
		return nil
	}
	all := make(map[string]struct{}, len(names))
	for _, n := range names {
		all[n] = struct{}{}
	}
	return all
}
