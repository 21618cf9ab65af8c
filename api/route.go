package api

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/soulbox/soulbox"
)

// A Handler answers one request of actor, who may make it. An error that it
// returns before it answers becomes the answer; one that it returns later is
// only logged.
type Handler func(w http.ResponseWriter, r *http.Request, actor soulbox.Actor) error

// A Route is one row of the route table.
type Route struct {
	Verb       string // GET, POST, …
	Path       string // as [http.ServeMux] reads it: /sandboxes/{sandboxID}
	Permission Permission
	Handle     Handler
	Upload     bool  // the body is a stream of bytes; otherwise it is JSON
	Body       int64 // the most bytes of JSON; 0: 1 MiB

	// Refuse answers an error, which has that status and may be told as msg;
	// nil: with a [Failure].
	Refuse func(w http.ResponseWriter, status int, err error, msg string)
}

// String returns the row's pattern: its verb and path.
func (r Route) String() string { return r.Verb + " " + r.Path }

// changes reports whether the row is made to change something.
func (r Route) changes() bool { return r.Verb != "" && r.Verb != http.MethodGet }

// check returns what is wrong with the row.
func (r Route) check() error {
	switch {
	case r.Verb == "" || !strings.HasPrefix(r.Path, "/"):
		return fmt.Errorf("route %q: needs a verb and a path", r)
	case r.Handle == nil:
		return fmt.Errorf("route %s: needs a handler", r)
	case !r.Permission.Known():
		return fmt.Errorf("route %s: %q is not a permission", r, r.Permission)
	}
	return nil
}

// A Permission is what an actor needs for a row of the route table.
type Permission string

// The permissions.
const (
	Anyone         Permission = "anyone"          // nobody asks who it is
	ReadSandboxes  Permission = "sandboxes:read"  // see them, their logs and measurements
	WriteSandboxes Permission = "sandboxes:write" // create, change and end them
	ReadTemplates  Permission = "templates:read"
	WriteTemplates Permission = "templates:write"
	ReadTeam       Permission = "team:read"  // the team itself and what its keys are called
	WriteTeam      Permission = "team:write" // make, rename and revoke keys
)

var permissions = []Permission{Anyone, ReadSandboxes, WriteSandboxes, ReadTemplates, WriteTemplates, ReadTeam, WriteTeam}

// Known reports whether p is one of the permissions.
func (p Permission) Known() bool { return slices.Contains(permissions, p) }

// may reports whether actor has permission p on what its team owns. Every key
// of a team can do everything there; roles come with members.
func may(actor soulbox.Actor, p Permission) bool {
	return actor.Team != "" && p.Known()
}
