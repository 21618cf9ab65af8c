package native

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
)

// checkpoint keeps a moment of a running sandbox for it to return to.
func (n *room) checkpoint(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	id, err := sandboxID(r)
	if err != nil {
		return err
	}
	var body struct {
		Name string `json:"name"`
	}
	if err := api.DecodeOptional(r, &body); err != nil {
		return err
	}
	name, err := checkpointName(body.Name)
	if err != nil {
		return err
	}
	c, err := n.fleet.Checkpoint(r.Context(), who.Team, id, name)
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusCreated, checkpointOf(c, c.ID)) // nothing came after it yet
}

const maxCheckpointName = 128 // bytes; a label, not a document

// checkpointName reads the name of a new checkpoint, which may be empty.
func checkpointName(s string) (string, error) {
	s = strings.TrimSpace(s)
	switch {
	case len(s) > maxCheckpointName || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		return "", soulbox.Errorf(soulbox.Invalid, "name must have at most %d bytes, all of them printable", maxCheckpointName)
	case soulbox.SnapshotID(s).Valid():
		return "", soulbox.Errorf(soulbox.Invalid, "name: %q looks like the id of a checkpoint; choose another", s)
	case s == asItIs:
		return "", soulbox.Errorf(soulbox.Invalid, "name: %q stands for the sandbox as it is; choose another", s)
	}
	return s, nil
}

// listCheckpoints tells the checkpoints of a sandbox, oldest first. Parents
// make a tree of them.
func (n *room) listCheckpoints(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	id, err := sandboxID(r)
	if err != nil {
		return err
	}
	s, err := n.fleet.Get(r.Context(), who.Team, id)
	if err != nil {
		return err
	}
	all, err := n.fleet.Checkpoints(r.Context(), who.Team, id)
	if err != nil {
		return err
	}
	out := checkpointList{Checkpoints: make([]checkpointAnswer, len(all))}
	for i, c := range all {
		out.Checkpoints[i] = checkpointOf(c, s.From)
	}
	return api.Answer(w, http.StatusOK, out)
}

// removeCheckpoint removes a checkpoint by its id or name.
func (n *room) removeCheckpoint(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	id, err := sandboxID(r)
	if err != nil {
		return err
	}
	c, err := n.findCheckpoint(r.Context(), who.Team, id, r.PathValue("checkpoint"))
	if err != nil {
		return err
	}
	if err := n.fleet.RemoveCheckpoint(r.Context(), who.Team, id, c); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// rollback takes a sandbox back to one of its checkpoints. It keeps its id.
func (n *room) rollback(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	id, err := sandboxID(r)
	if err != nil {
		return err
	}
	var body struct {
		Checkpoint string `json:"checkpoint"`
	}
	if err := api.Decode(r, &body); err != nil {
		return err
	}
	if body.Checkpoint == "" {
		return soulbox.Errorf(soulbox.Invalid, "checkpoint is needed: the id or the name of one")
	}
	c, err := n.findCheckpoint(r.Context(), who.Team, id, body.Checkpoint)
	if err != nil {
		return err
	}
	s, err := n.fleet.Rollback(r.Context(), who.Team, id, c)
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusOK, aloneOf(s))
}

// asItIs is what stands for the sandbox itself where a checkpoint could.
const asItIs = "now"

// diff tells which files differ between two checkpoints, or a checkpoint and
// now.
func (n *room) diff(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	id, err := sandboxID(r)
	if err != nil {
		return err
	}
	a, err := n.findCheckpoint(r.Context(), who.Team, id, r.PathValue("a"))
	if err != nil {
		return err
	}
	var b soulbox.SnapshotID
	if name := r.PathValue("b"); name != asItIs {
		if b, err = n.findCheckpoint(r.Context(), who.Team, id, name); err != nil {
			return err
		}
	}
	found, err := n.fleet.Diff(r.Context(), who.Team, id, a, b)
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusOK, changesOf(found))
}

// findCheckpoint returns the id of the checkpoint that has an id or name.
func (n *room) findCheckpoint(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, idOrName string) (soulbox.SnapshotID, error) {
	all, err := n.fleet.Checkpoints(ctx, team, id)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(all, func(c *soulbox.Snapshot) bool {
		return string(c.ID) == idOrName || c.Name != "" && c.Name == idOrName
	})
	if i < 0 {
		return "", soulbox.Errorf(soulbox.NotFound, "sandbox %s has no checkpoint %.100q", id, idOrName)
	}
	return all[i].ID, nil
}

// listSnapshots lists what the team keeps on disk, of all kinds, newest first.
func (n *room) listSnapshots(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	query := r.URL.Query()
	filter := soulbox.SnapshotFilter{
		Team: who.Team, Kind: soulbox.SnapshotKind(query.Get("kind")), Sandbox: soulbox.SandboxID(query.Get("sandbox")),
		Limit: defaultPage, Cursor: query.Get("cursor"),
	}
	switch filter.Kind {
	case "", soulbox.ForPause, soulbox.ForRollback, soulbox.ForCreate, soulbox.ForFork:
	default:
		return soulbox.Errorf(soulbox.Invalid, "kind must be pause, checkpoint, snapshot or fork, not %.50q", string(filter.Kind))
	}
	if filter.Sandbox != "" && !filter.Sandbox.Valid() {
		return notSandbox(string(filter.Sandbox))
	}
	var err error
	if filter.Limit, err = limit(query.Get("limit")); err != nil {
		return err
	}
	page, err := n.fleet.Snapshots(r.Context(), filter)
	if err != nil {
		return err
	}
	out := snapshotList{Snapshots: make([]snapshotAnswer, len(page.Snapshots)), Next: page.Next}
	for i, s := range page.Snapshots {
		out.Snapshots[i] = snapshotOf(s)
	}
	return api.Answer(w, http.StatusOK, out)
}

// removeSnapshot removes one that sandboxes are made of, by its id or name.
// The other kinds go with what they were made for.
func (n *room) removeSnapshot(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	name := r.PathValue("snapshot")
	id := soulbox.SnapshotID(name)
	if !id.Valid() {
		s, err := n.fleet.FindSnapshot(r.Context(), who.Team, name)
		if err != nil {
			return err
		}
		id = s.ID
	}
	if err := n.fleet.RemoveSnapshot(r.Context(), who.Team, id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// sandboxID reads the id in the path.
func sandboxID(r *http.Request) (soulbox.SandboxID, error) {
	id := soulbox.SandboxID(r.PathValue("sandbox"))
	if !id.Valid() {
		return "", notSandbox(string(id))
	}
	return id, nil
}

func notSandbox(id string) error {
	return soulbox.Errorf(soulbox.Invalid, "%.100q is not the id of a sandbox: those hold a-z and 0-9", id)
}

// limit reads how many a page may have.
func limit(s string) (int, error) {
	if s == "" {
		return defaultPage, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > maxPage {
		return 0, soulbox.Errorf(soulbox.Invalid, "limit must be a whole number from 1 to %d, not %.50q", maxPage, s)
	}
	return n, nil
}
