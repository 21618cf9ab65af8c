package soulbox

import "time"

// A LogEntry is one thing that happened in a sandbox, as its agent tells it:
// a process started or ended, or a line of output.
type LogEntry struct {
	At      time.Time
	Level   string // debug, info, warn or error
	Message string
	Fields  map[string]string
}

// A LogQuery selects entries of one sandbox's log.
type LogQuery struct {
	From     time.Time // forward: at or after; zero is the beginning
	Until    time.Time // backward: at or before; zero is now
	Backward bool      // newest first
	Limit    int       // 0: a sensible default
	Level    string    // this level and above; empty is all
	Search   string    // a part of the message; empty is all
}
