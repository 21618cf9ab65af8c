package template

import (
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/template/buildkit"
)

// Bounds of a recipe. Those of people have a few KiB.
const (
	maxSteps   = 1000
	maxRecipe  = 1 << 20 // bytes of all its texts together
	maxLogins  = 32
	maxSecrets = 64
	maxSecret  = 500 << 10 // bytes of one; BuildKit's own bound
	maxName    = 500       // bytes of a reference, a registry or the id of a secret
)

// check says what is wrong with a recipe and its secrets, as far as that shows
// before it is built. What it is built on, and what is in a Dockerfile, is the
// build's to find out: its log is where people look for that.
func (r *Registry) check(ctx context.Context, team soulbox.TeamID, recipe soulbox.Recipe, s secrets) error {
	bases := 0
	for _, base := range []string{recipe.Image, recipe.Template, recipe.Dockerfile} {
		if base != "" {
			bases++
		}
	}
	switch {
	case bases != 1:
		return soulbox.Errorf(soulbox.Invalid, "a recipe has one of an image, a template or a Dockerfile; this one has %d", bases)
	case recipe.Dockerfile != "" && len(recipe.Steps) > 0:
		return soulbox.Errorf(soulbox.Invalid, "a recipe has a Dockerfile or steps, not both")
	case recipe.Dockerfile == "" && (recipe.Context != "" || recipe.Target != "" || len(recipe.Args) > 0):
		return soulbox.Errorf(soulbox.Invalid, "a context, a target and arguments belong to a Dockerfile, and this recipe has none")
	case len(recipe.Steps) > maxSteps:
		return soulbox.Errorf(soulbox.TooLarge, "a recipe may have %d steps, not %d", maxSteps, len(recipe.Steps))
	case len(recipe.Image) > maxName || local(recipe.Image):
		return soulbox.Errorf(soulbox.Invalid, "image %.200q is no name of an image", recipe.Image)
	}
	if recipe.Template != "" {
		if _, err := soulbox.ParseTemplateRef(recipe.Template); err != nil {
			return err
		}
	}
	if err := checkTexts(recipe); err != nil {
		return err
	}
	for i, step := range recipe.Steps {
		if err := checkStep(step); err != nil {
			return soulbox.Errorf(soulbox.Invalid, "step %d: %w", i+1, err)
		}
	}
	if err := s.check(); err != nil {
		return err
	}
	for hash := range uploadsOf(recipe) {
		there, err := r.hasUpload(ctx, team, hash)
		if err != nil {
			return err
		}
		if !there {
			return soulbox.Errorf(soulbox.Invalid, "the files with hash %s have not been uploaded", hash)
		}
	}
	return nil
}

// checkTexts refuses what is no text, or too long.
func checkTexts(recipe soulbox.Recipe) error {
	texts := []string{recipe.Image, recipe.Template, recipe.Dockerfile, recipe.Context, recipe.Target, recipe.Start, recipe.Ready}
	for _, s := range recipe.Steps {
		texts = append(append(texts, string(s.Kind), s.Files), s.Args...)
	}
	for k, v := range recipe.Args {
		texts = append(texts, k, v)
	}
	size := 0
	for _, s := range texts {
		if size += len(s); strings.ContainsRune(s, 0) || !utf8.ValidString(s) {
			return soulbox.Errorf(soulbox.Invalid, "the recipe is not text: %.100q holds a NUL byte or is not UTF-8", s)
		}
	}
	if size > maxRecipe {
		return soulbox.Errorf(soulbox.TooLarge, "the recipe has %d bytes, and may have %d", size, maxRecipe)
	}
	return nil
}

// checkStep says what is wrong with the form of a step.
func checkStep(s soulbox.Step) error {
	n := len(s.Args)
	args := func(least, most int) error {
		if n < least || n > most {
			return soulbox.Errorf(soulbox.Invalid, "%s has %d to %d arguments, not %d", s.Kind, least, most, n)
		}
		return nil
	}
	if s.Kind != soulbox.StepCopy && s.Files != "" {
		return soulbox.Errorf(soulbox.Invalid, "%s takes no files", s.Kind)
	}
	switch s.Kind {
	case soulbox.StepCopy:
		if !validHash(s.Files) {
			return soulbox.Errorf(soulbox.Invalid, "COPY needs the hash of its files, 64 of 0-9 and a-f, not %.100q", s.Files)
		}
		return args(2, 4)
	case soulbox.StepRun, soulbox.StepUser:
		return args(1, 2)
	case soulbox.StepWorkdir:
		return args(1, 1)
	case soulbox.StepEnv:
		if n == 0 || n%2 != 0 {
			return soulbox.Errorf(soulbox.Invalid, "ENV has names and values in turn, not %d arguments", n)
		}
		return nil
	default:
		return soulbox.Errorf(soulbox.Invalid, "%.50q is none of COPY, RUN, ENV, WORKDIR and USER", s.Kind)
	}
}

// validHash reports whether s is the hash of an upload, as E2B's clients make
// them. It becomes the name of a folder.
func validHash(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32 && s == strings.ToLower(s)
}

// uploadsOf returns the hashes of what a recipe copies.
func uploadsOf(recipe soulbox.Recipe) map[string]bool {
	all := map[string]bool{}
	if recipe.Context != "" {
		all[recipe.Context] = true
	}
	for _, s := range recipe.Steps {
		if s.Files != "" {
			all[s.Files] = true
		}
	}
	return all
}

