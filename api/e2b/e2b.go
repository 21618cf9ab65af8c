// Package e2b is the REST surface that E2B's SDKs and CLI know: their paths,
// their JSON, their defaults. It speaks both dialects of creating and
// connecting, v1 (SDKs up to 2.50 and the CLI) and v2 (from 2.51 on).
//
// Wire types live and die here. What comes in becomes a noun in request.go and
// buildrequest.go, what goes out is made of nouns in wire.go and buildwire.go,
// and nothing else in the house knows how E2B spells it.
//
// # What we cannot do
//
// An option that we know and cannot honour is refused with the reason, never
// ignored: a program that asked for a firewall must not run without one. An
// option that says what is the case anyway passes. Whole features that come
// later have their rows in the table and say so (later.go).
//
// A recipe of a template is different: what its author got wrong is found by
// the build, at its step, because SDKs show the line of the program that wrote
// that step. Only what no SDK sends is refused at the door.
package e2b

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
)

// fleet is what this room needs of the sandboxes' owner.
type fleet interface {
	Create(ctx context.Context, req soulbox.CreateRequest) (*soulbox.Sandbox, error)
	Live(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID) (*soulbox.Sandbox, error)
	List(ctx context.Context, filter soulbox.SandboxFilter) (soulbox.SandboxPage, error)
	Kill(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, by soulbox.Ender, reason string) error
	SetTimeout(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, d time.Duration) error
	Extend(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, d time.Duration) (*soulbox.Sandbox, error)
	SetNetwork(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, network soulbox.Network) error
	Usage(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, from, to time.Time) ([]soulbox.Usage, error)
	LatestUsage(ctx context.Context, team soulbox.TeamID, ids []soulbox.SandboxID) (map[soulbox.SandboxID]soulbox.Usage, error)

	Pause(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, memory bool) error
	// Connect makes a sandbox run until d from now at least. resumed tells
	// that it was paused; cold, that its memory was not wanted then.
	Connect(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, d time.Duration, cold bool) (s *soulbox.Sandbox, resumed bool, err error)
	Fork(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, n int, d time.Duration) ([]soulbox.Fork, error)

	// The snapshots here are those that sandboxes are made of.
	Snapshot(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, name string) (*soulbox.Snapshot, error)
	Snapshots(ctx context.Context, filter soulbox.SnapshotFilter) (soulbox.SnapshotPage, error)
	FindSnapshot(ctx context.Context, team soulbox.TeamID, idOrName string) (*soulbox.Snapshot, error)
	RemoveSnapshot(ctx context.Context, team soulbox.TeamID, id soulbox.SnapshotID) error

	Logs(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, query soulbox.LogQuery) ([]soulbox.LogEntry, error)
}

// teams is what this room needs of whoever knows teams and their keys.
type teams interface {
	Team(ctx context.Context, id soulbox.TeamID) (*soulbox.Team, error)
	CreateKey(ctx context.Context, team soulbox.TeamID, name string) (plain string, key *soulbox.Key, err error)
	Keys(ctx context.Context, team soulbox.TeamID) ([]*soulbox.Key, error)
	RenameKey(ctx context.Context, team soulbox.TeamID, id soulbox.KeyID, name string) error
	RevokeKey(ctx context.Context, team soulbox.TeamID, id soulbox.KeyID) error
}

