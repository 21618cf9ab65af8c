package fleet_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/soulbox/soulbox"
)

// A content is what a sandbox has inside: the lines that were written to it,
// and those of them that its programs remember, which are the ones since it
// last booted.
type content struct{ files, heap string }

func contentOf(in mind) content {
	return content{strings.Join(in.Files, " "), strings.Join(in.Heap, " ")}
}

func (c content) with(line string) content {
	return content{strings.TrimSpace(c.files + " " + line), strings.TrimSpace(c.heap + " " + line)}
}

// kept is what of c a pause or a boot leaves.
func (c content) kept(memory bool) content {
	if !memory {
		c.heap = ""
	}
	return c
}

// A verb is what a client, a program in a sandbox or the machine does to one
// sandbox.
type verb string

const (
	write   verb = "write"
	read    verb = "read"
	get     verb = "get"
	pause   verb = "pause"
	connect verb = "connect"
	wake    verb = "wake"
	take    verb = "write down" // a fork or a named snapshot
	point   verb = "checkpoint"
	back    verb = "roll back"
	forget  verb = "remove checkpoint"
	kill    verb = "kill"
	extend  verb = "extend"
	restart verb = "recover" // what a server does to it that starts
	final   verb = "end up"  // what is so when nothing is under way
)

// An outcome is how it ended.
type outcome string

const (
	done      outcome = "done"
	conflict  outcome = "conflict"
	notFound  outcome = "not found"
	exhausted outcome = "exhausted"
	failed    outcome = "failed"  // and should have left everything as it was
	unknown   outcome = "unknown" // the server died: it got as far as it got
	wrong     outcome = "wrong"   // nothing explains it
)

func outcomeOf(err error) outcome {
	if err == nil {
		return done
	}
	switch soulbox.KindOf(err) {
	case soulbox.Conflict:
		return conflict
	case soulbox.NotFound:
		return notFound
	case soulbox.Exhausted:
		return exhausted
	case soulbox.Unavailable:
		return failed
	default:
		return wrong
	}
}

// A deed is one thing that was done to a sandbox, from the moment at which it
// was asked for until the answer came.
type deed struct {
	verb
	outcome

	call, ret int // places in the order of all that happened
	err       error

	line    string        // written
	seen    content       // read, or written down
	blind   bool          // nobody saw what was written down
	heard   bool          // its server lived when the answer came
	state   soulbox.State // that it has
	memory  bool          // wanted by a pause
	cold    bool          // wanted by a connect
	resumed bool          // said by a connect
	point   int           // number of a checkpoint; that it is paused at, or -1
	points  uint64        // that there are
	named   bool          // it wants a name, which somebody else may have
	stopped bool          // the server was told to stop, and had the time to undo it
}

// undoes reports whether what was begun may have been undone.
func (d *deed) undoes() bool { return d.outcome == failed || d.stopped }

// goesOn reports whether it may have come to a good end.
func (d *deed) goesOn() bool { return d.outcome == done || d.outcome == unknown }

func (d *deed) String() string {
	s := fmt.Sprintf("%4d to %4d: %s, %s", d.call, d.ret, d.verb, d.outcome)
	switch d.verb {
	case write:
		s += " " + d.line
	case read, take:
		s += fmt.Sprintf(" %q", d.seen)
	case point:
		s += fmt.Sprintf(" number %d %q", d.point, d.seen)
	case back, forget:
		s += fmt.Sprintf(" number %d", d.point)
	case get:
		s += " " + string(d.state)
	case pause:
		s += fmt.Sprintf(" memory %v", d.memory)
	case connect:
		s += fmt.Sprintf(" cold %v, resumed %v", d.cold, d.resumed)
	case final:
		s += fmt.Sprintf(" %s %q, at checkpoint %d of %b", d.state, d.seen, d.point, d.points)
	default:
	}
	if d.err != nil {
		s += ": " + d.err.Error()
	}
	return s
}

