package fleet

import (
	"context"

	"github.com/soulbox/soulbox"
)

// Expire does to a sandbox what the queue does when it is due.
func Expire(f *Fleet, id soulbox.SandboxID) {
	if e, ok := f.entry(id); ok {
		f.expire(context.Background(), e)
	}
}

// Reserved returns how many places of its quota a team has taken.
func Reserved(f *Fleet, team soulbox.TeamID) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.live[team]
}

// Retries returns how much goes on behind the answers, until it succeeds.
func Retries(f *Fleet) int { return int(f.retries.Load()) }

// ResumeForTraffic is what [Fleet.Wake] does once it has found a reason.
func ResumeForTraffic(f *Fleet, id soulbox.SandboxID) (resumed bool, err error) {
	e, ok := f.entry(id)
	if !ok {
		return false, missing(id, nil)
	}
	return f.resume(context.Background(), e, 0, false, true)
}
