package storetest

import (
	"slices"
	"strings"
	"testing"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/store"
)

func digest(n int) soulbox.Digest {
	return soulbox.Digest("sha256:" + strings.Repeat(string(rune('a'+n)), 64))
}

// testClaims makes claims of the same blobs by several teams and repositories,
// renews some and forgets the others.
func testClaims(t *testing.T, s *store.Store) {
	ctx := t.Context()
	one, two := makeTeam(t, s, "one"), makeTeam(t, s, "two")
	claim := func(n int) soulbox.Claim { return soulbox.Claim{Digest: digest(n), Size: int64(1 + n*1000)} }
	must(t, s.PutClaims(ctx, one.ID, "app", []soulbox.Claim{claim(0), claim(1), claim(1)}, at(1)))
	must(t, s.PutClaims(ctx, one.ID, "other", []soulbox.Claim{claim(1)}, at(2)))
	must(t, s.PutClaims(ctx, two.ID, "app", []soulbox.Claim{claim(1), claim(2)}, at(3)))
	must(t, s.PutClaims(ctx, two.ID, "app", nil, at(3)))

	got, err := s.Claimed(ctx, one.ID, "app", digest(1))
	must(t, err)
	wantSame(t, "Claimed", got, at(1))
	for _, tt := range []struct {
		team soulbox.TeamID
		name string
		n    int
	}{{one.ID, "app", 2}, {one.ID, "other", 0}, {two.ID, "other", 1}, {"", "app", 1}} {
		_, err := s.Claimed(ctx, tt.team, tt.name, digest(tt.n))
		wantKind(t, "Claimed by another", err, soulbox.NotFound)
	}
	wantBytes := func(team *soulbox.Team, want int64) {
		t.Helper()
		n, err := s.ClaimedBytes(ctx, team.ID)
		must(t, err)
		if n != want {
			t.Errorf("ClaimedBytes of %s = %d, want %d", team.ID, n, want)
		}
	}
	wantBytes(one, 1+1001+1001)
	wantBytes(two, 1001+2001)
	wantBlobs := func(want ...int) {
		t.Helper()
		got, err := s.ClaimedBlobs(ctx)
		must(t, err)
		slices.Sort(got)
		var all []soulbox.Digest
		for _, n := range want {
			all = append(all, digest(n))
		}
		wantSame(t, "ClaimedBlobs", got, all)
		for n := range 4 {
			claimed, err := s.ClaimedByAny(ctx, digest(n))
			must(t, err)
			if claimed != slices.Contains(want, n) {
				t.Errorf("ClaimedByAny of %d = %v", n, claimed)
			}
		}
	}
	wantBlobs(0, 1, 2)

	must(t, s.PutClaims(ctx, one.ID, "app", []soulbox.Claim{{Digest: digest(1), Size: 7}}, at(5))) // renewed, and its size was another
	got, err = s.Claimed(ctx, one.ID, "app", digest(1))
	must(t, err)
	wantSame(t, "Claimed after a renewal", got, at(5))
	must(t, s.DropClaims(ctx, at(3))) // not those of that moment
	wantBlobs(1, 2)
	wantBytes(one, 7)
	must(t, s.DropClaims(ctx, at(6)))
	wantBlobs()
	wantBytes(one, 0)
	wantKind(t, "a claim of no team", s.PutClaims(ctx, "nobody", "app", []soulbox.Claim{claim(0)}, at(1)), soulbox.Internal)
}

// testManifests gives builds manifests, which go with their template.
func testManifests(t *testing.T, s *store.Store) {
	ctx := t.Context()
	team := makeTeam(t, s, "one")
	add := func(n int, name string, d soulbox.Digest) *soulbox.Template {
		t.Helper()
		b := made(build(team.ID, n))
		b.Manifest, b.EndedAt = d, at(n)
		tpl, err := s.AddBuild(ctx, plainTemplate("tpl"+name, team.ID, name), b, "", as(soulbox.Patch))
		must(t, err)
		wantBuild(t, s, b)
		return tpl
	}
	a := add(1, "a", digest(1))
	add(2, "a", digest(2))
	add(3, "a", "")
	add(4, "b", digest(2))
	want := func(want ...soulbox.Digest) {
		t.Helper()
		got, err := s.Manifests(ctx)
		must(t, err)
		slices.Sort(got)
		wantSame(t, "Manifests", got, want)
	}
	want(digest(1), digest(2))
	versions, err := s.Versions(ctx, a.ID)
	must(t, err)
	if len(versions) != 3 || versions[0].Manifest != "" || versions[1].Manifest != digest(2) || versions[2].Manifest != digest(1) {
		t.Errorf("Versions have other manifests: %+v", versions)
	}
	must(t, s.DeleteTemplate(ctx, a.ID))
	want(digest(2))
}
