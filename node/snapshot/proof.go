package snapshot

import (
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	// proofTime is how long a file that was read and found whole counts as whole
	// while it does not change. A disk that rots is found out after that.
	proofTime = time.Hour
	// proofAge is how long a file must have been left alone for that: its times
	// are those of a clock that ticks, and a change within a tick has the same.
	proofAge = 2 * time.Second
	// maxProofs is when the old ones are thrown away.
	maxProofs = 4096
)

// proofs remember which files had the content that they should have, so that a
// snapshot from which many sandboxes are made is not read whole for each: that
// takes as long as a fifth of the start. Safe for concurrent use.
type proofs struct {
	mu  sync.Mutex
	has map[identity]proof // +checklocks:mu
	now func() time.Time
}

// identity tells a file from all others that are there.
type identity struct{ device, inode uint64 }

// proof says that a file had a content when it looked like this.
type proof struct {
	size             int64
	modified, status syscall.Timespec
	sum              string
	until            time.Time
}

// look returns what a file looks like, and whether that can be relied upon.
func (p *proofs) look(f *os.File, sum string) (identity, proof, bool) {
	fi, err := f.Stat()
	if err != nil {
		return identity{}, proof{}, false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return identity{}, proof{}, false
	}
	now := p.now()
	was := proof{size: st.Size, modified: st.Mtim, status: st.Ctim, sum: sum, until: now.Add(proofTime)}
	old := now.Sub(time.Unix(st.Ctim.Unix())) >= proofAge // Ctim cannot be set, Mtim can
	return identity{device: st.Dev, inode: st.Ino}, was, old
}

// hold reports whether it is known that a file which looks like that is whole.
func (p *proofs) hold(id identity, now proof) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	known, ok := p.has[id]
	if !ok || p.now().After(known.until) {
		return false
	}
	known.until = now.until
	return known == now
}

// add remembers that a file was found whole.
func (p *proofs) add(id identity, found proof) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.has) >= maxProofs {
		clear(p.has)
	}
	p.has[id] = found
}
