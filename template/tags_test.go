package template_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
)

// several makes the versions 1.0.0, 1.1.0, 1.1.1 and 2.0.0 of app.
func (w *world) several(t *testing.T) []*soulbox.Build {
	t.Helper()
	w.start(t)
	var all []*soulbox.Build
	for _, steps := range [][]string{{"install a 1"}, {"install a 1", "install b 1"}, {"install a 2", "install b 1"}, {"install b 1"}} {
		all = append(all, w.make(t, "app", run(steps...)))
	}
	return all
}

func (w *world) at(t *testing.T, s string) soulbox.BuildID {
	t.Helper()
	tpl, err := w.Template(t.Context(), ours, ref(t, s))
	if err != nil {
		t.Fatalf("Template %s: %v", s, err)
	}
	return tpl.Build
}

func TestTags(t *testing.T) {
	w := open(t)
	all := w.several(t)
	b, err := w.AssignTags(t.Context(), ours, ref(t, "app@1.0.0"), []string{"Stable", "old", "stable"})
	if err != nil || b.ID != all[0].ID {
		t.Fatalf("AssignTags: %+v, %v", b, err)
	}
	if _, err := w.AssignTags(t.Context(), ours, ref(t, "ours/app:stable"), []string{"old2"}); err != nil {
		t.Fatalf("AssignTags: %v", err)
	}
	look := func(want map[string]soulbox.BuildID) {
		t.Helper()
		tags, err := w.Tags(t.Context(), ours, all[0].Template)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]soulbox.BuildID{}
		for _, tag := range tags {
			got[tag.Name] = tag.Build
			if tag.At.IsZero() {
				t.Errorf("tag %+v has no time", tag)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("tags (-want +got):\n%s", diff)
		}
	}
	look(map[string]soulbox.BuildID{"default": all[3].ID, "stable": all[0].ID, "old": all[0].ID, "old2": all[0].ID})
	if err := w.RemoveTags(t.Context(), ours, ref(t, "app"), []string{"OLD", "old2", "ghost"}); err != nil {
		t.Fatalf("RemoveTags: %v", err)
	}
	look(map[string]soulbox.BuildID{"default": all[3].ID, "stable": all[0].ID})

	for name, err := range map[string]error{
		"AssignTags of none":      second(w.AssignTags(t.Context(), ours, ref(t, "app"), nil)),
		"AssignTags of no tag":    second(w.AssignTags(t.Context(), ours, ref(t, "app"), []string{"a b"})),
		"AssignTags of an id":     second(w.AssignTags(t.Context(), ours, ref(t, "app"), []string{string(all[0].ID)})),
		"RemoveTags of default":   w.RemoveTags(t.Context(), ours, ref(t, "app"), []string{"stable", "default"}),
		"RemoveTags of none":      w.RemoveTags(t.Context(), ours, ref(t, "app"), nil),
		"RemoveTags with a tag":   w.RemoveTags(t.Context(), ours, ref(t, "app:stable"), []string{"stable"}),
		"RemoveTags of a version": w.RemoveTags(t.Context(), ours, ref(t, "app@1"), []string{"stable"}),
	} {
		wantError(t, name, err, soulbox.Invalid, "")
	}
	for what, tt := range map[string]struct{ ref, says string }{
		"no template": {"ghost", "template 'ghost' not found"},
		"no tag":      {"app:v9", "tag 'v9' does not exist for template 'app'"},
		"no version":  {"app@7", "template 'app' has no version 7"},
		"no build":    {"app:f81d4fae-7dec-41d0-a765-00a0c91e6bf6", "tag 'f81d4fae-7dec-41d0-a765-00a0c91e6bf6' does not exist for template 'app'"},
	} {
		_, err := w.AssignTags(t.Context(), ours, ref(t, tt.ref), []string{"x"})
		wantError(t, "AssignTags to "+what, err, soulbox.NotFound, tt.says)
	}
	look(map[string]soulbox.BuildID{"default": all[3].ID, "stable": all[0].ID})
}

func second[T any](_ T, err error) error { return err }

