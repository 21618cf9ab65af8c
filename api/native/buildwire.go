package native

import (
	"strconv"
	"time"

	"github.com/soulbox/soulbox"
)

type problemList struct {
	Problems []problemAnswer `json:"problems"`
}

type problemAnswer struct {
	Line     int    `json:"line,omitempty"` // from 1; absent: the file as a whole
	Severity string `json:"severity"`
	Rule     string `json:"rule,omitempty"`
	Message  string `json:"message"`
	Remedy   string `json:"remedy,omitempty"`
	URL      string `json:"url,omitempty"`
}

func problemsOf(found []soulbox.Problem) []problemAnswer {
	out := make([]problemAnswer, len(found))
	for i, p := range found {
		out[i] = problemAnswer{Line: p.Line, Severity: "warning", Rule: p.Rule, Message: p.Message, Remedy: p.Remedy, URL: p.URL}
		if p.Fatal {
			out[i].Severity = "error"
		}
	}
	return out
}

// startedBuild is what a request for a build is answered with.
type startedBuild struct {
	Template templateAnswer  `json:"template"`
	Build    buildAnswer     `json:"build"`
	Problems []problemAnswer `json:"problems"` // that do not keep it from being built
}

type buildList struct {
	Builds []buildAnswer `json:"builds"`
	Next   string        `json:"next,omitempty"` // the cursor of the next page
}

type buildAnswer struct {
	ID        string        `json:"id"`
	Template  string        `json:"template"`
	State     string        `json:"state"`
	Tags      []string      `json:"tags"`
	Bump      string        `json:"bump,omitempty"`
	Version   string        `json:"version,omitempty"`
	Position  int           `json:"position,omitempty"` // in the queue, from 1
	CreatedAt time.Time     `json:"created_at"`
	QueuedAt  *time.Time    `json:"queued_at,omitempty"`
	StartedAt *time.Time    `json:"started_at,omitempty"`
	EndedAt   *time.Time    `json:"ended_at,omitempty"`
	Failure   *buildFailure `json:"failure,omitempty"`
	Recipe    *recipe       `json:"recipe,omitempty"`
}

// buildFailure is why a build came to nothing.
type buildFailure struct {
	Message string `json:"message"`
	Step    string `json:"step"` // as the lines of its log name it
}

func buildOf(b *soulbox.Build) buildAnswer {
	a := buildAnswer{
		ID:        string(b.ID),
		Template:  string(b.Template),
		State:     string(b.State),
		Tags:      b.Tags,
		Bump:      string(b.Bump),
		Version:   versionOf(b.Version),
		Position:  b.Position,
		CreatedAt: b.CreatedAt.UTC(),
		QueuedAt:  moment(b.QueuedAt),
		StartedAt: moment(b.StartedAt),
		EndedAt:   moment(b.EndedAt),
	}
	if len(a.Tags) == 0 {
		a.Tags = []string{soulbox.DefaultTag}
	}
	if f := b.Failure; f != nil {
		a.Failure = &buildFailure{Message: f.Message, Step: "base"}
		switch {
		case f.Finish:
			a.Failure.Step = "finalize"
		case f.Step > 0:
			a.Failure.Step = strconv.Itoa(f.Step)
		}
	}
	return a
}

// versionOf returns an empty text for no version.
func versionOf(v soulbox.Version) string {
	if v.IsZero() {
		return ""
	}
	return v.String()
}

// recipe is how a template was built, for its owner.
type recipe struct {
	Image      string            `json:"image,omitempty"`
	Template   string            `json:"template,omitempty"`
	Steps      []recipeStep      `json:"steps,omitempty"`
	Dockerfile string            `json:"dockerfile,omitempty"`
	Target     string            `json:"target,omitempty"`
	Args       map[string]string `json:"args,omitempty"`
	Start      string            `json:"start,omitempty"`
	Ready      string            `json:"ready,omitempty"`
	NoCache    bool              `json:"no_cache,omitempty"`
}

type recipeStep struct {
	Kind string   `json:"kind"`
	Args []string `json:"args"`
}

func recipeOf(r soulbox.Recipe) *recipe {
	a := &recipe{
		Image: r.Image, Template: r.Template, Dockerfile: r.Dockerfile, Target: r.Target, Args: r.Args,
		Start: r.Start, Ready: r.Ready, NoCache: r.Force,
	}
	for _, s := range r.Steps {
		a.Steps = append(a.Steps, recipeStep{string(s.Kind), orNone(s.Args)})
	}
	return a
}

