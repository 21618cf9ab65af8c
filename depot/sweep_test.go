package depot_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/depot"
)

// later is when everything that a test has pushed is old.
func later() time.Time { return time.Now().Add(25 * time.Hour) }

// age makes all blobs that are there older than a day.
func (w *world) age(t *testing.T) {
	t.Helper()
	then := time.Now().Add(-25 * time.Hour)
	for d := range w.kept(t) {
		if err := os.Chtimes(filepath.Join(w.dir, "blobs", "sha256", d.Hex()[:2], d.Hex()), then, then); err != nil {
			t.Fatal(err)
		}
	}
}

func (w *world) sweep(t *testing.T, at time.Time) {
	t.Helper()
	if err := w.Sweep(t.Context(), at); err != nil {
		t.Fatalf("Sweep: %v", err)
	}
}

// A sweep leaves what is new and what builds have, and takes the rest.
func TestSweep(t *testing.T) {
	w := open(t, nil)
	ctx := t.Context()
	shared := layer(t, "shared", "of both")
	_, first := w.push(t, ours, app, "latest", imageOf(t, "", shared, layer(t, "a", "1")))
	other := soulbox.Repository{Namespace: "theirs", Name: "other"}
	_, second := w.push(t, theirs, other, "v1", imageOf(t, "", shared, layer(t, "b", "2")))
	draft := w.upload(t, ours, app, []byte("a layer of a push that never came to its end"))
	id, err := w.BeginUpload(ctx, ours, app)
	if err != nil {
		t.Fatal(err)
	}
	// Stored once: the layer that both have is one blob.
	all := map[soulbox.Digest]bool{draft: true}
	for _, d := range append(first, second...) {
		all[d] = true
	}
	wantKept := func(when string, want map[soulbox.Digest]bool) {
		t.Helper()
		got := w.kept(t)
		for d := range want {
			if !got[d] {
				t.Errorf("%s: %s is gone", when, d)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s: %d blobs, want %d", when, len(got), len(want))
		}
	}
	if len(all) != len(first)+len(second) { // the layer twice, the draft once
		t.Errorf("%d blobs of pushes of %d and %d", len(all), len(first), len(second))
	}
	wantKept("before any sweep", all)
	w.sweep(t, time.Now())
	wantKept("when all is new", all)

	w.sweep(t, later())
	delete(all, draft)
	wantKept("a day later", all)
	_, err = w.Blob(ctx, ours, app, draft, true)
	wantKind(t, "Blob of what was swept", err, soulbox.NotFound)
	_, err = w.UploadSize(ctx, ours, app, id)
	wantKind(t, "UploadSize of an old one", err, soulbox.NotFound)
	if left, err := os.ReadDir(filepath.Join(w.dir, "uploads")); len(left) != 0 || err != nil {
		t.Errorf("uploads left: %v, %v", left, err)
	}
	for _, d := range first { // claimed by nobody any more, and still to be read
		if _, err := w.Blob(ctx, ours, app, d, true); err != nil {
			t.Errorf("Blob a day later: %v", err)
		}
	}

	tpl, err := w.templates.Template(ctx, ours, soulbox.TemplateRef{Name: "app"})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.templates.Remove(ctx, ours, tpl.ID); err != nil {
		t.Fatal(err)
	}
	w.sweep(t, later().Add(25*time.Hour)) // Blob has renewed the claims
	for _, d := range first {
		delete(all, d)
	}
	for _, d := range second {
		all[d] = true
	}
	wantKept("without the first template", all)
}

// When it cannot be known what a manifest needs, nothing is deleted.
func TestSweepInDoubt(t *testing.T) {
	w := open(t, nil)
	d, parts := w.push(t, ours, app, "latest", imageOf(t, "", layer(t, "a", "1")))
	// A second depot has not read the manifest yet.
	again, err := depot.Open(depot.Options{Log: w.Log, Store: w.store, Templates: w.templates, Blobs: w.blobs, Dir: filepath.Join(w.dir, "uploads")})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := w.blobs.Delete(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if err := again.Sweep(t.Context(), later()); err == nil {
		t.Error("Sweep without the manifest succeeds")
	}
	if got := w.kept(t); len(got) != len(parts)-1 {
		t.Errorf("%d blobs are left, want %d", len(got), len(parts)-1)
	}
}

// Who asks whether a blob is there, and need not send it, finds it when the
// manifest comes: also when nobody had a reason for it until then, and sweeps
// run all the time.
func TestSweepBesidePushes(t *testing.T) {
	w := open(t, nil)
	stop := make(chan struct{})
	var sweeper sync.WaitGroup
	var sweeps int
	sweeper.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			// Nothing is too new: what counts is what is claimed.
			w.age(t)
			if err := w.Sweep(t.Context(), time.Now()); err != nil {
				t.Errorf("Sweep: %v", err)
				return
			}
			sweeps++
		}
	})
	pushed := w.pushBeside(t, 4, 12)
	close(stop)
	sweeper.Wait()
	w.sweep(t, later())
	for ref, parts := range pushed {
		for _, d := range parts {
			if _, err := w.Blobs.Stat(t.Context(), d); err != nil {
				t.Errorf("of %s: %v", ref, err)
			}
		}
	}
	if sweeps < 10 {
		t.Errorf("only %d sweeps ran", sweeps)
	}
}