// A situation is all that matters of one sandbox at one moment.
type situation struct {
	row   soulbox.State // on record; Ending is also Ended
	runs  bool          // there is something of it that runs
	still bool          // and it is held
	over  bool          // somebody was told that it is gone
	mute  bool          // who wrote down that it ends was not told so
	has   content       // while it runs

	pause  content // what it comes back with, while it is paused or about to be
	at     int     // the checkpoint that this is, or -1
	memory bool    // it comes back with its memory
	points uint64  // the checkpoints that there are

	was asleep // before a rollback

	way   way  // of a resume
	boots bool // that resume leaves the memory aside
	wakes uint8
}

// asleep is where a sandbox was paused, if it was.
type asleep struct {
	paused, memory bool
	pause          content
	at             int
}

// A way is how far a resume has come. Any number of clients share it.
type way uint8

const (
	nowhere   way = iota
	recorded      // the record says "resuming"
	restored      // it runs
	destroyed     // it runs no more, because the resume failed
)

// A possible is what may be the case: a situation, and how far the deeds have come that
// are under way. It is comparable.
type possible struct {
	situation

	far string // a byte for each deed under way, by its slot
}

const finished = 255

// explain looks for an order of the deeds, each within its time, that makes
// every answer right, beginning at a situation. When there is none it returns
// the deed whose answer cannot be explained. Points are the contents of the
// checkpoints by their numbers.
//
// A deed is a row of steps, and between any two of them others may do theirs.
// All that may be is kept: a call adds a deed to each of the possible, and an
// answer leaves those in which the deed can have come to its end.
//
// With many deeds of which nobody knows what became of them, more may be than can
// be kept; tooMany says that explain has given up.
func explain(start situation, deeds []*deed, points []content) (odd *deed, last []situation, tooMany bool) {
	type event struct {
		at    int
		deed  *deed
		reply bool
	}
	events := make([]event, 0, 2*len(deeds))
	for _, d := range deeds {
		events = append(events, event{d.call, d, false}, event{d.ret, d, true})
	}
	slices.SortFunc(events, func(a, b event) int { return a.at - b.at })
	all := map[possible]struct{}{{situation: start}: {}}
	var under []*deed // by slot; nil: the slot is free
	for _, e := range events {
		next := map[possible]struct{}{}
		slot := slices.Index(under, e.deed)
		if !e.reply {
			if slot = slices.Index(under, nil); slot < 0 {
				slot = len(under)
				under = append(under, nil)
			}
			under[slot] = e.deed
			for w := range all {
				next[w.put(slot, e.deed.begin(w.situation))] = struct{}{}
			}
			all = next
			continue
		}
		if !closure(all, under, points) {
			return nil, nil, true
		}
		for w := range all {
			if e.deed.outcome == unknown || e.deed.outcome == failed && e.deed.verb != pause && e.deed.verb != back && e.deed.verb != write && e.deed.verb != read || w.far[slot] == finished {
				next[w.put(slot, 0)] = struct{}{}
			}
		}
		if len(next) == 0 {
			for w := range all {
				last = append(last, w.situation)
			}
			return e.deed, last, false
		}
		under[slot] = nil
		all = next
	}
	return nil, nil, false
}

// begin is how far a deed has come that has not begun: for a connect that
// resumed the sandbox, how often it was resumed before.
func (d *deed) begin(s situation) uint8 {
	if d.verb == connect && d.resumed {
		return s.wakes % 128
	}
	return 0
}

func (w possible) put(slot int, far uint8) possible {
	b := []byte(w.far)
	for len(b) <= slot {
		b = append(b, 0)
	}
	b[slot] = far
	w.far = string(b)
	return w
}

// mostPossible bounds what explain keeps.
const mostPossible = 50_000

