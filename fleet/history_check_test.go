package fleet_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/fleet"
)

// settle waits until nothing is under way any more, and nothing begins for some
// looks in a row.
func (h *history) settle() {
	h.t.Helper()
	quiet := 0
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		why := h.unsettled()
		if why != "" {
			quiet = 0
		} else if quiet++; quiet == 3 {
			return
		}
		if time.Now().After(end) {
			h.t.Errorf("it does not come to rest: %s", why)
			return
		}
	}
}

// unsettled says what records, memory and node do not agree on.
func (h *history) unsettled() string {
	if n := fleet.Retries(h.Fleet); n > 0 {
		return fmt.Sprintf("%d things are tried until they succeed", n)
	}
	var running []soulbox.SandboxID
	need := map[soulbox.SnapshotID]bool{}
	lives := map[soulbox.SandboxID]bool{}
	for _, row := range h.records("us") {
		lives[row.ID] = row.State.Live()
		switch row.State {
		case soulbox.Running:
			running = append(running, row.ID)
		case soulbox.Paused:
			need[row.Pause.Snapshot] = true
		case soulbox.Ended:
		default:
			return fmt.Sprintf("sandbox %s is %s", row.ID, row.State)
		}
		if found, ok := h.Find(row.ID); !ok || found.State != row.State {
			return fmt.Sprintf("sandbox %s is %s on record and %v in memory", row.ID, row.State, found)
		}
		if row.State == soulbox.Ended && (row.End == nil || row.End.By == "" || row.End.Reason == "" || row.End.At.IsZero()) {
			return fmt.Sprintf("sandbox %s ended without saying why: %+v", row.ID, row.End)
		}
		if (row.State == soulbox.Paused) != (row.Pause != nil) {
			return fmt.Sprintf("sandbox %s is %s, and its pause is %+v", row.ID, row.State, row.Pause)
		}
	}
	slices.Sort(running)
	if there := h.node.Sandboxes(); !slices.Equal(running, there) {
		return fmt.Sprintf("on record %v run, on the node %v", running, there)
	}
	h.node.mu.Lock()
	held := len(h.node.held)
	h.node.mu.Unlock()
	if held > 0 {
		return fmt.Sprintf("%d sandboxes are held", held)
	}
	if n := fleet.Reserved(h.Fleet, "us"); n != len(running) {
		return fmt.Sprintf("%d places are taken by %d sandboxes", n, len(running))
	}
	rows, err := h.store.AllSnapshots(context.Background())
	if err != nil {
		return err.Error()
	}
	names := map[string]bool{}
	ids := map[soulbox.SnapshotID]bool{}
	for _, row := range rows {
		ids[row.ID] = true
		stays := row.Kind == soulbox.ForCreate || row.Kind == soulbox.ForRollback && lives[row.Sandbox] || need[row.ID]
		if !row.Ready || !stays {
			return fmt.Sprintf("snapshot %s of kind %s, ready %v, is of no use and there", row.ID, row.Kind, row.Ready)
		}
		if full := fmt.Sprint(row.Kind, row.Name); row.Kind == soulbox.ForCreate && row.Name != "" {
			if names[full] {
				return fmt.Sprintf("two snapshots are called %s", row.Name)
			}
			names[full] = true
		}
	}
	for id := range need {
		if !ids[id] {
			return fmt.Sprintf("a sandbox is paused and its snapshot %s has no record", id)
		}
	}
	if there := h.node.snapshots(); !slices.Equal(slices.Sorted(maps.Keys(ids)), there) {
		return fmt.Sprintf("on record are %d snapshots, on the node %d", len(ids), len(there))
	}
	return ""
}

