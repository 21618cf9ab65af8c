package soulbox

// A BuildDiff is what two builds of a template do not have in common. Before is
// in one, after in the other.
type BuildDiff struct {
	Before, After *Build

	Bump     Bump   // how far one is from the other; empty: there is no difference
	Recipe   string // lines of the recipes, as diff -u prints them; empty: they are the same
	Packages []PackageChange
	Env      []ValueChange // by name
	Ports    []ValueChange // Name is the port
	Values   []ValueChange // of everything else, such as the base, the user and the size
}

// A PackageChange is what became of a package.
type PackageChange struct {
	Kind          ChangeKind
	Manager       string
	Name          string
	Before, After string // its versions; empty: it is not there
}

// A ValueChange is what became of a value.
type ValueChange struct {
	Kind          ChangeKind
	Name          string
	Before, After string
}