// closure adds everything that the deeds under way can lead to, and reports
// whether that can be kept.
func closure(all map[possible]struct{}, under []*deed, points []content) bool {
	todo := make([]possible, 0, len(all))
	for w := range all {
		todo = append(todo, w)
	}
	for len(todo) > 0 {
		if len(all) > mostPossible {
			return false
		}
		w := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for slot, d := range under {
			if d == nil || w.far[slot] == finished {
				continue
			}
			d.steps(w.situation, w.far[slot], points, func(s situation, far uint8) {
				next := possible{s, w.far}.put(slot, far)
				if _, ok := all[next]; !ok {
					all[next] = struct{}{}
					todo = append(todo, next)
				}
			})
		}
	}
	return true
}

// steps calls emit for each step that the deed, which has come so far, can take
// next.
func (d *deed) steps(s situation, far uint8, points []content, emit func(situation, uint8)) {
	end := func(ok bool) {
		if ok {
			emit(s, finished)
		}
	}
	asleep := s.row == soulbox.Pausing || s.row == soulbox.Paused || s.row == soulbox.Resuming
	if d.outcome == wrong {
		return
	}
	end(d.outcome == notFound && s.row == soulbox.Ending) // of whatever it was
	switch d.verb {
	case extend, pause, connect, wake, back: // whatever begins with a record
		end(d.outcome == conflict && s.mute) // which says more than the server knows
	default:
	}
	switch d.verb {
	case write:
		if d.outcome == done && s.runs && !s.still {
			s.has = s.has.with(d.line)
			emit(s, finished)
		}
		end(d.outcome == failed && (!s.runs || s.still))
	case read:
		end(d.outcome == done && s.runs && !s.still && s.has == d.seen)
		end(d.outcome == failed && (!s.runs || s.still))
	case get:
		end(s.row == d.state || d.state == soulbox.Ended && s.row == soulbox.Ending)
	case extend:
		end(d.outcome == done && s.row == soulbox.Running || d.outcome == conflict && asleep)
	case take, point:
		d.takes(s, far, asleep, emit)
	case pause:
		d.pauses(s, far, asleep, emit)
	case connect, wake:
		d.wakes(s, far, asleep, emit)
	case back:
		d.goesBack(s, far, points, emit)
	case forget:
		here := s.row == soulbox.Paused && s.at == d.point
		there := s.points&(1<<d.point) != 0
		end(d.outcome == notFound && !there || d.outcome == conflict && here && there)
		if d.outcome != conflict && d.outcome != notFound && there && !here && s.row != soulbox.Ending {
			s.points &^= 1 << d.point
			emit(s, finished)
		}
	case kill:
		switch {
		case d.outcome == notFound || d.outcome == conflict:
		case far != 200 && s.row != soulbox.Ending:
			s.row, s.mute = soulbox.Ending, d.outcome != done
			emit(s, 200)
		case far == 200:
			s.runs, s.still, s.over, s.mute, s.has = false, false, true, false, content{}
			emit(s, finished)
		}
	case restart:
		d.recovers(s, far, emit)
	case final:
		if s.row != d.state {
			return
		}
		end(s.row == soulbox.Ending && !s.runs ||
			s.row == soulbox.Running && s.points == d.points && s.runs && !s.still && s.has == d.seen ||
			s.row == soulbox.Paused && s.points == d.points && !s.runs && s.pause == d.seen && s.at == d.point && s.memory == d.memory)
	}
}

// woken is what s is when it runs and nothing of its pause is left.
func (s situation) woken() situation {
	s.row, s.pause, s.at, s.memory, s.way, s.boots = soulbox.Running, content{}, -1, false, nowhere, false
	s.was = asleep{}
	return s
}

// stopped is what s is when nothing of it runs.
func (s situation) stopped() situation {
	s.runs, s.still, s.has = false, false, content{}
	return s
}

// Marks of how far deeds of several steps have come. They are above what deeds
// begin with.
const (
	one uint8 = iota + 130
	two
	three
)

