package soulbox

// A Change is a file that differs between two moments of a sandbox: in what it
// is, what is in it, who owns it or what is permitted.
type Change struct {
	Path string // from the root; not always UTF-8
	Kind ChangeKind
	Type FileType // what is there after; of one that was removed, what was
	Size Bytes    // of a regular file that is there after
}

// A ChangeKind says what became of a file.
type ChangeKind string

// The kinds of change.
const (
	Created ChangeKind = "created"
	Changed ChangeKind = "changed"
	Removed ChangeKind = "removed"
)

// A FileType says what is at a path.
type FileType string

// The types of file.
const (
	File    FileType = "file"
	Folder  FileType = "folder"
	Link    FileType = "link"    // symbolic
	Special FileType = "special" // a pipe or a device
)

// Changes are those between two moments, sorted by path.
type Changes struct {
	List      []Change
	Truncated bool // there are more
}
