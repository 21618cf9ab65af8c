package template

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/jsonfile"
	"github.com/soulbox/soulbox/template/upload"
)

// Files that recipes copy are uploaded before they are built, as one archive
// under a hash that the client computes: over what is copied to where, and over
// names, modes, sizes and content of the files. That cannot be computed again
// from the archive, which does not say to where they are copied; so a client can
// only deceive itself, and what is compared here is what can be: that the hash
// is one, that the archive is whole and that what is in it can be taken in.
//
// An upload is a folder <uploads>/<team>/<hash> with the files in files/ and a
// note beside them, whose time says when it was last used. It is made under
// another name and renamed when it is complete.

const (
	uploadsName = "uploads"
	filesName   = "files"
	noteName    = "upload.json"
	halfPrefix  = ".half-"
	oldPrefix   = ".old-"

	uploadLife = 7 * 24 * time.Hour // of one that nobody uses
	oldLife    = 24 * time.Hour     // of one that was replaced: a build may be reading it

	maxUploadEntries = 500_000
	maxUploading     = 32 // of one team at the same time
)

// note is what is known of an upload.
type note struct {
	Bytes   int64 `json:"bytes"` // of its files
	Entries int   `json:"entries"`
	Once    bool  `json:"once,omitempty"` // it goes with the one build that uses it
}

