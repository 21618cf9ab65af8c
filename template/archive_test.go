package template_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/soulbox/soulbox"
)

// export exports to a file, and returns it with what is in it.
func (w *world) export(t *testing.T, team soulbox.TeamID, what string) (file string, b []byte) {
	t.Helper()
	var out bytes.Buffer
	if err := w.Export(t.Context(), team, ref(t, what), &out); err != nil {
		t.Fatalf("Export of %s: %v", what, err)
	}
	file = filepath.Join(t.TempDir(), "out.tar")
	if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	w.idle(t)
	return file, out.Bytes()
}

// config returns the part of an archive's configuration that is the author's,
// and the digest of the layer without compression.
func config(t *testing.T, file string) (config map[string]any, layer string) {
	t.Helper()
	img, err := tarball.ImageFromPath(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := img.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	var all struct {
		Config map[string]any
		RootFS struct {
			Diffs []string `json:"diff_ids"`
		}
	}
	if err := json.Unmarshal(raw, &all); err != nil || len(all.RootFS.Diffs) != 1 {
		t.Fatalf("%s: %v", raw, err)
	}
	return all.Config, all.RootFS.Diffs[0]
}

func list(all ...string) []any {
	var l []any
	for _, s := range all {
		l = append(l, s)
	}
	return l
}

// What is exported is what was built, for all kinds of recipe, and it comes back
// as that.
func TestExport(t *testing.T) {
	w := open(t)
	w.engine.config = []byte(`{"config":{"User":"app:app","Entrypoint":["/run"],"Healthcheck":{"Test":["NONE"]}},"history":[{"created_by":"RUN echo hunter2"}]}`)
	w.start(t)
	steps := w.make(t, "steps", run("write file steps", "expose 80/tcp"))
	w.make(t, "started", hot("write file started"))
	w.make(t, "docker", soulbox.Recipe{Dockerfile: "FROM scratch"})
	w.ensure(t, "base", "base")
	w.bring(t, "plain")
	env := list("PATH=/bin")
	for name, want := range map[string]map[string]any{
		// Programs of E2B's templates run as user, and start what they are told to start.
		"steps":   {"User": "user", "Env": env, "WorkingDir": "/srv", "ExposedPorts": map[string]any{"80/tcp": map[string]any{}}},
		"started": {"User": "user", "Env": env, "WorkingDir": "/srv", "Cmd": list("/bin/bash", "-l", "-c", "serve")},
		"docker":  {"User": "app:app", "Entrypoint": list("/run"), "Healthcheck": map[string]any{"Test": list("NONE")}},
		"base":    {},
		"plain":   {},
	} {
		file, b := w.export(t, ours, name)
		got, layer := config(t, file)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: configuration (-want +got):\n%s", name, diff)
		}
		if _, again := w.export(t, ours, name); !bytes.Equal(b, again) || bytes.Contains(b, []byte("hunter2")) {
			t.Errorf("%s: the second archive is another, or it tells how the image was made", name)
		}
		back, err := w.Import(t.Context(), soulbox.ImportRequest{Team: ours, Name: name + "-again", Source: soulbox.ImageSource{Tar: bytes.NewReader(b)}}, nil)
		if err != nil {
			t.Fatalf("import %s again: %v", name, err)
		}
		if before, err := w.Template(t.Context(), ours, ref(t, name)); err != nil || back.Image != before.Image {
			t.Errorf("%s comes back as image %s, was %+v, %v", name, back.Image, before, err)
		}
		file, _ = w.export(t, ours, name+"-again")
		if got, diff := config(t, file); cmp.Diff(want, got) != "" || diff != layer {
			t.Errorf("%s, exported again: %v, layer %s, want %s", name, got, diff, layer)
		}
	}

	// Versions, tags and builds; retired ones, too; copies of another team.
	first, _ := w.export(t, ours, "steps@1.0.0")
	w.make(t, "steps", run("write file later", "expose 80/tcp"))
	if _, err := w.Deprecate(t.Context(), ours, ref(t, "steps@1.0.0"), "old"); err != nil {
		t.Fatal(err)
	}
	_, layer := config(t, first)
	for what, same := range map[string]bool{"steps@1.0.0": true, "steps:" + string(steps.ID): true, "steps": false, "steps@1": false, "steps:default": false} {
		file, _ := w.export(t, ours, what)
		if _, got := config(t, file); (got == layer) != same {
			t.Errorf("%s has layer %s; that of the first version is %s", what, got, layer)
		}
	}
	if _, err := w.Publish(t.Context(), ours, steps.Template, true); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Fork(t.Context(), theirs, ref(t, "ours/steps@1.0.0"), "copy"); err != nil {
		t.Fatal(err)
	}
	file, _ := w.export(t, theirs, "copy")
	if got, diff := config(t, file); diff != layer || got["User"] != "user" {
		t.Errorf("a copy is exported as %v, layer %s, want %s", got, diff, layer)
	}
}

