package server_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
	"github.com/soulbox/soulbox/server/servertest"
)

// An outcome is what may become of a sandbox when the server was killed while
// something was done to it.
type outcome string

const (
	runs   outcome = "it runs on with its programs"
	boots  outcome = "it runs with its files, and its programs have ended"
	asleep outcome = "it is paused with its programs"
	cold   outcome = "it is paused with its files"
	back   outcome = "it is paused at its checkpoint"
	gone   outcome = "it has ended, and says why"
)

// outages are the steps at which the server is killed, each with what it is
// doing to a sandbox, and what becomes of that when the sandboxes live on and
// when they die with the server.
var outages = []struct {
	at, during string
	alone, all outcome
}{
	{"pause/recorded", "pause", runs, gone},
	{"node/held", "pause", runs, gone},
	{"node/frozen", "pause", runs, gone},
	{"snapshot/saved", "pause", runs, gone},
	{"snapshot/synced", "pause", runs, gone},
	{"node/written", "pause", asleep, asleep},
	{"pause/written", "pause", asleep, asleep},
	{"pause/finished", "pause", asleep, asleep},
	{"pause/paused", "pause", asleep, asleep},
	{"node/destroyed", "pause", asleep, asleep},
	{"node/written", "pause of its files", cold, cold},
	{"pause/paused", "pause of its files", cold, cold},

	{"resume/recorded", "resume", asleep, asleep},
	{"node/leased", "resume", asleep, asleep},
	{"node/recorded", "resume", asleep, asleep},
	{"node/grouped", "resume", asleep, asleep},
	{"sentry/named", "resume", asleep, asleep},
	{"sentry/recorded", "resume", asleep, asleep},
	{"sentry/booted", "resume", asleep, asleep},
	{"sentry/saved", "resume", asleep, asleep},
	{"sentry/running", "resume", asleep, asleep},
	{"node/started", "resume", asleep, asleep},
	{"node/initialised", "resume", asleep, asleep},
	{"resume/restored", "resume", asleep, asleep},
	{"resume/running", "resume", runs, gone},
	{"remove/begun", "resume", runs, gone}, // what it was made of, behind the answer
	{"snapshot/hidden", "resume", runs, gone},
	{"remove/deleted", "resume", runs, gone},
	{"node/grouped", "resume without memory", asleep, asleep},
	{"sentry/named", "resume without memory", asleep, asleep}, // where the files are taken out of the memory
	{"sentry/saved", "resume without memory", asleep, asleep},
	{"sentry/running", "resume without memory", asleep, asleep},
	{"sentry/named@2", "resume without memory", asleep, asleep}, // where it boots with them
	{"sentry/booted@2", "resume without memory", asleep, asleep},
	{"sentry/saved@2", "resume without memory", asleep, asleep},
	{"sentry/running@2", "resume without memory", asleep, asleep},
	{"node/started", "resume without memory", asleep, asleep},
	{"resume/running", "resume without memory", boots, gone},

	{"snapshot/recorded", "checkpoint", runs, gone},
	{"snapshot/saved", "checkpoint", runs, gone},
	{"snapshot/synced", "checkpoint", runs, gone},
	{"node/written", "checkpoint", runs, gone},
	{"snapshot/written", "checkpoint", runs, gone},
	{"snapshot/finished", "checkpoint", runs, asleep},
	{"snapshot/written", "snapshot", runs, gone},
	{"snapshot/finished", "snapshot", runs, gone},

	{"snapshot/saved", "fork", runs, gone},
	{"fork/written", "fork", runs, gone},
	{"node/grouped", "fork", runs, gone},
	{"sentry/named", "fork", runs, gone},
	{"sentry/booted", "fork", runs, gone},
	{"sentry/saved", "fork", runs, gone},
	{"fork/restored", "fork", runs, gone},
	{"fork/restored@2", "fork", runs, gone},
	{"remove/begun", "fork", runs, gone},
	{"snapshot/hidden", "fork", runs, gone},

	{"rollback/verified", "rollback", runs, back},
	{"rollback/recorded", "rollback", back, back},
	{"node/destroyed", "rollback", back, back},
	{"rollback/destroyed", "rollback", back, back},
	{"node/grouped", "rollback", back, back},
	{"sentry/named", "rollback", back, back},
	{"sentry/booted", "rollback", back, back},
	{"sentry/saved", "rollback", back, back},
	{"node/started", "rollback", back, back},
	{"rollback/restored", "rollback", back, back},

	{"kill/recorded", "kill of a paused one", gone, gone},
	{"kill/destroyed", "kill of a paused one", gone, gone},
	{"remove/begun", "kill of a paused one", gone, gone},
	{"snapshot/hidden", "kill of a paused one", gone, gone},
	{"remove/deleted", "kill of a paused one", gone, gone},
}

