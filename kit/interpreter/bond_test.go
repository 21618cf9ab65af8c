package interpreter_test

import (
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/soulbox/soulbox/kit/interpreter"
)

// TestBonds: a notebook has one context, whoever asks, until that is removed.
func TestBonds(t *testing.T) {
	var dir string
	s := start(t, func(o *interpreter.Options) { dir = o.Dir })
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if id := s.NotebookContext("sub/a.ipynb"); id != "" {
		t.Errorf("NotebookContext = %q before anybody asked for one", id)
	}
	var ids [3]string
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			id, err := s.OpenNotebook(t.Context(), "sub/a.ipynb", "Python")
			if err != nil {
				t.Errorf("OpenNotebook: %v", err)
			}
			ids[i] = id
		})
	}
	wg.Wait()
	if ids[0] == "" || ids[1] != ids[0] || ids[2] != ids[0] {
		t.Fatalf("OpenNotebook at the same time = %q, want one id", ids)
	}
	if got := s.execute(t, request{"code": "import os; os.getcwd()", "context_id": ids[0]}); !strings.HasSuffix(got.text(), "/sub") {
		t.Errorf("the context runs in %q, want the notebook's folder", got.text())
	}
	if !s.BindNotebook("b.ipynb", ids[0]) || s.BindNotebook("c.ipynb", "none") {
		t.Error("BindNotebook does not say whether there is the context")
	}
	want := map[string]string{"sub/a.ipynb": ids[0], "b.ipynb": ids[0]}
	if got := s.NotebookContexts(); !maps.Equal(got, want) {
		t.Errorf("NotebookContexts = %v, want %v", got, want)
	}
	if !s.BindNotebook("./b.ipynb", "") || s.NotebookContext("b.ipynb") != "" {
		t.Error("BindNotebook without an id leaves the context")
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, s.url+"/contexts/"+ids[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got := s.NotebookContexts(); len(got) > 0 {
		t.Errorf("NotebookContexts = %v after the context was removed", got)
	}
	if _, err := s.OpenNotebook(t.Context(), "sub/a.ipynb", "cobol"); err == nil {
		t.Error("OpenNotebook of a language without a kernel has no error")
	}
}
