// Package native is the part of the control plane that E2B has no words for,
// under /v1: sandboxes that have ended and why, their checkpoints, what the
// team keeps on disk, sessions, templates with their builds and versions, keys,
// and the server itself. spec/native.yaml describes it for people and
// generators; a test holds the two together.
//
// Names are in snake_case, times in RFC 3339, sizes in MiB.
package native

import (
	"context"
	"net/http"
	"strconv"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
)

// fleet is what this room needs of the sandboxes' owner.
type fleet interface {
	Get(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID) (*soulbox.Sandbox, error)
	List(ctx context.Context, filter soulbox.SandboxFilter) (soulbox.SandboxPage, error)
	Create(ctx context.Context, req soulbox.CreateRequest) (*soulbox.Sandbox, error)

	Checkpoint(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, name string) (*soulbox.Snapshot, error)
	// Checkpoints returns them oldest first.
	Checkpoints(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID) ([]*soulbox.Snapshot, error)
	RemoveCheckpoint(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, checkpoint soulbox.SnapshotID) error
	// Diff tells what differs in b as against a; an empty b is now.
	Diff(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, a, b soulbox.SnapshotID) (soulbox.Changes, error)
	Rollback(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, checkpoint soulbox.SnapshotID) (*soulbox.Sandbox, error)

	Snapshots(ctx context.Context, filter soulbox.SnapshotFilter) (soulbox.SnapshotPage, error)
	// FindSnapshot and RemoveSnapshot know those that sandboxes are made of.
	FindSnapshot(ctx context.Context, team soulbox.TeamID, idOrName string) (*soulbox.Snapshot, error)
	RemoveSnapshot(ctx context.Context, team soulbox.TeamID, id soulbox.SnapshotID) error
}

// keys is what this room needs of whoever knows a team's keys.
type keys interface {
	CreateKey(ctx context.Context, team soulbox.TeamID, name string) (plain string, key *soulbox.Key, err error)
	Keys(ctx context.Context, team soulbox.TeamID) ([]*soulbox.Key, error)
	RevokeKey(ctx context.Context, team soulbox.TeamID, id soulbox.KeyID) error
}

// pools is what this room needs of whoever makes sandboxes ahead.
type pools interface {
	Pools() soulbox.Pools
}

// Options are what the room can do without.
type Options struct {
	Version string // of this server, as GET /v1/version tells it; empty: "unknown"
	Domain  string // where <port>-<sandbox>.<domain> leads to this server; empty: nowhere
	Pools   pools  // nil: nothing is made ahead
}

// room answers the native requests.
type room struct {
	fleet   fleet
	keys    keys
	pools   pools
	version string
	domain  string
}

// Routes returns the rows of the native control plane, without those that
// [SessionRoutes] and [TemplateRoutes] return.
func Routes(f fleet, k keys, o Options) []api.Route {
	n := &room{fleet: f, keys: k, pools: o.Pools, version: o.Version, domain: o.Domain}
	if n.version == "" {
		n.version = "unknown"
	}
	const (
		get    = http.MethodGet
		post   = http.MethodPost
		remove = http.MethodDelete
	)
	return []api.Route{
		{Verb: get, Path: "/v1/sandboxes", Permission: api.ReadSandboxes, Handle: n.listSandboxes},
		{Verb: post, Path: "/v1/sandboxes", Permission: api.WriteSandboxes, Handle: n.createSandbox},
		{Verb: get, Path: "/v1/sandboxes/{sandbox}", Permission: api.ReadSandboxes, Handle: n.sandbox},
		{Verb: get, Path: "/v1/sandboxes/{sandbox}/checkpoints", Permission: api.ReadSandboxes, Handle: n.listCheckpoints},
		{Verb: post, Path: "/v1/sandboxes/{sandbox}/checkpoints", Permission: api.WriteSandboxes, Handle: n.checkpoint},
		{Verb: remove, Path: "/v1/sandboxes/{sandbox}/checkpoints/{checkpoint}", Permission: api.WriteSandboxes, Handle: n.removeCheckpoint},
		{Verb: get, Path: "/v1/sandboxes/{sandbox}/checkpoints/{a}/diff/{b}", Permission: api.ReadSandboxes, Handle: n.diff},
		{Verb: post, Path: "/v1/sandboxes/{sandbox}/rollback", Permission: api.WriteSandboxes, Handle: n.rollback},

		{Verb: get, Path: "/v1/snapshots", Permission: api.ReadSandboxes, Handle: n.listSnapshots},
		{Verb: remove, Path: "/v1/snapshots/{snapshot}", Permission: api.WriteSandboxes, Handle: n.removeSnapshot},

		{Verb: get, Path: "/v1/keys", Permission: api.ReadTeam, Handle: n.listKeys},
		{Verb: post, Path: "/v1/keys", Permission: api.WriteTeam, Handle: n.createKey},
		{Verb: remove, Path: "/v1/keys/{key}", Permission: api.WriteTeam, Handle: n.revokeKey},

		{Verb: get, Path: "/v1/pools", Permission: api.ReadTeam, Handle: n.listPools},
		{Verb: get, Path: "/v1/version", Permission: api.ReadTeam, Handle: n.tellVersion},
	}
}

const (
	defaultPage = 100
	maxPage     = 1000
)

// listSandboxes lists the live ones, or with ?ended=true all that are
// remembered, newest first.
func (n *room) listSandboxes(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	query := r.URL.Query()
	filter := soulbox.SandboxFilter{Team: who.Team, Cursor: query.Get("cursor")}
	if s := query.Get("ended"); s != "" {
		ended, err := strconv.ParseBool(s)
		if err != nil {
			return soulbox.Errorf(soulbox.Invalid, "ended must be true or false, not %.50q", s)
		}
		if ended {
			filter.States = []soulbox.State{
				soulbox.Starting, soulbox.Running, soulbox.Pausing, soulbox.Paused, soulbox.Resuming, soulbox.Ending, soulbox.Ended,
			}
		}
	}
	var err error
	if filter.Limit, err = limit(query.Get("limit")); err != nil {
		return err
	}
	page, err := n.fleet.List(r.Context(), filter)
	if err != nil {
		return err
	}
	out := sandboxList{Sandboxes: make([]sandboxAnswer, len(page.Sandboxes)), Next: page.Next, Total: page.Total}
	for i, s := range page.Sandboxes {
		out.Sandboxes[i] = sandboxOf(s)
	}
	return api.Answer(w, http.StatusOK, out)
}

// sandbox tells about one, also when it has ended.
func (n *room) sandbox(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	id, err := sandboxID(r)
	if err != nil {
		return err
	}
	s, err := n.fleet.Get(r.Context(), who.Team, id)
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusOK, aloneOf(s))
}

func (n *room) tellVersion(w http.ResponseWriter, _ *http.Request, _ soulbox.Actor) error {
	return api.Answer(w, http.StatusOK, versionAnswer{Version: n.version})
}
