package storetest

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/store"
)

// fataler is what tests and checked properties have in common.
type fataler interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Context() context.Context
}

// testBuildInvariants does random things to the builds of two templates and
// looks after each: versions of a template only grow, a tag never leads to a
// build that is not ready, and the template is what its default build makes of
// it.
func testBuildInvariants(t *testing.T, s *store.Store) {
	serial := 0
	rapid.Check(t, func(rt *rapid.T) {
		serial++
		w := &history{s: s, names: []string{fmt.Sprint("a", serial), fmt.Sprint("b", serial)}, newest: map[soulbox.TemplateID]soulbox.Version{}, serial: &serial}
		rt.Repeat(map[string]func(*rapid.T){
			"":        func(rt *rapid.T) { wantConsistent(rt, s) },
			"draft":   w.draft,
			"start":   w.start,
			"finish":  w.finish,
			"fail":    w.fail,
			"tag":     w.tag,
			"untag":   w.untag,
			"renew":   w.renew,
			"isolate": w.isolate,
			"delete":  w.delete,
		})
		for _, name := range w.names { // the next check looks at its own
			if tpl, err := s.TemplateByName(rt.Context(), "team1", name); err == nil {
				if err := s.DeleteTemplate(rt.Context(), tpl.ID); err != nil {
					rt.Fatal(err)
				}
			}
		}
	})
}

// A history is what was done so far.
type history struct {
	s      *store.Store
	names  []string
	builds []*soulbox.Build
	newest map[soulbox.TemplateID]soulbox.Version
	serial *int
}

// drawTags draws some, or none.
func drawTags(rt *rapid.T) []string {
	return rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"default", "v1", "v2"}), 0, 3, rapid.ID[string]).Draw(rt, "tags")
}

// pick draws a build in one of states, or skips.
func (h *history) pick(rt *rapid.T, states ...soulbox.BuildState) *soulbox.Build {
	some := slices.DeleteFunc(slices.Clone(h.builds), func(b *soulbox.Build) bool { return !slices.Contains(states, b.State) })
	if len(some) == 0 {
		rt.Skip("no such build")
	}
	return rapid.SampledFrom(some).Draw(rt, "build")
}

func (h *history) draft(rt *rapid.T) {
	*h.serial++
	n := *h.serial
	b := build("team1", n, drawTags(rt)...)
	_, err := h.s.InsertDraft(rt.Context(), plainTemplate(fmt.Sprint("t", n), "team1", rapid.SampledFrom(h.names).Draw(rt, "name")), b)
	if err != nil {
		rt.Fatal(err)
	}
	for _, d := range h.builds {
		if d.State == soulbox.BuildWaiting && d.Rivals(b) {
			d.State = soulbox.BuildFailed
		}
	}
	h.builds = append(h.builds, b)
}

func (h *history) start(rt *rapid.T) {
	b := h.pick(rt, soulbox.BuildWaiting)
	b.State, b.StartedAt = soulbox.BuildRunning, at(*h.serial)
	b.Image, b.Snapshot = fmt.Sprintf("%064x", rapid.IntRange(0, 3).Draw(rt, "image")), soulbox.SnapshotID(rapid.SampledFrom([]string{"", "s1", "s2"}).Draw(rt, "snapshot"))
	if err := h.s.MoveBuild(rt.Context(), b, soulbox.BuildWaiting); err != nil {
		rt.Fatal(err)
	}
}

func (h *history) finish(rt *rapid.T) {
	b := h.pick(rt, soulbox.BuildRunning)
	*h.serial++
	b.EndedAt = at(*h.serial)
	bump := rapid.SampledFrom([]soulbox.Bump{soulbox.Major, soulbox.Minor, soulbox.Patch}).Draw(rt, "bump")
	if err := h.s.FinishBuild(rt.Context(), b, as(bump)); err != nil {
		rt.Fatal(err)
	}
	if before := h.newest[b.Template]; b.Version.Compare(before) <= 0 || b.Version != before.Next(bump) {
		rt.Fatalf("version %s after %s by a %s change", b.Version, before, bump)
	}
	h.newest[b.Template] = b.Version
}

func (h *history) fail(rt *rapid.T) {
	b := h.pick(rt, soulbox.BuildWaiting, soulbox.BuildRunning)
	from := b.State
	b.State, b.Failure = soulbox.BuildFailed, &soulbox.BuildFailure{Message: "no"}
	if err := h.s.MoveBuild(rt.Context(), b, from); err != nil {
		rt.Fatal(err)
	}
}

func (h *history) tag(rt *rapid.T) {
	b := h.pick(rt, soulbox.BuildWaiting, soulbox.BuildRunning, soulbox.BuildReady, soulbox.BuildFailed)
	*h.serial++
	err := h.s.PutTags(rt.Context(), b.Template, b.ID, drawTags(rt), at(*h.serial))
	if (err == nil) != (b.State == soulbox.BuildReady) {
		rt.Fatalf("PutTags to a build that is %s: %v", b.State, err)
	}
}

func (h *history) untag(rt *rapid.T) {
	b := h.pick(rt, soulbox.BuildReady)
	if err := h.s.DeleteTags(rt.Context(), b.Template, drawTags(rt)); err != nil {
		rt.Fatal(err)
	}
}

func (h *history) renew(rt *rapid.T) {
	b := h.pick(rt, soulbox.BuildReady)
	*h.serial++
	now := b.Clone()
	now.Image = fmt.Sprintf("%064x", *h.serial)
	n, err := h.s.RenewBuilds(rt.Context(), b, now)
	if err != nil || n == 0 {
		rt.Fatalf("RenewBuilds: %d, %v", n, err)
	}
	was := b.Image
	for _, c := range h.builds {
		if c.State == soulbox.BuildReady && c.Image == was && c.Snapshot == now.Snapshot {
			c.Image = now.Image
		}
	}
}

func (h *history) isolate(rt *rapid.T) {
	b := h.pick(rt, soulbox.BuildWaiting, soulbox.BuildRunning, soulbox.BuildReady, soulbox.BuildFailed)
	*h.serial++
	class := rapid.SampledFrom([]soulbox.Isolation{soulbox.GVisor, soulbox.Runc}).Draw(rt, "isolation")
	if err := h.s.SetTemplateIsolation(rt.Context(), b.Template, class, at(*h.serial)); err != nil {
		rt.Fatal(err)
	}
	for _, c := range h.builds {
		if c.Template != b.Template || c.State != soulbox.BuildReady {
			continue
		}
		got, err := h.s.Build(rt.Context(), c.ID)
		if err != nil {
			rt.Fatal(err)
		}
		if want := class; c.Snapshot == "" && got.Isolation != want || c.Snapshot != "" && got.Isolation != soulbox.GVisor {
			rt.Fatalf("build %s with snapshot %q has isolation %s, that of the template was set to %s", c.ID, c.Snapshot, got.Isolation, want)
		}
	}
}

func (h *history) delete(rt *rapid.T) {
	id := h.pick(rt, soulbox.BuildWaiting, soulbox.BuildRunning, soulbox.BuildReady, soulbox.BuildFailed).Template
	if err := h.s.DeleteTemplate(rt.Context(), id); err != nil {
		rt.Fatal(err)
	}
	h.builds = slices.DeleteFunc(h.builds, func(b *soulbox.Build) bool { return b.Template == id })
}
