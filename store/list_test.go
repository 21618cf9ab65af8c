package store

import (
	"testing"

	"github.com/soulbox/soulbox"
)

func FuzzParseCursor(f *testing.F) {
	f.Add(cursor(1_772_366_400_123_456, "i0123456789abcdefghij"))
	f.Add(cursor(1_772_366_400_123_456, "s0123456789abcdefghij"))
	f.Add(cursor(0, "a"))
	f.Add("MTIzOg")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		roundTrip[soulbox.SandboxID](t, s)
		roundTrip[soulbox.SnapshotID](t, s)
	})
}

func roundTrip[ID interface {
	~string
	Valid() bool
}](t *testing.T, s string) {
	t.Helper()
	at, id, err := parseCursor[ID](s)
	if err != nil {
		if soulbox.KindOf(err) != soulbox.Invalid {
			t.Errorf("parseCursor[%T](%q): %v, want Invalid", id, s, err)
		}
		return
	}
	if again := cursor(at, id); again != s {
		t.Errorf("parseCursor[%T](%q) = %d, %q, which is %q", id, s, at, id, again)
	}
}
