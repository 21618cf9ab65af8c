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
		remove = http.MethodDelete
	)
	var rows []api.Route
	add := func(what string, permission api.Permission, verb string, paths ...string) {
		for _, p := range paths {
			rows = append(rows, api.Route{Verb: verb, Path: p, Permission: permission, Handle: e.later(what)})
		}
	}

	add("measuring a team", api.ReadTeam, get, "/teams/{teamID}/metrics", "/teams/{teamID}/metrics/max")

	add("the history of a template's tags", api.ReadTemplates, get, "/templates/{templateID}/tags/{tag}/assignments")

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

// goneRoutes returns the rows of how templates were built before E2B's SDKs had
// a builder: a Dockerfile in the request, an image pushed to E2B's registry.
// No SDK from 2.45 on and no command line from 2.19 on uses them.
func (e *room) goneRoutes() []api.Route {
	var rows []api.Route
	for _, p := range []string{"/templates", "/v2/templates", "/templates/{templateID}", "/templates/{templateID}/builds/{buildID}"} {
		rows = append(rows, api.Route{Verb: http.MethodPost, Path: p, Permission: api.WriteTemplates, Handle: e.gone})
	}
	return rows
}

// gone names the way that is there instead.
func (e *room) gone(http.ResponseWriter, *http.Request, soulbox.Actor) error {
	return soulbox.Errorf(soulbox.Invalid, "templates are not built this way any more: update the client, or use "+
		"POST /v3/templates and then POST /v2/templates/{templateID}/builds/{buildID}")
}

// later answers that what is not there yet.
func (e *room) later(what string) api.Handler {
	return func(http.ResponseWriter, *http.Request, soulbox.Actor) error { return notYet(what) }
}

// notYet is the honest sentence.
func notYet(what string) error {
	return soulbox.Errorf(soulbox.Invalid, "%s is not available in this version", what)
}
