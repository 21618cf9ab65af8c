package interpreter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/soulbox/soulbox/kit/interpreter/download"
	"github.com/soulbox/soulbox/kit/interpreter/environment"
	"github.com/soulbox/soulbox/kit/interpreter/jupyter"
)

const (
	maxDatasets    = 16
	maxDatasetPath = 4 << 10
	maxOptions     = 1 << 20 // bytes of the options of a dataset
)

// dataset is one that is asked for: a file, or what is behind a URL.
type dataset struct {
	Name    string          `json:"name,omitempty"`
	Path    string          `json:"path,omitempty"`
	URL     string          `json:"url,omitempty"`
	Format  string          `json:"format,omitempty"`
	Options json.RawMessage `json:"options,omitempty"`
}

// check says what is wrong with a dataset. What is wrong with its name, format and
// options is soulbox_data's to say.
func (d *dataset) check() error {
	bad := func(format string, args ...any) error {
		return refused(http.StatusBadRequest, "dataset %s: %s", shown(d.Name), fmt.Sprintf(format, args...))
	}
	switch {
	case (d.Path == "") == (d.URL == ""):
		return bad("it must have one of path and url")
	case len(d.Path) > maxDatasetPath || strings.ContainsRune(d.Path, 0):
		return bad("path must have at most %d bytes, none of them NUL", maxDatasetPath)
	case len(d.Options) > maxOptions:
		return bad("options must have at most %d bytes", maxOptions)
	}
	if d.URL != "" {
		if _, err := download.Check(d.URL); err != nil {
			return bad("%v", err)
		}
	}
	return nil
}

// shown is a text of a client's, for a message.
func shown(s string) string {
	const most = 100
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return fmt.Sprintf("%q", s)
}

// local returns datasets that are all files, after it has downloaded what is not.
// What forget removes are the files that it has downloaded.
func (s *science) local(ctx context.Context, all []dataset) (_ []dataset, forget func(), err error) {
	dir := ""
	sweep := func() {
		if dir != "" {
			_ = os.RemoveAll(dir) // what is left of a cache does no harm
		}
	}
	defer func() {
		if err != nil {
			sweep()
		}
	}()
	files := make([]dataset, len(all))
	for i, d := range all {
		if d.URL == "" {
			if !filepath.IsAbs(d.Path) {
				d.Path = filepath.Join(s.in.options.Dir, d.Path)
			}
			files[i] = d
			continue
		}
		if dir == "" {
			if dir, err = s.downloads(); err != nil {
				return nil, nil, err
			}
		}
		at := filepath.Join(dir, strconv.Itoa(i))
		if err := environment.MakeDir(at); err != nil {
			return nil, nil, err
		}
		u, err := download.Check(d.URL)
		if err != nil {
			return nil, nil, err
		}
		d.Path = filepath.Join(at, download.Name(u))
		if err := s.client.Fetch(ctx, d.URL, d.Path); err != nil {
			if errors.Is(err, context.DeadlineExceeded) {
				err = refused(http.StatusBadRequest, "dataset %s could not be downloaded in the time that there was", shown(d.Name))
			}
			return nil, nil, err
		}
		d.URL = ""
		files[i] = d
	}
	return files, sweep, nil
}

// downloads returns a new folder for what is downloaded. Of the old ones, which
// programs that were returned with pictures read, the last ones stay.
func (s *science) downloads() (string, error) {
	const most = 50
	cache := filepath.Join(s.in.options.Dir, ".cache/soulbox/downloads")
	entries, err := os.ReadDir(cache)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if len(entries) >= most {
		// Their names are the times at which they were made.
		for _, e := range entries[:len(entries)-most+1] {
			if err := os.RemoveAll(filepath.Join(cache, e.Name())); err != nil {
				return "", err
			}
		}
	}
	dir := filepath.Join(cache, time.Now().UTC().Format("20060102-150405.000000")+"-"+jupyter.NewID()[:8])
	return dir, environment.MakeDir(dir)
}

// names checks the names of several datasets.
func names(all []dataset) error {
	if len(all) > maxDatasets {
		return refused(http.StatusBadRequest, "at most %d datasets can be analyzed at once", maxDatasets)
	}
	seen := map[string]bool{}
	for _, d := range all {
		if d.Name == "" {
			return refused(http.StatusBadRequest, "each dataset must have a name, which is that of its variable")
		}
		if seen[d.Name] {
			return refused(http.StatusBadRequest, "two datasets are called %s", shown(d.Name))
		}
		seen[d.Name] = true
		if err := d.check(); err != nil {
			return err
		}
	}
	return nil
}
