package soulbox

import (
	"maps"
	"time"
)

// A SnapshotID names one snapshot: "s" and twenty characters of [a-z0-9]. It
// can stand where a template's name stands when a sandbox is made.
type SnapshotID string

// NewSnapshotID returns an id that nobody can guess (103 bits).
func NewSnapshotID() SnapshotID { return SnapshotID(unguessable('s')) }

// Valid reports whether id could name a snapshot. Everything that takes an id
// from outside checks it first, because ids become file names.
func (id SnapshotID) Valid() bool {
	return len(id) == idLen && id[0] == 's' && idForm.MatchString(string(id))
}

// A SnapshotKind says what a snapshot is kept for, and so when it goes.
type SnapshotKind string

// The kinds of snapshot. They are made and read in the same way.
const (
	ForPause    SnapshotKind = "pause"      // its sandbox is paused; goes when that runs again or ends
	ForRollback SnapshotKind = "checkpoint" // a moment that its sandbox can return to; goes with the sandbox
	ForCreate   SnapshotKind = "snapshot"   // its team makes sandboxes of it; stays until removed
	ForFork     SnapshotKind = "fork"       // goes when the forks run
)

// A Snapshot is a sandbox at one moment, written down: its files and, if
// Memory, its running programs. Any number of sandboxes can be made of it.
type Snapshot struct {
	ID      SnapshotID
	Team    TeamID
	Sandbox SandboxID  // of which it was taken; its agent asks for that one's token
	Parent  SnapshotID // that sandbox's From; empty: its template
	Kind    SnapshotKind
	Name    string // for people; unique among a team's ForCreate and among a sandbox's ForRollback, or empty
	Node    NodeID // where it lies

	Ready     bool  // written completely; a record without it is of no use
	Memory    bool  // programs as well as files
	Bytes     Bytes // on disk
	CreatedAt time.Time

	// What a sandbox made of it is like, as far as nobody says otherwise.
	Template TemplateID
	Alias    string
	Image    string // SHA-256 of the EROFS file that lies below its files, in hex
	Size     Size
	Secure   bool
	Env      map[string]string
	User     string
	Workdir  string
}

// AsTemplate returns what sandboxes of the snapshot are made of.
func (s *Snapshot) AsTemplate() *Template {
	return &Template{
		ID: s.Template, Team: s.Team, Name: string(s.ID), Image: s.Image, Size: s.Size,
		Env: maps.Clone(s.Env), User: s.User, Workdir: s.Workdir, CreatedAt: s.CreatedAt, UpdatedAt: s.CreatedAt,
	}
}

// A Fork is what became of one copy of a sandbox: it runs, or why it does not.
type Fork struct {
	Sandbox *Sandbox
	Err     error
}

// A SnapshotFilter selects snapshots of one team, newest first.
type SnapshotFilter struct {
	Team    TeamID
	Kind    SnapshotKind
	Sandbox SandboxID // of which they were taken; empty: any
	Name    string    // empty: any
	Limit   int       // 0: no limit
	Cursor  string    // from the page before; empty is the first page
}

// A SnapshotPage is one page of an answer.
type SnapshotPage struct {
	Snapshots []*Snapshot
	Next      string // the cursor of the next page; empty on the last
}
