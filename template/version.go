package template

import (
	"slices"
	"strings"

	"github.com/soulbox/soulbox"
)

// bump returns how far b is from the build before it, for whoever finishes it.
func bump(b *soulbox.Build) func(before *soulbox.Build) soulbox.Bump {
	return func(before *soulbox.Build) soulbox.Bump {
		if before == nil {
			return soulbox.Patch
		}
		return distance(before.Facts, b.Facts)
	}
}

// distance derives how far one build is from another from what is known of
// them. What worked on another base, or with a package that is gone, may not
// any more; another version of a package is what patches bring.
func distance(before, after soulbox.BuildFacts) soulbox.Bump {
	gone, added := packageNames(before), packageNames(after)
	for p := range added {
		if gone[p] {
			delete(gone, p)
			delete(added, p)
		}
	}
	newPort := slices.ContainsFunc(after.Ports, func(p string) bool { return !slices.Contains(before.Ports, p) })
	switch {
	case baseName(before.Base) != baseName(after.Base), len(gone) > 0:
		return soulbox.Major
	case len(added) > 0, newPort:
		return soulbox.Minor
	default:
		return soulbox.Patch
	}
}

// packageNames returns the packages in f without their versions.
func packageNames(f soulbox.BuildFacts) map[soulbox.Package]bool {
	all := make(map[soulbox.Package]bool, len(f.Packages))
	for _, p := range f.Packages {
		p.Version = ""
		all[p] = true
	}
	return all
}

// baseName returns what a build is built on without its digest, which changes
// with every repair of the base.
func baseName(base string) string {
	name, _, _ := strings.Cut(base, "@")
	return name
}
