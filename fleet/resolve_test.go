package fleet_test

import (
	"context"
	"slices"
	"testing"

	"github.com/soulbox/soulbox"
)

// What a sandbox is made of follows the tag, the version or the build that is
// asked for.
func TestCreateOfBuild(t *testing.T) {
	h := open(t)
	version := func(image string, tags ...string) *soulbox.Build {
		return h.build(&soulbox.Template{
			ID: "tapp", Team: "us", Name: "app", Image: image, Snapshot: soulbox.SnapshotID("s" + image), Env: map[string]string{"V": image},
			Size: soulbox.Size{CPUs: 1, Memory: soulbox.MiB},
		}, tags...)
	}
	first := version("10", "old", "default")
	second := version("11", "default")
	third := version("12", "edge")
	var made *soulbox.Template
	h.node.onTemplate = func(tpl *soulbox.Template) { made = tpl }
	for in, want := range map[string]*soulbox.Build{
		"app": second, "app:default": second, "us-slug/app": second, "tapp": second, "app@1": third, "app@1.0": first, "app@^1.1": third,
		"app:old": first, "app:edge": third, "us-slug/app:old": first, "tapp:edge": third, "app:" + string(first.ID): first,
	} {
		made = nil
		req := request()
		var err error
		if req.Template, err = soulbox.ParseTemplateRef(in); err != nil {
			t.Fatal(err)
		}
		sb, err := h.Create(t.Context(), req)
		if err != nil {
			t.Fatalf("Create of %s: %v", in, err)
		}
		if made == nil || made.Build != want.ID || made.Image != want.Image || made.Snapshot != want.Snapshot || made.Env["V"] != want.Image || sb.Template != "tapp" {
			t.Errorf("a sandbox of %s is made of %+v, want build %s with image %s", in, made, want.ID, want.Image)
		}
		if err := h.Kill(t.Context(), "us", sb.ID, soulbox.ByClient, ""); err != nil {
			t.Fatal(err)
		}
	}
}