// templates is what this room needs of whoever keeps templates and builds them.
// What a team may not start is NotFound, as if it did not exist; what it may
// start but not change is Forbidden to change.
type templates interface {
	Templates(ctx context.Context, team soulbox.TeamID) ([]*soulbox.Template, error)
	Template(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef) (*soulbox.Template, error)
	// Publish lets every team start a template, or its own only.
	Publish(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, public bool) (*soulbox.Template, error)
	// Remove is Invalid while sandboxes live that were made of it.
	Remove(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID) error

	// Draft registers a build, and its template if there is none of that name.
	// What is 0 in size is as before, or as usual.
	Draft(ctx context.Context, team soulbox.TeamID, name string, tags []string, size soulbox.Size) (*soulbox.Template, *soulbox.Build, error)
	// Trigger gives a draft its recipe and lines it up. Only a draft can have
	// that; with anything else it is Invalid or a Conflict.
	Trigger(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, build soulbox.BuildID, recipe soulbox.Recipe, logins map[string]soulbox.Login) error
	// Fail ends a draft of which nothing can come, and says why.
	Fail(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, build soulbox.BuildID, why soulbox.BuildFailure) error
	Build(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, build soulbox.BuildID) (*soulbox.Build, error)
	Builds(ctx context.Context, team soulbox.TeamID, filter soulbox.BuildFilter) (soulbox.BuildPage, error)
	BuildLog(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, build soulbox.BuildID, query soulbox.BuildLogQuery) ([]soulbox.BuildLine, error)

	// HasUpload is NotFound where the template is not the team's own.
	HasUpload(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, hash string) (bool, error)
	// PutUpload keeps a tar, which may be compressed, for the builds of the team
	// that has the template. It does not ask who sends it.
	PutUpload(ctx context.Context, id soulbox.TemplateID, hash string, archive io.Reader) error

	Tags(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID) ([]soulbox.Tag, error)
	AssignTags(ctx context.Context, team soulbox.TeamID, target soulbox.TemplateRef, tags []string) (*soulbox.Build, error)
	RemoveTags(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef, tags []string) error
}

// Options are what the room can do without.
type Options struct {
	// Domain is where <port>-<sandbox>.<domain> leads to this server; clients
	// build the hosts of sandboxes from it. Empty: they use their own.
	Domain string

	Seed soulbox.TokenSeed // of the links for uploads
	Disk soulbox.Bytes     // what a sandbox of a new template can write; 0: nobody knows
	AWS  *http.Client      // asks Amazon for passwords; nil: one of the room's own
}

// room answers E2B's requests.
type room struct {
	fleet     fleet
	teams     teams
	templates templates
	domain    string
	seed      soulbox.TokenSeed
	disk      soulbox.Bytes
	aws       *http.Client
}

