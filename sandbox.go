package soulbox

import (
	"crypto/rand"
	"maps"
	"regexp"
	"slices"
	"time"
)

// A SandboxID names one sandbox for as long as anyone remembers it: "i" and
// twenty characters of [a-z0-9], so that it fits into a host label and into
// the names of cgroups and files.
type SandboxID string

const idLen = 21

// idForm is more lenient than NewSandboxID is: E2B's clients accept
// any id of this alphabet.
var idForm = regexp.MustCompile(`^[a-z0-9]{1,40}$`)

// NewSandboxID returns an id that nobody can guess (103 bits).
func NewSandboxID() SandboxID { return SandboxID(unguessable('i')) }

// unguessable returns first and twenty random characters of [a-z0-9].
func unguessable(first byte) string {
	const alphabet = "0123456789abcdefghijklmnopqrstuvwxyz"
	id := make([]byte, 0, idLen)
	id = append(id, first)
	for buf := make([]byte, 32); len(id) < idLen; {
		_, _ = rand.Read(buf) // never fails: crypto/rand ends the program instead
		for _, b := range buf {
			// 252 is the largest multiple of 36 in a byte; above it the
			// first letters would come up more often.
			if b < 252 && len(id) < idLen {
				id = append(id, alphabet[b%36])
			}
		}
	}
	return string(id)
}

// Valid reports whether id could name a sandbox. Everything that takes an id
// from outside checks it first, because ids become file and cgroup names.
func (id SandboxID) Valid() bool { return idForm.MatchString(string(id)) }

// State is where a sandbox is in its life.
type State string

// The states of a sandbox.
const (
	Starting State = "starting" // recorded, not yet usable
	Running  State = "running"
	Pausing  State = "pausing"  // being written down; does not run while that lasts
	Paused   State = "paused"   // a snapshot on disk and nothing else
	Resuming State = "resuming" // being made again from its snapshot
	Ending   State = "ending"   // recorded as ended by somebody, not yet gone
	Ended    State = "ended"    // terminal; the record stays for whoever asks why
)

// next lists the legal moves; anything else is a Conflict. A pause or a resume
// that fails goes back to where it came from. A rollback goes from running to
// resuming: it is a pause without the writing, and a resume from elsewhere.
var next = map[State][]State{
	Starting: {Running, Ending, Ended},
	Running:  {Pausing, Resuming, Ending, Ended},
	Pausing:  {Paused, Running, Ending, Ended},
	Paused:   {Resuming, Ending, Ended},
	Resuming: {Running, Paused, Ending, Ended},
	Ending:   {Ended},
	Ended:    {},
}

// Live reports whether the sandbox is its team's to use, and shows in lists.
func (s State) Live() bool {
	switch s {
	case Starting, Running, Pausing, Paused, Resuming:
		return true
	default:
		return false
	}
}

// Active reports whether the sandbox has a share of the machine, which counts
// against quotas. A paused one has none.
func (s State) Active() bool { return s.Live() && s != Paused }

// Ender says who or what ended a sandbox.
type Ender string

// The enders.
const (
	ByClient  Ender = "client"  // killed through the API
	ByTimeout Ender = "timeout" // its time was up
	ByOOM     Ender = "oom"     // it used more memory than it had
	ByCrash   Ender = "crash"   // the sandbox or its agent died
	ByServer  Ender = "server"  // it could not be started, or did not survive the machine
	ByQuota   Ender = "quota"   // an operator's limit ended it
)

// An End is the honest last line in a sandbox's record.
type End struct {
	At     time.Time
	By     Ender
	Reason string // one sentence for people
}

// String says who ended it, when and why, as the rest of a sentence about the
// sandbox.
func (e End) String() string {
	s := "ended by " + string(e.By) + " at " + e.At.UTC().Format(time.RFC3339)
	if e.Reason != "" {
		s += ": " + e.Reason
	}
	return s
}

// An Exit is a node's report that a sandbox ended without being told to.
type Exit struct {
	ID  SandboxID
	End End
}

// Bytes counts bytes.
type Bytes int64

// The usual multiples.
const (
	KiB Bytes = 1 << 10
	MiB Bytes = 1 << 20
	GiB Bytes = 1 << 30
	TiB Bytes = 1 << 40
)

