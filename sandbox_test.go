package soulbox_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
)

func TestSandboxMove(t *testing.T) {
	states := []soulbox.State{soulbox.Starting, soulbox.Running, soulbox.Pausing, soulbox.Paused, soulbox.Resuming, soulbox.Ending, soulbox.Ended}
	legal := map[[2]soulbox.State]bool{
		{soulbox.Starting, soulbox.Running}: true,
		{soulbox.Starting, soulbox.Ending}:  true,
		{soulbox.Starting, soulbox.Ended}:   true,
		{soulbox.Running, soulbox.Pausing}:  true,
		{soulbox.Running, soulbox.Resuming}: true, // a rollback
		{soulbox.Running, soulbox.Ending}:   true,
		{soulbox.Running, soulbox.Ended}:    true,
		{soulbox.Pausing, soulbox.Paused}:   true,
		{soulbox.Pausing, soulbox.Running}:  true, // it could not be written down
		{soulbox.Pausing, soulbox.Ending}:   true,
		{soulbox.Pausing, soulbox.Ended}:    true,
		{soulbox.Paused, soulbox.Resuming}:  true,
		{soulbox.Paused, soulbox.Ending}:    true,
		{soulbox.Paused, soulbox.Ended}:     true,
		{soulbox.Resuming, soulbox.Running}: true,
		{soulbox.Resuming, soulbox.Paused}:  true, // it could not be made again
		{soulbox.Resuming, soulbox.Ending}:  true,
		{soulbox.Resuming, soulbox.Ended}:   true,
		{soulbox.Ending, soulbox.Ended}:     true,
	}
	for _, from := range states {
		for _, to := range states {
			sb := &soulbox.Sandbox{ID: "i1", State: from}
			err := sb.Move(to)
			switch {
			case legal[[2]soulbox.State{from, to}]:
				if err != nil || sb.State != to {
					t.Errorf("Move from %s to %s: state %s, error %v", from, to, sb.State, err)
				}
			case soulbox.KindOf(err) != soulbox.Conflict || sb.State != from:
				t.Errorf("Move from %s to %s: state %s, error %v; want a Conflict and no change", from, to, sb.State, err)
			}
		}
	}
	sb := &soulbox.Sandbox{State: "unheard of"}
	if err := sb.Move(soulbox.Ended); err == nil {
		t.Error("Move from an unknown state succeeds")
	}
}

func TestStateLive(t *testing.T) {
	for _, tt := range []struct {
		state        soulbox.State
		live, active bool
	}{
		{soulbox.Starting, true, true},
		{soulbox.Running, true, true},
		{soulbox.Pausing, true, true},
		{soulbox.Paused, true, false},
		{soulbox.Resuming, true, true},
		{soulbox.Ending, false, false},
		{soulbox.Ended, false, false},
		{"", false, false},
	} {
		if live, active := tt.state.Live(), tt.state.Active(); live != tt.live || active != tt.active {
			t.Errorf("%q: live %v, active %v; want %v, %v", tt.state, live, active, tt.live, tt.active)
		}
	}
}

func TestSandboxClone(t *testing.T) {
	sb := &soulbox.Sandbox{
		ID: "i1", Env: map[string]string{"A": "1"}, Metadata: map[string]string{"B": "2"},
		End: &soulbox.End{By: soulbox.ByClient}, Pause: &soulbox.Pause{Memory: true},
	}
	c := sb.Clone()
	if diff := cmp.Diff(sb, c); diff != "" {
		t.Errorf("Clone (-want +got):\n%s", diff)
	}
	c.Env["A"], c.Metadata["B"], c.End.By, c.Pause.Memory = "x", "x", soulbox.ByOOM, false
	if !sb.Pause.Memory || sb.Env["A"] != "1" || sb.Metadata["B"] != "2" || sb.End.By != soulbox.ByClient {
		t.Errorf("changing the clone changed the original: %+v", sb)
	}
}

func TestNewSandboxID(t *testing.T) {
	seen := map[soulbox.SandboxID]bool{}
	letters := map[rune]int{}
	const n = 5000
	for range n {
		id := soulbox.NewSandboxID()
		if len(id) != 21 || id[0] != 'i' || !id.Valid() {
			t.Fatalf("NewSandboxID() = %q, want i and 20 of [a-z0-9]", id)
		}
		if seen[id] {
			t.Fatalf("NewSandboxID() = %q twice", id)
		}
		seen[id] = true
		for _, r := range id[1:] {
			letters[r]++
		}
	}
	// Every letter is due 2778 times; 10 % off is more than five deviations.
	const due = n * 20 / 36
	if len(letters) != 36 {
		t.Errorf("%d letters appear, want 36", len(letters))
	}
	for r, got := range letters {
		if got < due*9/10 || got > due*11/10 {
			t.Errorf("letter %c appears %d times, want about %d", r, got, due)
		}
	}
}

func TestSandboxIDValid(t *testing.T) {
	for id, want := range map[soulbox.SandboxID]bool{
		"i0123456789abcdefghij": true,
		"a":                     true,
		"0123456789012345678901234567890123456789":  true,
		"01234567890123456789012345678901234567890": false,
		"":     false,
		"A":    false,
		"a-b":  false,
		"a\n":  false,
		"a/..": false,
		"..":   false,
		"é":    false,
	} {
		if got := id.Valid(); got != want {
			t.Errorf("%q.Valid() = %v, want %v", id, got, want)
		}
	}
}

func TestIsolation(t *testing.T) {
	for s, want := range map[string]soulbox.Isolation{"gvisor": soulbox.GVisor, "runc": soulbox.Runc} {
		got, err := soulbox.ParseIsolation(s)
		if err != nil || got != want || got.String() != s {
			t.Errorf("ParseIsolation(%q) = %q, %v, want %q", s, got, err, want)
		}
	}
	for _, s := range []string{"", "docker", "GVISOR", "runc ", "\x00"} {
		if got, err := soulbox.ParseIsolation(s); soulbox.KindOf(err) != soulbox.Invalid || got != "" || err == nil {
			t.Errorf("ParseIsolation(%q) = %q, %v, want Invalid", s, got, err)
		}
	}
	runc := []soulbox.Isolation{soulbox.Runc}
	for _, err := range []error{soulbox.GVisor.Allowed(nil), soulbox.GVisor.Allowed(runc), soulbox.Runc.Allowed(runc)} {
		if err != nil {
			t.Errorf("what is allowed: %v", err)
		}
	}
	if err := soulbox.Runc.Allowed(nil); soulbox.KindOf(err) != soulbox.Forbidden || err == nil {
		t.Errorf("what is not allowed: %v, want Forbidden", err)
	}
}

func TestEndString(t *testing.T) {
	end := soulbox.End{At: time.Date(2026, 3, 1, 13, 0, 0, 5000, time.FixedZone("", 3600)), By: soulbox.ByOOM, Reason: "too much"}
	if got, want := end.String(), "ended by oom at 2026-03-01T12:00:00Z: too much"; got != want {
		t.Errorf("String() = %q, want %q", got, want)
	}
	end.Reason = ""
	if got, want := end.String(), "ended by oom at 2026-03-01T12:00:00Z"; got != want {
		t.Errorf("String() = %q, want %q", got, want)
	}
}