// Routes returns the rows of E2B's control plane.
func Routes(f fleet, t teams, tpl templates, o Options) []api.Route {
	e := &room{fleet: f, teams: t, templates: tpl, domain: o.Domain, seed: o.Seed, disk: o.Disk, aws: o.AWS}
	if e.aws == nil {
		e.aws = newAWSClient()
	}
	const (
		get    = http.MethodGet
		post   = http.MethodPost
		put    = http.MethodPut
		patch  = http.MethodPatch
		remove = http.MethodDelete
	)
	rows := []api.Route{
		{Verb: get, Path: "/health", Permission: api.Anyone, Handle: e.health},

		{Verb: post, Path: "/sandboxes", Permission: api.WriteSandboxes, Handle: e.createV1},
		{Verb: post, Path: "/v2/sandboxes", Permission: api.WriteSandboxes, Handle: e.createV2},
		{Verb: get, Path: "/sandboxes", Permission: api.ReadSandboxes, Handle: e.listV1},
		{Verb: get, Path: "/v2/sandboxes", Permission: api.ReadSandboxes, Handle: e.listV2},
		{Verb: get, Path: "/sandboxes/metrics", Permission: api.ReadSandboxes, Handle: e.latestMetrics},
		{Verb: get, Path: "/sandboxes/{sandboxID}", Permission: api.ReadSandboxes, Handle: e.sandbox},
		{Verb: remove, Path: "/sandboxes/{sandboxID}", Permission: api.WriteSandboxes, Handle: e.kill},
		{Verb: post, Path: "/sandboxes/{sandboxID}/connect", Permission: api.WriteSandboxes, Handle: e.connectV1},
		{Verb: post, Path: "/v2/sandboxes/{sandboxID}/connect", Permission: api.WriteSandboxes, Handle: e.connectV2},
		{Verb: post, Path: "/sandboxes/{sandboxID}/pause", Permission: api.WriteSandboxes, Handle: e.pause},
		{Verb: post, Path: "/sandboxes/{sandboxID}/resume", Permission: api.WriteSandboxes, Handle: e.resume},
		{Verb: post, Path: "/sandboxes/{sandboxID}/fork", Permission: api.WriteSandboxes, Handle: e.fork},
		{Verb: post, Path: "/sandboxes/{sandboxID}/snapshots", Permission: api.WriteSandboxes, Handle: e.createSnapshot},
		{Verb: get, Path: "/snapshots", Permission: api.ReadSandboxes, Handle: e.listSnapshots},
		{Verb: post, Path: "/sandboxes/{sandboxID}/timeout", Permission: api.WriteSandboxes, Handle: e.setTimeout},
		{Verb: post, Path: "/sandboxes/{sandboxID}/refreshes", Permission: api.WriteSandboxes, Handle: e.refresh},
		{Verb: put, Path: "/sandboxes/{sandboxID}/network", Permission: api.WriteSandboxes, Handle: e.setNetwork},
		{Verb: get, Path: "/sandboxes/{sandboxID}/metrics", Permission: api.ReadSandboxes, Handle: e.metrics},
		{Verb: get, Path: "/sandboxes/{sandboxID}/logs", Permission: api.ReadSandboxes, Handle: e.logsV1},
		{Verb: get, Path: "/v2/sandboxes/{sandboxID}/logs", Permission: api.ReadSandboxes, Handle: e.logsV2},

		{Verb: get, Path: "/teams", Permission: api.ReadTeam, Handle: e.listTeams},
		{Verb: get, Path: "/api-keys", Permission: api.ReadTeam, Handle: e.listKeys},
		{Verb: post, Path: "/api-keys", Permission: api.WriteTeam, Handle: e.createKey},
		{Verb: patch, Path: "/api-keys/{keyID}", Permission: api.WriteTeam, Handle: e.renameKey},
		{Verb: remove, Path: "/api-keys/{keyID}", Permission: api.WriteTeam, Handle: e.revokeKey},

		{Verb: get, Path: "/templates", Permission: api.ReadTemplates, Handle: e.listTemplatesV1},
		{Verb: get, Path: "/v2/templates", Permission: api.ReadTemplates, Handle: e.listTemplatesV2},
		{Verb: get, Path: "/default-templates", Permission: api.ReadTemplates, Handle: e.listDefaultTemplates},
		{Verb: get, Path: "/templates/{templateID}", Permission: api.ReadTemplates, Handle: e.template},
		{Verb: patch, Path: "/templates/{templateID}", Permission: api.WriteTemplates, Handle: e.changeTemplateV1},
		{Verb: patch, Path: "/v2/templates/{templateID}", Permission: api.WriteTemplates, Handle: e.changeTemplateV2},
		{Verb: remove, Path: "/templates/{templateID}", Permission: api.WriteTemplates, Handle: e.removeTemplate},
		{Verb: get, Path: "/templates/aliases/{alias}", Permission: api.ReadTemplates, Handle: e.alias},

		{Verb: post, Path: "/v3/templates", Permission: api.WriteTemplates, Handle: e.draftBuild},
		{Verb: post, Path: "/v2/templates/{templateID}/builds/{buildID}", Permission: api.WriteTemplates, Handle: e.triggerBuild, Body: maxRecipe},
		{Verb: get, Path: "/templates/{templateID}/builds/{buildID}/status", Permission: api.ReadTemplates, Handle: e.buildStatus},
		{Verb: get, Path: "/templates/{templateID}/builds/{buildID}/logs", Permission: api.ReadTemplates, Handle: e.buildLogs},
		{Verb: get, Path: "/templates/{templateID}/files/{hash}", Permission: api.WriteTemplates, Handle: e.uploadLink},
		{Verb: put, Path: "/templates/{templateID}/files/{hash}", Permission: api.Anyone, Handle: e.upload, Upload: true}, // the link is the permission

		{Verb: post, Path: "/templates/tags", Permission: api.WriteTemplates, Handle: e.assignTags},
		{Verb: remove, Path: "/templates/tags", Permission: api.WriteTemplates, Handle: e.removeTags},
		// net/http refuses /templates/{templateID}/tags beside
		// /templates/aliases/{alias}, because a template might be named "aliases".
		{Verb: get, Path: "/templates/{templateID}/{part}", Permission: api.ReadTemplates, Handle: e.templatePart},
		{Verb: get, Path: "/templates/{templateID}/tags/{part}", Permission: api.ReadTemplates, Handle: e.tagsPart},
	}
	rows = append(rows, e.goneRoutes()...)
	return append(rows, e.laterRoutes()...)
}

// health says that the server answers; probes ask without a key.
func (e *room) health(w http.ResponseWriter, _ *http.Request, _ soulbox.Actor) error {
	w.WriteHeader(http.StatusNoContent)
	return nil
}
