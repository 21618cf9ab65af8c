package soulbox_test

import (
	"testing"

	"github.com/soulbox/soulbox"
)

func TestNewSnapshotID(t *testing.T) {
	seen := map[soulbox.SnapshotID]bool{}
	for range 1000 {
		id := soulbox.NewSnapshotID()
		if len(id) != 21 || id[0] != 's' || !id.Valid() || seen[id] {
			t.Fatalf("NewSnapshotID() = %q, want s and 20 of [a-z0-9], never twice", id)
		}
		if _, err := soulbox.ParseTemplateRef(string(id)); err != nil {
			t.Errorf("a snapshot cannot be asked for like a template: %v", err)
		}
		seen[id] = true
	}
}

func TestSnapshotIDValid(t *testing.T) {
	for _, id := range []soulbox.SnapshotID{"", "s", "s/../../etc/passwd00", "i12345678901234567890", "s1234567890123456789", "sABCDEFGHIJ1234567890", "s123456789012345678901"} {
		if id.Valid() {
			t.Errorf("%q is valid", id)
		}
	}
}

func TestSnapshotAsTemplate(t *testing.T) {
	s := &soulbox.Snapshot{ID: "s1", Template: "t1", Image: "abc", Env: map[string]string{"A": "1"}, User: "user", Size: soulbox.Size{CPUs: 2}}
	tpl := s.AsTemplate()
	if tpl.ID != "t1" || tpl.Image != "abc" || tpl.User != "user" || tpl.Size.CPUs != 2 {
		t.Errorf("AsTemplate() = %+v", tpl)
	}
	tpl.Env["A"] = "2"
	if s.Env["A"] != "1" {
		t.Error("the template shares its environment with the snapshot")
	}
}