// What is written down of a sandbox is that of the build that it was made of,
// also when its template has another by now.
func TestSnapshotOfBuild(t *testing.T) {
	h := open(t)
	version := func(image string) {
		h.build(&soulbox.Template{
			ID: "tapp", Team: "us", Name: "app", Image: image, Env: map[string]string{"V": image}, User: "u" + image, Workdir: "/w" + image,
			Size: soulbox.Size{CPUs: 1, Memory: soulbox.MiB},
		}, "default")
	}
	version("10")
	req := request()
	req.Template, req.Env = soulbox.TemplateRef{Name: "app"}, nil
	sb, err := h.Create(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	version("11")
	snap, err := h.Checkpoint(t.Context(), "us", sb.ID, "")
	if err != nil {
		t.Fatal(err)
	}
	if snap.Image != "10" || snap.Env["V"] != "10" || snap.User != "u10" || snap.Workdir != "/w10" {
		t.Errorf("the snapshot is %+v, want what the first build has", snap)
	}
}

func TestCreateOfBuildRefused(t *testing.T) {
	h := open(t)
	h.build(&soulbox.Template{ID: "tapp", Team: "us", Name: "app", Image: "10"}, "only")
	hidden := h.build(&soulbox.Template{ID: "thidden", Team: "them", Name: "hidden", Image: "11"})
	draft := &soulbox.Build{ID: soulbox.NewBuildID(), Team: "us", State: soulbox.BuildWaiting}
	if _, err := h.store.InsertDraft(t.Context(), &soulbox.Template{ID: "tdraft", Team: "us", Name: "draft"}, draft); err != nil {
		t.Fatal(err)
	}
	sb := h.create()
	if _, err := h.Snapshot(t.Context(), "us", sb.ID, "monday"); err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{
		"app":                                  "template 'app' has no build that is ready; build it, or name a tag that one has",
		"us-slug/app:default":                  "template 'us-slug/app' has no build that is ready; build it, or name a tag that one has",
		"app:v2":                               "tag 'v2' does not exist for template 'app'",
		"us-slug/app:v2":                       "tag 'v2' does not exist for template 'us-slug/app'",
		"app@2":                                "template 'app' has no version 2",
		"app:" + string(hidden.ID):             "tag '" + string(hidden.ID) + "' does not exist for template 'app'",
		"draft":                                "template 'draft' has no build that is ready; build it, or name a tag that one has",
		"draft@1":                              "template 'draft' has no version 1",
		"draft:" + string(draft.ID):            "tag '" + string(draft.ID) + "' does not exist for template 'draft'",
		"monday:v2":                            "tag 'v2' does not exist for template 'monday'",
		"monday@1":                             "template 'monday' has no version 1",
		"them-slug/hidden:v9":                  "template 'them-slug/hidden' not found",
		"them-slug/hidden@9":                   "template 'them-slug/hidden' not found",
		"thidden:" + string(hidden.ID):         "template 'thidden' not found",
		"them-slug/ghost:" + string(hidden.ID): "template 'them-slug/ghost' not found",
	} {
		req := request()
		var err error
		if req.Template, err = soulbox.ParseTemplateRef(in); err != nil {
			t.Fatal(err)
		}
		_, err = h.Create(t.Context(), req)
		wantKind(t, "Create of "+in, err, soulbox.NotFound)
		wantMessage(t, "Create of "+in, err, want)
	}
	for _, in := range []string{"monday", "monday:default", "app:only"} {
		req := request()
		var err error
		if req.Template, err = soulbox.ParseTemplateRef(in); err == nil {
			_, err = h.Create(t.Context(), req)
		}
		if err != nil {
			t.Errorf("Create of %s: %v", in, err)
		}
	}
}

// Snapshots that builds have are not the fleet's to tidy, ready or not; those
// that nobody knows are.
func TestSnapshotsOfTemplatesStay(t *testing.T) {
	h := open(t)
	h.build(&soulbox.Template{ID: "tapp", Team: "us", Name: "app", Image: "10", Snapshot: "sready", Baked: "ibaked"})
	building := &soulbox.Build{ID: soulbox.NewBuildID(), Team: "us", State: soulbox.BuildWaiting, Tags: []string{"new"}}
	if _, err := h.store.InsertDraft(t.Context(), &soulbox.Template{Team: "us", Name: "app"}, building); err != nil {
		t.Fatal(err)
	}
	building.State, building.Snapshot = soulbox.BuildRunning, "sbaking"
	if err := h.store.MoveBuild(t.Context(), building, soulbox.BuildWaiting); err != nil {
		t.Fatal(err)
	}
	h.node.mu.Lock()
	for _, id := range []soulbox.SnapshotID{"sready", "sbaking", "sstray"} {
		h.node.snaps[id] = mind{}
	}
	h.node.mu.Unlock()
	h.restart()
	eventually(t, "what nobody knows is gone", func() bool {
		return slices.Equal(h.node.snapshots(), []soulbox.SnapshotID{"sbaking", "sready"})
	})
	if err := h.Close(); err != nil { // after all that goes on behind
		t.Fatal(err)
	}
	if got := h.node.snapshots(); !slices.Equal(got, []soulbox.SnapshotID{"sbaking", "sready"}) {
		t.Errorf("snapshots %v", got)
	}
}

// A template that is removed while sandboxes of it live stays.
func TestTemplateWithSandboxes(t *testing.T) {
	h := open(t)
	sb := h.create()
	err := h.store.DeleteTemplate(context.Background(), sb.Template)
	wantKind(t, "DeleteTemplate", err, soulbox.Invalid)
	if err := h.Kill(t.Context(), "us", sb.ID, soulbox.ByClient, ""); err != nil {
		t.Fatal(err)
	}
	if err := h.store.DeleteTemplate(context.Background(), sb.Template); err != nil {
		t.Errorf("DeleteTemplate: %v", err)
	}
}
