package store

import (
	"encoding/json"

	"github.com/soulbox/soulbox"
)

// These are how structures of a build are stored. A new field must mean the old
// behaviour when it is absent.
type (
	recipe struct {
		Image      string            `json:"image,omitempty"`
		Template   string            `json:"template,omitempty"`
		Steps      []step            `json:"steps,omitempty"`
		Dockerfile string            `json:"dockerfile,omitempty"`
		Context    string            `json:"context,omitempty"`
		Target     string            `json:"target,omitempty"`
		Args       map[string]string `json:"args,omitempty"`
		Start      string            `json:"start,omitempty"`
		Ready      string            `json:"ready,omitempty"`
		Force      bool              `json:"force,omitempty"`
	}
	step struct {
		Kind  soulbox.StepKind `json:"kind"`
		Args  []string         `json:"args,omitempty"`
		Files string           `json:"files,omitempty"`
		Force bool             `json:"force,omitempty"`
	}
	failure struct {
		Message string `json:"message"`
		Step    int    `json:"step,omitempty"`
		Finish  bool   `json:"finish,omitempty"`
	}
	facts struct {
		Distribution string            `json:"distribution,omitempty"`
		Ports        []string          `json:"ports,omitempty"`
		Volumes      []string          `json:"volumes,omitempty"`
		Entrypoint   []string          `json:"entrypoint,omitempty"`
		Command      []string          `json:"command,omitempty"`
		Labels       map[string]string `json:"labels,omitempty"`
		Author       string            `json:"author,omitempty"`
		Bytes        soulbox.Bytes     `json:"bytes,omitempty"`
		Layers       int               `json:"layers,omitempty"`
		Written      soulbox.Bytes     `json:"written,omitempty"`
		Meant        json.RawMessage   `json:"meant,omitempty"`
	}
	// A pack is a package: its manager, its name and its version. As a list it
	// takes half of what it would take with the names of its fields, and a
	// search finds it by the text of its first two.
	pack [3]string
)

// text returns v as JSON.
func text(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}

// listText returns a list of texts as JSON, never as null.
func listText(list []string) (string, error) {
	if len(list) == 0 {
		return "[]", nil
	}
	return text(list)
}

// parseList is the reverse of listText. An empty one is nil.
func parseList(s string) ([]string, error) {
	if s == "[]" {
		return nil, nil
	}
	var list []string
	err := json.Unmarshal([]byte(s), &list)
	return list, err
}

func recipeText(r soulbox.Recipe) (string, error) {
	c := recipe{
		Image: r.Image, Template: r.Template, Dockerfile: r.Dockerfile, Context: r.Context, Target: r.Target,
		Args: r.Args, Start: r.Start, Ready: r.Ready, Force: r.Force,
	}
	for _, s := range r.Steps {
		c.Steps = append(c.Steps, step(s))
	}
	return text(c)
}

func parseRecipe(s string) (soulbox.Recipe, error) {
	var c recipe
	err := json.Unmarshal([]byte(s), &c)
	r := soulbox.Recipe{
		Image: c.Image, Template: c.Template, Dockerfile: c.Dockerfile, Context: c.Context, Target: c.Target,
		Args: c.Args, Start: c.Start, Ready: c.Ready, Force: c.Force,
	}
	for _, s := range c.Steps {
		r.Steps = append(r.Steps, soulbox.Step(s))
	}
	return r, err
}

// failureText returns why a build failed; it did not when that is empty.
func failureText(f *soulbox.BuildFailure) (string, error) {
	if f == nil {
		return "", nil
	}
	return text(failure(*f))
}

func packagesText(all []soulbox.Package) (string, error) {
	list := make([]pack, len(all))
	for i, p := range all {
		list[i] = pack{p.Manager, p.Name, p.Version}
	}
	return text(list)
}

// packageText is a text that occurs in packagesText when a package of that name
// does, and never otherwise: within a text a quote is escaped. An empty manager
// is any.
func packageText(manager, name string) (string, error) {
	s, err := text(name)
	if err != nil || manager == "" {
		return "," + s + ",", err
	}
	m, err := text(manager)
	return "[" + m + "," + s + ",", err
}

