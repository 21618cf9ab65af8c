package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/jsonfile"
	"github.com/soulbox/soulbox/node/cgroup"
	"github.com/soulbox/soulbox/node/driver"
	"github.com/soulbox/soulbox/node/guest"
	"github.com/soulbox/soulbox/node/journal"
	"github.com/soulbox/soulbox/node/netns"
)

// A sandbox is one that runs here.
type sandbox struct {
	dir      string
	instance driver.Instance
	group    *cgroup.Group
	agent    *guest.Agent
	journal  *journal.Journal
	record   record             // Internet and Held guarded by mu, the rest never changes
	leaving  context.CancelFunc // ends follow and tells watch that the end is wanted
	left     <-chan struct{}
	followed chan struct{} // closed when follow has ended

	saving sync.Mutex // one Snapshot or Thaw at a time

	mu    sync.Mutex    // also: one change of the network at a time
	still frozen        // what is known of it
	quiet bool          // its agent may show nothing new of its record
	cpu   time.Duration // at the last sample
	at    time.Time
}

// frozen says whether a sandbox's programs stand still.
type frozen uint8

const (
	no frozen = iota
	yes
	perhaps // an earlier process was about to freeze or thaw it
)

// record is what the node writes down about a sandbox before it exists.
type record struct {
	ID       soulbox.SandboxID `json:"id"`
	Slot     netns.Slot        `json:"slot"`
	Size     soulbox.Size      `json:"size"`
	Secure   bool              `json:"secure"`
	Internet bool              `json:"internet"`
	Image    string            `json:"image"` // SHA-256 of its root image

	Isolation soulbox.Isolation `json:"isolation,omitempty"` // whose driver has it; empty: the usual one

	Held   bool   `json:"held,omitempty"` // it is, or is about to be, frozen until Destroy or Thaw
	Warm   bool   `json:"warm,omitempty"` // it waits for somebody who wants one like it
	BootID string `json:"boot_id"`        // of the machine, to tell a crash from a reboot
}

const recordFile = "record.json"

func (r record) save(dir string) error { return jsonfile.Replace(filepath.Join(dir, recordFile), r) }

func loadRecord(dir string) (record, error) {
	return jsonfile.Load[record](filepath.Join(dir, recordFile))
}

// close lets go of a sandbox that was admitted, once nobody works on it here
// any more: follow does not write, and a change of its network is through.
func (s *sandbox) close() error {
	s.leaving()
	<-s.followed
	s.mu.Lock()
	defer s.mu.Unlock()
	s.agent.Close()
	return s.journal.Close()
}

