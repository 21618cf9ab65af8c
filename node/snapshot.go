package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/node/driver"
	"github.com/soulbox/soulbox/node/snapshot"
)

const (
	// thawTimeout bounds what must happen even if whoever asked has gone.
	thawTimeout = time.Minute
	// askTimeout is after what silence an agent counts as frozen.
	askTimeout = 5 * time.Second
	// overhead is what a snapshot takes beside memory and files, at most.
	overhead = 256 * soulbox.MiB
)

// Snapshot writes a sandbox down as snap, whole or not at all, and returns its
// size on disk. With hold, the sandbox does not run any more when Snapshot
// returns without an error, and waits for Destroy or Thaw. Without, or when it
// fails, the sandbox runs on.
func (n *Node) Snapshot(ctx context.Context, id soulbox.SandboxID, snap *soulbox.Snapshot, hold bool) (_ soulbox.Bytes, err error) {
	s, err := n.find(id)
	if err != nil {
		return 0, err
	}
	d, err := n.driver(s.record.Isolation)
	if err != nil {
		return 0, err
	}
	can := d.Capabilities()
	if snap.Memory && !can.Memory {
		return 0, soulbox.Errorf(soulbox.Invalid, "a sandbox of isolation %q can be written down without its memory only", can.Isolation)
	}
	if err := n.checkDisk(); err != nil {
		return 0, err
	}
	s.saving.Lock()
	defer s.saving.Unlock()
	if err := s.stays(); err != nil {
		return 0, err
	}
	if s.getStill() == perhaps {
		if err := n.thaw(ctx, s); err != nil { // now it is certain
			return 0, err
		}
	}
	if !hold && s.getStill() == no {
		n.hush(ctx, s)
		defer n.speak(ctx, s)
	}
	if hold && s.getStill() == no {
		if err := s.setHeld(true); err != nil {
			return 0, fmt.Errorf("hold sandbox %s: %w", id, err)
		}
		n.Faults.Reach("node/held")
		n.hush(ctx, s)
		if err := s.instance.Freeze(ctx); err != nil {
			// It may have frozen without telling.
			s.setStill(perhaps)
			return 0, errors.Join(fmt.Errorf("freeze sandbox %s: %w", id, err), n.thaw(ctx, s))
		}
		s.setStill(yes)
		s.noteFrozen()
		n.Faults.Reach("node/frozen")
		defer func() {
			if err != nil {
				err = errors.Join(err, n.thaw(ctx, s))
			}
		}()
	}
	draft := snapshot.Draft{
		ID: snap.ID, Format: can.Format, Memory: snap.Memory, Image: s.record.Image, Path: filepath.Join(s.dir, imageFile),
		Most: s.record.Size.Memory + s.record.Size.Disk + overhead,
	}
	if snap.Kind != soulbox.ForPause { // which is what keeps a sandbox from being lost
		draft.Bound = n.SnapshotBound
	}
	save := func(dir string) error { return s.instance.Save(ctx, dir, snap.Memory) }
	size, err := n.snapshots.Write(ctx, draft, save, n.Faults.Reach)
	if err != nil {
		return 0, fmt.Errorf("write sandbox %s down: %w", id, err)
	}
	n.Faults.Reach("node/written")
	return size, nil
}

// Thaw lets a held sandbox run on. One that is not held succeeds.
func (n *Node) Thaw(ctx context.Context, id soulbox.SandboxID) error {
	s, err := n.find(id)
	if err != nil {
		return err
	}
	s.saving.Lock()
	defer s.saving.Unlock()
	if err := s.stays(); err != nil {
		return err
	}
	return n.thaw(ctx, s)
}

// thaw is Thaw with s.saving held.
func (n *Node) thaw(ctx context.Context, s *sandbox) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), thawTimeout)
	defer cancel()
	still := s.getStill()
	if still == perhaps {
		still = s.findOut(ctx)
	}
	if still == yes {
		if err := s.forgetFrozen(); err != nil {
			return fmt.Errorf("thaw sandbox %s: %w", s.record.ID, err)
		}
		if err := s.instance.Thaw(ctx); err != nil {
			return fmt.Errorf("thaw sandbox %s: %w", s.record.ID, err)
		}
	}
	s.setStill(no)
	n.speak(ctx, s)
	n.Faults.Reach("node/thawed")
	err := s.setHeld(false)
	for wait := time.Duration(0); errors.Is(err, unix.ENOSPC) && wait < roomTime; wait += roomEvery {
		select {
		case <-time.After(roomEvery):
			err = s.setHeld(false)
		case <-ctx.Done():
			return fmt.Errorf("let go of sandbox %s: %w", s.record.ID, errors.Join(err, context.Cause(ctx)))
		}
	}
	if err != nil {
		return fmt.Errorf("let go of sandbox %s: %w", s.record.ID, err)
	}
	return nil
}

// A snapshot that did not fit on the disk takes room until the sentry, which has
// its files open, has closed them: a moment after it has said that it failed.
const (
	roomEvery = 10 * time.Millisecond
	roomTime  = 500 * time.Millisecond
)

// frozenFile lies in a sandbox's folder from when it is frozen until it is about
// to be thawed. It has nothing in it: to remove it takes no room on a full disk,
// and it goes with the machine, as the sandbox does.
const frozenFile = "frozen"

func (s *sandbox) noteFrozen() {
	// Without it, a later process asks the agent.
	_ = os.WriteFile(filepath.Join(s.dir, frozenFile), nil, 0o600)
}