// orNone returns a list that is not null in JSON.
func orNone[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// logPage is a page of a build's log.
type logPage struct {
	Lines []logLine `json:"lines"`
	Next  int       `json:"next"` // the offset of what comes after
}

type logLine struct {
	ID      int       `json:"id,omitempty"` // its number, from 1, where all lines are told
	At      time.Time `json:"at"`
	Level   string    `json:"level"`
	Step    string    `json:"step,omitempty"`
	Message string    `json:"message"`
}

func lineOf(l soulbox.BuildLine) logLine {
	return logLine{At: l.At.UTC(), Level: l.Level, Step: l.Step, Message: l.Message}
}

// buildEvent is what a stream about a build holds: lines, and last the build.
type buildEvent struct {
	Line  *logLine     `json:"line,omitempty"`
	Build *buildAnswer `json:"build,omitempty"`
}

type versionList struct {
	Versions []templateVersion `json:"versions"`
}

// templateVersion is a build that is ready, for whoever may start it.
type templateVersion struct {
	Version    string    `json:"version"`
	Build      string    `json:"build"`
	CreatedAt  time.Time `json:"created_at"` // when it was ready
	Tags       []string  `json:"tags"`       // that lead to it
	Deprecated string    `json:"deprecated,omitempty"`
	Base       string    `json:"base,omitempty"`
	Bytes      int64     `json:"bytes"`
	CPUs       int       `json:"cpus"`
	MemoryMiB  int64     `json:"memory_mib"`
	DiskMiB    int64     `json:"disk_mib"`
	Isolation  string    `json:"isolation"`
	Started    bool      `json:"started"` // its start command runs in its sandboxes from the beginning
}

func templateVersionOf(b *soulbox.Build, tags []soulbox.Tag) templateVersion {
	v := templateVersion{
		Version:    versionOf(b.Version),
		Build:      string(b.ID),
		CreatedAt:  b.EndedAt.UTC(),
		Tags:       []string{},
		Deprecated: b.Retired,
		Base:       b.Facts.Base,
		Bytes:      int64(b.Facts.Bytes),
		CPUs:       b.Size.CPUs,
		MemoryMiB:  int64(b.Size.Memory / soulbox.MiB),
		DiskMiB:    int64(b.Size.Disk / soulbox.MiB),
		Isolation:  b.Isolation.String(),
		Started:    b.Snapshot != "",
	}
	for _, t := range tags {
		if t.Build == b.ID {
			v.Tags = append(v.Tags, t.Name)
		}
	}
	return v
}

type tagList struct {
	Tags []tagAnswer `json:"tags"`
}

type tagAnswer struct {
	Tag   string    `json:"tag"`
	Build string    `json:"build"`
	Since time.Time `json:"since"`
}

func tagsOf(tags []soulbox.Tag) []tagAnswer {
	out := make([]tagAnswer, len(tags))
	for i, t := range tags {
		out[i] = tagAnswer{Tag: t.Name, Build: string(t.Build), Since: t.At.UTC()}
	}
	return out
}

// buildDiff is what two versions do not have in common.
type buildDiff struct {
	Before   templateEdge    `json:"before"`
	After    templateEdge    `json:"after"`
	Bump     string          `json:"bump,omitempty"`
	Recipe   string          `json:"recipe,omitempty"` // as diff -u prints it
	Packages []packageChange `json:"packages"`
	Env      []valueChange   `json:"env"`
	Ports    []valueChange   `json:"ports"`
	Values   []valueChange   `json:"values"`
}

type templateEdge struct {
	Version string `json:"version,omitempty"`
	Build   string `json:"build"`
}

type packageChange struct {
	Kind    string `json:"kind"`
	Manager string `json:"manager"`
	Name    string `json:"name"`
	Before  string `json:"before,omitempty"`
	After   string `json:"after,omitempty"`
}

type valueChange struct {
	Kind   string `json:"kind"`
	Name   string `json:"name"`
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

func buildDiffOf(d soulbox.BuildDiff) buildDiff {
	out := buildDiff{
		Before:   templateEdge{versionOf(d.Before.Version), string(d.Before.ID)},
		After:    templateEdge{versionOf(d.After.Version), string(d.After.ID)},
		Bump:     string(d.Bump),
		Recipe:   d.Recipe,
		Packages: make([]packageChange, len(d.Packages)),
		Env:      valuesOf(d.Env),
		Ports:    valuesOf(d.Ports),
		Values:   valuesOf(d.Values),
	}
	for i, p := range d.Packages {
		out.Packages[i] = packageChange{string(p.Kind), p.Manager, p.Name, p.Before, p.After}
	}
	return out
}

func valuesOf(list []soulbox.ValueChange) []valueChange {
	out := make([]valueChange, len(list))
	for i, v := range list {
		out[i] = valueChange{string(v.Kind), v.Name, v.Before, v.After}
	}
	return out
}

// factsAnswer is what was found out about a version.
type factsAnswer struct {
	Template     string            `json:"template"`
	Build        string            `json:"build"`
	Version      string            `json:"version,omitempty"`
	Image        string            `json:"image"`
	Base         string            `json:"base,omitempty"`
	Distribution string            `json:"distribution,omitempty"`
	Packages     []packageAnswer   `json:"packages"`
	Env          map[string]string `json:"env"`
	Ports        []string          `json:"ports"`
	Volumes      []string          `json:"volumes"`
	Entrypoint   []string          `json:"entrypoint"`
	Command      []string          `json:"command"`
	Labels       map[string]string `json:"labels"`
	Author       string            `json:"author,omitempty"`
	User         string            `json:"user,omitempty"`
	Workdir      string            `json:"workdir,omitempty"`
	CPUs         int               `json:"cpus"`
	MemoryMiB    int64             `json:"memory_mib"`
	DiskMiB      int64             `json:"disk_mib"`
	Isolation    string            `json:"isolation"`
	Bytes        int64             `json:"bytes"`
	Layers       int               `json:"layers"`
	Snapshot     int64             `json:"snapshot_bytes,omitempty"`
}

type packageAnswer struct {
	Manager string `json:"manager"`
	Name    string `json:"name"`
	Version string `json:"version"`
}

func factsOf(t *soulbox.Template, b *soulbox.Build) factsAnswer {
	a := factsAnswer{
		Template:     string(t.ID),
		Build:        string(b.ID),
		Version:      versionOf(b.Version),
		Image:        b.Image,
		Base:         b.Facts.Base,
		Distribution: b.Facts.Distribution,
		Packages:     make([]packageAnswer, len(b.Facts.Packages)),
		Env:          orEmpty(b.Env),
		Ports:        orNone(b.Facts.Ports),
		Volumes:      orNone(b.Facts.Volumes),
		Entrypoint:   orNone(b.Facts.Entrypoint),
		Command:      orNone(b.Facts.Command),
		Labels:       orEmpty(b.Facts.Labels),
		Author:       b.Facts.Author,
		User:         b.User,
		Workdir:      b.Workdir,
		CPUs:         b.Size.CPUs,
		MemoryMiB:    int64(b.Size.Memory / soulbox.MiB),
		DiskMiB:      int64(b.Size.Disk / soulbox.MiB),
		Isolation:    b.Isolation.String(),
		Bytes:        int64(b.Facts.Bytes),
		Layers:       b.Facts.Layers,
		Snapshot:     int64(b.Facts.Written),
	}
	for i, p := range b.Facts.Packages {
		a.Packages[i] = packageAnswer(p)
	}
	return a
}

// orEmpty returns a map that is not null in JSON.
func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

type categoryList struct {
	Categories []categoryAnswer `json:"categories"`
}

type categoryAnswer struct {
	Category  string `json:"category"`
	Templates int    `json:"templates"`
}

// listing is what a template tells those who look for one.
type listing struct {
	Namespace   string     `json:"namespace,omitempty"`
	Description string     `json:"description,omitempty"`
	Licence     string     `json:"licence,omitempty"`
	Categories  []string   `json:"categories"`
	Keywords    []string   `json:"keywords"`
	Deprecated  string     `json:"deprecated,omitempty"`
	Stars       float64    `json:"stars"`
	Ratings     int        `json:"ratings"`
	Mine        int        `json:"mine"`
	Downloads   int64      `json:"downloads"`
	ForkOf      string     `json:"fork_of,omitempty"`
	PublishedAt *time.Time `json:"published_at,omitempty"`
}

func listedTemplate(l *soulbox.Listing) templateAnswer {
	a := templateOf(l.Template)
	a.Listing = &listing{
		Namespace:   l.Namespace,
		Description: l.Description,
		Licence:     l.Licence,
		Categories:  orNone(l.Categories),
		Keywords:    orNone(l.Keywords),
		Deprecated:  l.Retired,
		Stars:       l.Stars,
		Ratings:     l.Ratings,
		Mine:        l.Mine,
		Downloads:   l.Downloads,
		ForkOf:      string(l.ForkOf),
		PublishedAt: moment(l.PublishedAt),
	}
	return a
}
