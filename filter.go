package soulbox

import "time"

// A SandboxFilter selects sandboxes of one team, in order of their start.
type SandboxFilter struct {
	Team         TeamID
	States       []State           // empty: the live ones
	Metadata     map[string]string // all of these
	Template     string            // an id or a name; empty is all
	StartedAfter time.Time         // at this time or after; zero is all
	Ascending    bool              // oldest first; newest first otherwise
	Limit        int               // 0: no limit
	Cursor       string            // from the page before; empty is the first page
}

// A SandboxPage is one page of an answer.
type SandboxPage struct {
	Sandboxes []*Sandbox
	Next      string // the cursor of the next page; empty on the last
	Total     int    // how many the filter selects on all pages
}