func TestExportRefused(t *testing.T) {
	w := open(t)
	w.start(t)
	failed := w.await(t, w.ask(t, "broken", run("fail no")).ID, soulbox.BuildFailed)
	going := w.ask(t, "going", run("block"))
	w.await(t, going.ID, soulbox.BuildRunning)
	b := w.bring(t, "app")
	for what, says := range map[string]string{
		"none": "not found", "ours/none": "not found", "nobody/app": "not found", "app@7": "no version", "app:none": "does not exist",
		"broken": "no build that is ready", "broken:" + string(failed.ID): "does not exist", "going": "no build that is ready", "going:" + string(going.ID): "does not exist",
	} {
		var out bytes.Buffer
		wantError(t, what, w.Export(t.Context(), ours, ref(t, what), &out), soulbox.NotFound, says)
		if out.Len() != 0 {
			t.Errorf("%s: %d bytes were sent", what, out.Len())
		}
	}
	wantError(t, "a stranger", w.Export(t.Context(), theirs, ref(t, "ours/app"), new(bytes.Buffer)), soulbox.NotFound, "template 'ours/app' not found")

	// The image is not there.
	if err := os.Remove(w.images.Path(b.Image)); err != nil {
		t.Fatal(err)
	}
	wantError(t, "without its image", w.Export(t.Context(), ours, ref(t, "app"), new(bytes.Buffer)), soulbox.Unavailable, "are not on this machine")
	if err := w.Cancel(t.Context(), ours, going.Template, going.ID); err != nil {
		t.Error(err)
	}
	w.await(t, going.ID, soulbox.BuildFailed)
	w.idle(t)
}

// bring makes a template without the engine.
func (w *world) bring(t *testing.T, name string) *soulbox.Build {
	t.Helper()
	tpl, err := w.Import(t.Context(), soulbox.ImportRequest{Team: ours, Name: name, Source: soulbox.ImageSource{Tar: bytes.NewReader(archive(t, [2]string{"file", name}))}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := w.store.Build(t.Context(), tpl.Build)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A reader holds exports up until it is let go.
type reader struct {
	begun atomic.Int32
	open  chan struct{}
}

func (r *reader) Write(p []byte) (int, error) {
	r.begun.Add(1)
	<-r.open
	return len(p), nil
}

// Few layers are made at a time, and who waits for that in vain leaves the row.
// Slow readers are in nobody's way but their own, and what they read stays until
// they have it, whatever becomes of it.
func TestExportsWait(t *testing.T) {
	w := open(t)
	b := w.bring(t, "app")
	var packing atomic.Int32
	goOn := make(chan struct{})
	w.packer.archiving = func(string) {
		packing.Add(1)
		<-goOn
	}
	slow := &reader{open: make(chan struct{})}
	ended := make(chan error)
	for range 3 {
		go func() { ended <- w.Export(t.Context(), ours, ref(t, "app"), slow) }()
	}
	reach := func(n *atomic.Int32, want int32) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); n.Load() < want; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d came as far as that, want %d", n.Load(), want)
			}
		}
	}
	reach(&packing, 2)
	why := errors.New("no patience")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, why)
	defer cancel()
	if err := w.Export(ctx, ours, ref(t, "app"), new(bytes.Buffer)); !errors.Is(err, why) {
		t.Errorf("a fourth: %v, want to wait in vain", err)
	}
	if n := packing.Load(); n != 2 {
		t.Errorf("%d are packed at a time, want 2", n)
	}
	close(goOn)
	reach(&slow.begun, 3)
	if err := w.Export(t.Context(), ours, ref(t, "app"), new(bytes.Buffer)); err != nil {
		t.Errorf("while others read slowly: %v", err)
	}
	go func() { ended <- w.Export(t.Context(), ours, ref(t, "app"), slow) }()
	reach(&slow.begun, 4)
	wantError(t, "a fifth", w.Export(t.Context(), ours, ref(t, "app"), new(bytes.Buffer)), soulbox.Exhausted, "exporting 4 templates")
	w.idle(t)
	if err := w.Remove(t.Context(), ours, b.Template); err != nil {
		t.Error(err)
	}
	close(slow.open)
	for range 4 {
		if err := <-ended; err != nil {
			t.Errorf("an export ended with %v", err)
		}
	}
	wantError(t, "what was removed", w.Export(t.Context(), ours, ref(t, "app"), new(bytes.Buffer)), soulbox.NotFound, "not found")
}

// An image that takes the place of another while somebody waits for that is
// exported instead.
func TestExportOfWhatWasRefreshed(t *testing.T) {
	w := open(t)
	before := w.bring(t, "app").Image
	_, want := w.export(t, ours, "app")
	w.packer.archiving = func(id string) {
		if id != before {
			return
		}
		w.packer.archiving = nil
		w.packer.agent = "agent 2"
		if err := w.Refresh(t.Context(), nil); err != nil {
			t.Error(err)
		}
	}
	_, got := w.export(t, ours, "app")
	if now, err := w.Template(t.Context(), ours, ref(t, "app")); err != nil || now.Image == before || w.packer.archiving != nil {
		t.Fatalf("the template is %+v, %v", now, err)
	}
	// And nobody sees a difference: the agent is not in it.
	if !bytes.Equal(got, want) {
		t.Error("with another agent it is another archive")
	}
}
