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

	Isolation *Isolation // nil: the template's, or the snapshot's
	Lifecycle Lifecycle
}

// An ImportRequest asks for a template of an image. A name that the team uses
// already gets the new image.
type ImportRequest struct {
	Team      TeamID
	Name      string
	Source    ImageSource
	Tags      []string   // that lead to it, as [ParseTag] returns them; none: "default" alone
	Isolation *Isolation // nil: what the name has already, else GVisor
}

// An ImageSource says where the file system of a new template comes from:
// exactly one of its fields is set.
type ImageSource struct {
	Ref   string      // an OCI image, as in "debian:bookworm"
	Tar   io.Reader   // a tar of a root file system or of an OCI image; whoever made it closes it
	Parts *ImageParts // an image that was pushed
}
