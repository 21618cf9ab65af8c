package session

import (
	"slices"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/session/eventlog"
)

// alignment is how a log goes on with a sandbox's record.
type alignment struct {
	after  uint64          // the last event of the record that the log has
	epoch  string          // in which that is; empty: before all that is known
	undone uint64          // how many events the log has that have not happened any more
	seen   []eventlog.Seen // what the log has that still holds
}

// align compares what a log has of a record with where the record is. The two
// chains of epochs have a beginning in common; the sandbox went on from some
// point of the last epoch in which they agree, and what the log has behind that
// point was undone.
func align(seen []eventlog.Seen, pos soulbox.GuestPosition) alignment {
	for i, s := range slices.Backward(seen) {
		at := slices.IndexFunc(pos.Epochs, func(e soulbox.GuestEpoch) bool { return e.ID == s.ID })
		if at < 0 {
			continue
		}
		end := pos.Head // of what the record has of this epoch
		if at+1 < len(pos.Epochs) {
			end = before(pos.Epochs[at+1].From)
		}
		a := alignment{epoch: s.ID, seen: slices.Clone(seen[:i+1])}
		a.after = s.Last
		if s.Last > end {
			if s.Last >= s.First {
				a.undone += s.Last - max(end, before(s.First))
			}
			a.after = end
			a.seen[i].Last = end
		}
		for _, later := range seen[i+1:] {
			a.undone += events(later)
		}
		return a
	}
	// Nothing is common, which no agent of ours says: all that is there is new.
	a := alignment{after: before(pos.Tail)}
	for _, s := range seen {
		a.undone += events(s)
	}
	return a
}

// events is how many a log has of an epoch.
func events(s eventlog.Seen) uint64 {
	if s.Last < s.First {
		return 0
	}
	return s.Last - s.First + 1
}

func before(seq uint64) uint64 {
	if seq == 0 {
		return 0
	}
	return seq - 1
}

// seenUpTo is what a log has that begins behind the event head: nothing, but it
// knows the epochs.
func seenUpTo(pos soulbox.GuestPosition, head uint64) []eventlog.Seen {
	seen := make([]eventlog.Seen, len(pos.Epochs))
	for i, e := range pos.Epochs {
		last := head
		if i+1 < len(pos.Epochs) {
			last = min(head, before(pos.Epochs[i+1].From))
		}
		seen[i] = eventlog.Seen{ID: e.ID, First: last + 1, Last: last}
	}
	return seen
}

// epochAt returns the epoch in which a record has an event.
func epochAt(epochs []soulbox.GuestEpoch, seq uint64) string {
	id := ""
	for _, e := range epochs {
		if e.From <= seq {
			id = e.ID
		}
	}
	return id
}
