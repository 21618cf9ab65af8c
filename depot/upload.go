package depot

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
)

const (
	uploadLife = 24 * time.Hour
	maxUploads = 64 // of a team at the same time; clients send about five
)

// An upload is a blob that is on its way.
type upload struct {
	id      string
	team    soulbox.TeamID
	repo    soulbox.Repository
	path    string
	started time.Time

	mu sync.Mutex // held by whoever appends to it or ends it
	// +checklocks:mu
	size int64
	// +checklocks:mu
	over bool // it was finished or cancelled while somebody waited for it
}

// BeginUpload begins one and returns its id, by which only its team reaches it.
func (d *Depot) BeginUpload(ctx context.Context, team soulbox.TeamID, repo soulbox.Repository) (string, error) {
	if _, err := d.own(ctx, team, repo); err != nil {
		return "", err
	}
	if _, err := d.room(ctx, team); err != nil {
		return "", err
	}
	u := &upload{id: rand.Text(), team: team, repo: repo, started: time.Now()}
	u.path = filepath.Join(d.Dir, u.id)
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, other := range d.uploads {
		if other.team == team {
			n++
		}
	}
	if n >= maxUploads {
		return "", soulbox.Errorf(soulbox.Exhausted, "your team has %d uploads under way and may not have more; finish or cancel some", n)
	}
	f, err := os.OpenFile(u.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", fmt.Errorf("begin upload: %w", full(err))
	}
	d.uploads[u.id] = u
	return u.id, f.Close()
}

// room refuses a team that has pushed all that it may. It returns what the team
// had pushed in blobs, less what admit counts of them.
func (d *Depot) room(ctx context.Context, team soulbox.TeamID) (pushed int64, err error) {
	// In this order: an upload that becomes a blob meanwhile is counted twice,
	// and not never.
	d.mu.Lock()
	finished := d.finished[team]
	d.mu.Unlock()
	claimed, err := d.Store.ClaimedBytes(ctx, team)
	if err != nil {
		return 0, err
	}
	pushed = claimed - finished
	return pushed, d.admit(team, pushed, 0)
}

// admit counts n bytes more of a team, unless that is more than it may push. Its
// other uploads, which go on at the same time, are seen each time.
func (d *Depot) admit(team soulbox.TeamID, pushed int64, n int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	have := pushed + d.finished[team] + d.received[team]
	if have+int64(n) > int64(d.MaxTeam) || n == 0 && have == int64(d.MaxTeam) {
		return soulbox.Errorf(soulbox.Exhausted, "your team has pushed %d MiB within a day, and may push %d", have>>20, d.MaxTeam/soulbox.MiB)
	}
	d.received[team] += int64(n)
	return nil
}

// take returns an upload to whoever may go on with it, locked.
func (d *Depot) take(team soulbox.TeamID, repo soulbox.Repository, id string) (*upload, error) {
	gone := soulbox.Errorf(soulbox.NotFound, "there is no upload %.64q to %s; begin another one", id, repo)
	d.mu.Lock()
	u := d.uploads[id]
	d.mu.Unlock()
	if u == nil || u.team != team || u.repo != repo {
		return nil, gone
	}
	if !u.mu.TryLock() {
		return nil, soulbox.Errorf(soulbox.Conflict, "somebody else is sending to upload %s", id)
	}
	if u.over {
		u.mu.Unlock()
		return nil, gone
	}
	return u, nil
}

// UploadSize returns how much of an upload has arrived.
func (d *Depot) UploadSize(_ context.Context, team soulbox.TeamID, repo soulbox.Repository, id string) (int64, error) {
	u, err := d.take(team, repo, id)
	if err != nil {
		return 0, err
	}
	defer u.mu.Unlock()
	return u.size, nil
}

// AppendUpload adds what r has to an upload, all or nothing of it, and returns
// how much has arrived then. It must continue at offset, unless that is below
// 0; otherwise it is a Conflict.
func (d *Depot) AppendUpload(ctx context.Context, team soulbox.TeamID, repo soulbox.Repository, id string, offset int64, r io.Reader) (int64, error) {
	u, err := d.take(team, repo, id)
	if err != nil {
		return 0, err
	}
	defer u.mu.Unlock()
	if offset >= 0 && offset != u.size {
		return u.size, soulbox.Errorf(soulbox.Conflict, "the upload has %d bytes, and cannot go on at %d", u.size, offset)
	}
	err = d.append(ctx, u, r)
	return u.size, err
}

// append adds to an upload that the caller has locked.
//
// +checklocks:u.mu
func (d *Depot) append(ctx context.Context, u *upload, r io.Reader) error {
	pushed, err := d.room(ctx, u.team)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(u.path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return fmt.Errorf("append to upload: %w", err)
	}
	w := &receiver{d: d, u: u, w: f, ctx: ctx, pushed: pushed, room: int64(d.MaxBlob) - u.size}
	_, err = io.Copy(w, r)
	if err = errors.Join(err, f.Close()); err == nil {
		u.size += w.n
		return nil
	}
	// What has arrived of it is of no use: nobody knows whether it is right.
	err = errors.Join(err, os.Truncate(u.path, u.size))
	d.account(u.team, -w.n)
	return full(err)
}

