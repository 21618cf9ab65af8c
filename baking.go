package soulbox

import "time"

// MaxBake is how long a template's ready command may take to succeed.
const MaxBake = 10 * time.Minute

// A Baking says what runs in the sandbox that a template's sandboxes are
// restored from.
type Baking struct {
	Snapshot SnapshotID    // what that sandbox is written down as
	Start    string        // left running; empty: nothing
	Ready    string        // run again and again until it succeeds; empty: a rule of thumb
	Within   time.Duration // for Ready to succeed in; 0: [MaxBake], the most
}

// Baked is what came of a [Baking].
type Baked struct {
	Sandbox SandboxID // of which the snapshot was taken; its agent asks for that one's token
	Bytes   Bytes     // of the snapshot, on disk
}
