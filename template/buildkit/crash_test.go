package buildkit_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/node"
	"github.com/soulbox/soulbox/node/rootfs"
	"github.com/soulbox/soulbox/template/buildkit"
)

// With this set, the test binary is a server that builds until it is killed.
// It holds the data folder, the two programs, the registry and the image.
const crashVar = "SOULBOX_BUILDKIT_TEST_CRASH"

func crash(what string) {
	f := strings.Split(what, "|")
	dir, registry, base, stage := f[0], f[3], f[4], f[5]
	programs.daemon, programs.step = f[1], f[2]
	out := slog.New(slog.NewTextHandler(os.Stderr, nil))
	images := must(rootfs.Open(out, filepath.Join(dir, "images")))
	n := must(node.Open(context.Background(), nodeOptions(dir, out, images)))
	o := engineOptions(dir, out, n, images)
	o.Registries = []string{registry}
	e := must(buildkit.Open(o))
	reached := func() {
		fmt.Println("reached")
		select {}
	}
	command := "sleep 1000"
	switch stage {
	case "pack":
		command = "true"
		e.Pack = func(context.Context, string, string) (buildkit.Packed, error) { reached(); panic("unreachable") }
	case "step":
		command = "echo in the middle; sleep 1000"
	}
	j := job(soulbox.Recipe{Image: base, Steps: []soulbox.Step{run("echo before"), run(command)}})
	_, err := e.Build(context.Background(), j, func(l soulbox.BuildLine) {
		if strings.Contains(l.Message, "[stdout]: in the middle") {
			reached()
		}
	})
	panic(err)
}

// A server that is killed leaves nothing that runs, and the next one builds
// with what there was.
func TestCrash(t *testing.T) {
	b := newBench(t)
	b.close(t)
	for _, stage := range []string{"step", "pack"} {
		t.Run(stage, func(t *testing.T) {
			self := must(os.Executable())
			cmd := exec.CommandContext(t.Context(), self)
			cmd.Env = append(os.Environ(), crashVar+"="+strings.Join([]string{b.dir, programs.daemon, programs.step, b.registry, b.base, stage}, "|"), instanceVar+"="+instance)
			cmd.Stderr = t.Output()
			lines := bufio.NewScanner(must(cmd.StdoutPipe()))
			check(cmd.Start())
			if !lines.Scan() || lines.Text() != "reached" {
				t.Fatalf("the server says %q, and does not come to %s", lines.Text(), stage)
			}
			if len(b.running(t)) == 0 {
				t.Fatal("nothing runs")
			}
			check(cmd.Process.Kill())
			_ = cmd.Wait()

			b.open(t)
			if got := b.running(t); len(got) > 0 {
				t.Errorf("after Open there runs %v", got)
			}
			r := b.build(t.Context(), t, b.steps(t, run("echo before"), run("true")))
			if r.err != nil {
				t.Fatal(r.err)
			}
			r.wantSaid(t, "CACHED [builder 1/2] RUN echo before")
			b.close(t)
			b.wantNothing(t)
		})
	}
	b.open(t) // newBench closes it
}