// A template goes to and fro between its versions, each time in one step.
func TestRollback(t *testing.T) {
	w := open(t)
	all := w.several(t)
	step := func(what string, b *soulbox.Build, err error, want int) {
		t.Helper()
		if err != nil || b.ID != all[want].ID {
			t.Fatalf("%s: %+v, %v; want %s", what, b, err, all[want].Version)
		}
		if row := w.row(t, b.Template); row.Build != b.ID || row.Image != all[want].Image || row.Version != all[want].Version || w.at(t, "app") != b.ID {
			t.Errorf("after %s the template is %+v", what, row)
		}
	}
	b, err := w.Rollback(t.Context(), ours, ref(t, "app"))
	step("rollback", b, err, 2)
	b, err = w.Rollback(t.Context(), ours, ref(t, "app:default"))
	step("another rollback", b, err, 1)
	b, err = w.Promote(t.Context(), ours, ref(t, "app@2"), "")
	step("promote", b, err, 3)
	b, err = w.Rollback(t.Context(), ours, ref(t, "app@1.0"))
	step("rollback to a version", b, err, 0)
	_, err = w.Rollback(t.Context(), ours, ref(t, "app"))
	wantError(t, "rollback beyond the first", err, soulbox.Conflict, "template 'app' has no version before 1.0.0 that is not retired")
	b, err = w.Promote(t.Context(), ours, ref(t, "app:"+string(all[3].ID)), "")
	step("promote a build", b, err, 3)

	if b, err = w.Deprecate(t.Context(), ours, ref(t, "app@1.1.1"), "it leaks"); err != nil || b.Retired != "it leaks" {
		t.Fatalf("Deprecate: %+v, %v", b, err)
	}
	b, err = w.Rollback(t.Context(), ours, ref(t, "app"))
	step("rollback over a retired version", b, err, 1)
	if at := w.at(t, "app@1.1"); at != all[1].ID {
		t.Errorf("1.1 is %s, want the one that is not retired", at)
	}
	if at := w.at(t, "app@1.1.1"); at != all[2].ID {
		t.Errorf("1.1.1 is %s, want the retired one", at)
	}
	if _, err = w.Deprecate(t.Context(), ours, ref(t, "app@1.1.1"), ""); err != nil {
		t.Fatal(err)
	}
	if at := w.at(t, "app@1.1"); at != all[2].ID {
		t.Errorf("1.1 is %s after its deprecation was taken back", at)
	}
	_, err = w.Deprecate(t.Context(), ours, ref(t, "app"), strings.Repeat("x", 3000))
	wantError(t, "Deprecate with a long reason", err, soulbox.TooLarge, "the reason has 3000 bytes, and may have 2000")
	_, err = w.Deprecate(t.Context(), ours, ref(t, "app"), "a\x00b")
	wantError(t, "Deprecate with NUL", err, soulbox.Invalid, "is not text")
	b, err = w.Promote(t.Context(), ours, ref(t, "app@1.0.0"), "Stable")
	if err != nil || b.ID != all[0].ID || w.at(t, "app:stable") != all[0].ID || w.at(t, "app") != all[1].ID {
		t.Errorf("Promote to a tag: %+v, %v", b, err)
	}

	versions, err := w.Versions(t.Context(), ours, all[0].Template)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, v := range versions {
		got = append(got, v.Version.String())
	}
	if want := []string{"2.0.0", "1.1.1", "1.1.0", "1.0.0"}; !slices.Equal(got, want) {
		t.Errorf("Versions: %v, want %v", got, want)
	}
}

