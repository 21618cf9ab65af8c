// Package depot is where images are pushed to and pulled from: a registry whose
// repositories are the templates of teams. What is pushed under a tag becomes a
// version of the template, and can be pulled as it was pushed.
//
// # What is kept, and why
//
// Layers, configurations and manifests are blobs, and each is stored once,
// whoever has pushed it. A blob stays for one of two reasons: a build was made
// of an image that it is part of, or a team has claimed it for a repository
// within the last day by pushing it there. So what a push has sent before its
// manifest comes is safe, and goes by itself when no manifest comes.
//
// The same two reasons say who may read a blob, because a digest alone is no
// proof of having the bytes: everybody who sees the template reads what its
// ready builds are made of, and its team also what it has claimed. Who has not
// sent a blob, and cannot read it elsewhere, sends it.
//
// # Sweeps
//
// [Depot.Sweep] forgets claims that are old, and deletes blobs that nobody has a
// reason for. It deletes no blob that is in use (see holds), and looks for
// claims once more when it has made sure of that; whoever wants a blob to stay
// claims it while it is in use. When a manifest cannot be read, it deletes
// nothing: it would not know what that one needs.
//
// # After a crash
//
// Uploads that were not finished are gone, and clients begin them again. Blobs
// of a push whose manifest was not answered are claimed: the next try sends none
// of them. Tests can kill the process at these steps (see internal/fault):
//
//	push/stored   a blob is there, and nobody claims it
//	push/claimed  a manifest and its parts are claimed, and no build is made of it
//	push/built    a build is, and nobody was told
package depot

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/blob"
	"github.com/soulbox/soulbox/internal/fault"
)

// A Depot takes images in and gives them out. Safe for concurrent use.
//
// One goroutine, which Close ends and waits for, sweeps at start and then
// every few hours.
type Depot struct {
	Options

	holds    holds
	building chan struct{} // holds one value for each image that is made a template of

	life context.Context    //nolint:containedctx // until Close
	end  context.CancelFunc // of life
	wake chan struct{}      // somebody wants a sweep
	wg   sync.WaitGroup

	mu       sync.Mutex
	uploads  map[string]*upload       // by their ids; +checklocks:mu
	received map[soulbox.TeamID]int64 // bytes of the uploads of teams; +checklocks:mu
	finished map[soulbox.TeamID]int64 // bytes of those that became blobs since Open; +checklocks:mu
	turns    map[turnKey]*turn        // of repositories; +checklocks:mu

	parsed parsed
}

// Options say what a depot is made of.
type Options struct {
	Log       *slog.Logger
	Store     register
	Templates templates
	Blobs     blob.Store
	Dir       string        // for uploads under way; emptied by Open
	Faults    *fault.Points // nil: none

	MaxBlob soulbox.Bytes // 0: 20 GiB
	MaxTeam soulbox.Bytes // what a team may push within a day; 0: 100 GiB
}

const (
	defaultMaxBlob = 20 * soulbox.GiB // as much as an image may have unpacked
	defaultMaxTeam = 100 * soulbox.GiB

	// maxBuilding bounds how many images are unpacked at the same time; others
	// wait, and so do those who push them.
	maxBuilding = 2
)

// register is the part of the store that the depot needs.
type register interface {
	Team(ctx context.Context, id soulbox.TeamID) (*soulbox.Team, error)

	// PutClaims remembers that a team has pushed blobs to a repository of its.
	PutClaims(ctx context.Context, team soulbox.TeamID, name string, claims []soulbox.Claim, at time.Time) error
	// Claimed returns when, or NotFound.
	Claimed(ctx context.Context, team soulbox.TeamID, name string, d soulbox.Digest) (time.Time, error)
	ClaimedBytes(ctx context.Context, team soulbox.TeamID) (int64, error)
	ClaimedBlobs(ctx context.Context) ([]soulbox.Digest, error)
	ClaimedByAny(ctx context.Context, d soulbox.Digest) (bool, error)
	DropClaims(ctx context.Context, before time.Time) error

	// Manifests returns those of which builds were made.
	Manifests(ctx context.Context) ([]soulbox.Digest, error)
}

// templates is what the depot needs of whoever keeps templates. What a team may
// not see is NotFound, as if it did not exist.
type templates interface {
	Template(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef) (*soulbox.Template, error)
	Build(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, build soulbox.BuildID) (*soulbox.Build, error)
	Versions(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID) ([]*soulbox.Build, error)
	Tags(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID) ([]soulbox.Tag, error)
	AssignTags(ctx context.Context, team soulbox.TeamID, target soulbox.TemplateRef, tags []string) (*soulbox.Build, error)
	Import(ctx context.Context, req soulbox.ImportRequest, progress func(string)) (*soulbox.Template, error)
}

// Open returns the depot. Nothing is swept before Start.
func Open(o Options) (*Depot, error) {
	if o.MaxBlob == 0 {
		o.MaxBlob = defaultMaxBlob
	}
	if o.MaxTeam == 0 {
		o.MaxTeam = defaultMaxTeam
	}
	err := os.RemoveAll(o.Dir)
	if err == nil {
		err = os.MkdirAll(o.Dir, 0o700)
	}
	if err != nil {
		return nil, fmt.Errorf("open the depot: %w", err)
	}
	d := &Depot{
		Options: o, building: make(chan struct{}, maxBuilding), wake: make(chan struct{}, 1),
		uploads: map[string]*upload{}, received: map[soulbox.TeamID]int64{}, finished: map[soulbox.TeamID]int64{}, turns: map[turnKey]*turn{},
	}
	d.life, d.end = context.WithCancel(context.Background())
	return d, nil
}

// Start begins to sweep. It is called once.
func (d *Depot) Start() { d.wg.Go(func() { d.sweepOften(d.life) }) }

// Close ends what Start began.
func (d *Depot) Close() error {
	d.end()
	d.wg.Wait()
	return nil
}

// A view is a repository as a team sees it.
type view struct {
	soulbox.Repository

	team     soulbox.TeamID // who looks
	own      bool
	template *soulbox.Template // nil: there is none, which only its team gets to know
}

// see returns a repository to whoever may read it. Without a template it is
// there for the team that could push it.
func (d *Depot) see(ctx context.Context, team soulbox.TeamID, repo soulbox.Repository) (view, error) {
	v := view{Repository: repo, team: team}
	who, err := d.Store.Team(ctx, team)
	if err != nil {
		return v, err
	}
	v.own = who.Slug == repo.Namespace
	v.template, err = d.Templates.Template(ctx, team, soulbox.TemplateRef{Namespace: repo.Namespace, Name: repo.Name})
	if v.own && soulbox.KindOf(err) == soulbox.NotFound {
		err = nil
	}
	return v, err
}

// own returns a repository to the team whose it is. To others it is Forbidden,
// whether there is one or not.
func (d *Depot) own(ctx context.Context, team soulbox.TeamID, repo soulbox.Repository) (view, error) {
	who, err := d.Store.Team(ctx, team)
	if err != nil {
		return view{}, err
	}
	if who.Slug != repo.Namespace {
		return view{}, soulbox.Errorf(soulbox.Forbidden, "your team pushes to %s/NAME only, not to %.100q", who.Slug, repo)
	}
	return d.see(ctx, team, repo)
}

// unknown is the error for a blob that is not there, or is nobody's business.
func unknown(repo soulbox.Repository, digest soulbox.Digest) error {
	return soulbox.Errorf(soulbox.NotFound, "%s has no %s", repo, digest)
}

// now is the time with the precision of the store.
func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }
