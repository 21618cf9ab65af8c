package e2b

import (
	"strconv"
	"time"

	"github.com/soulbox/soulbox"
)

// draftAnswer is what the first call of a build returns.
type draftAnswer struct {
	TemplateID string   `json:"templateID"`
	BuildID    string   `json:"buildID"`
	Public     bool     `json:"public"`
	Names      []string `json:"names"`
	Tags       []string `json:"tags"`
	Aliases    []string `json:"aliases"`
}

// draftOf describes a new build of team's template t.
func draftOf(t *soulbox.Template, b *soulbox.Build, team *soulbox.Team) draftAnswer {
	tags := b.Tags
	if len(tags) == 0 {
		tags = []string{soulbox.DefaultTag}
	}
	return draftAnswer{
		TemplateID: string(t.ID),
		BuildID:    string(b.ID),
		Public:     t.Public,
		Names:      []string{qualified(t.Name, team)},
		Tags:       tags,
		Aliases:    []string{t.Name},
	}
}

// buildInfo tells how a build is doing.
type buildInfo struct {
	TemplateID string       `json:"templateID"`
	BuildID    string       `json:"buildID"`
	Status     string       `json:"status"`
	Logs       []string     `json:"logs"` // always empty: SDKs read the entries
	LogEntries []buildLine  `json:"logEntries"`
	Reason     *buildReason `json:"reason,omitempty"`
}

// buildReason is why a build failed.
type buildReason struct {
	Message    string      `json:"message"`
	Step       string      `json:"step"`
	LogEntries []buildLine `json:"logEntries"`
}

// buildLine is one line of what a build told.
type buildLine struct {
	Timestamp time.Time `json:"timestamp"`
	Message   string    `json:"message"`
	Level     string    `json:"level"`
	Step      string    `json:"step,omitempty"`
}

func buildInfoOf(b *soulbox.Build, lines []soulbox.BuildLine) buildInfo {
	a := buildInfo{
		TemplateID: string(b.Template),
		BuildID:    string(b.ID),
		Status:     statusOf(b),
		Logs:       []string{},
		LogEntries: linesAnswer(lines),
	}
	if b.Failure != nil {
		a.Reason = &buildReason{Message: b.Failure.Message, Step: stepOf(b.Failure), LogEntries: []buildLine{}}
	}
	return a
}

// statusOf is the state of a build in E2B's words. There, a build is waiting
// as long as it has no recipe, and building while it waits for its turn.
func statusOf(b *soulbox.Build) string {
	if b.State == soulbox.BuildWaiting && !isDraft(b) {
		return string(soulbox.BuildRunning)
	}
	return string(b.State)
}

// stepOf names the step at which a build failed. SDKs find the line of their
// user's program by it: "base" is the first of those that add to a template,
// "finalize" the last, and a number counts from 1 after the first.
func stepOf(f *soulbox.BuildFailure) string {
	switch {
	case f.Finish:
		return "finalize"
	case f.Step < 1:
		return "base"
	default:
		return strconv.Itoa(f.Step)
	}
}

func linesAnswer(lines []soulbox.BuildLine) []buildLine {
	out := make([]buildLine, len(lines)) // never null: clients iterate
	for i, l := range lines {
		out[i] = buildLine{Timestamp: moment(l.At), Message: l.Message, Level: levelOf(l.Level), Step: l.Step}
	}
	return out
}

// buildAnswer is one of a template's builds.
type buildAnswer struct {
	BuildID     string     `json:"buildID"`
	Status      string     `json:"status"`
	CreatedAt   time.Time  `json:"createdAt"`
	UpdatedAt   time.Time  `json:"updatedAt"`
	FinishedAt  *time.Time `json:"finishedAt,omitempty"`
	CPUCount    int        `json:"cpuCount"`
	MemoryMB    int64      `json:"memoryMB"`
	DiskSizeMB  int64      `json:"diskSizeMB"`
	EnvdVersion string     `json:"envdVersion"`
}

func buildAnswerOf(b *soulbox.Build) buildAnswer {
	a := buildAnswer{
		BuildID:     string(b.ID),
		Status:      statusOf(b),
		CreatedAt:   moment(b.CreatedAt),
		CPUCount:    b.Size.CPUs,
		MemoryMB:    int64(b.Size.Memory / soulbox.MiB),
		DiskSizeMB:  int64(b.Size.Disk / soulbox.MiB),
		EnvdVersion: envdVersion,
	}
	for _, t := range []time.Time{b.CreatedAt, b.QueuedAt, b.StartedAt, b.EndedAt} { // in this order
		if !t.IsZero() {
			a.UpdatedAt = moment(t)
		}
	}
	if !b.EndedAt.IsZero() {
		end := moment(b.EndedAt)
		a.FinishedAt = &end
	}
	return a
}

// tagAnswer is one tag of a template.
type tagAnswer struct {
	Tag       string    `json:"tag"`
	BuildID   string    `json:"buildID"`
	CreatedAt time.Time `json:"createdAt"` // since when it leads to that build
}
