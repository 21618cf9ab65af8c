package soulbox

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// A Version is that of a template's build: MAJOR.MINOR.PATCH, without the
// pre-releases and build metadata of semver.org 2.0. The zero value is none.
type Version struct{ Major, Minor, Patch int }

// IsZero reports whether v is no version.
func (v Version) IsZero() bool { return v == Version{} }

// String returns v as people write it, without a leading "v".
func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch) }

// ParseVersion reads what [Version.String] writes, without anything left out.
func ParseVersion(s string) (Version, error) {
	r, err := ParseVersionRange(s)
	if err != nil || r.caret || r.given != 3 {
		return Version{}, Errorf(Invalid, "%.50q is not a version; write all of it, such as 1.4.2", s)
	}
	return r.from, nil
}

// Compare returns -1, 0 or 1 as v comes before, is or comes after w.
func (v Version) Compare(w Version) int {
	return cmp.Or(cmp.Compare(v.Major, w.Major), cmp.Compare(v.Minor, w.Minor), cmp.Compare(v.Patch, w.Patch))
}

// Next returns the version that a change of kind c makes of v. The first one
// of all is 1.0.0, whatever its kind.
func (v Version) Next(c Bump) Version {
	switch {
	case v.IsZero():
		return Version{Major: 1}
	case c == Major:
		return Version{Major: v.Major + 1}
	case c == Minor:
		return Version{Major: v.Major, Minor: v.Minor + 1}
	default:
		return Version{Major: v.Major, Minor: v.Minor, Patch: v.Patch + 1}
	}
}

// A Bump is how far a build is from the version before, for those who
// use the template.
type Bump string

// How far it can be.
const (
	Major Bump = "major" // what worked may not: another base image, a package less
	Minor Bump = "minor" // there is more than before: a package, a port
	Patch Bump = "patch" // everything else
)

// ParseBump reads how far as clients write it; empty is empty.
func ParseBump(s string) (Bump, error) {
	switch c := Bump(s); c {
	case "", Major, Minor, Patch:
		return c, nil
	default:
		return "", Errorf(Invalid, "a change is major, minor or patch, not %.50q", s)
	}
}

// A VersionRange is which versions will do: 1, 1.4, 1.4.2, or ^1.4 for 1.4.0
// and everything up to 2.0.0, as npm reads them. The zero value is any.
type VersionRange struct {
	caret bool
	given int // how many of the three numbers are
	from  Version
}

// ParseVersionRange reads a range as clients write it.
func ParseVersionRange(s string) (VersionRange, error) {
	var r VersionRange
	rest, caret := strings.CutPrefix(s, "^")
	r.caret = caret
	parts := strings.Split(rest, ".")
	numbers := []*int{&r.from.Major, &r.from.Minor, &r.from.Patch}
	if len(parts) > len(numbers) {
		return VersionRange{}, badRange(s)
	}
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 10, 31)
		if err != nil || part != strconv.FormatUint(n, 10) {
			return VersionRange{}, badRange(s)
		}
		*numbers[i] = int(n)
	}
	r.given = len(parts)
	return r, nil
}

func badRange(s string) error {
	return Errorf(Invalid, "%.50q is not a version; write 1, 1.4, 1.4.2 or ^1.4", s)
}

// Equal reports whether r and o are the same range.
func (r VersionRange) Equal(o VersionRange) bool { return r == o }

// Holds reports whether v is in the range.
func (r VersionRange) Holds(v Version) bool {
	if r.given == 0 {
		return true
	}
	if r.caret {
		// What comes first of all three and is not 0 must stay as it is.
		switch {
		case v.Compare(r.from) < 0:
			return false
		case r.from.Major > 0 || r.given == 1:
			return v.Major == r.from.Major
		case r.from.Minor > 0 || r.given == 2:
			return v.Major == 0 && v.Minor == r.from.Minor
		default:
			return v == r.from
		}
	}
	return v.Major == r.from.Major && (r.given < 2 || v.Minor == r.from.Minor) && (r.given < 3 || v.Patch == r.from.Patch)
}

// String returns the range as clients write it; any is empty.
func (r VersionRange) String() string {
	if r.given == 0 {
		return ""
	}
	s := strings.Join(strings.Split(r.from.String(), ".")[:r.given], ".")
	if r.caret {
		s = "^" + s
	}
	return s
}