// behind are the steps that may come when the client has its answer.
var behind = []string{"remove/begun", "snapshot/hidden", "remove/deleted"}

// twice says at which step the next server is killed as well, when it makes good
// for the first one.
var twice = map[string]string{"node/frozen": "node/thawed", "remove/begun": "remove/deleted"}

// TestOutage kills the server at every step of writing a sandbox down, of
// making it of what was written and of removing that, once alone and once with
// all sandboxes, and starts it again. The sandbox must be in the state that its record leads to,
// with its files, and with its programs where that was promised; others must
// not have noticed; and nothing may be left over.
func TestOutage(t *testing.T) {
	t.Parallel()
	for _, all := range []bool{false, true} {
		name := map[bool]string{false: "server", true: "everything"}[all]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOutage(t, all)
			for _, step := range outages {
				want := map[bool]outcome{false: step.alone, true: step.all}[all]
				if !t.Run(step.during+" at "+step.at, func(t *testing.T) { o.during(t, step.at, step.during, want) }) {
					t.FailNow() // the next steps would say the same, and take their time
				}
			}
			for _, step := range removals {
				want := map[bool]outcome{false: step.alone, true: step.all}[all]
				if !t.Run("removal of "+step.of+" at "+step.at, func(t *testing.T) { o.removal(t, step.at, step.of, step.whole, want) }) {
					t.FailNow()
				}
			}
			o.finish(t)
		})
	}
}

// An outage is a server to be killed, with two sandboxes that nothing is done
// to: one that sleeps, and one that runs and has a checkpoint.
type outage struct {
	s   *servertest.Server
	all bool // kill the sandboxes as well
	c   *client.Client

	sleeper, anchored sighting
	entries           []string // of the data folder
}

func newOutage(t *testing.T, all bool) *outage {
	t.Helper()
	o := &outage{s: servertest.New(t), all: all}
	if all {
		o.s.Network = "198.19.0.0/16" // for benchmarks: nobody routes it, and no server chooses it
	}
	o.s.Start(t)
	o.c = connect(t, o.s)
	o.sleeper = o.populate(t)
	o.pause(t, o.sleeper.id, false)
	o.anchored = o.populate(t)
	if _, err := o.c.Sandboxes.Checkpoint(t.Context(), o.anchored.id, "anchor"); err != nil {
		t.Fatal(err)
	}
	o.entries = o.root(t)
	return o
}

// during kills the server at a step of doing something to a sandbox, and looks
// what has become of it.
func (o *outage) during(t *testing.T, at, what string, want outcome) {
	was := o.populate(t)
	var checkpoint string
	switch what {
	case "resume", "resume without memory", "kill of a paused one":
		o.pause(t, was.id, false)
	case "rollback":
		cp, err := o.c.Sandboxes.Checkpoint(t.Context(), was.id, "")
		if err != nil {
			t.Fatal(err)
		}
		checkpoint = cp.ID
		note := "after the checkpoint"
		run(t, reach(t, o.c, was.id), "echo -n '"+note+"' > note")
		if want == runs {
			was.note = note
		}
	}

	o.s.Arm(t, at)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var err error
	switch what {
	case "pause", "pause of its files":
		err = o.c.Sandboxes.Pause(ctx, was.id, client.PauseOptions{FilesOnly: what != "pause"})
	case "resume", "resume without memory":
		_, err = o.c.Sandboxes.Resume(ctx, was.id, client.ResumeOptions{Timeout: time.Hour, Cold: what != "resume"})
	case "checkpoint":
		_, err = o.c.Sandboxes.Checkpoint(ctx, was.id, "mine")
	case "snapshot":
		_, err = o.c.Sandboxes.Snapshot(ctx, was.id, "")
	case "fork":
		_, err = o.c.Sandboxes.Fork(ctx, was.id, 2, time.Hour)
	case "rollback":
		_, err = o.c.Sandboxes.Rollback(ctx, was.id, checkpoint)
	case "kill of a paused one":
		_ = o.c.Sandboxes.Kill(ctx, was.id) // the answer may come before or after the death
		err = context.Canceled
	}
	if err == nil && !slices.Contains(behind, at) {
		t.Error("the client was told that it is done, by a dead server")
	}
	o.wantKilled(t)
	if next := twice[at]; next != "" && !o.all {
		o.s.Arm(t, next)
		_ = o.s.TryStart() // it may listen before it dies
		o.wantKilled(t)
	}
	o.again(t)

	o.want(t, was, want)
	o.settle(t, was, want)
}

