package template_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/image"
)

func TestRefresh(t *testing.T) {
	w := open(t)
	base, err := w.Ensure(t.Context(), "base", func(ctx context.Context, dir string, progress func(string)) (image.Image, error) {
		img, err := plain("base")(ctx, dir, progress)
		sudo := filepath.Join(dir, "sudo")
		old := time.Unix(1_500_000_000, 0)
		return img, errors.Join(err, os.WriteFile(sudo, nil, 0o600), os.Chmod(sudo, fs.ModeSetuid|0o755), os.Chtimes(sudo, old, old))
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	app, err := w.Import(t.Context(), soulbox.ImportRequest{Team: ours, Name: "app", Source: soulbox.ImageSource{Tar: bytes.NewReader(archive(t, [2]string{"file", "app"}))}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Refresh(t.Context(), func(line string) { t.Errorf("progress %q, though nothing is old", line) }); err != nil {
		t.Errorf("Refresh: %v", err)
	}
	w.have(t, base.Image, app.Image)

	w.packer.agent = "agent 2"
	w.reopen(t)
	fresh := w.ensure(t, "new", "made by the new one")
	held, err := w.images.Hold(app.Image) // a sandbox's
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	if err := w.Refresh(t.Context(), func(line string) { lines = append(lines, line) }); err != nil {
		t.Fatalf("Refresh: %v", err)
	}
	want := []string{
		"template base: putting in this version's agent, which takes some seconds",
		"template app: putting in this version's agent, which takes some seconds",
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("progress (-want +got):\n%s", diff)
	}
	images := []string{fresh.Image}
	for _, before := range []*soulbox.Template{base, app} {
		before = w.row(t, before.ID)
		images = append(images, before.Image)
	}
	w.have(t, append(images, app.Image)...)
	for _, tt := range []struct {
		before *soulbox.Template
		file   string
	}{{base, "base"}, {app, "app"}} {
		after := w.row(t, tt.before.ID)
		if after.Image == tt.before.Image {
			t.Errorf("%s has the same image", after.Name)
		}
		if !after.UpdatedAt.Equal(tt.before.UpdatedAt.Truncate(time.Microsecond)) || after.User != "user" || after.Source != tt.before.Source {
			t.Errorf("people see another template: %+v, before %+v", after, tt.before)
		}
		tree := w.tree(t, after.Image)
		if got := content(t, tree, ".soulbox/agent"); got != "agent 2" {
			t.Errorf("%s carries %q, want the new agent", after.Name, got)
		}
		if got := content(t, tree, "file"); got != tt.file {
			t.Errorf("%s holds %q, want %q", after.Name, got, tt.file)
		}
	}
	fi, err := os.Stat(filepath.Join(w.tree(t, w.row(t, base.ID).Image), "sudo"))
	if err != nil || fi.Mode() != fs.ModeSetuid|0o755 || fi.ModTime().Unix() != 1_500_000_000 {
		t.Errorf("the setuid program is %v of %v, %v", fi.Mode(), fi.ModTime(), err)
	}
	if got := w.row(t, fresh.ID); got.Image != fresh.Image {
		t.Errorf("the template of the new agent was packed again")
	}
	w.idle(t)

	held.Close()
	w.packer.unpacked = nil
	if err := w.Refresh(t.Context(), nil); err != nil {
		t.Errorf("Refresh: %v", err)
	}
	if len(w.packer.unpacked) != 0 {
		t.Errorf("unpacked again: %v", w.packer.unpacked)
	}
	w.have(t, images...)
}

// One template that cannot be refreshed stands in nobody's way.
func TestRefreshFails(t *testing.T) {
	w := open(t)
	damaged, lost, good := w.ensure(t, "a-damaged", "1"), w.ensure(t, "b-lost", "2"), w.ensure(t, "c-good", "3")
	b, err := os.ReadFile(w.images.Path(damaged.Image))
	if err == nil {
		b[len(b)-1] ^= 1
		err = errors.Join(os.WriteFile(w.images.Path(damaged.Image), b, 0o444), os.Remove(w.images.Path(lost.Image)))
	}
	if err != nil {
		t.Fatal(err)
	}
	w.packer.agent = "agent 2"
	var lines strings.Builder
	if err := w.Refresh(t.Context(), func(line string) { lines.WriteString(line + "\n") }); err != nil {
		t.Fatalf("Refresh: %v", err)
	}
	for _, want := range []string{
		"template a-damaged: keeps its older agent: image " + damaged.Image + " is damaged on this machine",
		"template b-lost: keeps its older agent: image " + lost.Image + " does not exist on this machine",
	} {
		if !strings.Contains(lines.String(), want) {
			t.Errorf("progress is %q, want %q", lines.String(), want)
		}
	}
	if got := strings.Count(w.log.String(), "template not refreshed"); got != 2 {
		t.Errorf("logged %d failures, want 2:\n%s", got, w.log)
	}
	for _, tpl := range []*soulbox.Template{damaged, lost} {
		if got := w.row(t, tpl.ID); got.Image != tpl.Image {
			t.Errorf("%s has image %s, want %s as before", tpl.Name, got.Image, tpl.Image)
		}
	}
	after := w.row(t, good.ID)
	if got := content(t, w.tree(t, after.Image), ".soulbox/agent"); got != "agent 2" {
		t.Errorf("%s carries %q, want the new agent", good.Name, got)
	}
	w.have(t, damaged.Image, after.Image)
	w.idle(t)
}

// Whenever a refresh is cut off, the row names an image that is there, and the
// next one finishes.
func TestRefreshCutOff(t *testing.T) {
	w := open(t)
	base := w.ensure(t, "base", "1")
	w.packer.agent = "agent 2"
	stop := errors.New("stop")
	cut := func(hook func(cancel func())) {
		t.Helper()
		ctx, cancel := context.WithCancelCause(t.Context())
		hook(func() { cancel(stop) })
		if err := w.Refresh(ctx, nil); !errors.Is(err, stop) && !errors.Is(err, context.Canceled) {
			t.Errorf("Refresh: %v, want %v", err, stop)
		}
		w.packer.packing, w.packer.packed = nil, nil
		if got := w.row(t, base.ID); got.Image != base.Image {
			t.Errorf("image is %s, want %s", got.Image, base.Image)
		}
		w.idle(t)
	}
	cut(func(cancel func()) { cancel() })
	cut(func(cancel func()) { w.packer.packing = func() error { cancel(); return nil } })
	w.have(t, base.Image)
	cut(func(cancel func()) { w.packer.packed = cancel }) // the image is there, the row is not
	if all, err := w.images.List(t.Context()); len(all) != 2 || err != nil {
		t.Errorf("images: %v, %v; want the old one and one that nobody refers to", all, err)
	}
	if err := w.Refresh(t.Context(), nil); err != nil {
		t.Errorf("Refresh: %v", err)
	}
	after := w.row(t, base.ID)
	w.have(t, after.Image)
	if after.Image == base.Image {
		t.Error("the image is still the old one")
	}
}

// A template that is removed or imported anew while its old image is made again
// stays removed, or what was imported.
func TestRefreshOvertaken(t *testing.T) {
	w := open(t)
	gone, changed := w.ensure(t, "a", "1"), w.ensure(t, "b", "2")
	other := w.ensure(t, "c", "3")
	w.packer.agent = "agent 2"
	w.packer.packing = func() error {
		w.packer.packing = nil
		if err := w.store.DeleteTemplate(t.Context(), gone.ID); err != nil {
			return err
		}
		_, err := w.store.RenewBuilds(t.Context(), &soulbox.Build{Image: changed.Image}, &soulbox.Build{Image: other.Image, User: "user"})
		return err
	}
	if err := w.Refresh(t.Context(), nil); err != nil {
		t.Fatalf("Refresh: %v", err)
	}
	if _, err := w.store.Template(t.Context(), gone.ID); soulbox.KindOf(err) != soulbox.NotFound {
		t.Errorf("the removed template: %v, want NotFound", err)
	}
	got, want := w.row(t, changed.ID), w.row(t, other.ID)
	if got.Image != want.Image || got.Image == other.Image {
		t.Errorf("the changed template has image %s, want %s, which is that of the other one made again", got.Image, want.Image)
	}
	if n := strings.Count(w.log.String(), "template refreshed"); n != 1 {
		t.Errorf("logged %d times that one was refreshed, want once", n)
	}
}

// A sweep takes nothing away that an import has packed and not yet written down.
func TestSweepWaitsForImport(t *testing.T) {
	w := open(t)
	swept := make(chan error, 1)
	w.packer.packed = func() {
		w.packer.packed = nil
		go func() { swept <- w.Refresh(t.Context(), nil) }()
		select {
		case err := <-swept:
			t.Errorf("Refresh did not wait: %v", err)
			swept <- err
		case <-time.After(300 * time.Millisecond):
		}
	}
	tpl := w.ensure(t, "base", "1")
	if err := <-swept; err != nil {
		t.Errorf("Refresh: %v", err)
	}
	w.have(t, tpl.Image)
}
