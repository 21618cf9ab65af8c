package store

import (
	"testing"

	"github.com/soulbox/soulbox"
)

func FuzzParseCursor(f *testing.F) {
	f.Add(cursor(1_772_366_400_123_456, "i0123456789abcdefghij"))
	f.Add(cursor(0, "a"))
	f.Add("MTIzOg")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		at, id, err := parseCursor(s)
		if err != nil {
			if soulbox.KindOf(err) != soulbox.Invalid {
				t.Errorf("parseCursor(%q): %v, want Invalid", s, err)
			}
			return
		}
		if again := cursor(at, id); again != s {
			t.Errorf("parseCursor(%q) = %d, %q, which is %q", s, at, id, again)
		}
	})
}