// job says to the engine what is to be built. Its errors are for whoever wrote
// the recipe.
func (r *Registry) job(ctx context.Context, b *soulbox.Build) (buildkit.Job, error) {
	job := buildkit.Job{
		ID: b.ID, Team: b.Team, Recipe: b.Recipe,
		Uploads: func(_ context.Context, hash string) (string, error) { return r.upload(b.Team, hash) },
		Limits:  buildkit.Limits{Step: r.Step, Time: r.Time, Internet: true},
	}
	s, err := r.unseal(b.ID)
	if err != nil {
		return job, err
	}
	job.Credentials, job.Secrets = s.Logins, s.Values
	if b.Recipe.Template != "" {
		ref, err := soulbox.ParseTemplateRef(b.Recipe.Template)
		if err != nil {
			return job, err
		}
		job.Base, err = r.base(ctx, b.Team, ref)
		return job, err
	}
	if b.Recipe.Image != "" {
		job.Base, err = r.imageAsTemplate(ctx, b.Team, b.Recipe.Image)
		return job, err
	}
	names, err := buildkit.Bases(b.Recipe.Dockerfile, b.Recipe.Args)
	if err != nil {
		return job, err
	}
	for _, name := range names {
		t, err := r.imageAsTemplate(ctx, b.Team, name)
		if err != nil {
			return job, err
		}
		if t != nil {
			if job.Named == nil {
				job.Named = map[string]*soulbox.Template{}
			}
			job.Named[name] = t
		}
	}
	return job, nil
}

// base returns a template to build on, which must be ready.
func (r *Registry) base(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef) (*soulbox.Template, error) {
	t, err := r.Template(ctx, team, ref)
	if err == nil && t.Image == "" {
		err = ref.NoBuild()
	}
	return t, err
}

// baseNames are what images are called that stand for the house's template
// base: E2B's SDKs build on the first unless they are told otherwise.
var baseNames = []string{"e2bdev/base", "base"}

// imageAsTemplate returns the template that the name of an image stands for, or
// nothing. Other names than those of the base need the namespace of a team here;
// a bare one, such as python, is that of an image to everybody.
func (r *Registry) imageAsTemplate(ctx context.Context, team soulbox.TeamID, image string) (*soulbox.Template, error) {
	ref, err := soulbox.ParseTemplateRef(image)
	if err != nil {
		return nil, nil //nolint:nilnil,nilerr // it is the name of an image, and nothing is wrong with that
	}
	plain := soulbox.TemplateRef{Namespace: ref.Namespace, Name: ref.Name}
	if slices.Contains(baseNames, plain.String()) {
		t, err := r.Store.TemplateByName(ctx, house, "base")
		if err == nil && t.Image == "" {
			err = soulbox.TemplateRef{Name: "base"}.NoBuild()
		}
		return t, err
	}
	if ref.Namespace == "" {
		return nil, nil //nolint:nilnil // as above
	}
	t, err := r.base(ctx, team, ref)
	if soulbox.KindOf(err) == soulbox.NotFound {
		if _, err := r.lookUp(ctx, team, plain); soulbox.KindOf(err) == soulbox.NotFound {
			return nil, nil //nolint:nilnil // nobody here has such a template
		}
	}
	return t, err
}

// check says what is wrong with secrets.
func (s secrets) check() error {
	if len(s.Logins) > maxLogins || len(s.Values) > maxSecrets {
		return soulbox.Errorf(soulbox.TooLarge, "a build may have logins for %d registries and %d secrets", maxLogins, maxSecrets)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Logins)) {
		if name == "" || len(name) > maxName {
			return soulbox.Errorf(soulbox.Invalid, "a login needs the name of its registry, not %.100q", name)
		}
		if l := s.Logins[name]; len(l.User) > maxSecret || len(l.Password) > maxSecret {
			return soulbox.Errorf(soulbox.TooLarge, "the login for %s has more than %d bytes", name, maxSecret)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(s.Values)) {
		if id == "" || len(id) > maxName {
			return soulbox.Errorf(soulbox.Invalid, "a secret needs an id, not %.100q", id)
		}
		if len(s.Values[id]) > maxSecret {
			return soulbox.Errorf(soulbox.TooLarge, "the secret %s has more than %d bytes", id, maxSecret)
		}
	}
	return nil
}

// recipeLines returns a recipe as people read it, a line for each step.
func recipeLines(recipe soulbox.Recipe) []string {
	var all []string
	if recipe.Dockerfile != "" {
		all = strings.Split(strings.TrimSuffix(recipe.Dockerfile, "\n"), "\n")
	}
	if recipe.Image != "" {
		all = append(all, "FROM "+recipe.Image)
	}
	if recipe.Template != "" {
		all = append(all, "FROM TEMPLATE "+recipe.Template)
	}
	for _, s := range recipe.Steps {
		line := strings.Join(append([]string{string(s.Kind)}, s.Args...), " ")
		if s.Files != "" {
			line += " # files " + s.Files
		}
		all = append(all, strings.Split(line, "\n")...)
	}
	for _, name := range slices.Sorted(maps.Keys(recipe.Args)) {
		all = append(all, fmt.Sprintf("# build argument %s=%s", name, recipe.Args[name]))
	}
	for _, l := range [][2]string{{"context", recipe.Context}, {"target", recipe.Target}, {"start command:", recipe.Start}, {"ready command:", recipe.Ready}} {
		if l[1] != "" {
			all = append(all, "# "+l[0]+" "+l[1])
		}
	}
	return all
}
