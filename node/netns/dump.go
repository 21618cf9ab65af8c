package netns

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// whole repeats a listing until nothing changes while the kernel writes it.
// Devices and routes come and go all the time where sandboxes do, and a
// listing that was interrupted may lack what was there throughout: a sandbox
// that is to be kept would be taken for one that is gone.
func whole[T any](list func() ([]T, error)) ([]T, error) {
	const tries = 100 // each takes well under a millisecond
	for i := 1; ; i++ {
		all, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) || i == tries {
			return all, err
		}
	}
}

func devices() ([]netlink.Link, error) { return whole(netlink.LinkList) }