// forgetFrozen comes before the thaw: whoever finds the file thaws, and a second
// time would end the sandbox.
func (s *sandbox) forgetFrozen() error {
	if err := os.Remove(filepath.Join(s.dir, frozenFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// findOut tells whether a sandbox is frozen that an earlier process was about to
// freeze or to thaw.
func (s *sandbox) findOut(ctx context.Context) frozen {
	if _, err := os.Lstat(filepath.Join(s.dir, frozenFile)); err == nil {
		return yes
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if err := s.agent.Ping(ctx); err != nil {
		return yes
	}
	return no
}

// stays is NotFound once the sandbox is being destroyed. Whoever waited for
// something meanwhile must not go on: its folder, its address and its id may
// soon be those of another one.
func (s *sandbox) stays() error {
	select {
	case <-s.left:
		return soulbox.Errorf(soulbox.NotFound, "sandbox %s does not run on this node", s.record.ID)
	default:
		return nil
	}
}

// setHeld records whether the sandbox is held. What is left of a sandbox is
// removed only after close, which waits for mu.
func (s *sandbox) setHeld(held bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.stays(); err != nil {
		return err
	}
	if s.record.Held == held {
		return nil
	}
	r := s.record
	r.Held = held
	if err := r.save(s.dir); err != nil {
		return err
	}
	s.record.Held = held
	return nil
}

func (s *sandbox) setStill(f frozen) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.still = f
}

func (s *sandbox) getStill() frozen {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.still
}

// Restore makes sandbox sb of snapshot snap and returns once its agent
// answers, as Create does of a template. Of a snapshot with memory, snap can
// ask for the files only. It waits until nothing is left of an earlier sandbox
// of the same id. The snapshot stays in any case.
func (n *Node) Restore(ctx context.Context, sb *soulbox.Sandbox, snap *soulbox.Snapshot) error {
	o, held, err := n.savedAs(ctx, snap.ID)
	if err != nil {
		return fmt.Errorf("restore sandbox %s: %w", sb.ID, err)
	}
	defer held.Close()
	o.files = held.Memory && !snap.Memory
	if held.Memory && snap.Memory && snap.Secure {
		o.token = n.Seed.AgentToken(snap.Sandbox)
	}
	tpl := snap.AsTemplate()
	tpl.Image = held.Image
	return n.bringUp(ctx, sb, tpl, o)
}

// reader returns the isolation whose driver can restore what is in format.
func (n *Node) reader(format string) (soulbox.Isolation, error) {
	for i, d := range n.drivers() {
		if can := d.Capabilities(); can.Format == format && i == 0 {
			return "", nil
		} else if can.Format == format {
			return soulbox.Isolation(can.Isolation), nil
		}
	}
	return "", fmt.Errorf("nobody reads %q", format)
}

// leaveMemory replaces a saved sandbox that has memory by its files: it is
// restored, stopped at once, and saved again without. Its programs may run for
// some milliseconds in between, as they might have before a power cut.
func (n *Node) leaveMemory(ctx context.Context, spec *driver.Spec) error {
	again, err := os.Open(filepath.Join(spec.Dir, imageFile))
	if err != nil {
		spec.Image.Close()
		return fmt.Errorf("restore the files of sandbox %s: %w", spec.ID, err)
	}
	files := filepath.Join(spec.Dir, savedFolder)
	err = n.saveFiles(ctx, *spec, files)
	if err != nil {
		again.Close()
		return fmt.Errorf("restore the files of sandbox %s: %w", spec.ID, err)
	}
	spec.Image = again
	spec.Saved = &driver.Saved{Dir: files, Check: func() error { return nil }} // written a moment ago
	return nil
}

// saveFiles uses a network of its own: a runtime may take over what is in a
// namespace, and leaves nothing for the next.
func (n *Node) saveFiles(ctx context.Context, spec driver.Spec, dir string) error {
	lease, err := n.net.Take(ctx)
	if err != nil {
		spec.Image.Close()
		return err
	}
	defer n.net.Release(lease.Slot)
	spec.Netns, spec.Addr = lease.Path, lease.Addr.String()
	inst, err := n.Driver.Start(ctx, spec) // of all formats, only the usual one has memory
	if err != nil {
		return err
	}
	if err := inst.Freeze(ctx); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := inst.Save(ctx, dir, false); err != nil {
		return err
	}
	return n.Driver.Destroy(ctx, spec.ID, spec.Dir)
}

// Verify reads a snapshot and compares it with its hashes.
func (n *Node) Verify(ctx context.Context, id soulbox.SnapshotID) error {
	return n.snapshots.Verify(ctx, id)
}

// Restorable reports whether sandboxes can be made of a snapshot: it is there,
// and was written by a version of the runtime that is here to read it.
func (n *Node) Restorable(_ context.Context, id soulbox.SnapshotID) bool {
	held, err := n.snapshots.Hold(id)
	if err != nil {
		return false
	}
	_ = held.Close() // removing what somebody else gave up is not our affair
	return true
}

// RemoveSnapshot deletes a snapshot. An unknown one succeeds.
func (n *Node) RemoveSnapshot(_ context.Context, id soulbox.SnapshotID) error {
	return n.snapshots.Remove(id, n.Faults.Reach)
}

// Snapshots lists the snapshots that are there, with their sizes on disk; 0 is
// one that is damaged.
func (n *Node) Snapshots(ctx context.Context) (map[soulbox.SnapshotID]soulbox.Bytes, error) {
	return n.snapshots.List(ctx)
}
