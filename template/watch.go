package template

import (
	"context"
	"time"

	"github.com/soulbox/soulbox"
)

const (
	// watchPage is how many lines of a log are read at a time.
	watchPage = 1000
	// watchPause is how long Watch waits before it looks again.
	watchPause = 200 * time.Millisecond
	// watchSilence is after what time without a line idle is called.
	watchSilence = 15 * time.Second
)

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
			return nil, soulbox.Errorf(soulbox.Invalid, "there is no line %d yet", after)
		}
	}
	tick := time.NewTicker(watchPause)
	defer tick.Stop()
	for heard := time.Now(); ; {
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
			heard = time.Now()
		}
		switch {
		case len(lines) == watchPage:
			continue
		case idle == nil || b.State.Over():
			return b, nil
		case time.Since(heard) > watchSilence:
			if err := idle(); err != nil {
				return nil, err
			}
			heard = time.Now()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
