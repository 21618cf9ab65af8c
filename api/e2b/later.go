package e2b

import (
	"net/http"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
)

// laterRoutes returns the rows of what E2B has and this version does not, so
// that a client learns that rather than that it has the wrong address.
func (e *room) laterRoutes() []api.Route {
	const (
		get    = http.MethodGet
		post   = http.MethodPost
		patch  = http.MethodPatch
		remove = http.MethodDelete
	)
	var rows []api.Route
	add := func(what string, permission api.Permission, verb string, paths ...string) {
		for _, p := range paths {
			rows = append(rows, api.Route{Verb: verb, Path: p, Permission: permission, Handle: e.later(what)})
		}
	}

	add("measuring a team", api.ReadTeam, get, "/teams/{teamID}/metrics", "/teams/{teamID}/metrics/max")

	add("building a template", api.WriteTemplates, post,
		"/templates", "/v2/templates", "/v3/templates", "/templates/{templateID}",
		"/templates/{templateID}/builds/{buildID}", "/v2/templates/{templateID}/builds/{buildID}")
	add("building a template", api.ReadTemplates, get,
		"/templates/{templateID}/builds/{buildID}/status", "/templates/{templateID}/builds/{buildID}/logs")
	add("uploading files for a template", api.WriteTemplates, get, "/templates/{templateID}/files/{hash}")
	add("publishing a template", api.WriteTemplates, patch, "/templates/{templateID}", "/v2/templates/{templateID}")
	add("tagging a template", api.WriteTemplates, post, "/templates/tags")
	add("tagging a template", api.WriteTemplates, remove, "/templates/tags")
	add("listing the tags of a template", api.ReadTemplates, get,
		"/templates/{templateID}/tags/{part}", "/templates/{templateID}/tags/{tag}/assignments")
	// net/http refuses /templates/{templateID}/tags beside
	// /templates/aliases/{alias}, because a template might be named "aliases".
	rows = append(rows, api.Route{
		Verb: get, Path: "/templates/{templateID}/{part}", Permission: api.ReadTemplates,
		Handle: func(_ http.ResponseWriter, r *http.Request, _ soulbox.Actor) error {
			if r.PathValue("part") != "tags" {
				return soulbox.Errorf(soulbox.NotFound, "there is no %.200q here", r.URL.Path)
			}
			return notYet("listing the tags of a template")
		},
	})

	const volumes = "a volume that outlives its sandbox"
	add(volumes, api.ReadSandboxes, get, "/volumes", "/volumes/{volumeID}")
	add(volumes, api.WriteSandboxes, post, "/volumes")
	add(volumes, api.WriteSandboxes, remove, "/volumes/{volumeID}")

	const secrets = "the store of secrets"
	add(secrets, api.ReadTeam, get, "/secrets", "/secrets/{secretID}")
	add(secrets, api.WriteTeam, post, "/secrets", "/secrets/{secretID}")
	add(secrets, api.WriteTeam, remove, "/secrets/{secretID}")
	return rows
}

// later answers that what is not there yet.
func (e *room) later(what string) api.Handler {
	return func(http.ResponseWriter, *http.Request, soulbox.Actor) error { return notYet(what) }
}

// notYet is the honest sentence.
func notYet(what string) error {
	return soulbox.Errorf(soulbox.Invalid, "%s is not available in this version", what)
}
