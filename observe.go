package soulbox

import "time"

// A GuestEventKind says what a GuestEvent tells.
type GuestEventKind string

// What the record of a sandbox holds.
const (
	EventStarted GuestEventKind = "process_started" // a process that a client started
	EventOutput  GuestEventKind = "output"          // a piece of what such a process wrote
	EventEnded   GuestEventKind = "process_ended"   // it exited or was killed, and its output is complete
	EventFile    GuestEventKind = "file_changed"    // something happened to a file below a watched folder
	EventGap     GuestEventKind = "gap"             // events are gone; Lost says how many
)

// A GuestEvent is one thing that happened inside a sandbox, as its agent
// recorded it. Everything in it came out of the sandbox, so it is bounded but
// not to be trusted.
type GuestEvent struct {
	Seq      uint64    // 1 and up; each is one more than the last, unless Kind is EventGap
	At       time.Time // by the sandbox's clock
	Kind     GuestEventKind
	PID      int    // EventStarted, EventOutput and EventEnded
	Command  string // EventStarted: the program and its arguments, cut at 4 KiB
	Stream   string // EventOutput: stdout, stderr or pty
	Data     []byte // EventOutput: at most 64 KiB
	ExitCode int    // EventEnded
	Signal   string // EventEnded: what killed it; empty if it exited
	Path     string // EventFile: absolute
	Op       string // EventFile: create, write, remove, rename or chmod
	Lost     uint64 // EventGap: how many events are gone; Seq is that of the last of them
}

// A GuestPosition tells where the record of a sandbox stands. After a restore
// the record goes on where the image left it, in a new epoch: two sandboxes
// restored from one image have the same events up to there and different ones
// with the same numbers after it. A number means something together with its
// epoch only.
type GuestPosition struct {
	Epochs []GuestEpoch // oldest first, at most 64, of which the last is now; empty if nothing was ever recorded
	Head   uint64       // Seq of the newest event; 0 if there is none
	Tail   uint64       // Seq of the oldest event that is kept; Head+1 if none is
}

// A GuestEpoch is the part of a record between two restores or starts.
type GuestEpoch struct {
	ID   string
	From uint64 // Seq that the epoch's first event has, or will have
}

// A GuestState is what goes on in a sandbox at one moment, as its agent sees
// it.
type GuestState struct {
	At        time.Time      // by the sandbox's clock
	Processes []GuestProcess // those that clients started, and their children; at most 512
	Ports     []GuestPort    // on which a TCP server listens; at most 512
	Truncated bool           // there was more than the bounds allow
}

// A GuestProcess is a process inside a sandbox.
type GuestProcess struct {
	PID, PPID int
	Command   string            // at most 4 KiB
	Dir       string            // its working directory
	Env       map[string]string // what it was started with; at most 64 KiB
	OpenFiles []string          // at most 256
	CPU       time.Duration     // used so far, by all of its threads
	StartedAt time.Time         // by the sandbox's clock
}

// A GuestPort is a TCP port on which something inside a sandbox listens.
type GuestPort struct {
	Port    uint16
	Address string // the IP address it is bound to
	PID     int    // whose it is; 0 if that cannot be told
}