// plainTeam is what a team's id looks like that can be the name of a folder.
var plainTeam = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$`)

// teamDir returns the folder of a team's uploads.
func (r *Registry) teamDir(team soulbox.TeamID) string {
	name := "t-" + string(team)
	if !plainTeam.MatchString(string(team)) {
		name = "x-" + hex.EncodeToString([]byte(team))
	}
	return filepath.Join(r.BuildDir, uploadsName, name)
}

// HasUpload reports whether the files with a hash are there for the builds of
// a team. It is NotFound when the team has no such template; an empty id asks
// for none.
func (r *Registry) HasUpload(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, hash string) (bool, error) {
	if id != "" {
		if _, err := r.find(ctx, team, id, toChange); err != nil {
			return false, err
		}
	}
	if err := checkHash(hash); err != nil {
		return false, err
	}
	return r.hasUpload(ctx, team, hash)
}

func checkHash(hash string) error {
	if !validHash(hash) {
		return soulbox.Errorf(soulbox.Invalid, "the hash of files is 64 of 0-9 and a-f, not %.100q", hash)
	}
	return nil
}

// hasUpload reports whether an upload is there. Who asks is about to use it, so
// it stays for a while.
func (r *Registry) hasUpload(_ context.Context, team soulbox.TeamID, hash string) (bool, error) {
	if !validHash(hash) {
		return false, nil
	}
	at := time.Now()
	err := os.Chtimes(filepath.Join(r.teamDir(team), hash, noteName), at, at)
	if missing(err) {
		return false, nil
	}
	return err == nil, err
}

// upload returns the folder with the files of an upload, for a build.
func (r *Registry) upload(team soulbox.TeamID, hash string) (string, error) {
	there, err := r.hasUpload(r.life, team, hash)
	if err == nil && !there {
		err = soulbox.Errorf(soulbox.Invalid, "the files with hash %.100s are not there any more; upload them again", hash)
	}
	return filepath.Join(r.teamDir(team), hash, filesName), err
}

// PutUpload keeps a tar, plain or compressed with gzip, for the builds of the
// team that has the template. Whoever calls it has seen to it that the sender
// may: the link is the permission.
func (r *Registry) PutUpload(ctx context.Context, id soulbox.TemplateID, hash string, archive io.Reader) error {
	t, err := r.Store.Template(ctx, id)
	if err != nil {
		return err
	}
	return r.Upload(ctx, t.Team, hash, archive)
}

// Upload is PutUpload for a team that need not have a template yet.
func (r *Registry) Upload(ctx context.Context, team soulbox.TeamID, hash string, archive io.Reader) error {
	if err := checkHash(hash); err != nil {
		return err
	}
	n, err := r.takeIn(ctx, team, hash, archive, false)
	if err != nil {
		return fmt.Errorf("upload files %s: %w", hash, err)
	}
	r.Log.InfoContext(ctx, "files uploaded", "team", team, "hash", hash, "entries", n.Entries, "bytes", n.Bytes)
	return nil
}

// takeIn unpacks an archive and puts it under its name.
func (r *Registry) takeIn(ctx context.Context, team soulbox.TeamID, hash string, archive io.Reader, once bool) (note, error) {
	dir := r.teamDir(team)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return note{}, err
	}
	// What one may have is what the others have left when it begins.
	leave, err := r.uploading.enter(team)
	if err != nil {
		return note{}, err
	}
	defer leave()
	used, err := usedBy(dir)
	if err != nil {
		return note{}, err
	}
	if left := int64(r.MaxUploads) - used; left <= 0 {
		return note{}, soulbox.Errorf(soulbox.Exhausted, "your team has uploaded %d MiB of files for builds lately, and may have %d; those go that were not used for %v", used>>20, r.MaxUploads/soulbox.MiB, uploadLife)
	}
	half, err := os.MkdirTemp(dir, halfPrefix)
	if err != nil {
		return note{}, err
	}
	defer os.RemoveAll(half) // renamed away on success
	in := &sender{ctx: ctx, r: archive}
	most := upload.Size{Bytes: min(int64(r.MaxUpload), int64(r.MaxUploads)-used), Entries: maxUploadEntries}
	size, err := upload.Unpack(in, filepath.Join(half, filesName), most)
	if err != nil {
		return note{}, blame(ctx, in, err)
	}
	n := note{Bytes: size.Bytes, Entries: size.Entries, Once: once}
	if err := errors.Join(jsonfile.Replace(filepath.Join(half, noteName), n), flush(half)); err != nil {
		return note{}, blame(ctx, in, err)
	}
	return n, place(half, filepath.Join(dir, hash))
}

// flush makes everything durable that is in a folder, with what else is on its
// file system: a build should find all of an upload or nothing, also after a
// power cut.
func flush(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}

// place puts a folder under its name. One that is there goes on to exist for
// those who read it.
func place(half, name string) error {
	err := os.Rename(half, name)
	if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
		return err
	}
	if err := unix.Renameat2(unix.AT_FDCWD, half, unix.AT_FDCWD, name, unix.RENAME_EXCHANGE); err != nil {
		return err
	}
	old, err := os.MkdirTemp(filepath.Dir(name), oldPrefix)
	if err != nil {
		return err
	}
	at := time.Now()
	return errors.Join(os.Rename(half, filepath.Join(old, filesName)), os.Chtimes(old, at, at))
}

// blame says whose fault it is that an archive could not be taken in: the
// sender's, the machine's or that of what is in it.
func blame(ctx context.Context, in *sender, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case in.err != nil:
		kind := soulbox.KindOf(in.err)
		if kind == soulbox.Internal {
			return soulbox.Hide(soulbox.Invalid, in.err, "the archive was cut off")
		}
		return soulbox.Errorf(kind, "the archive was cut off: %w", in.err)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return soulbox.Hide(soulbox.Unavailable, err, "the disk that keeps files for builds is full")
	default:
		return err
	}
}

// usedBy returns how many bytes the uploads in a team's folder have.
func usedBy(dir string) (int64, error) {
	all, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, e := range all {
		path := filepath.Join(dir, e.Name(), noteName)
		if strings.HasPrefix(e.Name(), oldPrefix) {
			// Of any other, what is there is not our note but a client's file.
			path = filepath.Join(dir, e.Name(), filesName, noteName)
		}
		if n, err := jsonfile.Load[note](path); err == nil {
			sum += n.Bytes
		}
	}
	return sum, nil
}

// sweepUploads removes what an earlier process left: uploads that its end cut
// off, and contexts of builds other than live, which are over or have never
// been recorded.
func (r *Registry) sweepUploads(live []*soulbox.Build) error {
	all, err := filepath.Glob(filepath.Join(r.BuildDir, uploadsName, "*", "*"))
	half, err2 := filepath.Glob(filepath.Join(r.BuildDir, uploadsName, "*", halfPrefix+"*"))
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	var errs []error
	for _, path := range half {
		errs = append(errs, os.RemoveAll(path))
	}
	for _, path := range all {
		n, err := jsonfile.Load[note](filepath.Join(path, noteName))
		used := func(b *soulbox.Build) bool { return filepath.Join(r.teamDir(b.Team), b.Recipe.Context) == path }
		if err == nil && n.Once && !slices.ContainsFunc(live, used) {
			errs = append(errs, os.RemoveAll(path))
		}
	}
	return errors.Join(errs...)
}

// pruneUploads removes uploads that nobody has used for long, and those that
// were replaced a while ago.
func (r *Registry) pruneUploads(at time.Time) error {
	all, err := filepath.Glob(filepath.Join(r.BuildDir, uploadsName, "*", "*"))
	if err != nil {
		return err
	}
	old, err := filepath.Glob(filepath.Join(r.BuildDir, uploadsName, "*", oldPrefix+"*"))
	if err != nil {
		return err
	}
	var errs []error
	remove := func(path, witness string, life time.Duration) {
		if fi, err := os.Stat(witness); err != nil || fi.ModTime().After(at.Add(-life)) {
			errs = append(errs, ignoreMissing(err))
			return
		}
		errs = append(errs, os.RemoveAll(path))
	}
	for _, path := range all {
		if validHash(filepath.Base(path)) {
			remove(path, filepath.Join(path, noteName), lifeOf(path))
		}
	}
	for _, path := range old {
		remove(path, path, oldLife)
	}
	return errors.Join(errs...)
}
