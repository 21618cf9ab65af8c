package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/node/changes"
)

// diffs is how many comparisons go on at once: each has a sandbox that nobody
// asked for.
const diffs = 2

// Diff tells which files of sandbox id differ in b, one of its snapshots, as
// against those in a, another. Without b it is how the sandbox is now, and it
// has to run; its programs stand still for as long as its files are saved.
//
// What is in a snapshot can be read by the runtime only, so a sandbox is made of
// it that belongs to nobody, has the size of the one that was saved and ends
// after this. Its record says that it may be removed, if the server does not
// live to do so. Where memory was saved, programs run on in it for some
// milliseconds before they are stopped, and may write.
func (n *Node) Diff(ctx context.Context, id soulbox.SandboxID, a, b *soulbox.Snapshot) (soulbox.Changes, error) {
	select {
	case n.diffs <- struct{}{}:
		defer func() { <-n.diffs }()
	case <-ctx.Done():
		return soulbox.Changes{}, context.Cause(ctx)
	}
	found, err := n.compare(ctx, id, a, b)
	if err != nil {
		return soulbox.Changes{}, fmt.Errorf("compare sandbox %s: %w", id, err)
	}
	return found, nil
}

func (n *Node) compare(ctx context.Context, id soulbox.SandboxID, a, b *soulbox.Snapshot) (soulbox.Changes, error) {
	var none soulbox.Changes
	held, err := n.snapshots.Hold(a.ID)
	if err != nil {
		return none, err
	}
	defer held.Close()
	var ( // first: now is when we were asked
		after *changes.Layer
		of    string
	)
	if b == nil {
		after, of, err = n.layerNow(ctx, id)
	} else {
		after, of, err = n.layerOf(ctx, b)
	}
	if err != nil {
		return none, err
	}
	if of != held.Image {
		return none, soulbox.Errorf(soulbox.Conflict, "the two have different root images below them, so they cannot be compared")
	}
	// Before the snapshot's own handle of it goes to the driver.
	file, err := os.Open(filepath.Join(held.Dir, imageFile))
	if err != nil {
		return none, err
	}
	img, err := changes.OpenImage(file)
	if err != nil {
		return none, err
	}
	defer img.Close()
	before, _, err := n.layerOf(ctx, a)
	if err != nil {
		return none, err
	}
	return changes.Compare(before, after, img)
}

// layerOf returns the upper layer of a snapshot and the image below it.
func (n *Node) layerOf(ctx context.Context, snap *soulbox.Snapshot) (*changes.Layer, string, error) {
	o, held, err := n.savedAs(ctx, snap.ID)
	if err != nil {
		return nil, "", err
	}
	defer held.Close()
	l, err := n.layer(ctx, record{Size: snap.Size, Image: held.Image, Isolation: o.class}, o)
	return l, held.Image, err
}

// layerNow returns that of a sandbox that runs. Its files are saved, and read
// out of another sandbox, because reading them may end it.
func (n *Node) layerNow(ctx context.Context, id soulbox.SandboxID) (*changes.Layer, string, error) {
	s, err := n.find(id)
	if err != nil {
		return nil, "", err
	}
	image, err := os.Open(filepath.Join(s.dir, imageFile))
	if err != nil {
		return nil, "", err
	}
	l, err := n.layer(ctx, record{Size: s.record.Size, Image: s.record.Image, Isolation: s.record.Isolation}, origin{image: image, live: s})
	return l, s.record.Image, err
}

// layer reads the upper layer of a sandbox that is made of o for this alone.
func (n *Node) layer(ctx context.Context, rec record, o origin) (*changes.Layer, error) {
	d, err := n.driver(rec.Isolation)
	if err != nil {
		o.image.Close()
		return nil, err
	}
	if can := d.Capabilities(); !can.Changes {
		o.image.Close()
		return nil, soulbox.Errorf(soulbox.Invalid, "sandboxes of isolation %q do not tell what they have changed, so they cannot be compared", can.Isolation)
	}
	rec.ID, rec.Warm = soulbox.NewSandboxID(), true
	f, err := n.start(ctx, rec, o)
	if err != nil {
		return nil, err
	}
	defer n.undo(context.WithoutCancel(ctx), f)
	if err := f.instance.Freeze(ctx); err != nil {
		return nil, err
	}
	n.Faults.Reach("node/opened")
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	// Where one of the two gives up, the other has to.
	asked := ctx
	ctx, giveUp := context.WithCancel(ctx)
	defer giveUp()
	written := make(chan error, 1)
	go func() {
		err := f.instance.Changes(ctx, w)
		written <- errors.Join(err, w.Close())
		if err != nil {
			r.Close() // the runtime may still have the other end
		}
	}()
	l, unread := changes.Read(r, changes.Limits{Content: rec.Size.Disk + overhead})
	if unread == nil {
		_, unread = io.Copy(io.Discard, io.LimitReader(r, int64(overhead))) // what fills the last record
	}
	r.Close()
	if unread != nil {
		giveUp()
	}
	err = <-written
	ended := unread == nil || errors.Is(unread, io.EOF) || errors.Is(unread, io.ErrUnexpectedEOF) || errors.Is(unread, os.ErrClosed)
	switch {
	case asked.Err() != nil:
		return nil, context.Cause(asked)
	case err != nil && ended: // otherwise it was told to stop
		return nil, soulbox.Hide(soulbox.Unavailable, err, "the files of the sandbox could not be read; one that is about as big as its memory cannot be compared")
	case unread != nil:
		return nil, unread
	}
	return l, nil
}

// saveLive writes the files of a sandbox that runs into dir.
func (n *Node) saveLive(ctx context.Context, s *sandbox, dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	s.saving.Lock()
	defer s.saving.Unlock()
	if s.getStill() == perhaps {
		if err := n.thaw(ctx, s); err != nil {
			return err
		}
	}
	return s.instance.Save(ctx, dir, false)
}
