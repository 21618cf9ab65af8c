package soulbox

// A BuildRequest asks for a build of a template. One that does not exist yet
// is made.
type BuildRequest struct {
	Team TeamID
	Name string
	Tags []string // that lead to it once it is ready; none: [DefaultTag] alone
	Size Size     // of its sandboxes; what is 0 is as before, or as usual
	Bump Bump     // how far from the version before; empty: it shows

	Isolation *Isolation // nil: as before, else GVisor
	Public    *bool      // every team may start the template from now on; nil: as before

	Recipe  Recipe
	Logins  map[string]Login  // by registry
	Secrets map[string][]byte // by id, for RUN --mount=type=secret; never stored in the clear
}
