package netns

import (
	"errors"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestWhole(t *testing.T) {
	broken := errors.New("broken")
	for _, tt := range []struct {
		name string
		errs []error // of the calls, in order
		want error
		n    int
	}{
		{"at once", []error{nil}, nil, 1},
		{"interrupted twice", []error{netlink.ErrDumpInterrupted, netlink.ErrDumpInterrupted, nil}, nil, 3},
		{"another error", []error{netlink.ErrDumpInterrupted, broken}, broken, 2},
		{"for ever", slices.Repeat([]error{netlink.ErrDumpInterrupted}, 200), netlink.ErrDumpInterrupted, 100},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := 0
			got, err := whole(func() ([]int, error) {
				n++
				return []int{n}, tt.errs[n-1]
			})
			if !errors.Is(err, tt.want) || n != tt.n || !slices.Equal(got, []int{tt.n}) {
				t.Errorf("whole = %v, %v after %d calls, want the result of call %d and %v", got, err, n, tt.n, tt.want)
			}
		})
	}
}
