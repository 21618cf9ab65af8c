package fleet

import (
	"context"
	"fmt"
	"time"

	"github.com/soulbox/soulbox"
)

// Extend makes a running sandbox live until d from now at least, and returns
// it. One that lives longer anyway stays as it is; one that is paused is a
// Conflict and stays paused.
func (f *Fleet) Extend(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, d time.Duration) (*soulbox.Sandbox, error) {
	if err := f.begin(); err != nil {
		return nil, err
	}
	defer f.wg.Done()
	if err := f.mayLive(ctx, team, d); err != nil {
		return nil, fmt.Errorf("extend sandbox %s: %w", id, err)
	}
	e, err := f.liveEntry(ctx, team, id)
	if err != nil {
		return nil, err
	}
	sb, asleep, err := f.extend(ctx, e, d)
	if asleep {
		return nil, soulbox.Errorf(soulbox.Conflict, "sandbox %s is %s; connect to it first", id, e.sb.Load().State)
	}
	return sb, err
}