// sample measures the sandbox from outside.
func (s *sandbox) sample(now time.Time) (soulbox.Usage, error) {
	used, err := s.group.Usage()
	if err != nil {
		return soulbox.Usage{}, err
	}
	disk, err := s.instance.DiskUsed()
	if err != nil {
		return soulbox.Usage{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	u := soulbox.Usage{
		At:        now,
		CPUCount:  s.record.Size.CPUs,
		MemUsed:   used.Memory,
		MemTotal:  s.record.Size.Memory,
		MemCache:  used.Cache,
		DiskUsed:  disk,
		DiskTotal: s.record.Size.Disk,
	}
	if wall := now.Sub(s.at); !s.at.IsZero() && wall > 0 {
		// Two who measure at once may overtake each other.
		u.CPUPercent = max(0, 100*float64(used.CPU-s.cpu)/float64(wall))
	}
	s.cpu, s.at = used.CPU, now
	return u, nil
}

// follow copies the agent's log into the journal for as long as the sandbox
// lives. A connection that breaks is made again; what the agent remembers of
// the time between is not lost. Nor is what it remembers of the first moment,
// which belongs to whoever waits for the sandbox and for others.
func (n *Node) follow(ctx context.Context, s *sandbox) {
	defer close(s.followed)
	const moment, pause = 200 * time.Millisecond, time.Second
	for wait := moment; ; wait = pause {
		select {
		case <-ctx.Done():
			return
		case <-s.instance.Done():
			return
		case <-time.After(wait):
		}
		var broken error
		err := s.agent.Logs(ctx, s.journal.Last(), func(e guest.Entry) error {
			broken = s.journal.Append(e)
			return broken
		})
		if broken != nil {
			n.Log.WarnContext(ctx, "journal not written", "sandbox", s.record.ID, "err", broken)
		} else if ctx.Err() == nil {
			n.Log.DebugContext(ctx, "agent's log broke off", "sandbox", s.record.ID, "err", err)
		}
	}
}

// watch reports the sandbox's end unless it was wanted, and removes what is
// left of it.
func (n *Node) watch(s *sandbox) {
	select {
	case <-s.left: // Destroy, or the node closes
		return
	case <-s.instance.Done():
	}
	n.mu.Lock()
	mine := n.table[s.record.ID] == s
	if mine {
		delete(n.table, s.record.ID)
	}
	n.mu.Unlock()
	if !mine {
		return // Destroy was quicker
	}
	end := soulbox.End{At: time.Now(), By: soulbox.ByCrash, Reason: "its kernel ended unexpectedly"}
	if exit := s.instance.Exit(); exit.Signal == "" {
		end.Reason = "its agent ended"
	}
	if why, ok := blame(s.group, s.record.Size); ok {
		end.By, end.Reason = why.By, why.Reason
	}
	n.gone(s.record.ID)
	s.leaving()
	select {
	case n.exits <- soulbox.Exit{ID: s.record.ID, End: end}:
		n.discard(s.record.ID, s.group, s)
	case <-n.ctx.Done(): // whoever opens the node next finds the record and reports
		if err := s.close(); err != nil {
			n.Log.WarnContext(n.ctx, "journal not closed", "sandbox", s.record.ID, "err", err)
		}
	}
}

// blame asks the cgroup whether a limit was the end of the sandbox.
func blame(g *cgroup.Group, size soulbox.Size) (soulbox.End, bool) {
	used, err := g.Usage()
	switch {
	case err != nil:
		return soulbox.End{}, false
	case used.OOMKills > 0:
		return soulbox.End{By: soulbox.ByOOM, Reason: fmt.Sprintf("it needed more than its %d MiB of memory", size.Memory/soulbox.MiB)}, true
	case used.PIDsMax:
		return soulbox.End{By: soulbox.ByQuota, Reason: fmt.Sprintf("it started more processes than its limit of %d host threads allows", size.PIDs)}, true
	}
	return soulbox.End{}, false
}

// discard removes, in the background, what an ended sandbox leaves. The
// record goes last of what is on disk, so that a crash in the middle only
// means that the next Open does the rest. It repeats: a crash and several
// calls of Destroy may all want the same sandbox removed. s may be nil.
func (n *Node) discard(id soulbox.SandboxID, group *cgroup.Group, s *sandbox) {
	before, over := n.leave(id)
	n.work.Go(func() {
		defer over()
		if before != nil {
			<-before
		}
		n.removeRest(id, group, s)
	})
}

// leave notes that something of a sandbox that has ended is left until over is
// called. before is closed when nothing is left of one before it, and nil if there
// is none.
func (n *Node) leave(id soulbox.SandboxID) (before <-chan struct{}, over func()) {
	left := make(chan struct{})
	n.mu.Lock()
	defer n.mu.Unlock()
	if earlier := n.leaving[id]; earlier != nil {
		before = earlier
	}
	n.leaving[id] = left
	return before, func() {
		n.mu.Lock()
		if n.leaving[id] == left {
			delete(n.leaving, id)
		}
		n.mu.Unlock()
		close(left)
	}
}

// removeRest removes what is left of a sandbox, s unless it did not run when the
// node was opened.
func (n *Node) removeRest(id soulbox.SandboxID, group *cgroup.Group, s *sandbox) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(n.ctx), time.Minute)
	defer cancel()
	if s != nil {
		if err := s.close(); err != nil {
			n.Log.WarnContext(ctx, "journal not closed", "sandbox", id, "err", err)
		}
	}
	dir := n.sandboxDir(id)
	err := n.end(ctx, id, dir)
	if err == nil {
		left := group.Remove() // a later Open removes one without a record
		if err = os.RemoveAll(dir); err == nil {
			n.releaseSlot(id)
		}
		err = errors.Join(left, err)
	}
	if err != nil {
		n.Log.WarnContext(ctx, "sandbox not removed completely; the next start of the server tries again", "sandbox", id, "err", err)
	}
}

// awaitDiscarded returns when nothing is left of an earlier sandbox of the same
// id: one that was paused and is resumed a moment later.
func (n *Node) awaitDiscarded(ctx context.Context, id soulbox.SandboxID) error {
	for {
		n.mu.Lock()
		over := n.leaving[id]
		n.mu.Unlock()
		if over == nil {
			return nil
		}
		select {
		case <-over:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// releaseSlot gives back the network of a sandbox, once: a moment later it may
// be another's. A sandbox that did not run when the node was opened has none.
func (n *Node) releaseSlot(id soulbox.SandboxID) {
	n.mu.Lock()
	slot, ok := n.slots[id]
	delete(n.slots, id)
	n.mu.Unlock()
	if ok {
		n.net.Release(slot)
	}
}
