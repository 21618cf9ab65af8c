package depot_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/depot"
)

// A push makes a template, another one a version of it, and one of the same
// image only gives it a tag.
func TestPush(t *testing.T) {
	w := open(t, nil)
	ctx := t.Context()
	one := imageOf(t, "", layer(t, "one", "1"), layer(t, "two", "2"))
	d, _ := w.push(t, ours, app, "latest", one)
	tpl, err := w.templates.Template(ctx, ours, soulbox.TemplateRef{Namespace: "ours", Name: "app"})
	if err != nil || tpl.Version.String() != "1.0.0" || !strings.HasPrefix(tpl.Source, "ours/app@sha256:") {
		t.Fatalf("Template = %+v, %v", tpl, err)
	}
	tree := filepath.Join(t.TempDir(), "tree")
	if err := w.images.Unpack(ctx, tpl.Image, tree); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"one": "1", "two": "2"} {
		if got, err := os.ReadFile(filepath.Join(tree, name)); string(got) != want || err != nil {
			t.Errorf("file %s holds %q, %v; want %q", name, got, err, want)
		}
	}
	second, _ := w.push(t, ours, app, "v2", imageOf(t, "", layer(t, "one", "changed")))
	again, _ := w.push(t, ours, app, "old", one)
	if again != d || second == d {
		t.Errorf("digests %s, %s, %s", d, second, again)
	}
	builds, err := w.templates.Versions(ctx, ours, tpl.ID)
	if err != nil || len(builds) != 2 || builds[0].Version.String() != "1.0.1" || builds[0].Manifest != second || builds[1].Manifest != d {
		t.Errorf("Versions = %+v, %v", builds, err)
	}
	for ref, want := range map[string]soulbox.Digest{
		"latest": d, "default": d, "old": d, "OLD": d, "v2": second, string(d): d, string(second): second,
	} {
		m, err := w.Manifest(ctx, ours, app, ref)
		if err != nil || m.Digest != want || soulbox.DigestOf(m.Content) != want || m.Type != string(types.DockerManifestSchema2) {
			t.Errorf("Manifest of %s = %s, %s, %v; want %s", ref, m.Digest, m.Type, err, want)
		}
	}
	if got, err := w.Tags(ctx, ours, app); err != nil || !slices.Equal(got, []string{"default", "latest", "old", "v2"}) {
		t.Errorf("Tags = %v, %v", got, err)
	}
	for _, ref := range []string{"v3", string(soulbox.DigestOf(nil)), string(builds[0].ID[:8])} {
		_, err := w.Manifest(ctx, ours, app, ref)
		wantKind(t, "Manifest of "+ref, err, soulbox.NotFound)
	}
}

// Of one image that many push at the same time there is one version, with the
// tags of all.
func TestPushAtOnce(t *testing.T) {
	w := open(t, nil)
	img := imageOf(t, "", layer(t, "file", "text"))
	w.parts(t, ours, app, img)
	content := raw(t, img)
	var wg sync.WaitGroup
	tags := []string{"a", "b", "c", "d", "e"}
	for _, tag := range tags {
		wg.Go(func() {
			if _, err := w.PutManifest(t.Context(), ours, app, tag, "", content); err != nil {
				t.Errorf("PutManifest of %s: %v", tag, err)
			}
		})
	}
	wg.Wait()
	tpl, err := w.templates.Template(t.Context(), ours, soulbox.TemplateRef{Name: "app"})
	if err != nil {
		t.Fatal(err)
	}
	if builds, err := w.templates.Versions(t.Context(), ours, tpl.ID); err != nil || len(builds) != 1 {
		t.Errorf("%d versions, %v; want one", len(builds), err)
	}
	if got, err := w.Tags(t.Context(), ours, app); err != nil || !slices.Equal(got, tags) {
		t.Errorf("Tags = %v, %v; want %v", got, err, tags)
	}
}

