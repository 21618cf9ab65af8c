package buildkit

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/moby/buildkit/client"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/tonistiigi/fsutil"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/stepwire"
)

// running is a build that is worked on.
type running struct {
	job    *Job
	log    *buildLog
	ctx    context.Context //nolint:containedctx // it is that of Build
	cancel context.CancelCauseFunc
	token  string         // of its steps
	secret string         // of the step that packs
	steps  sync.WaitGroup // that are served

	refused func(text string) string // why an address was refused that text names, if it was

	source string // what it is built on; written before anything is packed

	mu     sync.Mutex
	why    error  // +checklocks:mu what ended a step first: a limit, or what we could not do for it
	packed Packed // +checklocks:mu
}

// blame says that err ended a step.
func (b *running) blame(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.why == nil {
		b.why = err
	}
}

func (b *running) blamed() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.why
}

const (
	tokenArg   = stepwire.TokenEnv
	watchPause = 200 * time.Millisecond // between two looks at the disk
)

// Build builds. It calls say with each line of the log, from one goroutine and
// until it returns. When ctx ends, or the job's time is up, or the engine is
// closed, what runs for the build is ended first.
//
// A *[StepError] in the chain says that the recipe is at fault, and where.
func (e *Engine) Build(ctx context.Context, job Job, say func(soulbox.BuildLine)) (Result, error) {
	if err := job.check(); err != nil {
		return Result{}, fmt.Errorf("build %s: %w", job.ID, err)
	}
	ctx, end := context.WithTimeoutCause(ctx, job.Limits.Time, errTime)
	defer end()
	b := &running{job: &job, token: rand.Text(), secret: rand.Text(), refused: func(string) string { return "" }}
	b.ctx, b.cancel = context.WithCancelCause(ctx)
	defer b.cancel(nil)
	b.log = newLog(say)
	defer b.log.close()
	if err := e.enter(b); err != nil {
		return Result{}, fmt.Errorf("build %s: %w", job.ID, err)
	}
	res, err := e.build(b)
	b.cancel(errOver)
	e.leave(b)
	if err != nil {
		err = b.failure(err)
		b.log.failed(err)
		return Result{}, fmt.Errorf("build %s: %w", job.ID, err)
	}
	return res, nil
}

var (
	errTime = errors.New("its time is up")
	errOver = errors.New("the build is over")
)

// enter lets the steps of b be served.
func (e *Engine) enter(b *running) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ctx.Err() != nil {
		return errClosed
	}
	e.work.Add(1)
	e.builds[b.token] = b
	return nil
}

// leave ends that, and returns once no step of b is served any more, unless
// another build may need it.
func (e *Engine) leave(b *running) {
	defer e.work.Done()
	e.mu.Lock()
	delete(e.builds, b.token)
	e.ended[b.token] = b.job.Team
	if len(e.builds) == 0 {
		clear(e.ended)
	}
	e.mu.Unlock()
	if !e.shared(b) {
		b.steps.Wait()
	}
}

// whose returns the build that a step belongs to, or nil. The caller says Done
// to its steps. A step that BuildKit runs for two builds has the token of one of
// them, which may be over.
func (e *Engine) whose(token string) *running {
	e.mu.Lock()
	defer e.mu.Unlock()
	b := e.builds[token]
	if team, ok := e.ended[token]; b == nil && ok {
		for _, other := range e.builds {
			if other.job.Team == team {
				b = other
			}
		}
	}
	if b != nil {
		b.steps.Add(1)
	}
	return b
}

// shared reports whether another build may use the steps of b.
func (e *Engine) shared(b *running) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, other := range e.builds {
		if other != b && other.job.Team == b.job.Team {
			return true
		}
	}
	return false
}

func (e *Engine) allRunning() []*running {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := make([]*running, 0, len(e.builds))
	for _, b := range e.builds {
		all = append(all, b)
	}
	return all
}

// build does what Build says, and leaves it to say what went wrong.
func (e *Engine) build(b *running) (Result, error) {
	d, err := e.acquire(b.ctx)
	if err != nil {
		return Result{}, err
	}
	defer e.release()
	b.refused = d.egress.whyRefused
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		e.watch(b, d)
	}()
	defer func() { b.cancel(errOver); <-watched }()

	recipe, err := e.plan(b)
	if err != nil {
		return Result{}, err
	}
	status := make(chan *client.SolveStatus)
	told := make(chan struct{})
	go func() {
		defer close(told)
		for s := range status {
			b.log.status(s)
		}
	}()
	var res Result
	_, err = d.client.Build(b.ctx, client.SolveOpt{
		LocalMounts: recipe.locals(),
		OCIStores:   recipe.stores(),
		SharedKey:   recipe.key(),
		Session:     []session.Attachable{keychain{job: b.job}, secretsprovider.FromMap(b.job.Secrets)},
		Internal:    true, // it need not remember the build

		SourcePolicyProvider: e.policy(b, d),
	}, "", func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		ref, made, err := recipe.solve(ctx, c)
		if err != nil {
			return nil, err
		}
		packed, err := b.pack(ctx, c, ref, made.Facts.Base)
		if err != nil {
			return nil, err
		}
		res = made.with(packed)
		return gateway.NewResult(), nil
	}, status)
	<-told // Build has closed it
	if died := d.died(err); died != nil {
		b.cancel(died)
	}
	return res, err
}

// A recipe is what one kind of recipe means to BuildKit.
type recipe interface {
	locals() map[string]fsutil.FS     // folders that it copies from
	stores() map[string]content.Store // templates that it builds on
	key() string                      // of locals: the same only if they are

	// solve builds, and returns the result and what its author meant.
	solve(ctx context.Context, c gateway.Client) (gateway.Reference, Result, error)
}

// plan reads the job's recipe.
func (e *Engine) plan(b *running) (recipe, error) {
	if b.job.Recipe.Dockerfile != "" {
		return e.planDockerfile(b)
	}
	return e.planSteps(b)
}

// with returns what the author meant together with what was found.
func (r Result) with(p Packed) Result {
	r.Image = p.Image
	if r.User == "" {
		r.User = p.User
	}
	r.Facts.Distribution, r.Facts.Packages, r.Facts.Bytes = p.Facts.Distribution, p.Facts.Packages, p.Facts.Bytes
	return r
}

// watch ends b when the disk is full or the daemon has gone, and returns at the
// end of b.
func (e *Engine) watch(b *running, d *daemon) {
	tick := time.NewTicker(watchPause)
	defer tick.Stop()
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-d.ended:
			b.cancel(d.obituary())
			return
		case <-tick.C:
		}
		// What a step writes is measured. This is for all the rest, such as a
		// base image, and for files that a step writes and that have no name.
		if free, err := freeSpace(e.Dir); err != nil || free < e.MinFree {
			b.cancel(soulbox.Hide(soulbox.Unavailable, err, "the disk of this machine is full"))
			return
		}
	}
}