// account counts what the uploads of a team have.
func (d *Depot) account(team soulbox.TeamID, n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.received[team] += n; d.received[team] == 0 {
		delete(d.received, team)
	}
}

// A receiver writes an upload within its bounds.
type receiver struct {
	d      *Depot
	u      *upload
	w      io.Writer
	ctx    context.Context //nolint:containedctx // lives no longer than the one call it is made for
	n      int64           // that were written
	pushed int64           // what room said when it began
	room   int64           // that the blob may have
}

func (r *receiver) Write(p []byte) (int, error) {
	switch {
	case r.ctx.Err() != nil:
		return 0, context.Cause(r.ctx)
	case r.n+int64(len(p)) > r.room:
		return 0, soulbox.Errorf(soulbox.TooLarge, "a layer has at most %d bytes", r.d.MaxBlob)
	}
	if err := r.d.admit(r.u.team, r.pushed, len(p)); err != nil {
		return 0, err
	}
	n, err := r.w.Write(p)
	r.n += int64(n)
	r.d.account(r.u.team, int64(n-len(p)))
	return n, err
}

// FinishUpload adds what r has, and makes a blob of the upload, which must have
// the digest; otherwise it is Invalid, and the upload is as before.
func (d *Depot) FinishUpload(ctx context.Context, team soulbox.TeamID, repo soulbox.Repository, id string, offset int64, digest soulbox.Digest, r io.Reader) error {
	u, err := d.take(team, repo, id)
	if err != nil {
		return err
	}
	defer u.mu.Unlock()
	if offset >= 0 && offset != u.size {
		return soulbox.Errorf(soulbox.Conflict, "the upload has %d bytes, and cannot go on at %d", u.size, offset)
	}
	before := u.size
	if err := d.append(ctx, u, r); err != nil {
		return err
	}
	if err := d.store(ctx, u, digest); err != nil {
		if soulbox.KindOf(err) == soulbox.Invalid {
			err = errors.Join(err, os.Truncate(u.path, before))
			d.account(u.team, before-u.size)
			u.size = before
		}
		return err
	}
	d.mu.Lock()
	d.finished[u.team] += u.size
	d.mu.Unlock()
	return d.drop(u)
}

// store makes a blob of an upload and claims it.
//
// +checklocks:u.mu
func (d *Depot) store(ctx context.Context, u *upload, digest soulbox.Digest) error {
	release, err := d.holds.take(ctx, digest)
	if err != nil {
		return err
	}
	defer release()
	f, err := os.Open(u.path)
	if err != nil {
		return fmt.Errorf("finish upload: %w", err)
	}
	defer f.Close()
	if err := d.Blobs.Put(ctx, digest, u.size, f); err != nil {
		return err
	}
	d.Faults.Reach("push/stored")
	return d.Store.PutClaims(ctx, u.team, u.repo.Name, []soulbox.Claim{{Digest: digest, Size: u.size}}, now())
}

// drop forgets an upload.
//
// +checklocks:u.mu
func (d *Depot) drop(u *upload) error {
	u.over = true
	d.account(u.team, -u.size)
	d.mu.Lock()
	delete(d.uploads, u.id)
	d.mu.Unlock()
	return os.Remove(u.path)
}

// CancelUpload forgets an upload.
func (d *Depot) CancelUpload(_ context.Context, team soulbox.TeamID, repo soulbox.Repository, id string) error {
	u, err := d.take(team, repo, id)
	if err != nil {
		return err
	}
	defer u.mu.Unlock()
	return d.drop(u)
}

// MountBlob claims for a repository a blob of another one that the team may
// read. It is NotFound when there is none, and the team sends it then.
func (d *Depot) MountBlob(ctx context.Context, team soulbox.TeamID, repo, from soulbox.Repository, digest soulbox.Digest) error {
	if _, err := d.own(ctx, team, repo); err != nil {
		return err
	}
	there, err := d.see(ctx, team, from)
	if err != nil {
		return err
	}
	release, err := d.holds.take(ctx, digest)
	if err != nil {
		return err
	}
	defer release()
	size, err := d.found(ctx, there, digest, false)
	if err != nil {
		return err
	}
	if _, err := d.room(ctx, team); err != nil {
		return err
	}
	return d.Store.PutClaims(ctx, team, repo.Name, []soulbox.Claim{{Digest: digest, Size: size}}, now())
}

func full(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return soulbox.Hide(soulbox.Unavailable, err, "the disk that keeps uploads is full")
	}
	return err
}
