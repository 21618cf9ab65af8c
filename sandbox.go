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

const sandboxIDLen = 21

// sandboxIDForm is more lenient than NewSandboxID is: E2B's clients accept
// any id of this alphabet.
var sandboxIDForm = regexp.MustCompile(`^[a-z0-9]{1,40}$`)

// NewSandboxID returns an id that nobody can guess (103 bits).
func NewSandboxID() SandboxID {
	const alphabet = "0123456789abcdefghijklmnopqrstuvwxyz"
	id := make([]byte, 0, sandboxIDLen)
	id = append(id, 'i')
	for buf := make([]byte, 32); len(id) < sandboxIDLen; {
		_, _ = rand.Read(buf) // never fails: crypto/rand ends the program instead
		for _, b := range buf {
			// 252 is the largest multiple of 36 in a byte; above it the
			// first letters would come up more often.
			if b < 252 && len(id) < sandboxIDLen {
				id = append(id, alphabet[b%36])
			}
		}
	}
	return SandboxID(id)
}

// Valid reports whether id could name a sandbox. Everything that takes an id
// from outside checks it first, because ids become file and cgroup names.
func (id SandboxID) Valid() bool { return sandboxIDForm.MatchString(string(id)) }

// State is where a sandbox is in its life.
type State string

// The states of a sandbox. Paused comes with snapshots.
const (
	Starting State = "starting" // recorded, not yet usable
	Running  State = "running"
	Ending   State = "ending" // recorded as ended by somebody, not yet gone
	Ended    State = "ended"  // terminal; the record stays for whoever asks why
)

// next lists the legal moves; anything else is a Conflict.
var next = map[State][]State{
	Starting: {Running, Ending, Ended},
	Running:  {Ending, Ended},
	Ending:   {Ended},
	Ended:    {},
}

// Live reports whether the sandbox counts against quotas and shows in lists.
func (s State) Live() bool { return s == Starting || s == Running }

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
)

// A Size is what a sandbox may use at most.
type Size struct {
	CPUs   int   // cores' worth of time
	Memory Bytes // sentry, guest memory and page cache of its writes together
	Disk   Bytes // what it may write on top of its template
	PIDs   int   // host threads of its sentry and stubs, a bound on fork bombs
}

// A Network says what a sandbox may reach. Private, link-local and metadata
// addresses, the host and other sandboxes are closed in any case.
type Network struct {
	Internet bool
}

// A Sandbox is one isolated machine that runs a team's code.
type Sandbox struct {
	ID       SandboxID
	Team     TeamID
	Template TemplateID
	Alias    string // the name by which the template was asked for
	Node     NodeID

	State     State
	CreatedAt time.Time
	StartedAt time.Time // zero while Starting
	ExpiresAt time.Time // when the platform ends it
	End       *End      // set once the state is Ending or Ended

	Size     Size
	Network  Network
	Secure   bool              // the agent wants an access token
	Token    string            // what the agent wants; derived (see [TokenSeed]), never stored
	Env      map[string]string // for every program started in it
	Metadata map[string]string // the client's own, for finding it again
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
