package e2b

import (
	"path"
	"regexp"
	"strings"

	"github.com/soulbox/soulbox"
)

// draftRequest is the body of the first call of a build. Pointers tell what was
// left out.
type draftRequest struct {
	Name          *string   `json:"name"`
	Alias         *string   `json:"alias"` // what name was called before
	Tags          []*string `json:"tags"`
	CPUCount      *int32    `json:"cpuCount"`
	MemoryMB      *int32    `json:"memoryMB"`
	MinFreeDiskMB *int32    `json:"minFreeDiskMb"`
	TeamID        string    `json:"teamID"`
}

// A draft is a build without a recipe.
type draft struct {
	name string
	tags []string
	size soulbox.Size
}

// toNoun returns what is asked for, or the first reason why it cannot be. disk
// is what a sandbox can write.
func (d *draftRequest) toNoun(team *soulbox.Team, disk soulbox.Bytes) (draft, error) {
	name := d.Name
	if name == nil {
		name = d.Alias
	}
	switch {
	case name == nil:
		return draft{}, soulbox.Errorf(soulbox.Invalid, "name is needed: the name of the template")
	case d.TeamID != "" && d.TeamID != string(team.ID):
		return draft{}, soulbox.Errorf(soulbox.Invalid, "teamID: the key belongs to another team")
	}
	ref, err := nameIn(team, "name", *name)
	if err != nil {
		return draft{}, err
	}
	if ref.Versions != (soulbox.VersionRange{}) {
		return draft{}, soulbox.Errorf(soulbox.Invalid, "name: %.200q has a version; a build gets that when it is ready", *name)
	}
	tags := d.Tags
	if ref.Tag != "" {
		tags = append([]*string{&ref.Tag}, tags...)
	}
	out := draft{name: ref.Name}
	if out.tags, err = tagList(tags); err != nil {
		return draft{}, err
	}
	if len(out.tags) == 0 {
		out.tags = []string{soulbox.DefaultTag}
	}
	out.size, err = d.size(team.Limits, disk)
	return out, err
}

const minMemory = 128 // MiB

// size returns how large sandboxes shall be; 0 is as before, or as usual.
func (d *draftRequest) size(limits soulbox.Limits, disk soulbox.Bytes) (soulbox.Size, error) {
	var size soulbox.Size
	if d.CPUCount != nil {
		size.CPUs = int(*d.CPUCount)
		if size.CPUs < 1 || size.CPUs > limits.CPUs {
			return size, soulbox.Errorf(soulbox.Invalid, "cpuCount must be from 1 to %d, not %d", limits.CPUs, size.CPUs)
		}
	}
	if d.MemoryMB != nil {
		size.Memory = soulbox.Bytes(*d.MemoryMB) * soulbox.MiB
		switch {
		case size.Memory < minMemory*soulbox.MiB || size.Memory > limits.Memory:
			return size, soulbox.Errorf(soulbox.Invalid, "memoryMB must be from %d to %d, not %d", minMemory, limits.Memory/soulbox.MiB, *d.MemoryMB)
		case *d.MemoryMB%2 != 0: // as E2B has it, so that a template fits there, too
			return size, soulbox.Errorf(soulbox.Invalid, "memoryMB must be an even number, not %d", *d.MemoryMB)
		}
	}
	// All that a sandbox can write is free when it starts: what the steps of the
	// build wrote is not counted there.
	if n := d.MinFreeDiskMB; n != nil && (*n < 0 || soulbox.Bytes(*n)*soulbox.MiB > disk) {
		return size, soulbox.Errorf(soulbox.Invalid, "minFreeDiskMb must be from 0 to %d, not %d", disk/soulbox.MiB, *n)
	}
	return size, nil
}

const (
	maxRecipe  = 2 << 20   // bytes of JSON
	maxSteps   = 1000      // far more than anybody writes
	maxStep    = 1 << 20   // bytes of the arguments of one step
	maxCommand = 128 << 10 // bytes of a start or ready command: the longest argument of a program in Linux
	maxBase    = 1 << 10   // bytes of the name of an image or template
)

// triggerRequest is the body of the second call of a build.
type triggerRequest struct {
	FromImage         *string          `json:"fromImage"`
	FromTemplate      *string          `json:"fromTemplate"`
	FromImageRegistry *registryRequest `json:"fromImageRegistry"`
	Steps             []stepRequest    `json:"steps"`
	StartCmd          *string          `json:"startCmd"`
	ReadyCmd          *string          `json:"readyCmd"`
	Force             *bool            `json:"force"`
}

// stepRequest is one step. What else SDKs put into it is for themselves.
type stepRequest struct {
	Type      string    `json:"type"`
	Args      []*string `json:"args"`
	FilesHash *string   `json:"filesHash"`
	Force     *bool     `json:"force"`
}

