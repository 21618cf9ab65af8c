package depot

import (
	"context"
	"io"
	"slices"
	"time"

	"github.com/soulbox/soulbox"
)

// latest is the tag that clients mean when they name none.
const latest = "latest"

// renewAfter is how old a claim is when somebody who asks for the blob renews
// it: a push asks first, and sends only what is not there.
const renewAfter = time.Hour

// Blob returns the size of a blob of a repository. With keep it promises to the
// repository's own team that the blob stays for a while: this is how a push asks
// what it need not send.
func (d *Depot) Blob(ctx context.Context, team soulbox.TeamID, repo soulbox.Repository, digest soulbox.Digest, keep bool) (int64, error) {
	v, err := d.see(ctx, team, repo)
	if err != nil {
		return 0, err
	}
	release, err := d.holds.take(ctx, digest)
	if err != nil {
		return 0, err
	}
	defer release()
	return d.found(ctx, v, digest, keep)
}

// found is Blob for a caller who holds the blob.
func (d *Depot) found(ctx context.Context, v view, digest soulbox.Digest, keep bool) (int64, error) {
	at, err := d.claimed(ctx, v, digest)
	if err != nil {
		return 0, err
	}
	info, err := d.Blobs.Stat(ctx, digest)
	if soulbox.KindOf(err) == soulbox.NotFound {
		return 0, unknown(v.Repository, digest)
	}
	if err != nil {
		return 0, err
	}
	if keep && v.own && now().Sub(at) > renewAfter {
		err = d.Store.PutClaims(ctx, v.team, v.Name, []soulbox.Claim{{Digest: digest, Size: info.Size}}, now())
	}
	return info.Size, err
}

// claimed returns when the viewer has claimed a blob, which is never if it may
// read it for another reason. It is NotFound if there is none.
func (d *Depot) claimed(ctx context.Context, v view, digest soulbox.Digest) (time.Time, error) {
	if v.own {
		at, err := d.Store.Claimed(ctx, v.team, v.Name, digest)
		if soulbox.KindOf(err) != soulbox.NotFound {
			return at, err
		}
	}
	reached, err := d.reached(ctx, v, digest)
	if err == nil && !reached {
		err = unknown(v.Repository, digest)
	}
	return time.Time{}, err
}

// reached reports whether a ready build of the template has a blob.
func (d *Depot) reached(ctx context.Context, v view, digest soulbox.Digest) (bool, error) {
	if v.template == nil {
		return false, nil
	}
	builds, err := d.Templates.Versions(ctx, v.team, v.template.ID)
	if err != nil {
		return false, err
	}
	all := newReach()
	for _, b := range builds {
		if b.Manifest == "" {
			continue
		}
		if err := d.follow(ctx, b.Manifest, all); err != nil {
			return false, err
		}
		if all.blobs[digest] {
			return true, nil
		}
	}
	return false, nil
}

// OpenBlob returns length bytes of a blob from offset on, after Blob has said
// that the team may read it. The caller closes it.
func (d *Depot) OpenBlob(ctx context.Context, digest soulbox.Digest, offset, length int64) (io.ReadCloser, error) {
	return d.Blobs.Open(ctx, digest, offset, length)
}

// Manifest returns what a repository has under a tag or a digest.
func (d *Depot) Manifest(ctx context.Context, team soulbox.TeamID, repo soulbox.Repository, ref string) (soulbox.Manifest, error) {
	v, err := d.see(ctx, team, repo)
	if err != nil {
		return soulbox.Manifest{}, err
	}
	digest, err := soulbox.ParseDigest(ref)
	if err == nil {
		if _, err := d.claimed(ctx, v, digest); err != nil {
			return soulbox.Manifest{}, err
		}
		m, err := d.load(ctx, digest)
		if kind := soulbox.KindOf(err); kind == soulbox.Invalid || kind == soulbox.NotFound {
			err = unknown(repo, digest) // a blob, but no manifest
		}
		return m.Manifest, err
	}
	tag, err := soulbox.ParseTag(ref)
	if err != nil {
		return soulbox.Manifest{}, err
	}
	b, err := d.tagged(ctx, v, tag)
	if err != nil {
		return soulbox.Manifest{}, err
	}
	if b.Manifest == "" {
		return soulbox.Manifest{}, soulbox.Errorf(soulbox.NotFound,
			"%s:%s was built here and not pushed, so there is no image to pull; `soulbox template export` makes one of it", repo, tag)
	}
	m, err := d.load(ctx, b.Manifest)
	return m.Manifest, err
}

// tagged returns the ready build that a tag leads to. Without a tag of that
// name, latest is the default.
func (d *Depot) tagged(ctx context.Context, v view, tag string) (*soulbox.Build, error) {
	at := soulbox.TemplateRef{Namespace: v.Namespace, Name: v.Name, Tag: tag}
	t, err := d.Templates.Template(ctx, v.team, at)
	if tag == latest && soulbox.KindOf(err) == soulbox.NotFound {
		at.Tag = ""
		t, err = d.Templates.Template(ctx, v.team, at)
	}
	if err != nil {
		return nil, err
	}
	if t.Build == "" {
		return nil, at.NoBuild()
	}
	return d.Templates.Build(ctx, v.team, t.ID, t.Build)
}

// Tags returns the tags under which something can be pulled, in order.
func (d *Depot) Tags(ctx context.Context, team soulbox.TeamID, repo soulbox.Repository) ([]string, error) {
	v, err := d.see(ctx, team, repo)
	if err != nil {
		return nil, err
	}
	if v.template == nil {
		return nil, soulbox.Errorf(soulbox.NotFound, "template '%s' not found", repo)
	}
	builds, err := d.Templates.Versions(ctx, team, v.template.ID)
	if err != nil {
		return nil, err
	}
	tags, err := d.Templates.Tags(ctx, team, v.template.ID)
	if err != nil {
		return nil, err
	}
	names := []string{}
	for _, t := range tags {
		if slices.ContainsFunc(builds, func(b *soulbox.Build) bool { return b.ID == t.Build && b.Manifest != "" }) {
			names = append(names, t.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}
