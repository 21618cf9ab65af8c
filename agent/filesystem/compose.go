package filesystem

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"

	"github.com/soulbox/soulbox/agent/account"
)

const (
	maxCompose        = 1 << 20 // bytes of a compose request
	maxComposeSources = 10_000
)

// composeRequest asks to join files.
type composeRequest struct {
	SourcePaths []string `json:"source_paths"`
	Destination string   `json:"destination"`
	Username    *string  `json:"username"`
}

// compose serves POST /files/compose: it joins files into one and removes
// them.
func (s *Service) compose(w http.ResponseWriter, r *http.Request) {
	var req composeRequest
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxCompose)).Decode(&req)
	if err != nil {
		writeError(w, statusErrorf(http.StatusBadRequest, "invalid request body: %w", err))
		return
	}
	path, err := s.join(&req)
	if err != nil {
		writeError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(uploaded{Name: filepath.Base(path), Path: path, Type: "file"}) // the client has gone if this fails
}

func (s *Service) join(req *composeRequest) (string, error) {
	switch {
	case len(req.SourcePaths) == 0:
		return "", statusErrorf(http.StatusBadRequest, "source_paths must not be empty")
	case len(req.SourcePaths) > maxComposeSources:
		return "", statusErrorf(http.StatusBadRequest, "source_paths must not be more than %d", maxComposeSources)
	case req.Destination == "":
		return "", statusErrorf(http.StatusBadRequest, "destination is required")
	}
	var name string
	if req.Username != nil {
		name = *req.Username
	}
	u, err := s.user(name)
	if err != nil {
		return "", err
	}
	destination, err := s.accounts.Resolve(u, req.Destination)
	if err != nil {
		return "", statusErrorf(http.StatusBadRequest, "error resolving destination path: %w", err)
	}
	sources := make([]string, len(req.SourcePaths))
	for i, source := range req.SourcePaths {
		if sources[i], err = s.source(u, source, destination); err != nil {
			return "", err
		}
	}
	if fi, err := os.Stat(destination); err == nil && fi.IsDir() {
		return "", statusErrorf(http.StatusBadRequest, "path is a directory: %s", destination)
	}
	if err := makeDirs(filepath.Dir(destination), u); err != nil {
		if errors.Is(err, errNotDir) {
			return "", &statusError{http.StatusBadRequest, err}
		}
		return "", fmt.Errorf("error ensuring directories: %w", err)
	}
	if err := concatenate(sources, destination, u); err != nil {
		return "", err
	}
	for _, source := range sources {
		os.Remove(source)
	}
	return destination, nil
}

// source checks one of the files to join.
func (s *Service) source(u *account.User, source, destination string) (string, error) {
	path, err := s.accounts.Resolve(u, source)
	if err != nil {
		return "", statusErrorf(http.StatusBadRequest, "error resolving source path %q: %w", source, err)
	}
	if path == destination {
		return "", statusErrorf(http.StatusBadRequest, "source path %q cannot be the same as destination", source)
	}
	switch fi, err := os.Stat(path); {
	case err != nil:
		return "", statusErrorf(http.StatusNotFound, "source file not found: %s", source)
	case !fi.Mode().IsRegular():
		return "", statusErrorf(http.StatusBadRequest, "source path is not a regular file: %s", source)
	}
	return path, nil
}

// concatenate makes destination of sources, or leaves it as it was. The kernel
// moves the content where it can.
func concatenate(sources []string, destination string, u *account.User) (err error) {
	temp := filepath.Join(filepath.Dir(destination), ".compose-"+rand.Text())
	const mode = 0o666 // less the umask
	out, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("error creating destination file: %w", err)
	}
	defer func() {
		if err != nil {
			out.Close()
			os.Remove(temp)
		}
	}()
	if err := out.Chown(int(u.UID), int(u.GID)); err != nil {
		return fmt.Errorf("error changing file ownership: %w", err)
	}
	for _, source := range sources {
		if err := appendFile(out, source); err != nil {
			return fmt.Errorf("error composing source %s: %w", source, err)
		}
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("error closing destination file: %w", err)
	}
	if err := os.Rename(temp, destination); err != nil {
		return fmt.Errorf("error finalizing compose: %w", err)
	}
	return nil
}

func appendFile(out *os.File, path string) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	_, err = io.Copy(out, in)
	return err
}
