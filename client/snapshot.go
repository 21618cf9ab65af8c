package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"time"

	"github.com/soulbox/soulbox"
)

// A Snapshot is a sandbox at one moment, kept on the server's disk. One that is
// a checkpoint of a sandbox is what that sandbox can be rolled back to.
type Snapshot struct {
	ID        string
	Kind      soulbox.SnapshotKind
	Name      string // empty: it has none
	Sandbox   string // the sandbox that it was taken of
	Parent    string // the snapshot that this sandbox came from before; empty: its template
	Bytes     soulbox.Bytes
	Memory    bool // programs as well as files
	Current   bool // of a checkpoint: the one that its sandbox comes from now
	CreatedAt time.Time
}

// Snapshot writes a running sandbox down while it runs on, and returns the id
// of the snapshot. Sandboxes are made of it by its id or name, see
// [CreateOptions]; it stays until it is removed. The name may be empty. One
// that is taken is a Conflict.
func (s *Sandboxes) Snapshot(ctx context.Context, id, name string) (string, error) {
	path, err := sandboxPath("/sandboxes/", id, "/snapshots")
	if err != nil {
		return "", err
	}
	var out struct {
		SnapshotID string `json:"snapshotID"`
	}
	if _, err := s.c.work(ctx, path, nameWire{Name: name}, &out); err != nil {
		return "", err
	}
	return out.SnapshotID, nil
}

// Snapshots returns the team's snapshots of one kind, or of every kind if it is
// empty. The first error ends the loop.
func (s *Sandboxes) Snapshots(ctx context.Context, kind soulbox.SnapshotKind) iter.Seq2[*Snapshot, error] {
	query := url.Values{}
	if kind != "" {
		query.Set("kind", string(kind))
	}
	return func(yield func(*Snapshot, error) bool) {
		for w, err := range pages[snapshotWire, snapshotsWire](ctx, s.c, "/v1/snapshots", query) {
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(new(Snapshot(w)), nil) {
				return
			}
		}
	}
}

// RemoveSnapshot removes a snapshot that [Sandboxes.Snapshot] made. Sandboxes
// that were made of it go on.
func (s *Sandboxes) RemoveSnapshot(ctx context.Context, id string) error {
	path, err := snapshotPath("/v1/snapshots/", id)
	if err != nil {
		return err
	}
	err = s.c.call(ctx, http.MethodDelete, path, nil, nil, nil)
	return err
}

// Checkpoint writes a running sandbox down while it runs on, so that
// [Sandboxes.Rollback] can return to this moment. The name may be empty. One
// that another checkpoint of the sandbox has is a Conflict.
func (s *Sandboxes) Checkpoint(ctx context.Context, id, name string) (*Snapshot, error) {
	path, err := sandboxPath("/v1/sandboxes/", id, "/checkpoints")
	if err != nil {
		return nil, err
	}
	var out snapshotWire
	if _, err := s.c.work(ctx, path, nameWire{Name: name}, &out); err != nil {
		return nil, err
	}
	c := out.checkpoint(id)
	c.Current = true // the sandbox goes on from it
	return c, nil
}

// Checkpoints returns a sandbox's checkpoints, the oldest first. [Snapshot.Parent]
// makes a tree of them.
func (s *Sandboxes) Checkpoints(ctx context.Context, id string) ([]*Snapshot, error) {
	path, err := sandboxPath("/v1/sandboxes/", id, "/checkpoints")
	if err != nil {
		return nil, err
	}
	var out struct {
		Checkpoints []snapshotWire `json:"checkpoints"`
	}
	if err := s.c.call(ctx, http.MethodGet, path, nil, nil, &out); err != nil {
		return nil, err
	}
	list := make([]*Snapshot, 0, len(out.Checkpoints))
	for _, w := range out.Checkpoints {
		list = append(list, w.checkpoint(id))
	}
	return list, nil
}

