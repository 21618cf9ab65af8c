package template

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/soulbox/soulbox"
)

// Validate tells what is the matter with a Dockerfile.
func (r *Registry) Validate(ctx context.Context, dockerfile string) ([]soulbox.Problem, error) {
	if err := checkText("Dockerfile", dockerfile, maxRecipe); err != nil {
		return nil, err
	}
	if err := r.canBuild(); err != nil {
		return nil, err
	}
	found, err := r.Engine.Lint(ctx, dockerfile)
	if err != nil {
		return nil, err
	}
	all := make([]soulbox.Problem, len(found))
	for i, p := range found {
		all[i] = soulbox.Problem(p)
	}
	return all, nil
}

// Diff compares two builds. How they were built shows to those who see that of
// both.
func (r *Registry) Diff(ctx context.Context, team soulbox.TeamID, before, after soulbox.TemplateRef) (soulbox.BuildDiff, error) {
	var builds [2]*soulbox.Build
	recipes := true
	for i, ref := range []soulbox.TemplateRef{before, after} {
		t, b, err := r.pick(ctx, team, ref, toSee)
		if err != nil {
			return soulbox.BuildDiff{}, err
		}
		builds[i], _ = shown(t, b, team)
		_, ok := may(t, team, toChange)
		recipes = recipes && ok
	}
	d := compare(builds[0], builds[1])
	if recipes {
		d.Recipe = unified(recipeLines(builds[0].Recipe), recipeLines(builds[1].Recipe))
	}
	if d.Recipe != "" && d.Bump == "" {
		d.Bump = soulbox.Patch
	}
	return d, nil
}

// compare tells what two builds do not have in common, but for their recipes.
func compare(a, b *soulbox.Build) soulbox.BuildDiff {
	d := soulbox.BuildDiff{Before: a, After: b, Env: changedValues(a.Env, b.Env), Ports: changedValues(set(a.Facts.Ports), set(b.Facts.Ports))}
	d.Values = changedValues(values(a), values(b))
	d.Packages = changedPackages(a.Facts.Packages, b.Facts.Packages)
	if len(d.Env)+len(d.Ports)+len(d.Values)+len(d.Packages) > 0 {
		d.Bump = distance(a.Facts, b.Facts)
	}
	return d
}

// set returns a list as a map of which the values tell nothing.
func set(list []string) map[string]string {
	m := map[string]string{}
	for _, s := range list {
		m[s] = "exposed"
	}
	return m
}

// values returns what a build has one of, by what people call it.
func values(b *soulbox.Build) map[string]string {
	m := map[string]string{
		"base": b.Facts.Base, "distribution": b.Facts.Distribution, "user": b.User, "workdir": b.Workdir, "author": b.Facts.Author,
		"entrypoint": strings.Join(b.Facts.Entrypoint, " "), "command": strings.Join(b.Facts.Command, " "),
		"volumes": strings.Join(b.Facts.Volumes, " "),
		"cpus":    fmt.Sprint(b.Size.CPUs), "memory": fmt.Sprint(int64(b.Size.Memory)), "disk": fmt.Sprint(int64(b.Size.Disk)),
		"bytes": fmt.Sprint(int64(b.Facts.Bytes)), "layers": fmt.Sprint(b.Facts.Layers),
	}
	for name, value := range b.Facts.Labels {
		m["label "+name] = value
	}
	maps.DeleteFunc(m, func(_, v string) bool { return v == "" })
	return m
}

