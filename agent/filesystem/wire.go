package filesystem

import "github.com/soulbox/soulbox/internal/connectjson"

// The messages of E2B's filesystem.Filesystem service, in the names of its
// JSON.

type fileType string

const (
	typeFile      fileType = "FILE_TYPE_FILE"
	typeDirectory fileType = "FILE_TYPE_DIRECTORY"
	typeSymlink   fileType = "FILE_TYPE_SYMLINK"
)

type eventType string

const (
	eventCreate eventType = "EVENT_TYPE_CREATE"
	eventWrite  eventType = "EVENT_TYPE_WRITE"
	eventRemove eventType = "EVENT_TYPE_REMOVE"
	eventRename eventType = "EVENT_TYPE_RENAME"
	eventChmod  eventType = "EVENT_TYPE_CHMOD"
)

type entryInfo struct {
	Name          string            `json:"name,omitempty"`
	Type          fileType          `json:"type,omitempty"`
	Path          string            `json:"path,omitempty"`
	Size          connectjson.Int64 `json:"size,omitempty"`
	Mode          uint32            `json:"mode,omitempty"`
	Permissions   string            `json:"permissions,omitempty"`
	Owner         string            `json:"owner,omitempty"`
	Group         string            `json:"group,omitempty"`
	ModifiedTime  string            `json:"modifiedTime,omitempty"`
	SymlinkTarget *string           `json:"symlinkTarget,omitempty"`
	Metadata      map[string]string `json:"metadata,omitempty"`
}

type empty struct{}

type pathRequest struct {
	Path string `json:"path,omitempty"`
}

type listDirRequest struct {
	Path  string             `json:"path,omitempty"`
	Depth connectjson.Uint32 `json:"depth,omitempty"`
}

type listDirResponse struct {
	Entries []*entryInfo `json:"entries,omitempty"`
}

type moveRequest struct {
	Source      string `json:"source,omitempty"`
	Destination string `json:"destination,omitempty"`
}

type entryResponse struct {
	Entry *entryInfo `json:"entry,omitempty"`
}

// watchRequest is both WatchDirRequest and CreateWatcherRequest.
type watchRequest struct {
	Path               string `json:"path,omitempty"`
	Recursive          bool   `json:"recursive,omitempty"`
	IncludeEntry       bool   `json:"includeEntry,omitempty"`
	AllowNetworkMounts bool   `json:"allowNetworkMounts,omitempty"`
}

// watchResponse holds one of its fields.
type watchResponse struct {
	Start      *empty     `json:"start,omitempty"`
	Filesystem *fileEvent `json:"filesystem,omitempty"`
	Keepalive  *empty     `json:"keepalive,omitempty"`
}

type fileEvent struct {
	Name  string     `json:"name,omitempty"`
	Type  eventType  `json:"type,omitempty"`
	Entry *entryInfo `json:"entry,omitempty"`
}

// watcherID is the request of the calls that name a watcher, and the answer
// of the one that makes it.
type watcherID struct {
	WatcherID string `json:"watcherId,omitempty"`
}

type watcherEvents struct {
	Events []*fileEvent `json:"events,omitempty"`
}
