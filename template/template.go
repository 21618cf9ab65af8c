// Package template builds what sandboxes are made of, and keeps the register of
// it: drafts and builds, their versions and tags, and what teams offer each
// other.
//
// # The life of a build
//
//	waiting    a draft, which has an id and tags and no recipe; then, with one,
//	           in the queue
//	building   an engine makes the root image of the recipe; if the recipe has a
//	           start command, a baker boots it, runs that and writes the sandbox
//	           down as a snapshot
//	ready      it has a version, its tags lead to it, and it never changes again
//	error      it says why
//
// Records come before side effects: "building" before the engine is asked, the
// id of the snapshot before it is written. What a crash interrupts is begun
// again by [Registry.Start]; the engine's cache makes that short. Of two builds
// under one tag the older one is given up.
//
// Tests can kill the process at these steps (see internal/fault):
//
//	build/recorded  the record says "building"
//	build/solved    the image is there, and the record does not say so
//	build/packed    it does
//	build/baked     the snapshot is there; its id was recorded before
//	build/finished  the record says "ready"
//	export/packed   the layer of an image that is sent is there
//	import/packed   the image of an import is there, and no record says so
//
// # On disk
//
//	<builds>/<build>/log.jsonl       what it told, bounded
//	<builds>/<build>/secrets         encrypted, until it is over
//	<builds>/uploads/<team>/<hash>   files for COPY and ADD, until a week after
//	                                 they were last used
//	<dir>                            trees under work; emptied by Open
//
// # Who sees what
//
// One function decides; see [may]. Who may not see a template hears of it what
// is said of one that does not exist. Others than its team see of a public one
// its ready builds, and neither recipes nor logs.
//
// # Turns
//
// What packs an image, copies the reference to one, or sweeps takes the turn, of
// which there is one. So no sweep takes an image away whose record is about to
// be written, and the disk writes one image at a time. An engine packs in its
// own time: no sweep runs while one builds.
package template

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/fault"
	"github.com/soulbox/soulbox/template/buildkit"
)

// A Registry builds, imports, lists and removes templates. Safe for concurrent
// use.
//
// Its goroutines, all ended by Close, which waits for them:
//
//	worker  one for each build at a time
//	prune   forgets what is old
//	rebake  once at start: makes snapshots of older versions again
//	house   once at start: has the house's templates built that are not
type Registry struct {
	Options

	turn   chan struct{} // holds one value while somebody has the turn
	lining chan struct{} // holds one value while somebody puts a draft into the queue
	ways   chan struct{} // holds one value for each layer that is made for an export
	logs   logs
	news   *news // of builds, for those who watch them

	uploading, exporting *turnstile

	life context.Context    //nolint:containedctx // until Close; all building ends with it
	end  context.CancelFunc // of life
	wake chan struct{}      // there may be something in the queue
	wg   sync.WaitGroup

	mu       sync.Mutex
	started  bool                       // +checklocks:mu
	queue    []queued                   // in its order; +checklocks:mu
	going    map[soulbox.BuildID]*going // builds under work; +checklocks:mu
	obsolete []soulbox.SnapshotID       // to be removed by and by; +checklocks:mu

	again time.Duration // after what time one of House is tried again that failed; houseFirst, but in tests

	packing int // images that may be there and that no record names yet; guarded by turn
}

// Options say what a registry is made of.
type Options struct {
	Log      *slog.Logger
	Store    register
	Packer   packer
	Engine   engine // nil: there is none, and nothing can be built
	Baker    baker  // nil: nobody can run start commands
	Dir      string // for trees under work; emptied by Open
	BuildDir string // for what belongs to builds and outlives this process
	Seed     soulbox.TokenSeed
	Faults   *fault.Points // nil: none
	Removed  func()        // called when a template was; nil: nobody wants to know
	Defaults soulbox.Size  // of templates made from now on

	// Allowed are the classes of isolation that templates may have besides
	// gVisor.
	Allowed []soulbox.Isolation

	// House are the templates that are kept built for every team. One that is
	// here no longer stays as it is.
	House []soulbox.HouseTemplate

	Workers int           // builds at the same time; 0: 1
	Time    time.Duration // that one build may take, without its start command; 0: an hour
	Step    soulbox.Size  // of each program that a recipe starts; Disk: what one may write

	MaxArchive soulbox.Bytes // that a client may send as one image; 0: 20 GiB
	MaxUpload  soulbox.Bytes // that files for COPY may have together, unpacked; 0: 4 GiB
	MaxUploads soulbox.Bytes // that a team may have of them; 0: 40 GiB
}

