package session

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/session/eventlog"
)

func TestAlign(t *testing.T) {
	chain := func(head uint64, epochs ...soulbox.GuestEpoch) soulbox.GuestPosition {
		return soulbox.GuestPosition{Epochs: epochs, Head: head, Tail: 1}
	}
	for _, test := range []struct {
		name   string
		seen   []eventlog.Seen
		pos    soulbox.GuestPosition
		after  uint64
		undone uint64
	}{
		{"goes on", []eventlog.Seen{{ID: "a", First: 1, Last: 5}}, chain(9, soulbox.GuestEpoch{ID: "a", From: 1}), 5, 0},
		{"a pause later", []eventlog.Seen{{ID: "a", First: 1, Last: 5}}, chain(9, soulbox.GuestEpoch{ID: "a", From: 1}, soulbox.GuestEpoch{ID: "b", From: 8}), 5, 0},
		{"taken back", []eventlog.Seen{{ID: "a", First: 1, Last: 5}}, chain(3, soulbox.GuestEpoch{ID: "a", From: 1}, soulbox.GuestEpoch{ID: "b", From: 4}), 3, 2},
		{"taken back over an epoch", []eventlog.Seen{{ID: "a", First: 1, Last: 5}, {ID: "b", First: 6, Last: 9}}, chain(3, soulbox.GuestEpoch{ID: "a", From: 1}, soulbox.GuestEpoch{ID: "c", From: 4}), 3, 6},
		{"taken back to the very beginning", []eventlog.Seen{{ID: "a", First: 1, Last: 5}}, chain(0, soulbox.GuestEpoch{ID: "a", From: 1}, soulbox.GuestEpoch{ID: "b", From: 1}), 0, 5},
		{
			"taken back to before it joined",
			[]eventlog.Seen{{ID: "a", First: 4, Last: 3}, {ID: "b", First: 8, Last: 7}, {ID: "c", First: 8, Last: 12}},
			chain(2, soulbox.GuestEpoch{ID: "a", From: 1}, soulbox.GuestEpoch{ID: "d", From: 3}), 2, 5,
		},
		{"twice", []eventlog.Seen{{ID: "a", First: 1, Last: 3}, {ID: "b", First: 4, Last: 6}}, chain(9, soulbox.GuestEpoch{ID: "a", From: 1}, soulbox.GuestEpoch{ID: "c", From: 4}), 3, 3},
		{"nothing in common", []eventlog.Seen{{ID: "a", First: 1, Last: 5}}, chain(9, soulbox.GuestEpoch{ID: "z", From: 1}), 0, 5},
		{"nothing at all", nil, soulbox.GuestPosition{}, 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := align(test.seen, test.pos)
			if got.after != test.after || got.undone != test.undone {
				t.Errorf("align goes on after %d and undoes %d, want %d and %d", got.after, got.undone, test.after, test.undone)
			}
			if again := align(got.seen, test.pos); test.undone > 0 && len(got.seen) > 0 && (again.after != test.after || again.undone != 0) {
				t.Errorf("once more it goes on after %d and undoes %d", again.after, again.undone)
			}
		})
	}
}

func TestSeenUpTo(t *testing.T) {
	pos := soulbox.GuestPosition{Epochs: []soulbox.GuestEpoch{{ID: "a", From: 1}, {ID: "b", From: 4}, {ID: "c", From: 9}}, Head: 12}
	want := []eventlog.Seen{{ID: "a", First: 4, Last: 3}, {ID: "b", First: 7, Last: 6}, {ID: "c", First: 7, Last: 6}}
	if diff := cmp.Diff(want, seenUpTo(pos, 6)); diff != "" {
		t.Errorf("seenUpTo (-want +got):\n%s", diff)
	}
	for seq, want := range map[uint64]string{0: "", 1: "a", 3: "a", 4: "b", 8: "b", 9: "c", 100: "c"} {
		if got := epochAt(pos.Epochs, seq); got != want {
			t.Errorf("epochAt %d = %q, want %q", seq, got, want)
		}
	}
}

// FuzzAlign compares chains of anything.
func FuzzAlign(f *testing.F) {
	f.Add([]byte{1, 1, 5, 2, 6, 9}, []byte{1, 1, 3, 4}, uint64(9), uint64(1))
	f.Fuzz(func(t *testing.T, seen, epochs []byte, head, tail uint64) {
		var have []eventlog.Seen
		for i := 0; i+2 < len(seen); i += 3 {
			have = append(have, eventlog.Seen{ID: string(seen[i]), First: uint64(seen[i+1]), Last: uint64(seen[i+2])})
		}
		pos := soulbox.GuestPosition{Head: head, Tail: tail}
		for i := 0; i+1 < len(epochs); i += 2 {
			pos.Epochs = append(pos.Epochs, soulbox.GuestEpoch{ID: string(epochs[i]), From: uint64(epochs[i+1])})
		}
		a := align(have, pos)
		var most uint64
		for _, s := range have {
			most += events(s)
		}
		if a.undone > most {
			t.Errorf("align undoes %d of %d events", a.undone, most)
		}
	})
}
