package notebook_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/soulbox/soulbox/kit/interpreter/notebook"
)

// TestEditsLoseNothing: whatever is edited, and however often the notebook is
// written and read, the rest stays as it was, metadata of others above all.
func TestEditsLoseNothing(t *testing.T) {
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(r *rapid.T) {
		n++
		s := notebook.NewStore(dir)
		name := fmt.Sprintf("n%d", n)
		d := parse(t, whole)
		if _, err := s.Create(t.Context(), name, d); err != nil {
			r.Fatal(err)
		}
		type cell struct{ id, kind, source string }
		var want []cell
		meta := map[string]string{}
		for _, c := range d.Cells {
			want = append(want, cell{c.ID, c.Type, c.Source})
			meta[c.ID] = string(c.Metadata)
		}
		types := rapid.SampledFrom([]string{notebook.Code, notebook.Markdown, notebook.Raw})
		for range rapid.IntRange(1, 12).Draw(r, "edits") {
			before, err := s.Read(name)
			if err != nil {
				r.Fatal(err)
			}
			op := rapid.IntRange(0, 2).Draw(r, "op")
			if len(want) == 0 {
				op = 0
			}
			at := rapid.IntRange(0, max(0, len(want)-1)).Draw(r, "at")
			source := rapid.String().Draw(r, "source")
			_, err = s.Change(t.Context(), name, before.Revision, func(d *notebook.Document) error {
				switch op {
				case 0:
					kind := types.Draw(r, "type")
					c, err := d.Add(kind, source, &at)
					if err != nil {
						return err
					}
					want = slices.Insert(want, at, cell{c.ID, kind, c.Source})
					meta[c.ID] = "{}"
				case 1:
					to := rapid.IntRange(0, len(want)-1).Draw(r, "to")
					c := want[at]
					c.source = source
					want = slices.Insert(slices.Delete(want, at, at+1), to, c)
					_, err := d.Edit(c.id, notebook.Change{Source: &source, Index: &to})
					return err
				case 2:
					id := want[at].id
					want = slices.Delete(want, at, at+1)
					return d.Remove(id)
				}
				return nil
			})
			if err != nil {
				r.Fatal(err)
			}
		}
		after, err := s.Read(name)
		if err != nil {
			r.Fatal(err)
		}
		var got []cell
		for _, c := range after.Document.Cells {
			got = append(got, cell{c.ID, c.Type, c.Source})
			if string(c.Metadata) != meta[c.ID] {
				r.Errorf("cell %s has the metadata %s, want %s", c.ID, c.Metadata, meta[c.ID])
			}
			if old, _ := d.Find(c.ID); old != nil {
				a, b := bytes.Join(toBytes(old.Outputs), nil), bytes.Join(toBytes(c.Outputs), nil)
				if !bytes.Equal(a, b) || string(old.Attachments) != string(c.Attachments) {
					r.Errorf("cell %s has other outputs: %s, want %s", c.ID, b, a)
				}
			}
		}
		if !slices.Equal(got, want) {
			r.Errorf("cells are %q, want %q", got, want)
		}
		if string(after.Document.Metadata) != string(d.Metadata) {
			r.Errorf("the notebook's metadata is %s, want %s", after.Document.Metadata, d.Metadata)
		}
	})
	files, err := filepath.Glob(filepath.Join(dir, "*.ipynb"))
	if err != nil || len(files) == 0 {
		t.Fatalf("files: %v, %v", files, err)
	}
	validate(t, files...)
}

func toBytes(all []json.RawMessage) [][]byte {
	var out [][]byte
	for _, one := range all {
		out = append(out, one)
	}
	return out
}

// TestChangeMeetsOthers: a change is made again to what somebody else saved in
// the middle of it.
func TestChangeMeetsOthers(t *testing.T) {
	dir := t.TempDir()
	s := notebook.NewStore(dir)
	if _, err := s.Create(t.Context(), "a", parse(t, document(""))); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "a.ipynb")
	calls := 0
	f, err := s.Change(t.Context(), "a", "", func(d *notebook.Document) error {
		if calls++; calls == 1 {
			other := parse(t, document(`{"id": "theirs", "cell_type": "raw", "metadata": {}, "source": "x"}`))
			if err := os.WriteFile(path, encode(t, other), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, err := d.Add(notebook.Raw, "ours", nil)
		return err
	})
	if err != nil || calls != 2 || len(f.Document.Cells) != 2 || f.Document.Cells[0].ID != "theirs" {
		t.Errorf("Change called %d times = %+v, %v, want both cells", calls, f, err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("after a change there is %v, %v", left, err)
	}
	read, err := s.Read("a")
	if err != nil || read.Revision != f.Revision {
		t.Errorf("the file was read as %+v, %v, want the revision %s", read, err, f.Revision)
	}
}

// TestAfterCrash: what a process left that died while it wrote is of no
// consequence, to the notebook and to its history.
func TestAfterCrash(t *testing.T) {
	dir := t.TempDir()
	s := notebook.NewStore(dir)
	if _, err := s.Create(t.Context(), "a", parse(t, document(""))); err != nil {
		t.Fatal(err)
	}
	run := notebook.Run{ID: "1", Cell: "c", Started: time.Unix(1, 0).UTC(), Status: "running"}
	if err := s.Record(t.Context(), "a", run); err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(dir, ".soulbox", "*.runs"))
	if err != nil || len(found) != 1 {
		t.Fatalf("histories: %v, %v", found, err)
	}
	h, err := os.OpenFile(found[0], os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.WriteString("{\"run\": \"2"); err != nil {
		t.Fatal(err)
	}
	h.Close()
	run.Status = "ok"
	if err := s.Record(t.Context(), "a", run); err != nil {
		t.Fatal(err)
	}
	if runs, err := s.Runs("a"); err != nil || len(runs) != 1 || runs[0].Status != "ok" {
		t.Errorf("Runs = %+v, %v", runs, err)
	}
	var told *notebook.Error
	if _, err := s.Runs("none"); !errors.As(err, &told) || told.Status != http.StatusNotFound {
		t.Errorf("Runs of no notebook: %v", err)
	}
	for _, id := range []string{"3", "4", "5"} {
		run.ID = id
		if err := s.Record(t.Context(), "a", run); err != nil {
			t.Fatal(err)
		}
	}
	if runs, err := s.Runs("a"); err != nil || len(runs) != 4 || runs[0].ID != "5" {
		t.Errorf("Runs = %d, %v, want the newest first", len(runs), err)
	}
}
