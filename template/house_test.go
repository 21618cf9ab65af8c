package template_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/template"
)

// ofHouse is a template of the house of RUN steps.
func ofHouse(name, readme string, steps ...string) soulbox.HouseTemplate {
	h := soulbox.HouseTemplate{Name: name, Recipe: soulbox.Recipe{Dockerfile: "FROM base\n"}}
	for _, s := range steps {
		h.Recipe.Dockerfile += "RUN " + s + "\n"
	}
	h.Listing = soulbox.ListingChange{
		Description: new("It is " + name), Readme: &readme, Licence: new("MIT"), Categories: &[]string{"language"}, Keywords: &[]string{"k-" + name, "a"},
	}
	return h
}

// keep makes the registry anew, which then keeps those templates, and starts it.
func (w *world) keep(t *testing.T, all ...soulbox.HouseTemplate) {
	t.Helper()
	w.change = func(o *template.Options) { o.House = all }
	w.reopen(t)
	template.Again(w.Registry, 10*time.Millisecond)
	w.start(t)
}

// told waits until a template of the house tells a readme.
func (w *world) told(t *testing.T, name, readme string) *soulbox.Listing {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		l, err := w.Listing(t.Context(), theirs, soulbox.TemplateRef{Name: name})
		if err == nil && l.Readme == readme {
			return l
		}
		if time.Now().After(deadline) {
			t.Fatalf("template %s tells %+v, %v; want %q\n%s", name, l, err, readme, w.log)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// builds returns the states of all builds of a template, newest first.
func (w *world) builds(t *testing.T, name string) []string {
	t.Helper()
	tpl, err := w.store.TemplateByName(t.Context(), house, name)
	if err != nil {
		t.Fatal(err)
	}
	page, err := w.store.Builds(t.Context(), soulbox.BuildFilter{Template: tpl.ID})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, b := range page.Builds {
		all = append(all, fmt.Sprint(b.State, " ", b.Version))
	}
	return all
}

// The house's templates are built in turn, for everybody and nobody's to change;
// built again when their recipes change, and not otherwise.
func TestHouse(t *testing.T) {
	w := open(t)
	w.ensure(t, "base", "base")
	one, two := ofHouse("one", "first", "write a 1"), ofHouse("two", "first", "write a 2")
	two.Recipe.Start, two.Recipe.Ready = "serve", "true"
	w.keep(t, one, two)
	w.told(t, "two", "first")
	for _, h := range []soulbox.HouseTemplate{one, two} {
		l := w.told(t, h.Name, "first")
		tpl := l.Template
		if tpl.Team != house || !tpl.Public || tpl.Version.String() != "1.0.0" || l.Description != "It is "+h.Name || l.Licence != "MIT" ||
			!slices.Equal(l.Categories, []string{"language"}) || !slices.Equal(l.Keywords, []string{"k-" + h.Name, "a"}) || l.Namespace != "" {
			t.Errorf("%s: %+v of %+v", h.Name, l, tpl)
		}
		if (tpl.Snapshot != "") != (h.Recipe.Start != "") {
			t.Errorf("%s has snapshot %q, and starts %q", h.Name, tpl.Snapshot, h.Recipe.Start)
		}
		if diff := cmp.Diff(soulbox.Size{CPUs: 2, Memory: soulbox.GiB, Disk: soulbox.GiB, PIDs: 100}, tpl.Size); diff != "" {
			t.Errorf("%s has size (-want +got):\n%s", h.Name, diff)
		}
		if got := content(t, w.tree(t, tpl.Image), "a"); got != strings.TrimPrefix(strings.TrimSpace(h.Recipe.Dockerfile), "FROM base\nRUN write a ") {
			t.Errorf("%s holds %q", h.Name, got)
		}
		_, err := w.Promote(t.Context(), theirs, ref(t, h.Name), "mine")
		wantError(t, "Promote", err, soulbox.Forbidden, "belongs to the house")
	}
	// A team may have its own under the name, which then is what it gets.
	if mine := w.make(t, "one", run("write a mine")); w.row(t, mine.Template).Team != ours {
		t.Error("the team's own is not its own")
	}
	if got, err := w.Template(t.Context(), theirs, ref(t, "one")); err != nil || got.Team != house {
		t.Errorf("others get %+v, %v", got, err)
	}
	// Nobody can ask in the house's name.
	_, _, err := w.Request(t.Context(), soulbox.BuildRequest{Team: house, Name: "three", Recipe: run("write a 3")})
	wantError(t, "Request", err, soulbox.NotFound, "")
	_, _, err = w.Draft(t.Context(), house, "three", nil, soulbox.Size{})
	wantError(t, "Draft", err, soulbox.NotFound, "")

	jobs := len(w.engine.built())
	*two.Listing.Readme = "second"
	w.keep(t, one, two)
	w.told(t, "two", "second")
	if got := len(w.engine.built()); got != jobs {
		t.Errorf("with the same recipes %d builds were made", got-jobs)
	}
	if at := w.told(t, "one", "first").Template; at.Version.String() != "1.0.0" {
		t.Errorf("it is %s", at.Version)
	}

	one.Recipe.Dockerfile += "RUN install bash 5\n"
	*one.Listing.Readme = "third"
	w.keep(t, two, one)
	if l := w.told(t, "one", "third"); l.Template.Version.String() != "1.1.0" {
		t.Errorf("with a package more it is %s", l.Template.Version)
	}
	two.Recipe.Ready = "another"
	*two.Listing.Readme = "third"
	w.keep(t, two)
	if l := w.told(t, "two", "third"); l.Template.Version.String() != "1.0.1" {
		t.Errorf("with another ready command it is %s", l.Template.Version)
	}
	// What is no longer asked for stays.
	for name, want := range map[string][]string{"one": {"ready 1.1.0", "ready 1.0.0"}, "two": {"ready 1.0.1", "ready 1.0.0"}} {
		if diff := cmp.Diff(want, w.builds(t, name)); diff != "" {
			t.Errorf("builds of %s (-want +got):\n%s", name, diff)
		}
	}
}

// One that fails is tried again, and no reason for others to wait.
func TestHouseFails(t *testing.T) {
	w := open(t)
	w.ensure(t, "base", "base")
	tries := 0
	w.packer.packing = func() error { // called by one worker
		if tries++; tries == 1 || tries == 3 || tries == 4 {
			return errors.New("the disk is at lunch")
		}
		return nil
	}
	w.keep(t, ofHouse("one", "r", "write a 1"), ofHouse("two", "r", "write a 2"))
	w.told(t, "one", "r")
	w.told(t, "two", "r")
	if diff := cmp.Diff([]string{"ready 1.0.0", "error 0.0.0", "error 0.0.0", "error 0.0.0"}, w.builds(t, "one")); diff != "" {
		t.Errorf("builds of the one that fails (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"ready 1.0.0"}, w.builds(t, "two")); diff != "" {
		t.Errorf("builds of the other (-want +got):\n%s", diff)
	}
	for _, pause := range []string{"10ms", "20ms", "40ms"} {
		if !strings.Contains(w.log.String(), "tried again\" name=one in="+pause+" err=") {
			t.Errorf("the log does not tell of the pause of %s:\n%s", pause, w.log)
		}
	}

	// One that never works is none that the registry waits for when it closes.
	w.keep(t, ofHouse("three", "r", "fail so it is"))
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(w.log.String(), "so it is"); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it does not fail:\n%s", w.log)
		}
	}
}

// What a restart interrupts goes on as it was: one build, not two.
func TestHouseRestarts(t *testing.T) {
	w := open(t)
	w.ensure(t, "base", "base")
	h := ofHouse("one", "r", "write a 1", "wait")
	w.keep(t, h)
	for deadline := time.Now().Add(20 * time.Second); len(w.engine.built()) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing is built")
		}
	}
	b := w.engine.built()[0].ID
	w.keep(t, h)
	w.await(t, b, soulbox.BuildRunning)
	w.engine.proceed(b)
	w.told(t, "one", "r")
	if diff := cmp.Diff([]string{"ready 1.0.0"}, w.builds(t, "one")); diff != "" {
		t.Errorf("builds (-want +got):\n%s", diff)
	}

	// A crash between the draft and its recipe.
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	draft := &soulbox.Build{ID: soulbox.NewBuildID(), State: soulbox.BuildWaiting, CreatedAt: time.Now().UTC().Truncate(time.Microsecond), Tags: []string{"default"}}
	tpl := &soulbox.Template{ID: "cutoff", Name: "two", Public: true, CreatedAt: draft.CreatedAt, UpdatedAt: draft.CreatedAt}
	if _, err := w.store.InsertDraft(t.Context(), tpl, draft); err != nil {
		t.Fatal(err)
	}
	w.keep(t, ofHouse("two", "r", "write a 2"))
	if got := w.told(t, "two", "r").Template.ID; got != "cutoff" {
		t.Errorf("the template is %s, another", got)
	}
	if diff := cmp.Diff([]string{"ready 1.0.0", "error 0.0.0"}, w.builds(t, "two")); diff != "" {
		t.Errorf("builds (-want +got):\n%s", diff)
	}
}

// A server that cannot build says so, once, and serves.
func TestHouseWithoutEngine(t *testing.T) {
	w := open(t)
	w.change = func(o *template.Options) { o.House, o.Engine = []soulbox.HouseTemplate{ofHouse("one", "r")}, nil }
	w.reopen(t)
	w.start(t)
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(w.log.String(), "needs a server built with BuildKit"); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it does not say so:\n%s", w.log)
		}
	}
}
