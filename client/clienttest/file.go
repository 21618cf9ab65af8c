package clienttest

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/soulbox/soulbox/internal/connectjson"
)

func (a *agent) path(p string) string {
	if filepath.IsAbs(p) {
		return filepath.Clean(p)
	}
	return filepath.Join(a.home, p)
}

func (a *agent) download(w http.ResponseWriter, r *http.Request) {
	path := a.path(r.URL.Query().Get("path"))
	info, err := os.Stat(path) //nolint:gosec // G703: the machine is the sandbox, see the package comment
	switch {
	case err != nil:
		refuse(w, http.StatusNotFound, "path '"+path+"' does not exist")
	case info.IsDir():
		refuse(w, http.StatusBadRequest, "path '"+path+"' is a directory")
	default:
		http.ServeFile(w, r, path) //nolint:gosec // G703: as above
	}
}

func (a *agent) upload(w http.ResponseWriter, r *http.Request) {
	path := a.path(r.URL.Query().Get("path"))
	err := os.MkdirAll(filepath.Dir(path), 0o755) //nolint:gosec // G301, G703: as the real one
	if err == nil {
		err = write(path, r.Body)
	}
	if err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	answer(w, http.StatusOK, []map[string]string{{"path": path, "name": filepath.Base(path), "type": "file"}})
}

func write(path string, r io.Reader) error {
	f, err := os.Create(path) //nolint:gosec // G703: the machine is the sandbox
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

type entry struct {
	Name     string             `json:"name,omitempty"`
	Type     string             `json:"type,omitempty"`
	Path     string             `json:"path,omitempty"`
	Size     connectjson.Int64  `json:"size,omitempty"`
	Mode     connectjson.Uint32 `json:"mode,omitempty"`
	Modified time.Time          `json:"modifiedTime"`
	Link     string             `json:"symlinkTarget,omitempty"`
}

type pathRequest struct {
	Path  string             `json:"path"`
	Depth connectjson.Uint32 `json:"depth,omitempty"`
}

type entryResponse struct {
	Entry entry `json:"entry"`
}

func entryOf(path string) (entry, error) {
	info, err := os.Stat(path)
	if err != nil {
		return entry{}, codeOf(err)
	}
	e := entry{
		Name: filepath.Base(path), Type: "FILE_TYPE_FILE", Path: path, Modified: info.ModTime(),
		Size: connectjson.Int64(info.Size()), Mode: connectjson.Uint32(info.Mode().Perm()),
	}
	if info.IsDir() {
		e.Type = "FILE_TYPE_DIRECTORY"
	}
	if link, err := os.Readlink(path); err == nil {
		e.Link = link
	}
	return e, nil
}

func codeOf(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return connectjson.Errorf(connectjson.NotFound, "%v", err)
	case errors.Is(err, fs.ErrExist):
		return connectjson.Errorf(connectjson.AlreadyExists, "%v", err)
	default:
		return connectjson.Errorf(connectjson.InvalidArgument, "%v", err)
	}
}

func (a *agent) stat(_ context.Context, _ http.Header, q *pathRequest) (*entryResponse, error) {
	e, err := entryOf(a.path(q.Path))
	if err != nil {
		return nil, err
	}
	return &entryResponse{e}, nil
}

type listDirResponse struct {
	Entries []entry `json:"entries,omitempty"`
}

func (a *agent) listDir(_ context.Context, _ http.Header, q *pathRequest) (*listDirResponse, error) {
	list, err := os.ReadDir(a.path(q.Path))
	if err != nil {
		return nil, codeOf(err)
	}
	r := &listDirResponse{}
	for _, d := range list {
		if e, err := entryOf(filepath.Join(a.path(q.Path), d.Name())); err == nil {
			r.Entries = append(r.Entries, e)
		}
	}
	return r, nil
}

func (a *agent) makeDir(_ context.Context, _ http.Header, q *pathRequest) (*entryResponse, error) {
	path := a.path(q.Path)
	if _, err := os.Stat(path); err == nil {
		return nil, connectjson.Errorf(connectjson.AlreadyExists, "directory %s exists", path)
	}
	if err := os.MkdirAll(path, 0o755); err != nil { //nolint:gosec // G301: as the real one
		return nil, codeOf(err)
	}
	e, err := entryOf(path)
	if err != nil {
		return nil, err
	}
	return &entryResponse{e}, nil
}

type moveRequest struct {
	Source      string `json:"source"`
	Destination string `json:"destination"`
}

func (a *agent) move(_ context.Context, _ http.Header, q *moveRequest) (*empty, error) {
	if err := os.Rename(a.path(q.Source), a.path(q.Destination)); err != nil {
		return nil, codeOf(err)
	}
	return &empty{}, nil
}

func (a *agent) remove(_ context.Context, _ http.Header, q *pathRequest) (*empty, error) {
	if err := os.RemoveAll(a.path(q.Path)); err != nil {
		return nil, codeOf(err)
	}
	return &empty{}, nil
}
