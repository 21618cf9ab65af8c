package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

const (
	maxRoot = 8 * soulbox.GiB // of a template's files, as an archive
	// pack writes a sandbox's files into an archive in its own /tmp.
	archive = "/tmp/soulbox-bench.tar"
	pack    = "tar -C / --one-file-system --exclude=./proc --exclude=./sys --exclude=./dev --exclude=./tmp --exclude=./run -cf " + archive + " . && test -s " + archive
)

// shell is the command whose run is compared: what the client makes of one that
// does nothing.
var shell = []string{"/bin/bash", "-l", "-c", doNothing}

// compare runs the same command in the same files with other programs, on the
// machine where this one runs.
func compare(ctx context.Context, r *runner, rows []*Row) error {
	docker, runc := rows[:2], rows[2:]
	hasDocker, hasRunc := engine(ctx, docker), found("runc", runc)
	if !hasDocker && !hasRunc {
		return nil
	}
	dir, err := os.MkdirTemp("", "soulbox-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	r.Progress("taking the template's files out of a sandbox")
	tar := filepath.Join(dir, "root.tar")
	if err := r.root(ctx, tar); err != nil {
		return fmt.Errorf("take the template's files out of a sandbox: %w", err)
	}
	if hasDocker {
		if err := r.docker(ctx, tar, docker); err != nil {
			unable(ctx, docker, err)
		}
	}
	if hasRunc {
		if err := r.runc(ctx, dir, tar, runc); err != nil {
			unable(ctx, runc, err)
		}
	}
	return nil
}

// unable says in rows why the other program could not be measured; that is no
// fault of the server's.
func unable(ctx context.Context, rows []*Row, err error) {
	if ctx.Err() != nil {
		return
	}
	for _, row := range rows {
		row.Note = "installed, but could not be measured: " + err.Error()
	}
}

// found reports whether a program is installed, and says in rows if it is not.
func found(program string, rows []*Row) bool {
	_, err := exec.LookPath(program)
	if err != nil {
		for _, row := range rows {
			row.Note = "not installed"
		}
	}
	return err == nil
}

// engine is found for Docker, whose client is of no use without the engine.
func engine(ctx context.Context, rows []*Row) bool {
	if !found("docker", rows) {
		return false
	}
	if err := do(ctx, "docker", "version", "--format", "{{.Server.Version}}"); err != nil {
		for _, row := range rows {
			row.Note = "not installed: docker is there, but no engine answers it"
		}
		return false
	}
	return true
}

// do runs a program of the machine; its error has what the program said.
func do(ctx context.Context, program string, args ...string) error {
	const shown = 300
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", program, args[0], err, out[:min(len(out), shown)])
	}
	return nil
}

// timed is one sample of a program's run.
func timed(ctx context.Context, program string, args ...string) (time.Duration, error) {
	began := time.Now()
	err := do(ctx, program, args...)
	return time.Since(began), err
}

// root writes the files of a new sandbox into an archive here.
func (r *runner) root(ctx context.Context, path string) error {
	sb, _, err := r.create(ctx)
	if err != nil {
		return err
	}
	root := sb.As("root")
	if _, err := root.Run(ctx, pack, client.RunOptions{}); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = root.ReadFile(ctx, archive, &bounded{f, maxRoot})
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	return r.keep.kill(ctx, sb.ID)
}

// bounded is a file that refuses to grow beyond what is left of its bound.
type bounded struct {
	f    *os.File
	left soulbox.Bytes
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= soulbox.Bytes(len(p)); b.left < 0 {
		return 0, soulbox.Errorf(soulbox.TooLarge, "the template's files are more than %d GiB", maxRoot/soulbox.GiB)
	}
	return b.f.Write(p)
}

func (r *runner) docker(ctx context.Context, tar string, rows []*Row) error {
	image := r.id + ":root"
	cleanup := context.WithoutCancel(ctx)
	defer func() {
		_ = do(cleanup, "docker", "rm", "-f", r.id)   // if it was made
		_ = do(cleanup, "docker", "rmi", "-f", image) // as above
	}()
	if err := do(ctx, "docker", "import", tar, image); err != nil {
		return err
	}
	run := append([]string{"run", "--rm", "--network", "none", image}, shell...)
	err := r.times(ctx, rows[0], 1, r.fewer(), func() (time.Duration, error) { return timed(ctx, "docker", run...) })
	if err != nil {
		return err
	}
	if err := do(ctx, "docker", "run", "-d", "--network", "none", "--name", r.id, image, "sleep", "3600"); err != nil {
		return err
	}
	inside := append([]string{"exec", r.id}, shell...)
	return r.times(ctx, rows[1], 1, r.Samples, func() (time.Duration, error) { return timed(ctx, "docker", inside...) })
}

// runc runs the files in containers as `runc spec` describes them: with
// namespaces of their own, and without a network.
func (r *runner) runc(ctx context.Context, dir, tar string, rows []*Row) error {
	rootfs := filepath.Join(dir, "rootfs")
	if err := os.Mkdir(rootfs, 0o755); err != nil { //nolint:gosec // programs of the container read it
		return err
	}
	if err := do(ctx, "tar", "-C", rootfs, "-xf", tar); err != nil {
		return err
	}
	for _, empty := range []string{"proc", "sys", "dev", "tmp", "run"} {
		if err := os.MkdirAll(filepath.Join(rootfs, empty), 0o755); err != nil { //nolint:gosec // as above
			return err
		}
	}
	if err := do(ctx, "runc", "spec", "--bundle", dir); err != nil {
		return err
	}
	if err := runs(dir, shell); err != nil {
		return err
	}
	i := 0
	err := r.times(ctx, rows[0], 1, r.fewer(), func() (time.Duration, error) {
		i++
		return timed(ctx, "runc", "run", "--bundle", dir, fmt.Sprintf("%s-%d", r.id, i))
	})
	if err != nil {
		return err
	}
	if err := runs(dir, []string{"/bin/sleep", "3600"}); err != nil {
		return err
	}
	defer func() { _ = do(context.WithoutCancel(ctx), "runc", "delete", "--force", r.id) }() // if it was made
	// It keeps the streams that it is given, so it gets none that are waited for.
	start := exec.CommandContext(ctx, "runc", "run", "--detach", "--bundle", dir, r.id)
	if err := start.Run(); err != nil {
		return fmt.Errorf("runc run --detach: %w", err)
	}
	inside := append([]string{"exec", r.id}, shell...)
	return r.times(ctx, rows[1], 1, r.Samples, func() (time.Duration, error) { return timed(ctx, "runc", inside...) })
}

// runs sets the command of a bundle that `runc spec` has made.
func runs(bundle string, args []string) error {
	path := filepath.Join(bundle, "config.json")
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var config map[string]any
	if err := json.Unmarshal(b, &config); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	process, ok := config["process"].(map[string]any)
	if !ok {
		return fmt.Errorf("%s has no process", path)
	}
	process["args"], process["terminal"] = args, false
	if b, err = json.Marshal(config); err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o600)
}