func (d *deed) takes(s situation, far uint8, asleep bool, emit func(situation, uint8)) {
	switch {
	case d.outcome == conflict:
		if asleep || d.named {
			emit(s, finished)
		}
	case d.outcome != done:
	case far < one:
		if s.row == soulbox.Running {
			emit(s, one)
		}
	case far == one:
		if d.blind || s.runs && !s.still && s.has == d.seen {
			emit(s, two)
		}
	case d.verb == take:
		emit(s, finished)
	case s.row != soulbox.Ending:
		s.points |= 1 << d.point
		emit(s, finished)
	}
}

func (d *deed) pauses(s situation, far uint8, asleep bool, emit func(situation, uint8)) {
	if d.outcome == conflict {
		if asleep {
			emit(s, finished)
		}
		return
	}
	undoes := d.undoes()
	switch {
	case far < one:
		if undoes {
			emit(s, finished) // it did not even begin
		}
		if s.row == soulbox.Running {
			s.row, s.memory, s.at = soulbox.Pausing, d.memory, -1
			emit(s, one)
		}
	case far == one || far == two:
		if undoes && s.row == soulbox.Ending {
			emit(s, finished)
		}
		if undoes || d.outcome == notFound && s.row == soulbox.Ending { // it runs on until it is destroyed
			let := s
			let.still = false
			emit(let, three)
		}
		if far == one && s.runs {
			s.still, s.pause = true, s.has.kept(d.memory)
			emit(s, two)
		} else if far == two && s.row == soulbox.Pausing && d.goesOn() {
			s.row = soulbox.Paused
			emit(s.stopped(), finished)
		}
	case far == three:
		if s.row == soulbox.Pausing {
			s = s.woken()
		}
		emit(s, finished)
	}
}

func (d *deed) wakes(s situation, far uint8, asleep bool, emit func(situation, uint8)) {
	runs := s.row == soulbox.Running
	switch d.outcome {
	case conflict:
		if d.verb == wake && asleep && !s.memory {
			emit(s, finished)
		}
		return
	case exhausted: // perhaps when it had to be resumed once more
		if s.row == soulbox.Paused {
			emit(s, finished)
		}
	case done:
		if runs && (d.verb == wake || !d.resumed || far != s.wakes%128) {
			emit(s, finished)
		}
		if d.verb == connect && !d.resumed {
			return
		}
	default:
	}
	switch s.way {
	case nowhere:
		if s.row == soulbox.Paused && (d.verb == connect || s.memory) {
			next := s
			next.row, next.way, next.boots = soulbox.Resuming, recorded, d.cold || !s.memory
			emit(next, far)
		}
	case recorded:
		if !s.over {
			next := s
			next.way, next.runs, next.has = restored, true, s.pause.kept(!s.boots)
			emit(next, far)
		}
	case restored:
		if s.row == soulbox.Resuming {
			next := s.woken()
			next.wakes++
			emit(next, far)
		}
	case destroyed:
		if s.row == soulbox.Resuming {
			s.row, s.way, s.boots = soulbox.Paused, nowhere, false
			emit(s, far)
		}
		return
	}
	if d.undoes() && s.way != nowhere {
		s.way = destroyed
		emit(s.stopped(), far)
	}
}

func (d *deed) goesBack(s situation, far uint8, points []content, emit func(situation, uint8)) {
	there := s.points&(1<<d.point) != 0
	switch {
	case d.outcome == conflict:
		if s.row == soulbox.Pausing || s.row == soulbox.Resuming {
			emit(s, finished)
		}
		return
	case d.outcome == notFound && !there:
		emit(s, finished)
	case d.outcome == exhausted:
		if s.row == soulbox.Paused {
			emit(s, finished)
		}
		return
	}
	undoes := d.undoes()
	switch {
	case far < one:
		if undoes {
			emit(s, finished)
		}
		if there && (s.row == soulbox.Running || s.row == soulbox.Paused) {
			s.was = asleep{s.row == soulbox.Paused, s.memory, s.pause, s.at}
			s.row, s.pause, s.at, s.memory = soulbox.Resuming, points[d.point], d.point, true
			emit(s, one)
		}
	case far == one:
		emit(s.stopped(), two)
		if undoes && s.runs && s.row == soulbox.Resuming {
			emit(s.woken(), finished) // nobody is sure what was recorded, and nothing has happened
		}
	case far == two:
		if !s.over {
			s.runs, s.has = true, points[d.point]
			emit(s, three)
		}
	case far == three && s.row == soulbox.Resuming && d.goesOn():
		emit(s.woken(), finished)
	}
	if undoes && far >= one {
		s = s.stopped()
		if s.row == soulbox.Resuming {
			s.row = soulbox.Paused
			if s.was.paused {
				s.pause, s.at, s.memory = s.was.pause, s.was.at, s.was.memory
			}
		}
		s.was = asleep{}
		emit(s, finished)
	}
}

