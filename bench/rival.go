package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/soulbox/soulbox/internal/payload"
)

// rivals builds the same recipe on the same files with other programs, on the
// machine where this one runs.
func rivals(ctx context.Context, r *runner, rows []*Row) error {
	alone, docker := rows[:3], rows[3:]
	hasBuildKit, hasDocker := mayRunBuildKit(alone), engine(ctx, docker)
	if !hasBuildKit && !hasDocker {
		return nil
	}
	return aside(func(dir string) error {
		r.Progress("taking the template's files out of a sandbox")
		tar := filepath.Join(dir, "root.tar")
		if err := r.root(ctx, tar); err != nil {
			return fmt.Errorf("take the template's files out of a sandbox: %w", err)
		}
		if hasBuildKit {
			if err := r.buildKit(ctx, filepath.Join(dir, "buildkit"), tar, alone); err != nil {
				unable(ctx, alone, err)
			}
		}
		if hasDocker {
			if err := r.dockerBuild(ctx, filepath.Join(dir, "docker"), tar, docker); err != nil {
				unable(ctx, docker, err)
			}
		}
		return nil
	})
}

// mayRunBuildKit reports whether BuildKit can be run here, and says in rows why
// it cannot.
func mayRunBuildKit(rows []*Row) bool {
	why := ""
	_, err := exec.LookPath("runc")
	switch {
	case !payload.Has(payload.Buildkitd):
		why = "not installed: this soulbox was built without BuildKit"
	case err != nil:
		why = "not installed: BuildKit alone runs steps with runc, which is not there"
	case os.Geteuid() != 0:
		why = "not measured: BuildKit alone needs root"
	}
	for _, row := range rows {
		row.Note = why
	}
	return why == ""
}

// buildKit measures BuildKit as anybody runs it: with runc, and without anything
// of ours. What it makes is an image in its own store.
func (r *runner) buildKit(ctx context.Context, dir, tar string, rows []*Row) error {
	c, err := newRecipe(filepath.Join(dir, "context"), rootName)
	if err != nil {
		return err
	}
	base, err := asImage(tar, filepath.Join(dir, "base"))
	if err != nil {
		return fmt.Errorf("make an image of the template's files: %w", err)
	}
	k, err := startBuildKit(ctx, dir, r.id)
	if err != nil {
		return err
	}
	err = c.measure(ctx, r, rows, func() (time.Duration, error) {
		began := time.Now()
		err := k.build(ctx, c, base)
		return time.Since(began), err
	})
	if stopped := k.stop(); err == nil {
		err = stopped
	}
	return err
}

// dockerBuild measures Docker's engine by its own client.
func (r *runner) dockerBuild(ctx context.Context, dir, tar string, rows []*Row) error {
	root, image := r.id+":root", r.id+":built"
	c, err := newRecipe(dir, root)
	if err != nil {
		return err
	}
	cleanup := context.WithoutCancel(ctx)
	defer func() { _ = do(cleanup, "docker", "rmi", "-f", image, root) }() // if they were made
	if err := do(ctx, "docker", "import", tar, root); err != nil {
		return err
	}
	return c.measure(ctx, r, rows, func() (time.Duration, error) {
		args := []string{"build", "--quiet", "--tag", image}
		for name, value := range c.args() {
			args = append(args, "--build-arg", name+"="+value)
		}
		return timed(ctx, "docker", append(args, c.dir)...)
	})
}
