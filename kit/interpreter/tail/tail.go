// Package tail keeps the end of what a program says, for when somebody asks why
// it has ended.
package tail

import (
	"strings"
	"sync"
)

const size = 2 << 10 // bytes

// Tail keeps the last 2 KiB of what is written to it. The zero value is empty. It
// is safe for concurrent use.
type Tail struct {
	mu   sync.Mutex
	last []byte // +checklocks:mu
}

// Write never fails.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = append(t.last, p[max(0, len(p)-size):]...)
	t.last = t.last[max(0, len(t.last)-size):]
	return len(p), nil
}

// String returns what is kept, without newlines at its end.
func (t *Tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimRight(string(t.last), "\n")
}