func (d *deed) recovers(s situation, far uint8, emit func(situation, uint8)) {
	switch {
	case far < one:
		switch s.row {
		case soulbox.Pausing:
			if s.still {
				paused := s
				paused.row = soulbox.Paused
				emit(paused.stopped(), finished)
			}
			if s.runs {
				s.still = false
				emit(s, one)
			}
		case soulbox.Resuming:
			s.way = nowhere
			emit(s.stopped(), two)
		case soulbox.Ending:
			s.over = true
			emit(s.stopped(), finished)
		default:
			emit(s, finished)
		}
	case far == one:
		if s.row == soulbox.Pausing {
			s = s.woken()
		}
		emit(s, finished)
	case far == two:
		if s.row == soulbox.Resuming {
			s.row, s.boots = soulbox.Paused, false
		}
		emit(s, finished)
	}
}

// TestExplain has the checker explain what can be explained and nothing else:
// one that is content with everything would never find anything.
func TestExplain(t *testing.T) {
	ran := situation{row: soulbox.Running, runs: true, at: -1, has: content{"1", "1"}}
	ab, a := content{"1 a", "1 a"}, content{"1", "1"}
	at := func(d deed, call, ret int) *deed { d.call, d.ret = call, ret; return &d }
	for _, test := range []struct {
		name  string
		deeds []*deed
		odd   int // which cannot be explained; -1: all can be
	}{
		{"a write is read", []*deed{
			at(deed{verb: write, outcome: done, line: "a"}, 1, 2), at(deed{verb: read, outcome: done, seen: ab}, 3, 4),
		}, -1},
		{"a write is lost", []*deed{
			at(deed{verb: write, outcome: done, line: "a"}, 1, 2), at(deed{verb: read, outcome: done, seen: a}, 3, 4),
		}, 1},
		{"a read may be before a write that overlaps", []*deed{
			at(deed{verb: write, outcome: done, line: "a"}, 1, 4), at(deed{verb: read, outcome: done, seen: a}, 2, 3),
		}, -1},
		{"a resume has what was there", []*deed{
			at(deed{verb: write, outcome: done, line: "a"}, 1, 2), at(deed{verb: pause, outcome: done, memory: true}, 3, 4),
			at(deed{verb: connect, outcome: done, resumed: true}, 5, 6), at(deed{verb: read, outcome: done, seen: ab}, 7, 8),
		}, -1},
		{"a resume is too old", []*deed{
			at(deed{verb: write, outcome: done, line: "a"}, 1, 2), at(deed{verb: pause, outcome: done, memory: true}, 3, 4),
			at(deed{verb: connect, outcome: done, resumed: true}, 5, 6), at(deed{verb: read, outcome: done, seen: a}, 7, 8),
		}, 3},
		{"a pause without memory forgets", []*deed{
			at(deed{verb: pause, outcome: done}, 1, 2), at(deed{verb: connect, outcome: done, resumed: true}, 3, 4),
			at(deed{verb: read, outcome: done, seen: content{"1", ""}}, 5, 6),
		}, -1},
		{"two pauses", []*deed{
			at(deed{verb: pause, outcome: done, memory: true}, 1, 4), at(deed{verb: pause, outcome: done, memory: true}, 2, 3),
		}, 0},
		{"one pause and one that is refused", []*deed{
			at(deed{verb: pause, outcome: done, memory: true}, 1, 4), at(deed{verb: pause, outcome: conflict, memory: true}, 2, 3),
		}, -1},
		{"two clients, one resume", []*deed{
			at(deed{verb: pause, outcome: done, memory: true}, 1, 2),
			at(deed{verb: connect, outcome: done, resumed: true}, 3, 6), at(deed{verb: connect, outcome: done, resumed: true}, 4, 5),
		}, -1},
		{"two resumes, one pause", []*deed{
			at(deed{verb: pause, outcome: done, memory: true}, 1, 2),
			at(deed{verb: connect, outcome: done, resumed: true}, 3, 4), at(deed{verb: connect, outcome: done, resumed: true}, 5, 6),
		}, 2},
		{"a fork of what never was", []*deed{
			at(deed{verb: write, outcome: done, line: "a"}, 1, 2), at(deed{verb: take, outcome: done, seen: a}, 3, 4),
		}, 1},
		{"a rollback loses what came after", []*deed{
			at(deed{verb: point, outcome: done, seen: a}, 1, 2), at(deed{verb: write, outcome: done, line: "a"}, 3, 4),
			at(deed{verb: back, outcome: done}, 5, 6), at(deed{verb: read, outcome: done, seen: a}, 7, 8),
		}, -1},
		{"a rollback that does nothing", []*deed{
			at(deed{verb: point, outcome: done, seen: a}, 1, 2), at(deed{verb: write, outcome: done, line: "a"}, 3, 4),
			at(deed{verb: back, outcome: done}, 5, 6), at(deed{verb: read, outcome: done, seen: ab}, 7, 8),
		}, 3},
		{"a rollback to what was removed", []*deed{
			at(deed{verb: point, outcome: done, seen: a}, 1, 2), at(deed{verb: forget, outcome: done}, 3, 4),
			at(deed{verb: back, outcome: done}, 5, 6),
		}, 2},
		{"two kills", []*deed{
			at(deed{verb: kill, outcome: done}, 1, 4), at(deed{verb: kill, outcome: done}, 2, 3),
		}, 0},
		{"it writes after it was killed", []*deed{
			at(deed{verb: kill, outcome: done}, 1, 2), at(deed{verb: write, outcome: done, line: "a"}, 3, 4),
		}, 1},
		{"it is killed while it is resumed, and runs", []*deed{
			at(deed{verb: pause, outcome: done, memory: true}, 1, 2), at(deed{verb: connect, outcome: notFound}, 3, 8),
			at(deed{verb: kill, outcome: done}, 4, 5), at(deed{verb: read, outcome: done, seen: a}, 6, 7),
		}, 3},
		{"a pause that a server died of may have happened", []*deed{
			at(deed{verb: pause, outcome: unknown, memory: true}, 1, 2), at(deed{verb: restart, outcome: done}, 2, 3),
			at(deed{verb: get, outcome: done, state: soulbox.Paused}, 4, 5),
		}, -1},
		{"it comes back from a dead server without what was written", []*deed{
			at(deed{verb: write, outcome: done, line: "a"}, 1, 2), at(deed{verb: pause, outcome: unknown, memory: true}, 3, 4),
			at(deed{verb: restart, outcome: done}, 4, 5), at(deed{verb: connect, outcome: done}, 6, 7), at(deed{verb: read, outcome: done, seen: a}, 8, 9),
		}, 4},
		{"a failed pause leaves it running", []*deed{
			at(deed{verb: pause, outcome: failed, memory: true}, 1, 2), at(deed{verb: get, outcome: done, state: soulbox.Paused}, 3, 4),
		}, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			odd, _, _ := explain(ran, test.deeds, []content{a})
			if got := slices.Index(test.deeds, odd); got != test.odd {
				t.Errorf("%d cannot be explained, want %d", got, test.odd)
			}
		})
	}
}