// A Size is what a sandbox may use at most.
type Size struct {
	CPUs   int   // cores' worth of time
	Memory Bytes // sentry, guest memory and page cache of its writes together
	Disk   Bytes // what it may write on top of its template
	PIDs   int   // host threads of its sentry and stubs, a bound on fork bombs
}

// A Network says what a sandbox may reach, and who reaches it. Private,
// link-local and metadata addresses, the host and other sandboxes are closed in
// any case.
type Network struct {
	Internet bool
	// Private closes its ports, but for the agent's, to requests without its
	// traffic token. It does not change while the sandbox lives.
	Private bool
}

// A Lifecycle says what becomes of a sandbox when its time is up, and when
// somebody calls it after that.
type Lifecycle struct {
	Pause     bool // it is paused when its time is up; else it ends
	FilesOnly bool // that pause keeps its files and not its memory
	Wake      bool // traffic to a port of it resumes it
}

// A Pause is what a sandbox that does not run comes back from.
type Pause struct {
	Snapshot SnapshotID
	Memory   bool // its programs go on where they were; else it boots with its files
	At       time.Time
}

// A Sandbox is one isolated machine that runs a team's code.
type Sandbox struct {
	ID       SandboxID
	Team     TeamID
	Template TemplateID
	Build    BuildID // of the template; empty: it is of a snapshot, or from before there were builds
	Alias    string  // the name by which the template was asked for
	Node     NodeID

	State     State
	CreatedAt time.Time
	StartedAt time.Time     // zero while Starting
	ExpiresAt time.Time     // when the platform ends it
	Timeout   time.Duration // as last asked for; a resume by traffic gives as much again
	Lifecycle Lifecycle
	Pause     *Pause     // set while Pausing, Paused or Resuming
	From      SnapshotID // the checkpoint that it took or went back to last, or the snapshot that it was made of
	End       *End       // set once the state is Ending or Ended

	Size      Size
	Network   Network
	Isolation Isolation
	Secure    bool              // the agent wants an access token
	Token     string            // what the agent wants; derived (see [TokenSeed]), never stored
	Traffic   string            // the token that opens the ports of a private one; derived as well
	Env       map[string]string // for every program started in it
	Metadata  map[string]string // the client's own, for finding it again
}

// An Isolation says what stands between a sandbox and the machine.
type Isolation string

// The classes of isolation.
const (
	GVisor Isolation = ""     // a kernel of its own, in user space
	Runc   Isolation = "runc" // a container on the machine's kernel; no memory in its snapshots
)

// ParseIsolation reads a class as clients write it.
func ParseIsolation(s string) (Isolation, error) {
	switch s {
	case GVisor.String():
		return GVisor, nil
	case string(Runc):
		return Runc, nil
	default:
		return "", Errorf(Invalid, "the isolation is gvisor or runc, not %.50q", s)
	}
}

// String returns the class as clients write it.
func (i Isolation) String() string {
	if i == GVisor {
		return "gvisor"
	}
	return string(i)
}

// Allowed refuses a class that an operator does not let clients ask for.
// Everybody may have GVisor; others are those that more lists.
func (i Isolation) Allowed(more []Isolation) error {
	if i == GVisor || slices.Contains(more, i) {
		return nil
	}
	return Errorf(Forbidden, "sandboxes of isolation %s are not allowed on this server; its operator can allow them with the setting \"isolation\"", i)
}

// A NodeID names a machine that runs sandboxes.
type NodeID string

// Move puts s in state to, or returns a [Conflict] error and leaves s alone.
func (s *Sandbox) Move(to State) error {
	if !slices.Contains(next[s.State], to) {
		return Errorf(Conflict, "sandbox %s is %s and cannot become %s", s.ID, s.State, to)
	}
	s.State = to
	return nil
}

// Clone returns a copy that shares nothing with s.
func (s *Sandbox) Clone() *Sandbox {
	c := *s
	c.Env = maps.Clone(s.Env)
	c.Metadata = maps.Clone(s.Metadata)
	if s.End != nil {
		end := *s.End
		c.End = &end
	}
	if s.Pause != nil {
		pause := *s.Pause
		c.Pause = &pause
	}
	return &c
}

// A Usage is one measurement of a sandbox, taken from outside of it.
type Usage struct {
	At         time.Time
	CPUPercent float64 // of one core since the measurement before; 200 is two cores busy
	CPUCount   int
	MemUsed    Bytes
	MemTotal   Bytes
	MemCache   Bytes
	DiskUsed   Bytes
	DiskTotal  Bytes
}