// changedValues compares two maps, by name.
func changedValues(before, after map[string]string) []soulbox.ValueChange {
	var all []soulbox.ValueChange
	for name, value := range before {
		if now, ok := after[name]; !ok {
			all = append(all, soulbox.ValueChange{Kind: soulbox.Removed, Name: name, Before: value})
		} else if now != value {
			all = append(all, soulbox.ValueChange{Kind: soulbox.Changed, Name: name, Before: value, After: now})
		}
	}
	for name, value := range after {
		if _, ok := before[name]; !ok {
			all = append(all, soulbox.ValueChange{Kind: soulbox.Created, Name: name, After: value})
		}
	}
	slices.SortFunc(all, func(a, b soulbox.ValueChange) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// changedPackages compares two lists of packages, by manager and name. Of one
// that is there in several versions, all of them count.
func changedPackages(before, after []soulbox.Package) []soulbox.PackageChange {
	type key struct{ manager, name string }
	versions := func(all []soulbox.Package) map[key]string {
		m := map[key]string{}
		for _, p := range all {
			k := key{p.Manager, p.Name}
			if m[k] != "" {
				m[k] += ", "
			}
			m[k] += p.Version
		}
		return m
	}
	old, young := versions(before), versions(after)
	var all []soulbox.PackageChange
	for k, v := range old {
		if now, ok := young[k]; !ok {
			all = append(all, soulbox.PackageChange{Kind: soulbox.Removed, Manager: k.manager, Name: k.name, Before: v})
		} else if now != v {
			all = append(all, soulbox.PackageChange{Kind: soulbox.Changed, Manager: k.manager, Name: k.name, Before: v, After: now})
		}
	}
	for k, v := range young {
		if _, ok := old[k]; !ok {
			all = append(all, soulbox.PackageChange{Kind: soulbox.Created, Manager: k.manager, Name: k.name, After: v})
		}
	}
	slices.SortFunc(all, func(a, b soulbox.PackageChange) int {
		return cmp.Or(cmp.Compare(a.Manager, b.Manager), cmp.Compare(a.Name, b.Name))
	})
	return all
}

const (
	linesAround = 3       // lines around a change, as diff -u has them
	mostCompare = 4 << 20 // pairs of lines; a recipe of 2000 lines against another
)

// unified returns what differs between two texts as diff -u prints it, without
// the names of files; nothing when that is nothing. Texts that are too long to be
// compared line by line are shown whole.
func unified(a, b []string) string {
	edits := lineEdits(a, b)
	changed := func(e edit) bool { return e.sign != ' ' }
	if !slices.ContainsFunc(edits, changed) {
		return ""
	}
	var out strings.Builder
	for i := 0; i < len(edits); {
		first := i + slices.IndexFunc(edits[i:], changed)
		if first < i {
			break
		}
		from, to := max(i, first-linesAround), first
		for n := first; n < len(edits) && n <= to+2*linesAround; n++ {
			if changed(edits[n]) {
				to = n
			}
		}
		to = min(len(edits), to+linesAround+1)
		hunk := edits[from:to]
		var counts [2]int
		for _, e := range hunk {
			if e.sign != '+' {
				counts[0]++
			}
			if e.sign != '-' {
				counts[1]++
			}
		}
		fmt.Fprintf(&out, "@@ -%s +%s @@\n", span(hunk[0].a, counts[0]), span(hunk[0].b, counts[1]))
		for _, e := range hunk {
			fmt.Fprintf(&out, "%c%s\n", e.sign, e.text)
		}
		i = to
	}
	return out.String()
}

// span is a range of lines as diff writes it.
func span(begin, count int) string {
	switch count {
	case 0:
		return fmt.Sprintf("%d,0", begin)
	case 1:
		return fmt.Sprint(begin + 1)
	default:
		return fmt.Sprintf("%d,%d", begin+1, count)
	}
}

// An edit is a line of both texts, or of one. A and b are how many lines of each
// came before.
type edit struct {
	sign byte // ' ', '-' or '+'
	text string
	a, b int
}

// lineEdits returns the fewest edits that make b of a, by the longest common
// subsequence of what is between their common beginning and end.
func lineEdits(a, b []string) []edit {
	var edits []edit
	add := func(sign byte, text string) {
		e := edit{sign: sign, text: text}
		if n := len(edits); n > 0 {
			last := edits[n-1]
			e.a, e.b = last.a, last.b
			if last.sign != '+' {
				e.a++
			}
			if last.sign != '-' {
				e.b++
			}
		}
		edits = append(edits, e)
	}
	begin := 0
	for begin < len(a) && begin < len(b) && a[begin] == b[begin] {
		begin++
	}
	end := 0
	for end < len(a)-begin && end < len(b)-begin && a[len(a)-1-end] == b[len(b)-1-end] {
		end++
	}
	for _, l := range a[:begin] {
		add(' ', l)
	}
	x, y := a[begin:len(a)-end], b[begin:len(b)-end]
	i, j := 0, 0
	if len(x)*len(y) <= mostCompare {
		// common[i][j] is the length of what x[i:] and y[j:] have in common.
		common := make([][]int32, len(x)+1)
		for i := range common {
			common[i] = make([]int32, len(y)+1)
		}
		for i, a := range slices.Backward(x) {
			for j, b := range slices.Backward(y) {
				if a == b {
					common[i][j] = common[i+1][j+1] + 1
				} else {
					common[i][j] = max(common[i+1][j], common[i][j+1])
				}
			}
		}
		for i < len(x) && j < len(y) {
			switch {
			case x[i] == y[j]:
				add(' ', x[i])
				i, j = i+1, j+1
			case common[i+1][j] >= common[i][j+1]:
				add('-', x[i])
				i++
			default:
				add('+', y[j])
				j++
			}
		}
	}
	for ; i < len(x); i++ {
		add('-', x[i])
	}
	for ; j < len(y); j++ {
		add('+', y[j])
	}
	for _, l := range a[len(a)-end:] {
		add(' ', l)
	}
	return edits
}
