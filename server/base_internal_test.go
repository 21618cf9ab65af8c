package server

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/payload"
	"github.com/soulbox/soulbox/node/rootfs"
	"github.com/soulbox/soulbox/store"
	"github.com/soulbox/soulbox/store/sqlite"
	"github.com/soulbox/soulbox/template"
)

// rooms are those that the base template needs.
type rooms struct {
	store     *store.Store
	images    *rootfs.Store
	templates *template.Registry
	log       strings.Builder
	progress  []string
}

func openRooms(t *testing.T) *rooms {
	t.Helper()
	dir, r := t.TempDir(), &rooms{}
	var err error
	if r.store, err = sqlite.Open(t.Context(), filepath.Join(dir, "db")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.store.Close(); err != nil {
			t.Error(err)
		}
	})
	log := slog.New(slog.NewTextHandler(&r.log, nil))
	if r.images, err = rootfs.Open(log, filepath.Join(dir, "images")); err != nil {
		t.Fatal(err)
	}
	if r.templates, err = template.Open(template.Options{Log: log, Store: r.store, Packer: packer{r.images}, Dir: filepath.Join(dir, "work")}); err != nil {
		t.Fatal(err)
	}
	return r
}

// ensure makes the base template of a folder with one file.
func (r *rooms) ensure(t *testing.T) *soulbox.Template {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.progress = nil
	if err := ensureBase(t.Context(), r.templates, dir, func(line string) { r.progress = append(r.progress, line) }); err != nil {
		t.Fatalf("ensureBase: %v", err)
	}
	tpl, err := r.store.TemplateByName(t.Context(), "", "base")
	if err != nil {
		t.Fatal(err)
	}
	return tpl
}

// old gives the template an image with the agent of an older soulbox.
func (r *rooms) old(t *testing.T, tpl *soulbox.Template) {
	t.Helper()
	tree := filepath.Join(t.TempDir(), "tree")
	if err := r.images.Unpack(t.Context(), tpl.Image, tree); err != nil {
		t.Fatal(err)
	}
	if _, err := rootfs.Prepare(tree, strings.NewReader("an older agent")); err != nil {
		t.Fatal(err)
	}
	img, err := r.images.Build(t.Context(), tree, rootfs.BuildOptions{Source: "an older soulbox"})
	if err != nil {
		t.Fatal(err)
	}
	was, now := &soulbox.Build{Image: tpl.Image}, &soulbox.Build{Image: img.ID, User: tpl.User}
	if n, err := r.store.RenewBuilds(t.Context(), was, now); err != nil || n != 1 {
		t.Fatalf("%d builds have the older agent, %v; want 1", n, err)
	}
	tpl.Image = img.ID
}

// A start after an upgrade puts this binary's agent into every template.
func TestEnsureBaseRefreshes(t *testing.T) {
	r := openRooms(t)
	made := r.ensure(t)
	if len(r.progress) == 0 || r.progress[len(r.progress)-1] != "template base: packing the root file system" {
		t.Errorf("progress is %q, want packing at the end", r.progress)
	}
	first := made.Image
	r.old(t, made)
	after := r.ensure(t)
	if diff := cmp.Diff([]string{"template base: putting in this version's agent, which takes some seconds"}, r.progress); diff != "" {
		t.Errorf("progress (-want +got):\n%s", diff)
	}
	tree := filepath.Join(t.TempDir(), "tree")
	if err := r.images.Unpack(t.Context(), after.Image, tree); err != nil {
		t.Fatal(err)
	}
	agent, err := payload.Open(payload.Agent)
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Close()
	want, err := io.ReadAll(agent)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(tree, rootfs.AgentPath))
	if err != nil || string(got) != string(want) {
		t.Errorf("the agent has %d bytes, %v; want the %d of this binary's", len(got), err, len(want))
	}
	// All else is as it was made first, byte for byte: that is the same image.
	if after.Image != first {
		t.Errorf("image is %s, want %s", after.Image, first)
	}
	imgs, err := r.images.List(t.Context())
	if err != nil || len(imgs) != 1 || imgs[0].ID != after.Image {
		t.Errorf("images: %v, %v; want %s alone", imgs, err, after.Image)
	}
	r.ensure(t)
	if len(r.progress) != 0 {
		t.Errorf("progress of a start without an upgrade: %q", r.progress)
	}
}

// A template that cannot be refreshed keeps no server from starting.
func TestEnsureBaseWithDamagedImage(t *testing.T) {
	r := openRooms(t)
	tpl := r.ensure(t)
	r.old(t, tpl)
	path := r.images.Path(tpl.Image)
	b, err := os.ReadFile(path)
	if err == nil {
		b[len(b)-1] ^= 1
		err = os.WriteFile(path, b, 0o444)
	}
	if err != nil {
		t.Fatal(err)
	}
	if after := r.ensure(t); after.Image != tpl.Image {
		t.Errorf("image is %s, want %s as before", after.Image, tpl.Image)
	}
	if !strings.Contains(r.log.String(), "template not refreshed") {
		t.Errorf("not logged:\n%s", &r.log)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := ensureBase(ctx, r.templates, "", func(string) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("ensureBase after cancel: %v, want %v", err, context.Canceled)
	}
}