func TestDiff(t *testing.T) {
	w := open(t)
	w.start(t)
	w.make(t, "app", run("install a 1", "install b 1", "expose 80/tcp", "write f 1"))
	recipe := run("install a 2", "install c 1", "expose 80/tcp", "expose 443/tcp", "write f 22")
	recipe.Start = "serve"
	_, b, err := w.Request(t.Context(), soulbox.BuildRequest{Team: ours, Name: "app", Recipe: recipe, Size: soulbox.Size{CPUs: 4}})
	if err != nil {
		t.Fatal(err)
	}
	w.await(t, b.ID, soulbox.BuildReady)
	d, err := w.Diff(t.Context(), ours, ref(t, "app@1"), ref(t, "app"))
	if err != nil {
		t.Fatalf("Diff: %v", err)
	}
	want := soulbox.BuildDiff{
		Bump: soulbox.Major,
		Recipe: `@@ -1,5 +1,7 @@
 FROM debian:bookworm
-RUN install a 1
-RUN install b 1
+RUN install a 2
+RUN install c 1
 RUN expose 80/tcp
-RUN write f 1
+RUN expose 443/tcp
+RUN write f 22
+# start command: serve
`,
		Packages: []soulbox.PackageChange{
			{Kind: soulbox.Changed, Manager: "dpkg", Name: "a", Before: "1", After: "2"},
			{Kind: soulbox.Removed, Manager: "dpkg", Name: "b", Before: "1"},
			{Kind: soulbox.Created, Manager: "dpkg", Name: "c", After: "1"},
		},
		Ports: []soulbox.ValueChange{{Kind: soulbox.Created, Name: "443/tcp", After: "exposed"}},
	}
	if d.Before.Version.String() != "1.0.0" || d.After.Version.String() != "2.0.0" {
		t.Errorf("compared %s with %s", d.Before.Version, d.After.Version)
	}
	names := map[string]soulbox.ValueChange{}
	for _, v := range d.Values {
		names[v.Name] = v
	}
	if len(names) != 2 || names["cpus"].Before != "2" || names["cpus"].After != "4" || names["bytes"].Kind != soulbox.Changed {
		t.Errorf("values %+v", d.Values)
	}
	d.Before, d.After, d.Values = nil, nil, nil
	if diff := cmp.Diff(want, d); diff != "" {
		t.Errorf("Diff (-want +got):\n%s", diff)
	}
	same, err := w.Diff(t.Context(), ours, ref(t, "app"), ref(t, "app@2.0.0"))
	if err != nil || same.Bump != "" || same.Recipe != "" || len(same.Packages)+len(same.Env)+len(same.Ports)+len(same.Values) != 0 {
		t.Errorf("Diff of one with itself: %+v, %v", same, err)
	}

	// Others see what differs, and not how it was made.
	if _, err := w.Publish(t.Context(), ours, b.Template, true); err != nil {
		t.Fatal(err)
	}
	d, err = w.Diff(t.Context(), theirs, ref(t, "ours/app@1"), ref(t, "ours/app"))
	if err != nil || d.Recipe != "" || len(d.Packages) != 3 || len(d.Before.Recipe.Steps)+len(d.After.Recipe.Steps) != 0 || d.After.Recipe.Start != "" {
		t.Errorf("Diff by another team: %+v, %v", d, err)
	}
}

func TestSBOM(t *testing.T) {
	w := open(t)
	w.start(t)
	b := w.make(t, "app", run("install curl 7.88"))
	out, err := w.SBOM(t.Context(), ours, ref(t, "app"))
	if err != nil || !strings.Contains(string(out), `"pkg:deb/curl@7.88"`) || !strings.Contains(string(out), "urn:uuid:"+string(b.ID)) {
		t.Errorf("SBOM: %s, %v", out, err)
	}
	_, err = w.SBOM(t.Context(), theirs, ref(t, "ours/app"))
	wantError(t, "SBOM by a stranger", err, soulbox.NotFound, "template 'ours/app' not found")
}

// What is refused does not depend on how a template is named.
func TestRefsByName(t *testing.T) {
	w := open(t)
	all := w.several(t)
	for _, name := range []string{"app", "ours/app", "APP", string(all[0].Template)} {
		b, err := w.AssignTags(t.Context(), ours, ref(t, name+"@1.0.0"), []string{"x"})
		if err != nil || b.ID != all[0].ID {
			t.Errorf("AssignTags %s: %v, %v", name, b, err)
		}
	}
	for i, b := range all {
		if at := w.at(t, fmt.Sprintf("app@%s", b.Version)); at != b.ID {
			t.Errorf("version %d is build %s, want %s", i, at, b.ID)
		}
	}
}