// Diff tells which files of a sandbox differ in checkpoint b, as against those in
// checkpoint a. Each is named by its id or name. Without b, or when it is "now",
// it is the sandbox as it is, which has to run.
func (s *Sandboxes) Diff(ctx context.Context, id, a, b string) (*soulbox.Changes, error) {
	if b == "" {
		b = "now"
	}
	if a == "" || a == "." || a == ".." || b == "." || b == ".." {
		return nil, soulbox.Errorf(soulbox.Invalid, "a checkpoint is named by its id or its name, not by %q and %q", a, b)
	}
	path, err := sandboxPath("/v1/sandboxes/", id, "/checkpoints/"+url.PathEscape(a)+"/diff/"+url.PathEscape(b))
	if err != nil {
		return nil, err
	}
	var out changesWire
	ctx, cancel := context.WithTimeout(ctx, workTimeout)
	defer cancel()
	if _, err := s.c.exchange(ctx, http.MethodGet, path, nil, nil, &out); err != nil {
		return nil, err
	}
	found := &soulbox.Changes{Truncated: out.Truncated}
	for _, c := range out.Changes {
		found.List = append(found.List, soulbox.Change(c))
	}
	return found, nil
}

// RemoveCheckpoint removes a checkpoint of a sandbox, by the checkpoint's id.
// What came after it stays.
func (s *Sandboxes) RemoveCheckpoint(ctx context.Context, id, checkpoint string) error {
	path, err := sandboxPath("/v1/sandboxes/", id, "/checkpoints/")
	if err != nil {
		return err
	}
	if path, err = snapshotPath(path, checkpoint); err != nil {
		return err
	}
	err = s.c.call(ctx, http.MethodDelete, path, nil, nil, nil)
	return err
}

// Rollback returns a sandbox to the moment of one of its checkpoints, which is
// named by its id or name. What has happened since is lost, unless another
// checkpoint has it. The sandbox keeps its id, and handles on it stay good;
// connections into it are cut.
func (s *Sandboxes) Rollback(ctx context.Context, id, checkpoint string) (*Info, error) {
	path, err := sandboxPath("/v1/sandboxes/", id, "/rollback")
	if err != nil {
		return nil, err
	}
	in := struct {
		Checkpoint string `json:"checkpoint"`
	}{checkpoint}
	var out infoWire
	if _, err := s.c.work(ctx, path, in, &out); err != nil {
		return nil, err
	}
	return out.info(), nil
}

// snapshotPath appends an id to a path, after checking that it is one.
func snapshotPath(before, id string) (string, error) {
	if !soulbox.SnapshotID(id).Valid() {
		return "", soulbox.Errorf(soulbox.Invalid, "%.80q is not the id of a snapshot, which is an s and twenty of a-z and 0-9", id)
	}
	return before + id, nil
}

type nameWire struct {
	Name string `json:"name,omitempty"`
}

// changesWire is what differs, of the native API, with the fields of
// [soulbox.Change].
type changesWire struct {
	Changes []struct {
		Path string             `json:"path"`
		Kind soulbox.ChangeKind `json:"kind"`
		Type soulbox.FileType   `json:"type"`
		Size soulbox.Bytes      `json:"bytes"`
	} `json:"changes"`
	Truncated bool `json:"truncated"`
}

// snapshotsWire is a page of the native list.
type snapshotsWire struct {
	Snapshots []snapshotWire `json:"snapshots"`
	Next      string         `json:"next"`
}

func (w snapshotsWire) page() (items []snapshotWire, next string) { return w.Snapshots, w.Next }

// snapshotWire is a snapshot or checkpoint of the native API, with the fields
// of [Snapshot].
type snapshotWire struct {
	ID        string               `json:"id"`
	Kind      soulbox.SnapshotKind `json:"kind"`
	Name      string               `json:"name"`
	Sandbox   string               `json:"sandbox"`
	Parent    string               `json:"parent"`
	Bytes     soulbox.Bytes        `json:"bytes"`
	Memory    bool                 `json:"memory"`
	Current   bool                 `json:"current"`
	CreatedAt time.Time            `json:"created_at"`
}

// checkpoint adds what the answer about a sandbox does not repeat.
func (w snapshotWire) checkpoint(sandbox string) *Snapshot {
	w.Kind, w.Sandbox = soulbox.ForRollback, sandbox
	return new(Snapshot(w))
}
