package depot

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/soulbox/soulbox"
)

// PutManifest takes a manifest in, whose parts were pushed before. Under a
// digest it is only kept, such as the images that an index names. Under a tag it
// becomes a version of the template, and PutManifest returns when that is ready;
// the tag latest moves "default", too. An image of which the template has a
// version already only gets the tag.
//
// A part that is not there is NotFound, and what is wrong with the manifest or
// with the image Invalid or TooLarge.
func (d *Depot) PutManifest(ctx context.Context, team soulbox.TeamID, repo soulbox.Repository, ref, kind string, content []byte) (soulbox.Digest, error) {
	v, err := d.own(ctx, team, repo)
	if err != nil {
		return "", err
	}
	m, err := parse(content, kind)
	if err != nil {
		return "", err
	}
	var tags []string
	if digest, err := soulbox.ParseDigest(ref); err != nil {
		if tags, err = tagsOf(ref); err != nil {
			return "", err
		}
	} else if digest != m.Digest {
		return "", soulbox.Errorf(soulbox.Invalid, "the manifest has digest %s instead of %s", m.Digest, digest)
	}
	if err := d.keep(ctx, v, m); err != nil {
		return "", err
	}
	d.Faults.Reach("push/claimed")
	if len(tags) > 0 {
		err = d.build(ctx, v, m, tags)
	}
	return m.Digest, err
}

// tagsOf returns the tags that a build gets which is pushed under one.
func tagsOf(ref string) ([]string, error) {
	tag, err := soulbox.ParseTag(ref)
	if err != nil {
		return nil, err
	}
	if tag == latest {
		return []string{latest, soulbox.DefaultTag}, nil
	}
	return []string{tag}, nil
}

// keep stores a manifest and claims it with all that it leads to, so that none
// of it goes before a build is made of it. All that is held until it is claimed,
// and looked at again after that.
func (d *Depot) keep(ctx context.Context, v view, m manifest) error {
	sizes := map[soulbox.Digest]int64{}
	if err := d.collect(ctx, v, m, 0, sizes); err != nil {
		return err
	}
	digests := append(slices.Collect(maps.Keys(sizes)), m.Digest)
	release, err := d.holds.take(ctx, digests...)
	if err != nil {
		return err
	}
	defer release()
	if err := d.Blobs.Put(ctx, m.Digest, int64(len(m.Content)), bytes.NewReader(m.Content)); err != nil {
		return err
	}
	d.Faults.Reach("push/stored")
	claims := []soulbox.Claim{{Digest: m.Digest, Size: int64(len(m.Content))}}
	for digest, size := range sizes {
		claims = append(claims, soulbox.Claim{Digest: digest, Size: size})
	}
	if err := d.Store.PutClaims(ctx, v.team, v.Name, claims, now()); err != nil {
		return err
	}
	for digest, size := range sizes {
		if err := d.there(ctx, v, digest, size); err != nil {
			return err
		}
	}
	return nil
}

// collect adds to sizes what a manifest leads to, all of which the team must
// have pushed, or have in a build.
func (d *Depot) collect(ctx context.Context, v view, m manifest, depth int, sizes map[soulbox.Digest]int64) error {
	if depth > maxNesting {
		return soulbox.Errorf(soulbox.Invalid, "indexes are nested more than %d times", maxNesting)
	}
	for _, p := range m.parts {
		if size, seen := sizes[p.digest]; seen {
			if size != p.size {
				return soulbox.Errorf(soulbox.Invalid, "the manifest says of %s that it has %d bytes and that it has %d", p.digest, size, p.size)
			}
			continue
		}
		if len(sizes) >= maxReached {
			return soulbox.Errorf(soulbox.TooLarge, "the image has more than %d parts", maxReached)
		}
		if _, err := d.claimed(ctx, v, p.digest); err != nil {
			return err
		}
		sizes[p.digest] = p.size
		if !m.index {
			continue
		}
		if err := d.there(ctx, v, p.digest, p.size); err != nil {
			return err
		}
		child, err := d.load(ctx, p.digest)
		if err != nil {
			return fmt.Errorf("read %s: %w", p.digest, err)
		}
		if err := d.collect(ctx, v, child, depth+1, sizes); err != nil {
			return err
		}
	}
	return nil
}

// there makes sure that a blob is there and has its size.
func (d *Depot) there(ctx context.Context, v view, digest soulbox.Digest, size int64) error {
	info, err := d.Blobs.Stat(ctx, digest)
	switch {
	case soulbox.KindOf(err) == soulbox.NotFound:
		return unknown(v.Repository, digest)
	case err != nil:
		return err
	case info.Size != size:
		return soulbox.Errorf(soulbox.Invalid, "the manifest says that %s has %d bytes; it has %d", digest, size, info.Size)
	}
	return nil
}

// build makes a version of the template of what was pushed, and has tags lead
// to it.
func (d *Depot) build(ctx context.Context, v view, m manifest, tags []string) error {
	// Of two pushes of one image, the second finds what the first has made.
	release, err := d.turn(ctx, turnKey{v.team, v.Name})
	if err != nil {
		return err
	}
	defer release()
	if v, err = d.see(ctx, v.team, v.Repository); err != nil {
		return err
	}
	select {
	case d.building <- struct{}{}:
		defer func() { <-d.building }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	started := time.Now()
	if v.template != nil {
		builds, err := d.Templates.Versions(ctx, v.team, v.template.ID)
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(builds, func(b *soulbox.Build) bool { return b.Manifest == m.Digest }); i >= 0 {
			_, err := d.Templates.AssignTags(ctx, v.team, soulbox.TemplateRef{Namespace: v.Namespace, Name: v.Name, Tag: string(builds[i].ID)}, tags)
			return err
		}
	}
	parts := &soulbox.ImageParts{
		Name: v.String(), Manifest: m.Manifest,
		Open: func(digest soulbox.Digest) (io.ReadCloser, error) { return d.Blobs.Open(ctx, digest, 0, -1) },
	}
	t, err := d.Templates.Import(ctx, soulbox.ImportRequest{Team: v.team, Name: v.Name, Source: soulbox.ImageSource{Parts: parts}, Tags: tags}, nil)
	if soulbox.KindOf(err) == soulbox.NotFound {
		// All parts are there: there is none for this machine.
		err = soulbox.Hide(soulbox.Invalid, err, soulbox.MessageOf(err))
	}
	if err != nil {
		return err
	}
	d.Faults.Reach("push/built")
	d.Log.InfoContext(ctx, "image pushed", "template", t.ID, "team", v.team, "name", v.Name, "tags", tags, "digest", m.Digest, "took", time.Since(started))
	return nil
}

// A turnKey names a repository of a team.
type turnKey struct {
	team soulbox.TeamID
	name string
}

// A turn is that of whoever makes a version of one template.
type turn struct {
	taken   chan struct{} // holds one value while somebody has it
	waiting int           // how many have it or wait for it; guarded by the depot's mu
}

// turn waits for the turn of a repository and returns what gives it back.
func (d *Depot) turn(ctx context.Context, key turnKey) (release func(), err error) {
	d.mu.Lock()
	t := d.turns[key]
	if t == nil {
		t = &turn{taken: make(chan struct{}, 1)}
		d.turns[key] = t
	}
	t.waiting++
	d.mu.Unlock()
	leave := func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if t.waiting--; t.waiting == 0 {
			delete(d.turns, key)
		}
	}
	select {
	case t.taken <- struct{}{}:
		return func() { <-t.taken; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, context.Cause(ctx)
	}
}
