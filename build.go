package soulbox

import (
	"crypto/rand"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"time"
)

// A BuildID names one build of a template. It is a UUID, because E2B's clients
// expect one and tell it from a tag by that.
type BuildID string

var buildID = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// NewBuildID returns an id that no other build has: a UUID of version 4, as
// RFC 9562 says.
func NewBuildID() BuildID {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return BuildID(fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]))
}

// Valid reports whether id could name a build. Everything that takes an id
// from outside checks it first, because ids become file names.
func (id BuildID) Valid() bool { return buildID.MatchString(string(id)) }

// A BuildState says where a build is. The words are E2B's.
type BuildState string

// The states of a build, in the order of its life.
const (
	BuildWaiting BuildState = "waiting"  // it has no recipe yet, or is not its turn
	BuildRunning BuildState = "building" // somebody works on it
	BuildReady   BuildState = "ready"    // sandboxes can be made of it; it never changes again
	BuildFailed  BuildState = "error"    // nothing came of it, and it says why
)

var nextBuild = map[BuildState][]BuildState{
	BuildWaiting: {BuildRunning, BuildFailed},
	BuildRunning: {BuildRunning, BuildReady, BuildFailed}, // once more, after a crash
}

// Over reports whether the build has come to an end, good or bad.
func (s BuildState) Over() bool { return s == BuildReady || s == BuildFailed }

// A Build is one attempt to make what a template stands for, and when it is
// ready, one version of the template.
type Build struct {
	ID       BuildID
	Template TemplateID
	Team     TeamID // empty for the house's own

	State     BuildState
	CreatedAt time.Time
	QueuedAt  time.Time     // when it got its recipe; zero before
	StartedAt time.Time     // when somebody began to work on it; zero before
	EndedAt   time.Time     // zero until it is over
	Failure   *BuildFailure // set when it failed
	Position  int           // how many come before it in the queue, and one; 0: it does not wait there. Not stored

	Recipe  Recipe
	Tags    []string // that lead to it once it is ready; none: "default" alone
	Bump    Bump     // how far from the version before, as somebody said; empty: it shows
	Version Version  // zero until it is ready
	Retired string   // why nobody should start with it any more; empty: it is fine

	// What came of it.
	Image     string     // SHA-256 of the EROFS file, in hex
	Manifest  Digest     // of the image that was pushed; empty: it came about in another way
	Snapshot  SnapshotID // its start command runs in it already; empty: sandboxes boot
	Baked     SandboxID  // of which Snapshot was taken; its agent asks for that one's token
	Size      Size
	Isolation Isolation
	Env       map[string]string
	User      string
	Workdir   string
	Facts     BuildFacts
}

// Move puts b in state to, or returns a [Conflict] error and leaves b alone.
func (b *Build) Move(to BuildState) error {
	if !slices.Contains(nextBuild[b.State], to) {
		return Errorf(Conflict, "build %s is %s and cannot become %s", b.ID, b.State, to)
	}
	b.State = to
	return nil
}

// Rivals reports whether b and c are builds of one template and share a tag, so
// that only the newer one is of use.
func (b *Build) Rivals(c *Build) bool {
	return b.Template == c.Template && slices.ContainsFunc(b.tags(), func(tag string) bool { return slices.Contains(c.tags(), tag) })
}

func (b *Build) tags() []string {
	if len(b.Tags) == 0 {
		return []string{DefaultTag}
	}
	return b.Tags
}

// Clone returns a copy of which the fields that change are its own.
func (b *Build) Clone() *Build {
	c := *b
	c.Tags, c.Env = slices.Clone(b.Tags), maps.Clone(b.Env)
	if b.Failure != nil {
		f := *b.Failure
		c.Failure = &f
	}
	return &c
}

// A BuildFailure is why a build came to nothing, for whoever wrote its recipe.
type BuildFailure struct { //nolint:errname // a noun that a build has; that it also is an error is for those who pass it on
	Message string
	Step    int  // of the recipe, from 1; 0: what it is built on; see also Finish
	Finish  bool // it failed after its last step: packing, starting, writing down
}

// Error returns the message, so that a failure can be the cause of an error.
func (f *BuildFailure) Error() string { return f.Message }

// BuildFacts is what was found out about a finished build, none of it typed by
// anybody.
type BuildFacts struct {
	Base         string    // the image or template that it is built on, with its digest
	Distribution string    // such as "Debian GNU/Linux 12 (bookworm)"; empty: unknown
	Packages     []Package // in the order of their managers and names
	Ports        []string  // exposed ones, such as 8080/tcp
	Volumes      []string
	Entrypoint   []string
	Command      []string
	Labels       map[string]string
	Author       string
	Bytes        Bytes // of the files in it
	Layers       int
	Written      Bytes  // of Build.Snapshot when it was first written, on disk; 0: none was
	Meant        []byte // all that its author meant, for an OCI image of it, without how it was made; nil: these fields say all there is
}

// A Package is a piece of software that a package manager installed.
type Package struct {
	Manager string // dpkg, apk, rpm, pip or npm
	Name    string
	Version string
}

// A Recipe says how to build a template: on what, by which steps, and what
// runs in the sandboxes made of it. It has either a Dockerfile, or steps.
type Recipe struct {
	Image    string // the OCI image to build on
	Template string // the template to build on, as a [TemplateRef]; instead of Image
	Steps    []Step

	Dockerfile string            // instead of Image, Template and Steps
	Context    string            // hash of the upload that COPY and ADD read; empty: nothing
	Target     string            // the stage to build; empty: the last
	Args       map[string]string // values of ARG

	Start string // left running in every sandbox; empty: nothing
	Ready string // succeeds once what Start starts can be used; empty: a rule of thumb
	Force bool   // build every step, whatever is known from earlier builds
}

// A Step is one line of a recipe.
type Step struct {
	Kind  StepKind
	Args  []string
	Files string // COPY: hash of the upload with the files
	Force bool   // this step and what follows are built whatever is known
}

// A Login is who we are at a registry. It is never stored in the clear.
type Login struct{ User, Password string }

// A StepKind says what a step does, in Dockerfile's words.
type StepKind string

// The kinds of step, with their arguments.
const (
	StepCopy    StepKind = "COPY"    // source, destination, user or "", octal mode or ""
	StepRun     StepKind = "RUN"     // a command for bash, and perhaps the user that runs it
	StepEnv     StepKind = "ENV"     // name, value, name, value, …
	StepWorkdir StepKind = "WORKDIR" // a path
	StepUser    StepKind = "USER"    // a name, and perhaps "true": with sudo
)

// A BuildLine is one line of what a build tells.
type BuildLine struct {
	At      time.Time
	Level   string // debug, info, warn or error
	Step    string // "base", a number from 1, or "finalize"; empty: the build as a whole
	Message string
}

// A BuildLogQuery selects lines of a build.
type BuildLogQuery struct {
	Offset int    // lines to skip, of those that Level lets through
	Limit  int    // 0: no limit
	Level  string // this and worse; empty: all
}

// A BuildFilter selects builds of one template, newest first.
type BuildFilter struct {
	Template TemplateID
	States   []BuildState // none: any
	Limit    int          // 0: no limit
	Cursor   string       // from the page before; empty is the first page
}

// A BuildPage is one page of an answer.
type BuildPage struct {
	Builds []*Build
	Next   string // the cursor of the next page; empty on the last
	Total  int    // how many the filter selects on all pages
}

// A Tag is a name for one of a template's builds, which may come to mean
// another one.
type Tag struct {
	Name  string
	Build BuildID
	At    time.Time // since when
}

// DefaultTag is what no tag stands for.
const DefaultTag = "default"