// buildValues returns the values of buildColumns and of the packages.
func buildValues(b *soulbox.Build) ([]any, error) {
	texts := make([]string, 6)
	for i, write := range []func() (string, error){
		func() (string, error) { return failureText(b.Failure) },
		func() (string, error) { return recipeText(b.Recipe) },
		func() (string, error) { return listText(b.Tags) },
		func() (string, error) { return pairs(b.Env).text() },
		func() (string, error) {
			f := b.Facts
			return text(facts{f.Distribution, f.Ports, f.Volumes, f.Entrypoint, f.Command, f.Labels, f.Author, f.Bytes, f.Layers, f.Written, f.Meant})
		},
		func() (string, error) { return packagesText(b.Facts.Packages) },
	} {
		var err error
		if texts[i], err = write(); err != nil {
			return nil, err
		}
	}
	return []any{
		string(b.ID), string(b.Template), string(b.Team), string(b.State),
		micros(b.CreatedAt), micros(b.QueuedAt), micros(b.StartedAt), micros(b.EndedAt),
		texts[0], texts[1], texts[2], string(b.Bump), b.Version.Major, b.Version.Minor, b.Version.Patch, b.Retired,
		b.Image, string(b.Snapshot), string(b.Baked), b.Size.CPUs, int64(b.Size.Memory), int64(b.Size.Disk), b.Size.PIDs, string(b.Isolation),
		texts[3], b.User, b.Workdir, b.Facts.Base, texts[4], string(b.Manifest), texts[5],
	}, nil
}

// scanBuild reads a build without its packages.
func scanBuild(r row) (*soulbox.Build, error) { return readBuild(r) }

// scanWhole reads a build with its packages.
func scanWhole(r row) (*soulbox.Build, error) {
	var all string
	b, err := readBuild(r, &all)
	if err != nil {
		return nil, err
	}
	var list []pack
	if err := json.Unmarshal([]byte(all), &list); err != nil {
		return nil, err
	}
	for _, p := range list {
		b.Facts.Packages = append(b.Facts.Packages, soulbox.Package{Manager: p[0], Name: p[1], Version: p[2]})
	}
	return b, nil
}

// readBuild reads buildColumns and what follows them.
func readBuild(r row, rest ...any) (*soulbox.Build, error) {
	var b soulbox.Build
	var created, queued, started, ended int64
	var failed, made, tags, env, found string
	err := r.Scan(append([]any{
		&b.ID, &b.Template, &b.Team, &b.State, &created, &queued, &started, &ended, &failed, &made, &tags, &b.Bump,
		&b.Version.Major, &b.Version.Minor, &b.Version.Patch, &b.Retired, &b.Image, &b.Snapshot, &b.Baked,
		&b.Size.CPUs, &b.Size.Memory, &b.Size.Disk, &b.Size.PIDs, &b.Isolation, &env, &b.User, &b.Workdir, &b.Facts.Base, &found, &b.Manifest,
	}, rest...)...)
	if err != nil {
		return nil, err
	}
	b.CreatedAt, b.QueuedAt, b.StartedAt, b.EndedAt = instant(created), instant(queued), instant(started), instant(ended)
	if failed != "" {
		var f failure
		if err := json.Unmarshal([]byte(failed), &f); err != nil {
			return nil, err
		}
		b.Failure = new(soulbox.BuildFailure(f))
	}
	if b.Recipe, err = parseRecipe(made); err != nil {
		return nil, err
	}
	if b.Tags, err = parseList(tags); err != nil {
		return nil, err
	}
	if b.Env, err = parsePairs(env); err != nil {
		return nil, err
	}
	var f facts
	if err := json.Unmarshal([]byte(found), &f); err != nil {
		return nil, err
	}
	b.Facts = soulbox.BuildFacts{
		Base: b.Facts.Base, Distribution: f.Distribution, Ports: f.Ports, Volumes: f.Volumes, Entrypoint: f.Entrypoint,
		Command: f.Command, Labels: f.Labels, Author: f.Author, Bytes: f.Bytes, Layers: f.Layers, Written: f.Written, Meant: f.Meant,
	}
	return &b, nil
}
