package bench

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A recipe is what the rows about builds build: steps that run, a small context,
// and a step that comes late. Each program builds it on the same files.
type recipe struct {
	dir string // the Dockerfile, and what it copies

	first, late string // by them the first and the last step are found again, or not
}

const (
	modules = 40   // in the context
	lines   = 400  // of each
	made    = 2000 // files that the first step makes
)

// newRecipe writes a recipe to build on base into dir, which does not exist.
func newRecipe(dir, base string) (*recipe, error) {
	app := filepath.Join(dir, "app")
	if err := os.MkdirAll(app, 0o755); err != nil { //nolint:gosec // others than root are to read it where it is copied to
		return nil, err
	}
	dockerfile := fmt.Sprintf(`FROM %s
USER root
ARG FIRST
RUN mkdir -p /srv/made && for i in $(seq %d); do echo "$FIRST $i" >/srv/made/$i; done
WORKDIR /srv/app
COPY app .
RUN python3 -m compileall -q .
ARG LATE
RUN echo "$LATE" >late
`, base, made)
	files := map[string]string{filepath.Join(dir, "Dockerfile"): dockerfile}
	for i := range modules {
		files[filepath.Join(app, fmt.Sprintf("module%d.py", i))] = strings.Repeat(fmt.Sprintf("value = %d # of a module\n", i), lines)
	}
	for path, text := range files {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil { //nolint:gosec // as above
			return nil, err
		}
	}
	return &recipe{dir: dir, first: rand.Text(), late: rand.Text()}, nil
}

// args returns the values of its ARGs.
func (c *recipe) args() map[string]string { return map[string]string{"FIRST": c.first, "LATE": c.late} }

// measure measures one way to build: when no step is known from before, when all
// are, and when only the last is not.
func (c *recipe) measure(ctx context.Context, r *runner, rows []*Row, build func() (time.Duration, error)) error {
	for i, change := range []func(){
		func() { c.first = rand.Text() },
		func() {},
		func() { c.late = rand.Text() },
	} {
		warmUp := 0
		if i == 0 {
			warmUp = 1 // which also brings what is built on
		}
		err := r.times(ctx, rows[i], warmUp, r.fewer(), func() (time.Duration, error) {
			change()
			return build()
		})
		if err != nil {
			return err
		}
	}
	return nil
}
