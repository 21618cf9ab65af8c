package soulbox_test

import (
	"testing"

	"github.com/soulbox/soulbox"
)

func TestBuildMoves(t *testing.T) {
	all := []soulbox.BuildState{soulbox.BuildWaiting, soulbox.BuildRunning, soulbox.BuildReady, soulbox.BuildFailed}
	allowed := map[[2]soulbox.BuildState]bool{
		{soulbox.BuildWaiting, soulbox.BuildRunning}: true,
		{soulbox.BuildWaiting, soulbox.BuildFailed}:  true,
		{soulbox.BuildRunning, soulbox.BuildRunning}: true,
		{soulbox.BuildRunning, soulbox.BuildReady}:   true,
		{soulbox.BuildRunning, soulbox.BuildFailed}:  true,
	}
	for _, from := range all {
		for _, to := range all {
			b := &soulbox.Build{State: from}
			err := b.Move(to)
			switch {
			case allowed[[2]soulbox.BuildState{from, to}] && (err != nil || b.State != to):
				t.Errorf("%s to %s: state %s, error %v", from, to, b.State, err)
			case !allowed[[2]soulbox.BuildState{from, to}] && (soulbox.KindOf(err) != soulbox.Conflict || b.State != from):
				t.Errorf("%s to %s: state %s, error %v, want a Conflict and no change", from, to, b.State, err)
			}
		}
	}
}

func TestBuildID(t *testing.T) {
	if a, b := soulbox.NewBuildID(), soulbox.NewBuildID(); !a.Valid() || !b.Valid() || a == b {
		t.Errorf("NewBuildID: %q and %q, want two valid ones", a, b)
	}
	for _, id := range []soulbox.BuildID{"", "default", "../../../../../../../../../../../../etc", "A2345678-1234-1234-1234-123456789012"} {
		if id.Valid() {
			t.Errorf("%q is valid", id)
		}
	}
}