// toNoun returns the recipe, or the first reason why it is none.
func (b *triggerRequest) toNoun() (soulbox.Recipe, error) {
	recipe := soulbox.Recipe{Force: b.Force != nil && *b.Force}
	if len(b.Steps) > maxSteps {
		return recipe, soulbox.Errorf(soulbox.Invalid, "steps: there must not be more than %d, and there are %d", maxSteps, len(b.Steps))
	}
	var err error
	for _, f := range []struct {
		name string
		from *string
		to   *string
		most int
	}{
		{"fromImage", b.FromImage, &recipe.Image, maxBase},
		{"fromTemplate", b.FromTemplate, &recipe.Template, maxBase},
		{"startCmd", b.StartCmd, &recipe.Start, maxCommand},
		{"readyCmd", b.ReadyCmd, &recipe.Ready, maxCommand},
	} {
		if *f.to, err = textOf(f.name, f.from, f.most); err != nil {
			return recipe, err
		}
	}
	if (recipe.Image == "") == (recipe.Template == "") {
		return recipe, soulbox.Errorf(soulbox.Invalid, "a build needs either fromImage or fromTemplate")
	}
	for i, s := range b.Steps {
		step, err := s.toNoun()
		if err != nil {
			return recipe, soulbox.Errorf(soulbox.Invalid, "step %d: %w", i+1, err)
		}
		recipe.Steps = append(recipe.Steps, step)
	}
	return recipe, nil
}

// textOf returns a string that may be left out.
func textOf(field string, s *string, most int) (string, error) {
	switch {
	case s == nil:
		return "", nil
	case len(*s) > most:
		return "", soulbox.Errorf(soulbox.Invalid, "%s must not be longer than %d bytes", field, most)
	case strings.ContainsRune(*s, 0):
		return "", soulbox.Errorf(soulbox.Invalid, "%s must not hold NUL", field)
	}
	return strings.TrimSpace(*s), nil
}

// stepArgs is how many arguments each kind of step takes.
var stepArgs = map[soulbox.StepKind]struct {
	least, most int
	meaning     string
}{
	soulbox.StepCopy:    {2, 4, "a source, a destination, and perhaps a user and a mode"},
	soulbox.StepRun:     {1, 2, "a command, and perhaps a user"},
	soulbox.StepEnv:     {2, 2 * maxSteps, "names and values in turn"},
	soulbox.StepWorkdir: {1, 1, "a path"},
	soulbox.StepUser:    {1, 2, `a name, and perhaps "true"`},
}

// toNoun returns the step. It looks at the form of what is there; whether a path
// or a user is right, the build finds out.
func (s *stepRequest) toNoun() (soulbox.Step, error) {
	step := soulbox.Step{Kind: soulbox.StepKind(strings.ToUpper(s.Type)), Force: s.Force != nil && *s.Force}
	takes, ok := stepArgs[step.Kind]
	if !ok {
		return step, soulbox.Errorf(soulbox.Invalid, "%.50q is not a type of step; there are COPY, RUN, ENV, WORKDIR and USER", s.Type)
	}
	size := 0
	for _, a := range s.Args {
		if a == nil {
			return step, soulbox.Errorf(soulbox.Invalid, "%s: args must be strings, not null", step.Kind)
		}
		if strings.ContainsRune(*a, 0) {
			return step, soulbox.Errorf(soulbox.Invalid, "%s: args must not hold NUL", step.Kind)
		}
		size += len(*a)
		step.Args = append(step.Args, *a)
	}
	if n := len(step.Args); n < takes.least || n > takes.most || step.Kind == soulbox.StepEnv && n%2 != 0 {
		return step, soulbox.Errorf(soulbox.Invalid, "%s takes %s, not %d arguments", step.Kind, takes.meaning, n)
	}
	if size > maxStep {
		return step, soulbox.Errorf(soulbox.Invalid, "%s: args must not be larger than %d KiB in all", step.Kind, maxStep>>10)
	}
	if err := checkArgs(step); err != nil {
		return step, soulbox.Errorf(soulbox.Invalid, "%s: %w", step.Kind, err)
	}
	hash := ""
	if s.FilesHash != nil {
		hash = *s.FilesHash
	}
	switch {
	case step.Kind != soulbox.StepCopy && hash != "":
		return step, soulbox.Errorf(soulbox.Invalid, "%s: filesHash belongs to COPY", step.Kind)
	case step.Kind == soulbox.StepCopy && !filesHash.MatchString(hash):
		return step, badHash("COPY: filesHash", hash)
	}
	step.Files = hash
	return step, nil
}

var copyMode = regexp.MustCompile(`^[0-7]{0,5}$`)

// checkArgs looks at the arguments of a step, of which there are enough.
func checkArgs(step soulbox.Step) error {
	switch a := step.Args; step.Kind {
	case soulbox.StepCopy:
		src := path.Clean(a[0])
		switch {
		case a[0] == "" || a[1] == "":
			return soulbox.Errorf(soulbox.Invalid, "the source and the destination must not be empty")
		case path.IsAbs(src) || src == ".." || strings.HasPrefix(src, "../"): // SDKs refuse these, too
			return soulbox.Errorf(soulbox.Invalid, "the source %.200q is not below the folder that files are copied from", a[0])
		case len(a) > 3 && !copyMode.MatchString(a[3]):
			return soulbox.Errorf(soulbox.Invalid, "the mode %.20q is not an octal number such as 0755", a[3])
		}
	case soulbox.StepEnv:
		for i := 0; i < len(a); i += 2 {
			if a[i] == "" || strings.Contains(a[i], "=") {
				return soulbox.Errorf(soulbox.Invalid, "%.100q cannot be the name of a variable", a[i])
			}
		}
	case soulbox.StepRun, soulbox.StepWorkdir, soulbox.StepUser:
		if a[0] == "" {
			return soulbox.Errorf(soulbox.Invalid, "the first argument must not be empty")
		}
	}
	return nil
}