// settle ends the sandbox that something was done to, and checks everything
// else.
func (o *outage) settle(t *testing.T, was sighting, want outcome) {
	t.Helper()
	o.wantOthers(t, was)
	if _, err := o.c.Sandboxes.Get(t.Context(), was.id); err == nil && want != gone {
		if err := o.c.Sandboxes.Kill(t.Context(), was.id); err != nil {
			t.Errorf("kill: %v", err)
		}
	}
	o.wantTidy(t)
}

// again starts the server after an accident.
func (o *outage) again(t *testing.T) {
	t.Helper()
	o.s.Arm(t, "")
	if o.all {
		o.s.KillAll(t)
	}
	o.s.Start(t)
	o.c = connect(t, o.s)
}

func (o *outage) wantKilled(t *testing.T) {
	t.Helper()
	if err := o.s.WaitEnd(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("the server ended with %v, want killed at the step", err)
	}
}

// want checks what has become of a sandbox, and that it is good for more.
func (o *outage) want(t *testing.T, was sighting, want outcome) {
	t.Helper()
	if want == gone {
		wantEnd(t, o.c, was.id)
		return
	}
	o.wantState(t, was.id, want)
	sb := reach(t, o.c, was.id)
	is := look(t, sb)
	was.wantFiles(t, is)
	if want == boots || want == cold {
		if is.nonce != "" || is.boot == was.boot {
			t.Errorf("it has its program %q in boot %s, before %s; want neither", is.nonce, is.boot, was.boot)
		}
		return
	}
	was.wantPrograms(t, is)

	// And it can be paused and resumed again.
	o.pause(t, was.id, false)
	sb = reach(t, o.c, was.id)
	if !sb.Resumed {
		t.Error("it was not paused")
	}
	again := look(t, sb)
	was.wantFiles(t, again)
	is.wantPrograms(t, again)
}

// wantState waits until the state of a sandbox is what follows from the outcome.
func (o *outage) wantState(t *testing.T, id string, want outcome) {
	t.Helper()
	state := soulbox.Paused
	if want == runs || want == boots {
		state = soulbox.Running
	}
	var info *client.Info
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		var err error
		if info, err = o.c.Sandboxes.Get(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if info.State == state {
			return
		}
	}
	t.Errorf("it is %s, with the end %v; want: %s", info.State, info.End, want)
}

// wantOthers checks the sandboxes that nothing was done to, and ends the copies
// that were made of a third.
func (o *outage) wantOthers(t *testing.T, victim sighting) {
	t.Helper()
	if info, err := o.c.Sandboxes.Get(t.Context(), o.sleeper.id); err != nil || info.State != soulbox.Paused {
		t.Errorf("the sandbox that slept: %+v, %v", info, err)
	}
	if o.all {
		o.wantState(t, o.anchored.id, back)
	}
	sb := reach(t, o.c, o.anchored.id)
	if sb.Resumed != o.all {
		t.Errorf("the sandbox with a checkpoint was paused: %v", sb.Resumed)
	}
	is := look(t, sb)
	o.anchored.wantFiles(t, is)
	o.anchored.wantPrograms(t, is)
	for info, err := range o.c.Sandboxes.List(t.Context(), client.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		switch info.ID {
		case o.sleeper.id, o.anchored.id, victim.id:
			continue
		}
		is := look(t, reach(t, o.c, info.ID)) // a copy
		victim.wantFiles(t, is)
		victim.wantPrograms(t, is)
		if err := o.c.Sandboxes.Kill(t.Context(), info.ID); err != nil {
			t.Errorf("kill a copy: %v", err)
		}
	}
}

// wantTidy waits until there is on the machine what the two sandboxes need, and
// nothing else.
func (o *outage) wantTidy(t *testing.T) {
	t.Helper()
	var left []string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		left = o.s.Strays(t, o.anchored.id)
		known := map[string]bool{}
		for snap, err := range o.c.Sandboxes.Snapshots(t.Context(), "") {
			if err != nil {
				t.Fatal(err)
			}
			known[snap.ID] = true
			if snap.Sandbox != o.anchored.id && snap.Sandbox != o.sleeper.id {
				if snap.Kind != soulbox.ForCreate {
					left = append(left, fmt.Sprintf("record %+v", snap))
				} else if err := o.c.Sandboxes.RemoveSnapshot(t.Context(), snap.ID); err != nil {
					t.Errorf("remove snapshot %s, which is listed: %v", snap.ID, err)
				}
			}
		}
		folders, err := os.ReadDir(filepath.Join(o.s.Data, "snapshots"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range folders {
			if !known[f.Name()] {
				left = append(left, "snapshot folder "+f.Name())
			}
			delete(known, f.Name())
		}
		for id := range known {
			left = append(left, "record without a folder "+id)
		}
		if entries := o.root(t); !slices.Equal(entries, o.entries) {
			left = append(left, fmt.Sprintf("%v in the data folder, before %v", entries, o.entries))
		}
		if len(left) == 0 {
			return
		}
	}
	t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
}

// root lists the data folder, without what the database makes as it goes.
func (o *outage) root(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(o.s.Data)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "soulbox.db-") {
			names = append(names, e.Name())
		}
	}
	return names
}

