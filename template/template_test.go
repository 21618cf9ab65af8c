package template_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
)

// put writes a template straight into the store.
func (w *world) put(t *testing.T, id soulbox.TemplateID, team soulbox.TeamID, name string, public bool) {
	t.Helper()
	now := time.Now()
	tpl := &soulbox.Template{ID: id, Team: team, Name: name, Public: public, CreatedAt: now, UpdatedAt: now}
	b := &soulbox.Build{ID: soulbox.NewBuildID(), Team: team, CreatedAt: now, EndedAt: now, Image: "none", Size: w.Defaults, User: "user"}
	if _, err := w.store.AddBuild(t.Context(), tpl, b, "", func(*soulbox.Build) soulbox.Bump { return "" }); err != nil {
		t.Fatal(err)
	}
}

// some puts templates of everybody into the store.
func (w *world) some(t *testing.T) {
	t.Helper()
	w.put(t, "house-base", house, "base", true)
	w.put(t, "house-node", house, "node", true)
	w.put(t, "our-base", ours, "base", false)
	w.put(t, "our-app", ours, "app", false)
	w.put(t, "our-trap", ours, "house-node", false) // a name that is another's id
	w.put(t, "their-app", theirs, "app", false)
	w.put(t, "their-secret", theirs, "secret", false)
	w.put(t, "their-gift", theirs, "gift", true)
}

func TestTemplate(t *testing.T) {
	w := open(t)
	w.some(t)
	tests := []struct {
		team      soulbox.TeamID
		ref, want string // an id, or the whole error
	}{
		{ours, "base", "our-base"},
		{theirs, "base", "house-base"},
		{ours, "BASE", "our-base"},
		{ours, "node", "house-node"},
		{ours, "base:default", "our-base"},
		{ours, "our-app", "our-app"},
		{ours, "house-base", "house-base"},
		{ours, "house-node", "our-trap"},
		{theirs, "house-node", "house-node"},
		{ours, "ours/app", "our-app"},
		{ours, "ours/app:default", "our-app"},
		{ours, "theirs/gift", "their-gift"},
		{ours, "their-gift", "their-gift"},

		{ours, "ghost", "template 'ghost' not found"},
		{ours, "ghost:v2", "template 'ghost' not found"},
		{ours, "base:v2", "tag 'v2' does not exist for template 'base'"},
		{ours, "ours/app:v2", "tag 'v2' does not exist for template 'ours/app'"},
		{ours, "secret", "template 'secret' not found"},
		{ours, "their-secret", "template 'their-secret' not found"},
		{ours, "theirs/secret", "template 'theirs/secret' not found"},
		{ours, "theirs/secret:v2", "template 'theirs/secret' not found"},
		{ours, "theirs/their-gift", "template 'theirs/their-gift' not found"}, // an id has no namespace
		{ours, "ours/node", "template 'ours/node' not found"},                 // nor has the house
		{ours, "nobody/base", "template 'nobody/base' not found"},
		{ours, "gift", "template 'gift' not found"}, // a name that others use needs their namespace
	}
	for _, tt := range tests {
		t.Run(string(tt.team)+" "+tt.ref, func(t *testing.T) {
			ref, err := soulbox.ParseTemplateRef(tt.ref)
			if err != nil {
				t.Fatal(err)
			}
			got, err := w.Template(t.Context(), tt.team, ref)
			switch {
			case err == nil:
				if string(got.ID) != tt.want {
					t.Errorf("Template is %s, want %s", got.ID, tt.want)
				}
			case soulbox.KindOf(err) != soulbox.NotFound || err.Error() != tt.want:
				t.Errorf("Template: kind %v, %q; want NotFound, %q", soulbox.KindOf(err), err, tt.want)
			}
		})
	}
}

func TestTemplates(t *testing.T) {
	w := open(t)
	w.some(t)
	all, err := w.Templates(t.Context(), ours)
	if err != nil {
		t.Fatalf("Templates: %v", err)
	}
	var got []string
	for _, tpl := range all {
		got = append(got, string(tpl.ID))
	}
	if diff := cmp.Diff([]string{"our-app", "house-base", "our-base", "our-trap", "house-node"}, got); diff != "" {
		t.Errorf("templates (-want +got):\n%s", diff)
	}
}

func TestRemove(t *testing.T) {
	w := open(t)
	w.some(t)
	for _, tt := range []struct {
		id   soulbox.TemplateID
		kind soulbox.Kind
		says string
	}{
		{"ghost", soulbox.NotFound, "template 'ghost' not found"},
		{"base", soulbox.NotFound, "template 'base' not found"}, // a name is no id
		{"", soulbox.NotFound, "template '' not found"},
		{"their-secret", soulbox.NotFound, "template 'their-secret' not found"},
		{"their-gift", soulbox.Forbidden, "template 'gift' belongs to another team"},
		{"house-node", soulbox.Forbidden, "template 'node' belongs to the house and cannot be removed"},
	} {
		if err := w.Remove(t.Context(), ours, tt.id); err == nil || soulbox.KindOf(err) != tt.kind || err.Error() != tt.says {
			t.Errorf("Remove %q: kind %v, %v; want kind %v, %q", tt.id, soulbox.KindOf(err), err, tt.kind, tt.says)
		}
	}
	if err := w.Remove(t.Context(), ours, "our-base"); err != nil {
		t.Errorf("Remove: %v", err)
	}
	if err := w.Remove(t.Context(), ours, "our-base"); soulbox.KindOf(err) != soulbox.NotFound {
		t.Errorf("Remove again: %v, want NotFound", err)
	}
	got, err := w.Template(t.Context(), ours, soulbox.TemplateRef{Name: "base"})
	if err != nil || got.ID != "house-base" {
		t.Errorf("Template: %+v, %v; want the house's", got, err)
	}
	all, err := w.store.AllTemplates(t.Context())
	if err != nil || slices.ContainsFunc(all, func(tpl *soulbox.Template) bool { return tpl.ID == "our-base" }) || len(all) != 7 {
		t.Errorf("left: %v, %v; want the seven others", all, err)
	}
}
