package soulbox

import (
	"io"
	"time"
)

// A CreateRequest asks for one sandbox.
type CreateRequest struct {
	Team     TeamID
	Template TemplateRef
	Timeout  time.Duration     // how long it may live from its start; the team's limit bounds it
	Env      map[string]string // for every program started in it
	Metadata map[string]string // the client's own, for finding it again
	Secure   bool              // the agent wants an access token
	Network  Network

	Isolation Isolation // of what is made of a template; what is made of a snapshot has that one's
	Lifecycle Lifecycle
}

// An ImageSource says where the file system of a new template comes from:
// exactly one of its fields is set.
type ImageSource struct {
	Ref string    // an OCI image, as in "debian:bookworm"
	Tar io.Reader // a tar of a root file system or of an OCI image; whoever made it closes it
}
