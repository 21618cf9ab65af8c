package soulbox

import "time"

// A TeamID names a team (a UUID).
type TeamID string

// A Team owns sandboxes, templates and keys, and has limits.
type Team struct {
	ID        TeamID
	Name      string
	Slug      string // its namespace in template names
	Limits    Limits
	CreatedAt time.Time
}

// Limits bound what a team can use at the same time.
type Limits struct {
	Sandboxes int           // live at once
	Timeout   time.Duration // the longest a sandbox may be asked to live from now
	Memory    Bytes         // of one sandbox
	CPUs      int           // of one sandbox
}

// A KeyID names an API key (a UUID).
type KeyID string

// A Key is what we remember of an API key: enough to recognise it and to tell
// it from others, never the key itself.
type Key struct {
	ID        KeyID
	Team      TeamID
	Name      string
	Hash      string // SHA-256 of the key, in hex
	Suffix    string // the last four characters, so that people find the right one
	CreatedAt time.Time
	LastUsed  time.Time // zero: never
}

// An Actor is whoever makes a request.
type Actor struct {
	Team TeamID
	Key  KeyID
}
