// Package fault kills the program at a named step, so that tests can prove
// that a crash there loses nothing and leaves nothing.
//
// A step is a call of [Points.Reach] with a constant name such as
// "create/recorded". In production no points are armed and a call costs one
// comparison. `soulbox serve` arms one from its environment; see docs/testing.md.
// A test of many steps names them one after the other in a file, which is read
// at every step, and so can prepare each with the same process that will die.
package fault

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// Points is a set of steps, at most one of them armed. A nil *Points is ready
// to use and never kills.
type Points struct {
	armed string
	left  atomic.Int64 // how many passes before it kills

	file string // that names the armed step instead; it may change

	mu   sync.Mutex
	name string  // in the file, when it was last read; +checklocks:mu
	arms *Points // what that name arms; +checklocks:mu
}

const filePrefix = "file:"

// Arm returns points of which the step called name kills the process with
// SIGKILL. "name@3" lets two passes go and kills at the third, and "file:path"
// kills at the step that the file names by then, if there is one; passes count
// from the first step after the file was given that name. An empty name arms
// nothing.
func Arm(name string) *Points {
	if name == "" {
		return nil
	}
	if path, ok := strings.CutPrefix(name, filePrefix); ok {
		return &Points{file: path}
	}
	p := &Points{armed: name}
	p.left.Store(1)
	if at, nth, ok := strings.Cut(name, "@"); ok {
		if n, err := strconv.ParseInt(nth, 10, 64); err == nil && n > 0 {
			p.armed = at
			p.left.Store(n)
		}
	}
	return p
}

// Reach marks that the program is at the step. It does not return when the
// step is armed and due. Safe for concurrent use.
func (p *Points) Reach(step string) {
	if p == nil || !p.due(step) {
		return
	}
	_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL) // cannot fail for oneself
	select {}
}

func (p *Points) due(step string) bool {
	if p.file != "" {
		p = p.named()
	}
	return p != nil && step == p.armed && p.left.Add(-1) == 0
}

// named returns what the file arms by now. It reads with the lock held: an
// older name must not come after a newer one.
func (p *Points) named() *Points {
	p.mu.Lock()
	defer p.mu.Unlock()
	name, err := os.ReadFile(p.file)
	if err != nil {
		return nil
	}
	if string(name) != p.name {
		p.name, p.arms = string(name), Arm(string(name))
	}
	return p.arms
}