// A template that was built here has nothing to pull, and says what there is
// instead.
func TestPullWhatWasBuilt(t *testing.T) {
	w := open(t, nil)
	_, err := w.templates.Import(t.Context(), soulbox.ImportRequest{Team: ours, Name: "app", Source: soulbox.ImageSource{Tar: tarOf(t)}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Manifest(t.Context(), ours, app, "latest")
	wantKind(t, "Manifest", err, soulbox.NotFound)
	if !strings.Contains(err.Error(), "soulbox template export") {
		t.Errorf("it says %q, and does not name the way", err)
	}
	if got, err := w.Tags(t.Context(), ours, app); err != nil || len(got) != 0 {
		t.Errorf("Tags = %v, %v; want none", got, err)
	}
}

func tarOf(t *testing.T) io.Reader {
	t.Helper()
	rc, err := layer(t, "file", "text").Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	return rc
}

// indexOf is an index of images by their architectures.
func indexOf(images map[string]v1.Image) v1.ImageIndex {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for arch, img := range images {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	return index
}

// An index becomes a template of the image for this machine, and is pulled whole.
func TestPushIndex(t *testing.T) {
	w := open(t, nil)
	ctx := t.Context()
	here, other := imageOf(t, "", layer(t, "here", "yes")), imageOf(t, "riscv64", layer(t, "other", "no"))
	index := indexOf(map[string]v1.Image{runtime.GOARCH: here, "riscv64": other})

	w.parts(t, ours, app, here)
	if _, err := w.PutManifest(ctx, ours, app, string(soulbox.DigestOf(raw(t, here))), "", raw(t, here)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.templates.Template(ctx, ours, soulbox.TemplateRef{Name: "app"}); soulbox.KindOf(err) != soulbox.NotFound {
		t.Errorf("a push by digest has made a template: %v", err)
	}
	_, err := w.PutManifest(ctx, ours, app, "latest", string(types.OCIImageIndex), raw(t, index))
	wantKind(t, "an index of which an image is missing", err, soulbox.NotFound)

	w.parts(t, ours, app, other)
	if _, err := w.PutManifest(ctx, ours, app, string(soulbox.DigestOf(raw(t, other))), "", raw(t, other)); err != nil {
		t.Fatal(err)
	}
	d, err := w.PutManifest(ctx, ours, app, "latest", string(types.OCIImageIndex), raw(t, index))
	if err != nil {
		t.Fatalf("PutManifest: %v", err)
	}
	m, err := w.Manifest(ctx, ours, app, "latest")
	if err != nil || m.Digest != d || m.Type != string(types.OCIImageIndex) {
		t.Errorf("Manifest = %s, %s, %v", m.Digest, m.Type, err)
	}
	tpl, err := w.templates.Template(ctx, ours, soulbox.TemplateRef{Name: "app"})
	if err != nil {
		t.Fatal(err)
	}
	tree := filepath.Join(t.TempDir(), "tree")
	if err := w.images.Unpack(ctx, tpl.Image, tree); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(tree, "here")); string(got) != "yes" || err != nil {
		t.Errorf("the file holds %q, %v", got, err)
	}

	foreign := soulbox.Repository{Namespace: "ours", Name: "foreign"}
	w.parts(t, ours, foreign, other)
	if _, err := w.PutManifest(ctx, ours, foreign, string(soulbox.DigestOf(raw(t, other))), "", raw(t, other)); err != nil {
		t.Fatal(err)
	}
	_, err = w.PutManifest(ctx, ours, foreign, "latest", "", raw(t, indexOf(map[string]v1.Image{"riscv64": other})))
	if soulbox.KindOf(err) != soulbox.Invalid || !strings.Contains(soulbox.MessageOf(err), "linux/"+runtime.GOARCH) {
		t.Errorf("an index without this machine: %v", err)
	}
	_, err = w.PutManifest(ctx, ours, foreign, "latest", "", raw(t, other))
	wantKind(t, "an image for another machine", err, soulbox.Invalid)
}

// What is wrong with a manifest is refused, and nothing comes of it.
func TestPutManifestRefused(t *testing.T) {
	w := open(t, nil)
	img := imageOf(t, "", layer(t, "file", "text"))
	good := raw(t, img)
	w.parts(t, ours, app, img)
	config := soulbox.DigestOf(raw(t, rawConfig{img}))
	for name, tt := range map[string]struct {
		ref, kind, content string
		want               soulbox.Kind
	}{
		"no JSON":              {"v1", "", "<html>", soulbox.Invalid},
		"empty":                {"v1", "", "", soulbox.Invalid},
		"two":                  {"v1", "", string(good) + "{}", soulbox.Invalid},
		"schema 1":             {"v1", "", `{"schemaVersion":1}`, soulbox.Invalid},
		"unknown kind":         {"v1", "", `{"schemaVersion":2,"mediaType":"text/plain","config":{}}`, soulbox.Invalid},
		"another kind":         {"v1", string(types.OCIManifestSchema1), string(good), soulbox.Invalid},
		"no configuration":     {"v1", "", `{"schemaVersion":2,"mediaType":"` + string(types.OCIManifestSchema1) + `"}`, soulbox.Invalid},
		"image and index":      {"v1", "", strings.Replace(string(good), `"schemaVersion":2`, `"schemaVersion":2,"manifests":[]`, 1), soulbox.Invalid},
		"bad digest":           {"v1", "", strings.Replace(string(good), string(config), "sha512:00", 1), soulbox.Invalid},
		"unknown part":         {"v1", "", strings.Replace(string(good), string(config), string(soulbox.DigestOf([]byte("unknown"))), 1), soulbox.NotFound},
		"wrong size":           {"v1", "", strings.Replace(string(good), `"size":`, `"size":1`, 1), soulbox.Invalid},
		"negative size":        {"v1", "", strings.Replace(string(good), `"size":`, `"size":-`, 1), soulbox.Invalid},
		"another digest":       {string(soulbox.DigestOf(nil)), "", string(good), soulbox.Invalid},
		"a tag like a build":   {"00000000-0000-4000-8000-000000000000", "", string(good), soulbox.Invalid},
		"a tag out of the way": {"../v1", "", string(good), soulbox.Invalid},
		"too large":            {"v1", "", string(good) + strings.Repeat(" ", 4<<20), soulbox.TooLarge},
		"too many parts":       {"v1", "", `{"schemaVersion":2,"manifests":[` + strings.Repeat(`{"digest":"`+string(config)+`"},`, 1001) + `{}]}`, soulbox.TooLarge},
	} {
		_, err := w.PutManifest(t.Context(), ours, app, tt.ref, tt.kind, []byte(tt.content))
		wantKind(t, name, err, tt.want)
	}
	if all, err := w.templates.Templates(t.Context(), ours); err != nil || len(all) != 0 {
		t.Errorf("templates: %v, %v; want none", all, err)
	}
	// A name with an upload that has been sent may be used in a manifest of
	// that repository only: its digest is no proof.
	other := soulbox.Repository{Namespace: "theirs", Name: "app"}
	_, err := w.PutManifest(t.Context(), theirs, other, "v1", "", good)
	wantKind(t, "parts that another team has pushed", err, soulbox.NotFound)
	_, err = w.PutManifest(t.Context(), theirs, app, "v1", "", good)
	wantKind(t, "another team's repository", err, soulbox.Forbidden)
}

// rawConfig gives a configuration where a manifest is asked for.
type rawConfig struct{ img v1.Image }

func (r rawConfig) RawManifest() ([]byte, error) { return r.img.RawConfigFile() }

func TestUpload(t *testing.T) {
	w := open(t, nil)
	ctx := t.Context()
	id, err := w.BeginUpload(ctx, ours, app)
	if err != nil {
		t.Fatal(err)
	}
	add := func(offset int64, text string, want int64, kind soulbox.Kind) {
		t.Helper()
		n, err := w.AppendUpload(ctx, ours, app, id, offset, strings.NewReader(text))
		if n != want || soulbox.KindOf(err) != kind || (err == nil) != (kind == soulbox.Internal) {
			t.Errorf("AppendUpload of %q at %d = %d, %v; want %d, kind %d", text, offset, n, err, want, kind)
		}
	}
	add(0, "ab", 2, soulbox.Internal)
	add(-1, "cd", 4, soulbox.Internal)
	add(3, "xx", 4, soulbox.Conflict)
	gone := errors.New("gone")
	if n, err := w.AppendUpload(ctx, ours, app, id, 4, io.MultiReader(strings.NewReader("xx"), broken{gone})); n != 4 || !errors.Is(err, gone) {
		t.Errorf("AppendUpload that was cut off = %d, %v; want 4", n, err)
	}
	wantKind(t, "FinishUpload with a wrong digest", w.FinishUpload(ctx, ours, app, id, 4, soulbox.DigestOf([]byte("abcdee")), strings.NewReader("ef")), soulbox.Invalid)
	if n, err := w.UploadSize(ctx, ours, app, id); n != 4 || err != nil {
		t.Errorf("UploadSize = %d, %v; want 4", n, err)
	}
	for _, other := range []struct {
		team soulbox.TeamID
		repo soulbox.Repository
		id   string
	}{{theirs, app, id}, {ours, soulbox.Repository{Namespace: "ours", Name: "b"}, id}, {ours, app, "../" + id}, {ours, app, ""}} {
		_, err := w.UploadSize(ctx, other.team, other.repo, other.id)
		wantKind(t, "UploadSize of another one", err, soulbox.NotFound)
		wantKind(t, "CancelUpload of another one", w.CancelUpload(ctx, other.team, other.repo, other.id), soulbox.NotFound)
	}
	d := soulbox.DigestOf([]byte("abcdef"))
	if err := w.FinishUpload(ctx, ours, app, id, 4, d, strings.NewReader("ef")); err != nil {
		t.Fatalf("FinishUpload: %v", err)
	}
	if n, err := w.Blob(ctx, ours, app, d, true); n != 6 || err != nil {
		t.Errorf("Blob = %d, %v; want 6", n, err)
	}
	wantKind(t, "FinishUpload once more", w.FinishUpload(ctx, ours, app, id, -1, d, strings.NewReader("")), soulbox.NotFound)
	if left, err := os.ReadDir(filepath.Join(w.dir, "uploads")); len(left) != 0 || err != nil {
		t.Errorf("uploads left: %v, %v", left, err)
	}
	_, err = w.BeginUpload(ctx, theirs, app)
	wantKind(t, "BeginUpload of another team", err, soulbox.Forbidden)
}

type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }

// What a team may push is for all its uploads together, also while they go on.
func TestUploadsTogether(t *testing.T) {
	w := open(t, func(o *depot.Options) { o.MaxBlob, o.MaxTeam = 1000, 1500 })
	ctx := t.Context()
	var ids [2]string
	for i := range ids {
		var err error
		if ids[i], err = w.BeginUpload(ctx, ours, app); err != nil {
			t.Fatal(err)
		}
	}
	in, out := io.Pipe()
	first := make(chan error, 1)
	go func() {
		_, err := w.AppendUpload(ctx, ours, app, ids[0], -1, in)
		first <- err
	}()
	send := func(n int) {
		if _, err := out.Write(make([]byte, n)); err != nil {
			t.Error(err)
		}
	}
	send(400)
	blob := make([]byte, 1000)
	digest := soulbox.DigestOf(blob)
	if err := w.FinishUpload(ctx, ours, app, ids[1], -1, digest, bytes.NewReader(blob)); err != nil {
		t.Fatal(err)
	}
	send(100) // which is all that it may
	send(1)
	wantKind(t, "one byte more, in an upload that began before", <-first, soulbox.Exhausted)
	if got, err := w.UploadSize(ctx, ours, app, ids[0]); err != nil || got != 0 {
		t.Errorf("%d bytes are left of it, %v", got, err)
	}
	if _, err := w.AppendUpload(ctx, ours, app, ids[0], -1, bytes.NewReader(make([]byte, 500))); err != nil {
		t.Errorf("as much as it may: %v", err)
	}
	if err := w.CancelUpload(ctx, ours, app, ids[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := w.BeginUpload(ctx, ours, app); err != nil {
		t.Errorf("after it was cancelled: %v", err)
	}
}

func TestUploadBounds(t *testing.T) {
	w := open(t, func(o *depot.Options) { o.MaxBlob, o.MaxTeam = 1000, 2500 })
	ctx := t.Context()
	var ids []string
	for range 64 {
		id, err := w.BeginUpload(ctx, ours, app)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	_, err := w.BeginUpload(ctx, ours, app)
	wantKind(t, "one upload more", err, soulbox.Exhausted)
	if _, err := w.BeginUpload(ctx, theirs, soulbox.Repository{Namespace: "theirs", Name: "a"}); err != nil {
		t.Errorf("an upload of another team: %v", err)
	}
	send := func(i, n int) error {
		_, err := w.AppendUpload(ctx, ours, app, ids[i], -1, bytes.NewReader(make([]byte, n)))
		return err
	}
	wantKind(t, "a blob that is too large", send(0, 1001), soulbox.TooLarge)
	for i := range 2 {
		if err := send(i, 1000); err != nil {
			t.Fatal(err)
		}
	}
	wantKind(t, "more than the team may", send(2, 501), soulbox.Exhausted)
	if err := send(2, 500); err != nil {
		t.Errorf("as much as the team may: %v", err)
	}
	wantKind(t, "one byte more", send(3, 1), soulbox.Exhausted)
	if err := w.CancelUpload(ctx, ours, app, ids[0]); err != nil {
		t.Fatal(err)
	}
	if err := send(3, 999); err != nil {
		t.Errorf("in place of what was cancelled: %v", err)
	}
	// What was finished counts until it is forgotten.
	if err := w.FinishUpload(ctx, ours, app, ids[1], -1, soulbox.DigestOf(make([]byte, 1000)), strings.NewReader("")); err != nil {
		t.Fatal(err)
	}
	wantKind(t, "more than the team may, with what was finished", send(4, 2), soulbox.Exhausted)
}

// Who may read what, before and after it is published.
func TestReaders(t *testing.T) {
	w := open(t, nil)
	ctx := t.Context()
	img := imageOf(t, "", layer(t, "file", "text"))
	d, parts := w.push(t, ours, app, "latest", img)
	draft := w.upload(t, ours, app, []byte("a layer of a push under way"))
	readers := func(public bool) {
		t.Helper()
		for _, part := range append(parts, draft) {
			for team, sees := range map[soulbox.TeamID]bool{ours: true, theirs: public && part != draft} {
				_, err := w.Blob(ctx, team, app, part, true)
				if (err == nil) != sees || err != nil && soulbox.KindOf(err) != soulbox.NotFound {
					t.Errorf("public %v, %s, Blob %s: %v", public, team, part, err)
				}
				// A mount is another way to read.
				mine := soulbox.Repository{Namespace: map[soulbox.TeamID]string{ours: "ours", theirs: "theirs"}[team], Name: "copy"}
				err = w.MountBlob(ctx, team, mine, app, part)
				if (err == nil) != sees || err != nil && soulbox.KindOf(err) != soulbox.NotFound {
					t.Errorf("public %v, %s, MountBlob %s: %v", public, team, part, err)
				}
			}
		}
		for _, ref := range []string{"latest", string(d)} {
			_, err := w.Manifest(ctx, theirs, app, ref)
			if (err == nil) != public || err != nil && soulbox.KindOf(err) != soulbox.NotFound {
				t.Errorf("public %v, Manifest of %s: %v", public, ref, err)
			}
		}
		_, err := w.Tags(ctx, theirs, app)
		if (err == nil) != public {
			t.Errorf("public %v, Tags: %v", public, err)
		}
	}
	readers(false)
	// What a stranger hears of a template that is private is what it hears of
	// none.
	hears := func(repo soulbox.Repository) (all []string) {
		_, err := w.Tags(ctx, theirs, repo)
		_, err2 := w.Manifest(ctx, theirs, repo, "latest")
		_, err3 := w.Manifest(ctx, theirs, repo, string(d))
		_, err4 := w.Blob(ctx, theirs, repo, d, true)
		_, err5 := w.BeginUpload(ctx, theirs, repo)
		_, err6 := w.PutManifest(ctx, theirs, repo, "latest", "", raw(t, img))
		for _, err := range []error{err, err2, err3, err4, err5, err6} {
			all = append(all, strings.ReplaceAll(soulbox.MessageOf(err), repo.String(), "REPO"))
		}
		return all
	}
	if diff := cmp.Diff(hears(soulbox.Repository{Namespace: "ours", Name: "none"}), hears(app)); diff != "" {
		t.Errorf("a stranger can tell a private template from none (-none +private):\n%s", diff)
	}
	if diff := cmp.Diff(hears(soulbox.Repository{Namespace: "nobody", Name: "none"}), hears(app)); diff != "" {
		t.Errorf("a stranger can tell a private template from no team (-none +private):\n%s", diff)
	}
	tpl, err := w.templates.Template(ctx, ours, soulbox.TemplateRef{Name: "app"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.templates.Publish(ctx, ours, tpl.ID, true); err != nil {
		t.Fatal(err)
	}
	readers(true)
}
