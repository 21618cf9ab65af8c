package soulbox_test

import (
	"testing"

	"github.com/soulbox/soulbox"
)

func TestVersionNext(t *testing.T) {
	for _, c := range []struct {
		from soulbox.Version
		by   soulbox.Bump
		want string
	}{
		{soulbox.Version{}, soulbox.Patch, "1.0.0"},
		{soulbox.Version{}, soulbox.Major, "1.0.0"},
		{soulbox.Version{Major: 1, Minor: 4, Patch: 2}, soulbox.Major, "2.0.0"},
		{soulbox.Version{Major: 1, Minor: 4, Patch: 2}, soulbox.Minor, "1.5.0"},
		{soulbox.Version{Major: 1, Minor: 4, Patch: 2}, soulbox.Patch, "1.4.3"},
	} {
		if got := c.from.Next(c.by).String(); got != c.want {
			t.Errorf("%s.Next(%s) = %s, want %s", c.from, c.by, got, c.want)
		}
	}
}

func TestVersionRange(t *testing.T) {
	v := func(major, minor, patch int) soulbox.Version {
		return soulbox.Version{Major: major, Minor: minor, Patch: patch}
	}
	for _, c := range []struct {
		spec    string
		in, out []soulbox.Version
	}{
		{"1", []soulbox.Version{v(1, 0, 0), v(1, 9, 9)}, []soulbox.Version{v(2, 0, 0), v(0, 1, 0)}},
		{"1.4", []soulbox.Version{v(1, 4, 0), v(1, 4, 9)}, []soulbox.Version{v(1, 5, 0), v(1, 3, 9)}},
		{"1.4.2", []soulbox.Version{v(1, 4, 2)}, []soulbox.Version{v(1, 4, 3), v(1, 4, 1)}},
		{"^1.4", []soulbox.Version{v(1, 4, 0), v(1, 9, 0)}, []soulbox.Version{v(1, 3, 9), v(2, 0, 0)}},
		{"^1.4.2", []soulbox.Version{v(1, 4, 2), v(1, 5, 0)}, []soulbox.Version{v(1, 4, 1), v(2, 4, 2)}},
		{"^0.3", []soulbox.Version{v(0, 3, 0), v(0, 3, 7)}, []soulbox.Version{v(0, 4, 0), v(1, 3, 0)}},
		{"^0.0.3", []soulbox.Version{v(0, 0, 3)}, []soulbox.Version{v(0, 0, 4)}},
		{"^0", []soulbox.Version{v(0, 9, 0)}, []soulbox.Version{v(1, 0, 0)}},
	} {
		r, err := soulbox.ParseVersionRange(c.spec)
		if err != nil {
			t.Errorf("ParseVersionRange(%q): %v", c.spec, err)
			continue
		}
		if r.String() != c.spec {
			t.Errorf("%q is written %q", c.spec, r)
		}
		for _, in := range c.in {
			if !r.Holds(in) {
				t.Errorf("%s does not hold %s", c.spec, in)
			}
		}
		for _, out := range c.out {
			if r.Holds(out) {
				t.Errorf("%s holds %s", c.spec, out)
			}
		}
	}
	for _, bad := range []string{"", "^", "1.", "01", "1.2.3.4", "-1", "x", "1.x", "99999999999", "+1"} {
		if _, err := soulbox.ParseVersionRange(bad); soulbox.KindOf(err) != soulbox.Invalid {
			t.Errorf("ParseVersionRange(%q): %v, want Invalid", bad, err)
		}
	}
}

func FuzzParseVersionRange(f *testing.F) {
	f.Add("^1.4.2")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := soulbox.ParseVersionRange(s)
		if err == nil && r.String() != s {
			t.Errorf("%q is written %q", s, r)
		}
	})
}

func TestVersionRangeEqual(t *testing.T) {
	all := []string{"", "1", "1.0", "1.0.0", "^1", "^1.0", "2", "^2"}
	for i, a := range all {
		for j, b := range all {
			var ranges [2]soulbox.VersionRange
			for k, s := range []string{a, b} {
				if s == "" {
					continue
				}
				var err error
				if ranges[k], err = soulbox.ParseVersionRange(s); err != nil {
					t.Fatal(err)
				}
			}
			if got := ranges[0].Equal(ranges[1]); got != (i == j) {
				t.Errorf("%q.Equal(%q) = %v", a, b, got)
			}
		}
	}
}

func TestParseVersion(t *testing.T) {
	for s, want := range map[string]soulbox.Version{
		"1.4.2": {Major: 1, Minor: 4, Patch: 2}, "0.0.0": {}, "2147483647.0.10": {Major: 2147483647, Patch: 10},
	} {
		if got, err := soulbox.ParseVersion(s); err != nil || got != want || got.String() != s {
			t.Errorf("ParseVersion(%q) = %v, %v, want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "1", "1.4", "^1.4.2", "v1.4.2", "1.4.2.1", "1.4.2-rc", "01.4.2", "1.4.-2", "1.4. 2", "2147483648.0.0"} {
		if got, err := soulbox.ParseVersion(s); soulbox.KindOf(err) != soulbox.Invalid {
			t.Errorf("ParseVersion(%q) = %v, %v, want Invalid", s, got, err)
		}
	}
}