const (
	defaultMaxArchive = 20 * soulbox.GiB
	defaultMaxUpload  = 4 * soulbox.GiB
	defaultTime       = time.Hour
)

// register is the part of the store that templates need.
type register interface {
	Team(ctx context.Context, id soulbox.TeamID) (*soulbox.Team, error)
	TeamBySlug(ctx context.Context, slug string) (*soulbox.Team, error)

	SnapshotByName(ctx context.Context, team soulbox.TeamID, name string) (*soulbox.Snapshot, error)
	Template(ctx context.Context, id soulbox.TemplateID) (*soulbox.Template, error)
	TemplateByName(ctx context.Context, team soulbox.TeamID, name string) (*soulbox.Template, error)
	Templates(ctx context.Context, team soulbox.TeamID) ([]*soulbox.Template, error)
	SetTemplateIsolation(ctx context.Context, id soulbox.TemplateID, class soulbox.Isolation, at time.Time) error
	SetTemplatePublic(ctx context.Context, id soulbox.TemplateID, public bool, at time.Time) error
	DeleteTemplate(ctx context.Context, id soulbox.TemplateID) error

	InsertDraft(ctx context.Context, t *soulbox.Template, b *soulbox.Build) (*soulbox.Template, error)
	QueueBuild(ctx context.Context, b *soulbox.Build) error
	MoveBuild(ctx context.Context, b *soulbox.Build, from soulbox.BuildState) error
	FinishBuild(ctx context.Context, b *soulbox.Build, bump func(before *soulbox.Build) soulbox.Bump) error
	AddBuild(ctx context.Context, t *soulbox.Template, b *soulbox.Build, of soulbox.TemplateID, bump func(before *soulbox.Build) soulbox.Bump) (*soulbox.Template, error)
	Build(ctx context.Context, id soulbox.BuildID) (*soulbox.Build, error)
	BuildAt(ctx context.Context, id soulbox.TemplateID, ref soulbox.TemplateRef) (*soulbox.Build, error)
	Builds(ctx context.Context, f soulbox.BuildFilter) (soulbox.BuildPage, error)
	Versions(ctx context.Context, id soulbox.TemplateID) ([]*soulbox.Build, error)
	UnendedBuilds(ctx context.Context) ([]*soulbox.Build, error)
	CountUnended(ctx context.Context, team soulbox.TeamID) (int, error)
	ReadyBuilds(ctx context.Context) ([]*soulbox.Build, error)
	RetireBuild(ctx context.Context, id soulbox.BuildID, why string) error
	RenewBuilds(ctx context.Context, was, now *soulbox.Build) (int64, error)
	UntidyBuilds(ctx context.Context) ([]*soulbox.Build, error)
	TidyBuild(ctx context.Context, id soulbox.BuildID) error
	BuildsFailedBefore(ctx context.Context, t time.Time, limit int) ([]soulbox.BuildID, error)
	DeleteBuild(ctx context.Context, id soulbox.BuildID) error
	Images(ctx context.Context) ([]string, error)
	TemplateSnapshots(ctx context.Context) ([]soulbox.SnapshotID, error)

	Tags(ctx context.Context, id soulbox.TemplateID) ([]soulbox.Tag, error)
	PutTags(ctx context.Context, id soulbox.TemplateID, build soulbox.BuildID, tags []string, at time.Time) error
	DeleteTags(ctx context.Context, id soulbox.TemplateID, tags []string) error

	Listing(ctx context.Context, id soulbox.TemplateID, reader soulbox.TeamID) (*soulbox.Listing, error)
	Listings(ctx context.Context, f soulbox.ListingFilter) (soulbox.ListingPage, error)
	SetListing(ctx context.Context, id soulbox.TemplateID, c soulbox.ListingChange, at time.Time) error
	Categories(ctx context.Context, reader soulbox.TeamID) (map[string]int, error)
	Rate(ctx context.Context, id soulbox.TemplateID, team soulbox.TeamID, stars int, at time.Time) error
	Report(ctx context.Context, r soulbox.Report) error
	Reports(ctx context.Context) ([]soulbox.Report, error)
}

