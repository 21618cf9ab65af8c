package cleanup_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/soulbox/soulbox/internal/cleanup"
)

func TestRunUndoesLatestFirst(t *testing.T) {
	broken := errors.New("broken")
	var got []int
	var s cleanup.Stack
	for i := range 3 {
		s.Push(func() error {
			got = append(got, i)
			if i == 1 {
				return broken
			}
			return nil
		})
	}
	if err := s.Run(); !errors.Is(err, broken) {
		t.Errorf("Run = %v, want %v in it", err, broken)
	}
	if want := []int{2, 1, 0}; !slices.Equal(got, want) {
		t.Errorf("undone %v, want %v", got, want)
	}
	if err := s.Run(); err != nil || len(got) != 3 {
		t.Errorf("second Run = %v after %d steps, want nil after 3", err, len(got))
	}
}

func TestKeep(t *testing.T) {
	var s cleanup.Stack
	s.Push(func() error { t.Error("undone after Keep"); return nil })
	s.Keep()
	if err := s.Run(); err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
}
