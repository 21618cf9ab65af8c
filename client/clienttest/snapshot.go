package clienttest

import (
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/soulbox/soulbox"
)

// A snapshot is a copy of a sandbox's folder. Programs are not in it.
type snapshot struct {
	ID        string               `json:"id"`
	Kind      soulbox.SnapshotKind `json:"kind"`
	Name      string               `json:"name"`
	Sandbox   string               `json:"sandbox"`
	Parent    string               `json:"parent"`
	Bytes     int64                `json:"bytes"`
	Memory    bool                 `json:"memory"`
	Current   bool                 `json:"current"`
	CreatedAt time.Time            `json:"created_at"`

	dir      string
	template string
	env      map[string]string
}

// folder returns a new folder that Close removes, with a copy of what is in
// from.
//
// +checklocks:s.mu
func (s *Server) folder(from string) (string, error) {
	dir, err := os.MkdirTemp("", "soulbox-clienttest-")
	if err != nil {
		return "", err
	}
	s.folders = append(s.folders, dir)
	return dir, os.CopyFS(dir, os.DirFS(from))
}

// take copies a sandbox's folder.
//
// +checklocks:s.mu
func (s *Server) take(b *box, kind soulbox.SnapshotKind, name string) (*snapshot, error) {
	dir, err := s.folder(b.agent.home)
	if err != nil {
		return nil, err
	}
	snap := &snapshot{
		ID: string(soulbox.NewSnapshotID()), Kind: kind, Name: name, Sandbox: b.id, Parent: b.from,
		CreatedAt: time.Now(), dir: dir, template: b.template, env: b.env,
	}
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			snap.Bytes += info.Size()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	s.snapshots = append(s.snapshots, snap)
	return snap, nil
}

// taken returns the snapshots of a kind, and of a sandbox if one is named, in
// the order in which they were taken.
//
// +checklocks:s.mu
func (s *Server) taken(kind soulbox.SnapshotKind, of *box) []*snapshot {
	all := []*snapshot{}
	for _, snap := range s.snapshots {
		if (kind == "" || snap.Kind == kind) && (of == nil || snap.Sandbox == of.id) {
			all = append(all, snap)
		}
	}
	return all
}

// named returns the one among all that has this id or name, nil if none has.
func named(all []*snapshot, ref string) *snapshot {
	for _, snap := range all {
		if ref != "" && (snap.ID == ref || snap.Name == ref) {
			return snap
		}
	}
	return nil
}

// keep answers a request for a snapshot of a kind; nil if it was refused.
//
// +checklocks:s.mu
func (s *Server) keep(w http.ResponseWriter, r *http.Request, kind soulbox.SnapshotKind) *snapshot {
	var in struct {
		Name string `json:"name"`
	}
	b := s.running(w, r)
	if b == nil || !decode(w, r, &in) {
		return nil
	}
	others := s.taken(kind, nil)
	if kind == soulbox.ForRollback {
		others = s.taken(kind, b)
	}
	if named(others, in.Name) != nil {
		refuse(w, http.StatusConflict, "the name "+strconv.Quote(in.Name)+" is taken by another "+string(kind))
		return nil
	}
	snap, err := s.take(b, kind, in.Name)
	if err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return nil
	}
	if kind == soulbox.ForRollback {
		b.from = snap.ID
	}
	return snap
}

func (s *Server) createSnapshot(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if snap := s.keep(w, r, soulbox.ForCreate); snap != nil {
		names := []string{}
		if snap.Name != "" {
			names = append(names, snap.Name)
		}
		answer(w, http.StatusCreated, map[string]any{"snapshotID": snap.ID, "names": names})
	}
}

func (s *Server) listSnapshots(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.taken(soulbox.SnapshotKind(r.URL.Query().Get("kind")), nil)
	slices.Reverse(all) // the newest first
	answer(w, http.StatusOK, map[string]any{"snapshots": all})
}

func (s *Server) removeSnapshot(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(w, r.PathValue("id"), s.taken(soulbox.ForCreate, nil))
}