// pushBeside has some clients push images of layers that they share, each asking
// first what is there. Now and then what a client has claimed before becomes old.
// Most manifests are
// only kept; it returns the parts of those that became templates.
func (w *world) pushBeside(t *testing.T, clients, pushes int) map[string][]soulbox.Digest {
	t.Helper()
	var mu sync.Mutex
	pushed := map[string][]soulbox.Digest{}
	var wg sync.WaitGroup
	for c := range clients {
		repo := soulbox.Repository{Namespace: "ours", Name: fmt.Sprintf("app%d", c)}
		r := rand.New(rand.NewPCG(uint64(c), 1))
		wg.Go(func() {
			var mine []soulbox.Claim
			for i := range pushes {
				if r.IntN(2) == 0 {
					if err := w.store.PutClaims(t.Context(), ours, repo.Name, mine, time.Now().Add(-25*time.Hour)); err != nil {
						t.Error(err)
					}
				}
				img := imageOf(t, "", layer(t, "a", fmt.Sprint(c, r.IntN(4))), layer(t, "b", fmt.Sprint(c, r.IntN(4))))
				ref := fmt.Sprintf("v%d", i)
				kept := i%4 != 0 // for a day, and not longer
				if kept {
					ref = string(soulbox.DigestOf(raw(t, img)))
				}
				parts, err := w.askAndPush(t, repo, ref, img)
				if err != nil {
					t.Errorf("push to %s: %v", repo, err)
					return
				}
				for _, d := range parts {
					mine = append(mine, soulbox.Claim{Digest: d})
				}
				if kept {
					continue
				}
				mu.Lock()
				pushed[fmt.Sprintf("%s:v%d", repo, i)] = parts
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return pushed
}

// askAndPush pushes an image as clients do: what is there is not sent.
func (w *world) askAndPush(t *testing.T, repo soulbox.Repository, tag string, img v1.Image) ([]soulbox.Digest, error) {
	t.Helper()
	ctx := t.Context()
	content := raw(t, img)
	var all []soulbox.Digest
	for _, b := range blobsOf(t, img) {
		d := soulbox.DigestOf(b)
		all = append(all, d)
		if _, err := w.Blob(ctx, ours, repo, d, true); err == nil {
			continue
		}
		id, err := w.BeginUpload(ctx, ours, repo)
		if err == nil {
			err = w.FinishUpload(ctx, ours, repo, id, -1, d, bytes.NewReader(b))
		}
		if err != nil {
			return nil, err
		}
	}
	d, err := w.PutManifest(ctx, ours, repo, tag, "", content)
	return append(all, d), err
}

// Names of uploads and blobs come from outside; none of them leaves its folder.
func TestPathTricks(t *testing.T) {
	w := open(t, nil)
	for _, id := range []string{"..", "../blobs", "/etc/passwd", strings.Repeat("A", 5000), "a\x00b"} {
		_, err := w.AppendUpload(t.Context(), ours, app, id, -1, strings.NewReader("x"))
		wantKind(t, "AppendUpload to "+id[:2], err, soulbox.NotFound)
	}
	for _, ref := range []string{"sha256:../../../etc/passwd", "sha256:" + strings.Repeat("/", 64), "sha512:" + strings.Repeat("a", 128), strings.Repeat("a", 129)} {
		_, err := w.Manifest(t.Context(), ours, app, ref)
		wantKind(t, "Manifest of "+ref[:10], err, soulbox.Invalid)
	}
}
