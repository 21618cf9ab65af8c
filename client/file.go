package client

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/connectjson"
)

// An Entry is a file or folder in a sandbox.
type Entry struct {
	Name     string
	Path     string
	Dir      bool
	Size     soulbox.Bytes
	Mode     uint32 // permission bits
	Owner    string
	Group    string
	Modified time.Time
	Link     string // where a symbolic link leads; empty if it is none
}

// ReadFile copies a file out of the sandbox and returns its size. A path that
// is not absolute starts in the user's home.
func (s *Sandbox) ReadFile(ctx context.Context, path string, w io.Writer) (int64, error) {
	resp, err := s.files(ctx, http.MethodGet, path, nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	n, err := io.Copy(w, resp.Body)
	if ctx.Err() != nil {
		return n, contextError(ctx, s.c.data)
	}
	return n, err
}

// WriteFile makes a file of what r has, in place of any that is there, with
// the folders above it. If r fails half way, so does WriteFile.
func (s *Sandbox) WriteFile(ctx context.Context, path string, r io.Reader) error {
	resp, err := s.files(ctx, http.MethodPost, path, r)
	if err != nil {
		return err
	}
	discard(resp)
	return nil
}

// files sends a request for the contents of a file.
func (s *Sandbox) files(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	query := url.Values{"path": {path}}
	if s.user != "" {
		query.Set("username", s.user)
	}
	req, err := http.NewRequestWithContext(ctx, method, s.c.data+"/files?"+query.Encode(), body)
	if err != nil {
		return nil, soulbox.Errorf(soulbox.Invalid, "%s of %q: %w", method, path, err)
	}
	req.Header = s.header()
	if body != nil {
		req.Header.Set("Content-Type", "application/octet-stream")
	}
	resp, err := s.c.do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= http.StatusBadRequest {
		defer resp.Body.Close()
		return nil, s.explain(ctx, answerError(resp))
	}
	return resp, nil
}

// Stat tells about a file or folder; one that is not there is NotFound.
func (s *Sandbox) Stat(ctx context.Context, path string) (*Entry, error) {
	r, err := rpc[entryResponse](ctx, s, "/filesystem.Filesystem/Stat", &pathRequest{Path: path})
	if err != nil {
		return nil, err
	}
	return r.Entry.entry(), nil
}

// List returns what is in a folder.
func (s *Sandbox) List(ctx context.Context, path string) ([]*Entry, error) {
	r, err := rpc[listDirResponse](ctx, s, "/filesystem.Filesystem/ListDir", &listDirRequest{Path: path, Depth: 1})
	if err != nil {
		return nil, err
	}
	entries := make([]*Entry, 0, len(r.Entries))
	for _, e := range r.Entries {
		entries = append(entries, e.entry())
	}
	return entries, nil
}

// MakeDir makes a folder and those above it; one that is there is a Conflict.
func (s *Sandbox) MakeDir(ctx context.Context, path string) error {
	_, err := rpc[struct{}](ctx, s, "/filesystem.Filesystem/MakeDir", &pathRequest{Path: path})
	return err
}

// Rename moves a file or folder within the sandbox.
func (s *Sandbox) Rename(ctx context.Context, from, to string) error {
	_, err := rpc[struct{}](ctx, s, "/filesystem.Filesystem/Move", &moveRequest{Source: from, Destination: to})
	return err
}

// Remove removes a file, or a folder and everything in it. One that is not
// there is no error.
func (s *Sandbox) Remove(ctx context.Context, path string) error {
	_, err := rpc[struct{}](ctx, s, "/filesystem.Filesystem/Remove", &pathRequest{Path: path})
	return err
}

type pathRequest struct {
	Path string `json:"path"`
}

type listDirRequest struct {
	Path  string             `json:"path"`
	Depth connectjson.Uint32 `json:"depth,omitempty"`
}

type moveRequest struct {
	Source      string `json:"source"`
	Destination string `json:"destination"`
}

type entryResponse struct {
	Entry entryWire `json:"entry"`
}

type listDirResponse struct {
	Entries []entryWire `json:"entries,omitempty"`
}

// entryWire is an entry as the agent spells it.
type entryWire struct {
	Name     string             `json:"name,omitempty"`
	Type     string             `json:"type,omitempty"`
	Path     string             `json:"path,omitempty"`
	Size     connectjson.Int64  `json:"size,omitempty"`
	Mode     connectjson.Uint32 `json:"mode,omitempty"`
	Owner    string             `json:"owner,omitempty"`
	Group    string             `json:"group,omitempty"`
	Modified time.Time          `json:"modifiedTime"`
	Link     string             `json:"symlinkTarget,omitempty"`
}

func (w entryWire) entry() *Entry {
	return &Entry{
		Name:     w.Name,
		Path:     w.Path,
		Dir:      w.Type == "FILE_TYPE_DIRECTORY",
		Size:     soulbox.Bytes(w.Size),
		Mode:     uint32(w.Mode),
		Owner:    w.Owner,
		Group:    w.Group,
		Modified: w.Modified,
		Link:     w.Link,
	}
}
