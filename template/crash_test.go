package template_test

import (
	"context"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/fault"
)

// The test binary is also the server that dies: these tell it where.
const (
	crashStep = "TEMPLATE_TEST_CRASH"
	crashDir  = "TEMPLATE_TEST_DIR"
)

func TestMain(m *testing.M) {
	if step := os.Getenv(crashStep); step != "" {
		crash(step, os.Getenv(crashDir))
		os.Exit(1) // we should not have come here
	}
	if err := flag.Set("rapid.checks", "200"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// tb is a tester for a process that is no test.
type tb struct{}

func (tb) Helper()                           {}
func (tb) Fatal(args ...any)                 { panic(args) }
func (tb) Fatalf(format string, args ...any) { panic(append([]any{format}, args...)) }
func (tb) Context() context.Context          { return context.Background() }

// hot is a recipe with a start command.
func hot(steps ...string) soulbox.Recipe {
	r := run(steps...)
	r.Start = "serve"
	return r
}

// crash builds a template twice and dies at a step of it. A step with "@2" is
// one of the second build.
func crash(step, dir string) {
	w := raise(tb{}, dir)
	w.faults = fault.Arm(step)
	w.reopen(tb{})
	w.start(tb{})
	w.make(tb{}, "app", hot("write a 1"))
	w.reopen(tb{}) // so that both wait before one begins
	_, _, err := w.Request(context.Background(), soulbox.BuildRequest{
		Team: ours, Name: "app", Recipe: hot("write a 2", "install a 1"), Logins: map[string]soulbox.Login{"ghcr.io": {User: "u", Password: "hunter2"}},
	})
	if err != nil {
		panic(err)
	}
	// One more, that waits behind it.
	if _, _, err := w.Request(context.Background(), soulbox.BuildRequest{Team: ours, Name: "other", Recipe: run("write b 1")}); err != nil {
		panic(err)
	}
	w.start(tb{})
	time.Sleep(20 * time.Second)
}

// TestKill9 kills the server at each stage of a build and starts it again: the
// build goes on to its end, what waited behind it follows, and nothing is left
// over of the attempt.
func TestKill9(t *testing.T) {
	for _, step := range []string{
		"build/recorded", "build/solved", "build/packed", "build/baked", "build/finished",
		"build/recorded@2", "build/solved@2", "build/packed@2", "build/baked@2", "build/finished@2",
	} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), crashStep+"="+step, crashDir+"="+dir)
			out, err := cmd.CombinedOutput()
			exit, ok := errors.AsType[*exec.ExitError](err)
			if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("the server did not die at %s: %v\n%s", step, err, out)
			}

			w := raise(t, dir)
			t.Cleanup(func() {
				if err := errors.Join(w.Close(), w.store.Close()); err != nil {
					t.Error(err)
				}
			})
			w.start(t)
			var all []*soulbox.Build
			for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
				unended, err := w.store.UnendedBuilds(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if len(unended) == 0 {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("not over: %+v\n%s", unended[0], w.log)
				}
			}
			tpls, err := w.store.AllTemplates(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var images []string
			var snaps []soulbox.SnapshotID
			for _, tpl := range tpls {
				page, err := w.store.Builds(t.Context(), soulbox.BuildFilter{Template: tpl.ID})
				if err != nil {
					t.Fatal(err)
				}
				for _, b := range page.Builds {
					if b.State != soulbox.BuildReady {
						t.Errorf("build %s is %s: %+v", b.ID, b.State, b.Failure)
					}
					all, images = append(all, b), append(images, b.Image)
					if b.Snapshot != "" {
						snaps = append(snaps, b.Snapshot)
					}
				}
			}
			second := strings.HasSuffix(step, "@2")
			if want := map[bool]int{true: 3, false: 1}[second]; len(all) != want {
				t.Fatalf("%d builds are ready, want %d", len(all), want)
			}
			app, err := w.Template(t.Context(), ours, ref(t, "app"))
			if want := map[bool]string{true: "1.1.0", false: "1.0.0"}[second]; err != nil || app.Version.String() != want {
				t.Errorf("app is %+v, %v; want version %s", app, err, want)
			}
			if got := content(t, w.tree(t, app.Image), "a"); got != map[bool]string{true: "2", false: "1"}[second] {
				t.Errorf("it holds %q", got)
			}
			if jobs := w.engine.built(); second && len(jobs) > 0 && jobs[0].Recipe.Start != "" && jobs[0].Credentials["ghcr.io"].Password != "hunter2" {
				t.Errorf("the build goes on with the logins %+v", jobs[0].Credentials)
			}

			// Nothing is left: no image, no snapshot, no secret, no folder.
			if err := w.Refresh(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			w.have(t, images...)
			slices.Sort(snaps)
			if got := w.baker.snapshots(t); !slices.Equal(got, snaps) {
				t.Errorf("snapshots %v, want %v", got, snaps)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "builds", "*", "secrets*")); len(left) != 0 {
				t.Errorf("secrets of builds that are over: %v", left)
			}
			folders, err := filepath.Glob(filepath.Join(dir, "builds", "*-*"))
			if err != nil || len(folders) != len(all) {
				t.Errorf("folders of builds: %v, %v; want %d", folders, err, len(all))
			}
			w.idle(t)
		})
	}
}