// packer makes root images of trees, and the reverse.
type packer interface {
	// Pack makes the tree at dir fit for sandboxes, makes an image of it and
	// returns the image's name and the user that programs run as. Files that
	// changed after started carry no time worth keeping.
	Pack(ctx context.Context, dir, source string, started time.Time) (image, user string, err error)

	// Stale returns those of images that Pack would make with another agent,
	// and those that it knows nothing of.
	Stale(ctx context.Context, images []string) ([]string, error)

	// Unpack makes the tree of image at dir, which does not exist.
	Unpack(ctx context.Context, image, dir string) error

	// Archive writes the tree of image as a tar, without what Pack has put in as
	// far as that can be told apart. An image that is not there is NotFound.
	Archive(ctx context.Context, image string, w io.Writer) error

	// Retain removes all images but these and those that somebody uses.
	Retain(ctx context.Context, images []string) error
}

// engine makes root images of recipes.
type engine interface {
	// Build calls say with each line of the log, from one goroutine. A
	// [buildkit.StepError] in the chain of an error says that the recipe is at
	// fault, and where.
	Build(ctx context.Context, job buildkit.Job, say func(soulbox.BuildLine)) (buildkit.Result, error)

	// Lint returns what is the matter with a Dockerfile, by line.
	Lint(ctx context.Context, dockerfile string) ([]buildkit.Problem, error)
}

// baker runs start commands.
type baker interface {
	// Bake writes a sandbox of t down in which the start command runs. When it
	// fails, nothing is left.
	Bake(ctx context.Context, t *soulbox.Template, b soulbox.Baking, say func(soulbox.BuildLine)) (soulbox.Baked, error)

	// Restorable reports whether sandboxes can be made of a snapshot, which
	// another version of this program may have written.
	Restorable(ctx context.Context, id soulbox.SnapshotID) bool

	// RemoveSnapshot deletes one; an unknown one succeeds.
	RemoveSnapshot(ctx context.Context, id soulbox.SnapshotID) error

	// ForgetTemplate ends what was made ahead of a template that is no more.
	ForgetTemplate(id soulbox.TemplateID)
}

// house owns the templates that every team may start.
const house = soulbox.TeamID("")

// Open returns the registry and removes what unfinished imports left. Nothing is
// built before Start.
func Open(o Options) (*Registry, error) {
	if o.MaxArchive == 0 {
		o.MaxArchive = defaultMaxArchive
	}
	if o.MaxUpload == 0 {
		o.MaxUpload = defaultMaxUpload
	}
	if o.MaxUploads == 0 {
		o.MaxUploads = 10 * o.MaxUpload
	}
	if o.Workers == 0 {
		o.Workers = 1
	}
	if o.Time == 0 {
		o.Time = defaultTime
	}
	if err := os.RemoveAll(o.Dir); err != nil {
		return nil, fmt.Errorf("open templates: %w", err)
	}
	for _, dir := range []string{o.Dir, filepath.Join(o.BuildDir, uploadsName)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("open templates: %w", err)
		}
	}
	r := &Registry{
		Options: o, turn: make(chan struct{}, 1), lining: make(chan struct{}, 1), ways: make(chan struct{}, maxPacking), wake: make(chan struct{}, 1),
		logs: logs{dir: o.BuildDir, open: map[soulbox.BuildID]*buildLog{}}, going: map[soulbox.BuildID]*going{}, news: newNews(), again: houseFirst,
		uploading: newTurnstile(maxUploading, "uploading", "archives"), exporting: newTurnstile(maxExports, "exporting", "templates"),
	}
	r.life, r.end = context.WithCancel(context.Background())
	return r, nil
}

// Templates returns those of a team and the house's, by name. Those of which no
// build is ready are among them.
func (r *Registry) Templates(ctx context.Context, team soulbox.TeamID) ([]*soulbox.Template, error) {
	return r.Store.Templates(ctx, team)
}