// check looks at everything.
func (h *history) check() {
	if wrongs := h.node.complaints(); len(wrongs) > 0 {
		h.t.Errorf("the node complains: %v", wrongs)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	at := h.tick()
	known := map[soulbox.SandboxID]bool{}
	for _, b := range h.boxes {
		known[b.id] = true
		h.checkBox(b, at)
	}
	h.boxes = slices.DeleteFunc(h.boxes, func(b *box) bool { return b.start.row == soulbox.Ending })
	for _, row := range h.records("us") {
		if known[row.ID] || !row.State.Live() {
			continue
		}
		b := h.born(row.ID, content{}) // its client died with a server
		b.start, b.ids, b.points = h.look(b)
	}
	for _, n := range h.named {
		_, there := h.node.written(n.id)
		if there && n.removed > 0 || !there && n.asked == 0 {
			h.t.Errorf("snapshot %s, there: %v; its removal was asked for at %d and done at %d", n.id, there, n.asked, n.removed)
		}
	}
	h.named = slices.DeleteFunc(h.named, func(n *named) bool { return n.asked > 0 })
}

// look returns the situation of a sandbox when nothing is under way, and its
// checkpoints.
func (h *history) look(b *box) (s situation, ids []soulbox.SnapshotID, points []content) {
	row := h.record(b.id)
	s = situation{row: row.State, at: -1}
	all, err := h.store.SnapshotsOf(context.Background(), b.id)
	if err != nil {
		h.t.Error(err)
	}
	ids, points = slices.Clone(b.ids), slices.Clone(b.points)
	for _, snap := range all {
		if snap.Kind != soulbox.ForRollback {
			continue
		}
		i := slices.Index(ids, snap.ID)
		if i < 0 { // its client died with a server
			i = len(ids)
			in, _ := h.node.written(snap.ID)
			ids, points = append(ids, snap.ID), append(points, contentOf(in))
		}
		s.points |= 1 << i
	}
	switch row.State {
	case soulbox.Running:
		in, _, _ := h.node.inside(b.id)
		s.runs, s.has = true, contentOf(in)
	case soulbox.Paused:
		in, _ := h.node.written(row.Pause.Snapshot)
		s.pause, s.at, s.memory = contentOf(in), slices.Index(ids, row.Pause.Snapshot), row.Pause.Memory
	default:
		s.row, s.points = soulbox.Ending, 0
	}
	return s, ids, points
}

// checkBox explains what was done to one sandbox, with h.mu held.
func (h *history) checkBox(b *box, now int) {
	deeds := make([]*deed, 0, len(b.deeds)+4)
	for _, d := range b.deeds {
		s := b.by[d]
		switch {
		case s == nil:
		case s.died > 0 && d.call > s.died:
			continue
		case s.died > 0 && d.ret > s.died && d.heard:
			d.ret = s.died // only the note of it came later
		case s.died > 0 && (d.ret > s.died || s.closing > 0 && d.ret > s.closing && d.outcome == failed):
			d.outcome, d.ret, d.stopped = unknown, s.died, s.closing > 0
		case d.outcome == failed && h.faulty:
			switch d.verb {
			case pause, connect, wake, back, kill, forget:
				d.ret = now // it may be undone, or go on, behind
			default:
			}
		case d.outcome == failed:
			d.outcome = wrong
		}
		deeds = append(deeds, d)
	}
	for i, s := range h.servers {
		if s.died == 0 {
			continue
		}
		d := &deed{verb: restart, outcome: done, call: s.died, ret: now}
		if i+1 < len(h.servers) && h.servers[i+1].died > 0 {
			d.outcome, d.ret = unknown, h.servers[i+1].died
		}
		deeds = append(deeds, d)
	}
	s, ids, points := h.look(b)
	sure := uint64(1)<<len(b.ids) - 1
	end := &deed{verb: final, outcome: done, call: now + 1, ret: now + 2, state: s.row, seen: s.has, point: s.at, points: s.points & sure, memory: s.memory}
	if s.row == soulbox.Paused {
		end.seen = s.pause
	}
	if end.point >= len(b.ids) {
		end.point = -1
	}
	deeds = append(deeds, end)
	odd, last, tooMany := explain(b.start, deeds, b.points)
	if tooMany {
		h.tally.unsure++
	} else {
		h.tally.checked++
	}
	if odd != nil {
		var all strings.Builder
		slices.SortFunc(deeds, func(a, b *deed) int { return a.call - b.call })
		for _, d := range deeds {
			mark := "  "
			if d == odd {
				mark = "* "
			}
			fmt.Fprintln(&all, mark+d.String())
		}
		if len(last) > 8 {
			last = last[:8]
		}
		h.t.Errorf("seed %d: nothing explains what is marked of sandbox %s, which was\n%+v\nand of which were done\n%sbefore it may be\n%+v\ncheckpoints %q", h.seed, b.id, b.start, &all, last, b.points)
	}
	b.start, b.ids, b.points, b.deeds, b.by, b.unsure = s, ids, points, nil, map[*deed]*server{}, 0
}

// clear ends everything, and nothing may be left.
func (h *history) clear() {
	ctx := context.Background()
	for _, b := range h.boxes {
		if err := h.Kill(ctx, "us", b.id, soulbox.ByClient, "cleared"); err != nil {
			h.t.Error(err)
		}
	}
	page, err := h.Snapshots(ctx, soulbox.SnapshotFilter{Team: "us", Kind: soulbox.ForCreate})
	if err != nil {
		h.t.Error(err)
	}
	for _, snap := range page.Snapshots {
		if err := h.RemoveSnapshot(ctx, "us", snap.ID); err != nil {
			h.t.Error(err)
		}
	}
	h.settle()
	if there, snaps := h.node.Sandboxes(), h.node.snapshots(); len(there)+len(snaps) > 0 {
		h.t.Errorf("left over: %v and %v", there, snaps)
	}
}
