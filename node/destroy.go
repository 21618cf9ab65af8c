package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/soulbox/soulbox"
)

// Destroy ends a sandbox. When it returns, the sandbox neither runs nor
// answers; what it leaves on the machine is removed in the background. An
// unknown or half-made sandbox succeeds.
func (n *Node) Destroy(ctx context.Context, id soulbox.SandboxID) error {
	if !id.Valid() {
		return soulbox.Errorf(soulbox.Invalid, "%q is not the id of a sandbox", id)
	}
	n.dropWarm(id)
	n.mu.Lock()
	s := n.table[id]
	delete(n.table, id)
	n.mu.Unlock()
	dir := n.sandboxDir(id)
	if s != nil {
		s.leaving()
	} else if _, err := os.Stat(filepath.Join(dir, recordFile)); errors.Is(err, os.ErrNotExist) {
		return nil // nothing of it is left
	}
	if err := n.end(ctx, id, dir); err != nil {
		if s != nil {
			err = errors.Join(err, s.close()) // who tries again does not find it
		}
		return fmt.Errorf("destroy sandbox %s: %w", id, err)
	}
	n.gone(id)
	n.Faults.Reach("node/destroyed")
	group, err := n.cgroups.Group(id)
	if err != nil {
		return err
	}
	n.discard(id, group, s)
	return nil
}

// gone tells whoever wants to know that a sandbox cannot answer any more.
// Connections to it would hang otherwise: nobody is left to reset them.
func (n *Node) gone(id soulbox.SandboxID) {
	if n.Gone != nil {
		n.Gone(id)
	}
}
