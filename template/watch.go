package template

import (
	"context"
	"sync"
	"time"

	"github.com/soulbox/soulbox"
)

const (
	// watchPage is how many lines of a log are read at a time.
	watchPage = 1000
	// watchPause is the least time between two looks, so that a build that
	// floods its log does not make us read it a line at a time.
	watchPause = 50 * time.Millisecond
	// watchSilence is after what time without a line idle is called.
	watchSilence = 15 * time.Second
)

// news wakes those who wait for what builds tell.
type news struct {
	hangup  chan struct{} // closed by Disconnect
	once    sync.Once     // of Disconnect
	silence time.Duration // watchSilence, but in tests

	mu      sync.Mutex
	waiting map[soulbox.BuildID]chan struct{} // closed when there is something; +checklocks:mu
}

func newNews() *news {
	return &news{hangup: make(chan struct{}), silence: watchSilence, waiting: map[soulbox.BuildID]chan struct{}{}}
}

// of returns what is closed when there is something new about a build.
func (n *news) of(id soulbox.BuildID) <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := n.waiting[id]
	if c == nil {
		c = make(chan struct{})
		n.waiting[id] = c
	}
	return c
}

// tell says that there is.
func (n *news) tell(id soulbox.BuildID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if c := n.waiting[id]; c != nil {
		close(c)
		delete(n.waiting, id)
	}
}

// Disconnect ends every Watch; who called it comes back to the next process.
func (r *Registry) Disconnect() { r.news.once.Do(func() { close(r.news.hangup) }) }

// Watch calls each with the lines of a build behind the one numbered after, the
// first of all being 1, until it is over, and idle when there is nothing to tell
// for a while; with idle nil it does not wait for more. It returns the build as
// it is then. An after that has not come is Invalid. What each and idle return
// ends it.
func (r *Registry) Watch(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, build soulbox.BuildID, after int,
	idle func() error, each func(number int, line soulbox.BuildLine) error,
) (*soulbox.Build, error) {
	if after > 0 {
		known, err := r.BuildLog(ctx, team, id, build, soulbox.BuildLogQuery{Offset: after - 1, Limit: 1})
		if err != nil {
			return nil, err
		}
		if len(known) == 0 {
			return nil, soulbox.Errorf(soulbox.Invalid, "build %s has no line %d yet", build, after)
		}
	}
	heard := time.NewTimer(r.news.silence)
	defer heard.Stop()
	for {
		next := r.news.of(build) // before looking, so that nothing is missed
		// The state first: of a build that is over, all lines are there.
		b, err := r.Build(ctx, team, id, build)
		if err != nil {
			return nil, err
		}
		lines, err := r.BuildLog(ctx, team, id, build, soulbox.BuildLogQuery{Offset: after, Limit: watchPage})
		if err != nil {
			return nil, err
		}
		for _, line := range lines {
			after++
			if err := each(after, line); err != nil {
				return nil, err
			}
		}
		switch {
		case len(lines) == watchPage:
			continue
		case idle == nil || b.State.Over():
			return b, nil
		case len(lines) > 0:
			heard.Reset(r.news.silence)
		}
		if err := r.await(ctx, next, heard, idle); err != nil {
			return nil, err
		}
	}
}

// await waits until there is something to tell, and then a moment for more.
func (r *Registry) await(ctx context.Context, next <-chan struct{}, heard *time.Timer, idle func() error) error {
	var pause <-chan time.Time
	for {
		select {
		case <-next:
			next, pause = nil, time.After(watchPause)
		case <-pause:
			return nil
		case <-heard.C:
			heard.Reset(r.news.silence)
			if err := idle(); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-r.life.Done():
			return errClosing
		case <-r.news.hangup:
			return errClosing
		}
	}
}
