package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/node/cgroup"
	"github.com/soulbox/soulbox/node/netns"
	"github.com/soulbox/soulbox/node/snapshot"
)

// Open takes over this machine: it adopts the sandboxes that an earlier
// process left running, reports the end of those that do not run any more, and
// removes what belongs to none.
func Open(ctx context.Context, o Options) (_ *Node, err error) {
	n := &Node{Options: o, table: map[soulbox.SandboxID]*sandbox{}, slots: map[soulbox.SandboxID]netns.Slot{}, warm: map[soulbox.SandboxID]*fresh{}, leaving: map[soulbox.SandboxID]chan struct{}{}, cells: map[*Cell]struct{}{}, exits: make(chan soulbox.Exit), diffs: make(chan struct{}, diffs)}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("open node: %w", err)
	}
	n.bootID = strings.TrimSpace(string(boot))
	for _, dir := range []string{"sandboxes", "journals"} {
		if err := os.MkdirAll(filepath.Join(n.Dir, dir), 0o700); err != nil {
			return nil, fmt.Errorf("open node: %w", err)
		}
	}
	if n.cgroups, err = cgroup.Open("soulbox-" + n.Instance); err != nil {
		return nil, fmt.Errorf("open node: %w", err)
	}
	formats := make([]string, 0, 1+len(n.Others))
	for _, d := range n.drivers() {
		formats = append(formats, d.Capabilities().Format)
	}
	if n.snapshots, err = snapshot.Open(n.Log, filepath.Join(n.Dir, "snapshots"), formats...); err != nil {
		return nil, fmt.Errorf("open node: %w", err)
	}
	n.ctx, n.stop = context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			n.stop()
			n.slowMoves()
		}
	}()
	if n.moves, err = cgroup.QuickMoves(); err != nil {
		n.Log.InfoContext(ctx, "this kernel takes some 10 ms to move a process into a cgroup, and each start waits for that", "err", err)
	}

	alive, dead, err := n.census(ctx)
	if err != nil {
		return nil, fmt.Errorf("open node: %w", err)
	}
	keep := make([]netns.Slot, 0, len(alive))
	known := map[soulbox.SandboxID]bool{}
	for _, s := range alive {
		keep = append(keep, s.record.Slot)
		known[s.record.ID] = true
	}
	for _, r := range dead {
		known[r.ID] = true
	}
	// First, so that nothing lives on in a network that is taken away.
	if err := n.sweep(ctx, known); err != nil {
		return nil, fmt.Errorf("open node: %w", err)
	}
	n.net, err = netns.Open(ctx, n.Log, netns.Options{
		Instance: n.Instance, Prefix: n.Prefix, Resolver: n.Resolver, Ready: n.Ready,
	}, keep)
	if err != nil {
		return nil, fmt.Errorf("open node: %w", err)
	}
	for _, s := range alive {
		// The rules live in the kernel, but a crash between record and rule
		// must not leave a sandbox with more than it was given.
		if err := n.net.SetInternet(ctx, s.record.Slot, s.record.Internet); err != nil {
			n.Log.WarnContext(ctx, "network of an adopted sandbox not set", "sandbox", s.record.ID, "err", err)
		}
		n.admit(s)
	}
	for _, r := range dead {
		n.bury(r)
	}
	n.openPool()
	n.Log.InfoContext(ctx, "node open", "node", n.Options.ID, "adopted", len(alive), "gone", len(dead))
	return n, nil
}

// census reads the records and asks the driver which of them still run.
func (n *Node) census(ctx context.Context) (alive []*sandbox, dead []record, err error) {
	entries, err := os.ReadDir(filepath.Join(n.Dir, "sandboxes"))
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		id := soulbox.SandboxID(e.Name())
		if !id.Valid() {
			continue
		}
		dir := n.sandboxDir(id)
		rec, err := loadRecord(dir)
		if err != nil {
			// Without a record nothing else was made yet, or everything else
			// is gone already. Destroy is repeated in case the file is torn.
			n.Log.InfoContext(ctx, "folder without a record removed", "sandbox", id, "err", err)
			if err := errors.Join(n.end(ctx, id, dir), os.RemoveAll(dir)); err != nil {
				return nil, nil, err
			}
			continue
		}
		rec.ID = id
		if rec.BootID != n.bootID {
			// Nothing outlives a restart of the machine, and what the driver
			// wrote down before it may be torn.
			dead = append(dead, rec)
			continue
		}
		if rec.Warm {
			// Nobody has it, and others are made as they are wanted. Its cgroup
			// and its network are swept below.
			if err := errors.Join(n.end(ctx, id, dir), os.RemoveAll(dir)); err != nil {
				return nil, nil, err
			}
			continue
		}
		d, err := n.driver(rec.Isolation)
		if err != nil {
			return nil, nil, err
		}
		inst, err := d.Adopt(ctx, id, dir)
		if soulbox.KindOf(err) == soulbox.NotFound {
			dead = append(dead, rec)
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		s, err := n.meet(rec, dir, inst)
		if err != nil {
			return nil, nil, err
		}
		if rec.Held {
			s.still = perhaps
		}
		s.quiet = true // an earlier process may have been about to save it
		alive = append(alive, s)
	}
	return alive, dead, nil
}

// bury reports, in the background, why a sandbox did not survive, and removes
// what it left once somebody has heard it. Its network is gone already. Until then
// no sandbox of the same id is made: one that was paused may be resumed before.
func (n *Node) bury(r record) {
	end := soulbox.End{At: time.Now(), By: soulbox.ByCrash, Reason: "it ended while the server was not running"}
	group, err := n.cgroups.Group(r.ID)
	if err != nil {
		n.Log.WarnContext(n.ctx, "cgroup not found", "sandbox", r.ID, "err", err)
		return
	}
	if r.BootID != n.bootID {
		end.By, end.Reason = soulbox.ByServer, "the machine was restarted"
	} else if why, ok := blame(group, r.Size); ok {
		end.By, end.Reason = why.By, why.Reason
	}
	_, over := n.leave(r.ID) // nothing has left before the node was open
	n.work.Go(func() {
		defer over()
		select {
		case n.exits <- soulbox.Exit{ID: r.ID, End: end}:
			n.removeRest(r.ID, group, nil)
		case <-n.ctx.Done(): // whoever opens the node next finds the record and reports
		}
	})
}

// sweep removes cgroups that no record speaks of, such as those of cells, with
// the programs in them. Namespaces are swept when the network is opened.
func (n *Node) sweep(ctx context.Context, known map[soulbox.SandboxID]bool) error {
	ids, err := n.cgroups.Sandboxes()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if known[id] {
			continue
		}
		g, err := n.cgroups.Group(id)
		if err != nil {
			return err
		}
		if err := wipe(ctx, g); err != nil {
			n.Log.WarnContext(ctx, "cgroup not removed", "sandbox", id, "err", err)
		}
	}
	return nil
}