// forget removes the one of all that has an id.
//
// +checklocks:s.mu
func (s *Server) forget(w http.ResponseWriter, id string, all []*snapshot) {
	i := slices.IndexFunc(all, func(snap *snapshot) bool { return snap.ID == id })
	if i < 0 {
		refuse(w, http.StatusNotFound, "snapshot "+id+" does not exist")
		return
	}
	s.snapshots = slices.DeleteFunc(s.snapshots, func(snap *snapshot) bool { return snap == all[i] })
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) createCheckpoint(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if snap := s.keep(w, r, soulbox.ForRollback); snap != nil {
		answer(w, http.StatusCreated, snap)
	}
}

func (s *Server) listCheckpoints(w http.ResponseWriter, r *http.Request) {
	b := s.find(w, r)
	if b == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.taken(soulbox.ForRollback, b)
	for _, snap := range all {
		snap.Current = snap.ID == b.from
	}
	answer(w, http.StatusOK, map[string]any{"checkpoints": all})
}

func (s *Server) removeCheckpoint(w http.ResponseWriter, r *http.Request) {
	b := s.find(w, r)
	if b == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(w, r.PathValue("checkpoint"), s.taken(soulbox.ForRollback, b))
}

// rollback ends the sandbox's programs and puts the copy in the place of its
// folder's content.
func (s *Server) rollback(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Checkpoint string `json:"checkpoint"`
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.running(w, r)
	if b == nil || !decode(w, r, &in) {
		return
	}
	snap := named(s.taken(soulbox.ForRollback, b), in.Checkpoint)
	if snap == nil {
		refuse(w, http.StatusNotFound, "sandbox "+b.id+" has no checkpoint "+strconv.Quote(in.Checkpoint))
		return
	}
	b.agent.killAll()
	err := emptyFolder(b.agent.home)
	if err == nil {
		err = os.CopyFS(b.agent.home, os.DirFS(snap.dir))
	}
	if err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	b.from = snap.ID
	answer(w, http.StatusOK, b.wire())
}

// diff compares the regular files in copies of a sandbox's folder, or in one and
// in the folder itself.
func (s *Server) diff(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.running(w, r)
	if b == nil {
		return
	}
	var moments [2]map[string]string
	for i, ref := range []string{r.PathValue("a"), r.PathValue("b")} {
		dir := b.agent.home
		if i == 0 || ref != "now" {
			snap := named(s.taken(soulbox.ForRollback, b), ref)
			if snap == nil {
				refuse(w, http.StatusNotFound, "sandbox "+b.id+" has no checkpoint "+strconv.Quote(ref))
				return
			}
			dir = snap.dir
		}
		var err error
		if moments[i], err = contents(dir); err != nil {
			refuse(w, http.StatusInternalServerError, err.Error())
			return
		}
	}
	type change struct {
		Path  string             `json:"path"`
		Kind  soulbox.ChangeKind `json:"kind"`
		Type  soulbox.FileType   `json:"type"`
		Bytes int                `json:"bytes"`
	}
	all := []change{}
	for path, is := range moments[1] {
		was, ok := moments[0][path]
		switch {
		case !ok:
			all = append(all, change{path, soulbox.Created, soulbox.File, len(is)})
		case was != is:
			all = append(all, change{path, soulbox.Changed, soulbox.File, len(is)})
		}
	}
	for path := range moments[0] {
		if _, ok := moments[1][path]; !ok {
			all = append(all, change{path, soulbox.Removed, soulbox.File, 0})
		}
	}
	slices.SortFunc(all, func(x, y change) int { return strings.Compare(x.Path, y.Path) })
	answer(w, http.StatusOK, map[string]any{"changes": all, "truncated": false})
}

// contents returns what is in the regular files of a folder.
func contents(dir string) (map[string]string, error) {
	all := map[string]string{}
	root := os.DirFS(dir)
	return all, fs.WalkDir(root, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := fs.ReadFile(root, path)
		all["/"+path] = string(b)
		return err
	})
}

// emptyFolder removes what is in a folder.
func emptyFolder(dir string) error {
	list, err := os.ReadDir(dir)
	for _, d := range list {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, d.Name())))
	}
	return err
}