// finish looks after the one that slept all the time, and for what is left.
func (o *outage) finish(t *testing.T) {
	t.Helper()
	is := look(t, reach(t, o.c, o.sleeper.id))
	o.sleeper.wantFiles(t, is)
	o.sleeper.wantPrograms(t, is)
	for _, id := range []string{o.sleeper.id, o.anchored.id} {
		if err := o.c.Sandboxes.Kill(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	o.s.Stop(t)
	o.s.WantNothingLeft(t)
	wantNoSnapshots(t, o.s)
}

func wantNoSnapshots(t *testing.T, s *servertest.Server) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.Data, "snapshots"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		t.Errorf("%s is left", filepath.Join("snapshots", e.Name()))
	}
}

func (o *outage) pause(t *testing.T, id string, filesOnly bool) {
	t.Helper()
	if err := o.c.Sandboxes.Pause(t.Context(), id, client.PauseOptions{FilesOnly: filesOnly}); err != nil {
		t.Fatalf("pause: %v", err)
	}
}

// populate makes a sandbox with a note and with a program that counts.
func (o *outage) populate(t *testing.T) sighting {
	t.Helper()
	return populate(t, o.c)
}

func populate(t *testing.T, c *client.Client) sighting {
	t.Helper()
	sb := create(t, c, time.Hour)
	run(t, sb, "echo -n written early > note; "+counter)
	return look(t, sb)
}

// counter starts a program that has something in its memory only: a number that
// nobody else has, and how far it has counted. The file that tells both is never
// seen half written.
const counter = `nohup python3 -c '
import os, secrets, time
nonce, n = secrets.token_hex(8), 0
while True:
    n += 1
    try:
        with open("next", "w") as f:
            f.write(f"{nonce} {n}")
        os.replace("next", "count")
    except OSError:
        pass # the disk is full
    time.sleep(0.02)
' >/dev/null 2>&1 &
until [ -s count ]; do sleep 0.02; done`

// A sighting is what was seen of a sandbox at some time.
type sighting struct {
	id, note, boot string
	nonce          string // of its program; empty: it does not run
	count          int
}

// look looks what is in a sandbox. A program that is there must be counting.
func look(t *testing.T, sb *client.Sandbox) sighting {
	t.Helper()
	const script = `cat note; echo; cat /proc/sys/kernel/random/boot_id
		pgrep python3 >/dev/null || exit 0
		a=$(cat count)
		for i in $(seq 1000); do b=$(cat count); [ "$a" = "$b" ] || break; sleep 0.02; done
		echo $a $b`
	s := sighting{id: sb.ID}
	out := run(t, sb, script)
	note, rest, _ := strings.Cut(out, "\n")
	s.note = note
	if words := strings.Fields(rest); len(words) > 0 {
		s.boot = words[0]
		if len(words) == 1 {
			return s
		}
	}
	var before int
	var nonce string
	if _, err := fmt.Sscan(rest, &s.boot, &nonce, &before, &s.nonce, &s.count); err != nil {
		t.Errorf("in %s there is %q: %v", sb.ID, out, err)
	} else if nonce != s.nonce || s.count <= before {
		t.Errorf("the program of %s does not count: %q", sb.ID, out)
	}
	return s
}

func (was sighting) wantFiles(t *testing.T, is sighting) {
	t.Helper()
	if is.note != was.note {
		t.Errorf("the file of %s holds %q, want %q", is.id, is.note, was.note)
	}
}

// wantPrograms checks that is shows the very program that was there.
func (was sighting) wantPrograms(t *testing.T, is sighting) {
	t.Helper()
	if is.nonce != was.nonce || is.count < was.count || is.boot != was.boot {
		t.Errorf("%s has now %+v, before it had %+v; want the same program in the same boot", is.id, is, was)
	}
}