// Template returns the one that a reference means to a team, as the build makes
// it that the reference's tag or versions mean. A bare name is the team's own,
// else the house's, else an id of one of these; with a namespace, which is a
// team's slug, it is that team's and nothing else. One of which no build is
// ready is found by its bare name, too.
func (r *Registry) Template(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef) (*soulbox.Template, error) {
	t, err := r.lookUp(ctx, team, ref)
	if err != nil {
		return nil, err
	}
	if usual(ref) {
		return t, nil
	}
	b, err := r.Store.BuildAt(ctx, t.ID, ref)
	if soulbox.KindOf(err) == soulbox.NotFound {
		return nil, ref.NoBuild()
	}
	if err != nil {
		return nil, err
	}
	return t.At(b), nil
}

// usual reports whether ref means what a template is by default.
func usual(ref soulbox.TemplateRef) bool {
	return ref.Versions == soulbox.VersionRange{} && (ref.Tag == "" || ref.Tag == soulbox.DefaultTag)
}

// lookUp returns the template that the name in ref means to a team.
func (r *Registry) lookUp(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef) (*soulbox.Template, error) {
	t, err := r.named(ctx, team, ref)
	return permitted(t, err, team, toSee, soulbox.TemplateRef{Namespace: ref.Namespace, Name: ref.Name}.String())
}

func (r *Registry) named(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef) (*soulbox.Template, error) {
	if ref.Namespace != "" {
		owner, err := r.Store.TeamBySlug(ctx, ref.Namespace)
		if err != nil {
			return nil, err
		}
		return r.Store.TemplateByName(ctx, owner.ID, ref.Name)
	}
	for _, owner := range []soulbox.TeamID{team, house} {
		t, err := r.Store.TemplateByName(ctx, owner, ref.Name)
		if err == nil || soulbox.KindOf(err) != soulbox.NotFound {
			return t, err
		}
	}
	return r.Store.Template(ctx, soulbox.TemplateID(ref.Name))
}

// find returns the template with an id to those who may do something with it.
func (r *Registry) find(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, what act) (*soulbox.Template, error) {
	t, err := r.Store.Template(ctx, id)
	return permitted(t, err, team, what, string(id))
}

// An act is what somebody wants to do with a template.
type act int

const (
	toSee    act = iota // start it, read what it tells, copy it
	toChange            // build, tag, publish, read recipes and logs
	toRemove
)

// may is the rule of who may do what with a template, the only one. When it
// says no, the kind is that of the refusal: what one may not see is NotFound,
// because a Forbidden would tell strangers what exists.
func may(t *soulbox.Template, team soulbox.TeamID, what act) (refusal soulbox.Kind, ok bool) {
	switch {
	case team != house && t.Team == team:
		return 0, true
	case t.Team != house && !t.Public:
		return soulbox.NotFound, false
	default:
		return soulbox.Forbidden, what == toSee
	}
}

// permitted applies the rule to what a look for a template found, which was
// asked for by that name.
func permitted(t *soulbox.Template, err error, team soulbox.TeamID, what act, name string) (*soulbox.Template, error) {
	kind, ok := soulbox.KindOf(err), false
	if err == nil {
		kind, ok = may(t, team, what)
	}
	switch {
	case ok:
		return t, nil
	case kind == soulbox.NotFound:
		return nil, soulbox.Errorf(soulbox.NotFound, "template '%s' not found", name)
	case err != nil:
		return nil, err
	case t.Team == house:
		return nil, soulbox.Errorf(soulbox.Forbidden, "template '%s' belongs to the house and cannot be %s", t.Name, map[act]string{toChange: "changed", toRemove: "removed"}[what])
	default:
		return nil, soulbox.Errorf(soulbox.Forbidden, "template '%s' belongs to another team", t.Name)
	}
}

// take waits for the turn and returns what gives it back.
func (r *Registry) take(ctx context.Context) (release func(), err error) {
	select {
	case r.turn <- struct{}{}:
		return func() { <-r.turn }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// sweep removes the images that no build has and no sandbox uses. The caller has
// the turn. While there may be images that no record names yet, nothing is swept;
// who puts an end to that sweeps.
//
// It comes before the rows of an import change, not after: whoever makes a
// sandbox reads the row first and opens the image then, and the image that the
// row named a moment ago should still be there.
func (r *Registry) sweep(ctx context.Context) error {
	if r.packing > 0 {
		return nil
	}
	images, err := r.Store.Images(ctx)
	if err != nil {
		return err
	}
	return r.Packer.Retain(ctx, images)
}

// now is the time with the precision of the store, so that records and memory
// never differ.
func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }
