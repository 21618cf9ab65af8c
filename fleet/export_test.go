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
