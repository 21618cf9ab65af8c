package filesystem

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/soulbox/soulbox/internal/connectjson"
)

// maxEntries bounds one listing, which is built in memory.
const maxEntries = 1 << 18

func (s *Service) stat(_ context.Context, h http.Header, req *pathRequest) (*entryResponse, error) {
	_, path, err := s.path(h, req.Path)
	if err != nil {
		return nil, err
	}
	return s.respond(path)
}

// respond answers with the entry at path.
func (s *Service) respond(path string) (*entryResponse, error) {
	e, err := s.entry(path, s.accounts.Names())
	if errors.Is(err, os.ErrNotExist) {
		return nil, connectjson.Errorf(connectjson.NotFound, "file not found: %v", err)
	}
	if err != nil {
		return nil, failed("error getting file info", err)
	}
	return &entryResponse{Entry: e}, nil
}

func (s *Service) makeDir(_ context.Context, h http.Header, req *pathRequest) (*entryResponse, error) {
	u, path, err := s.path(h, req.Path)
	if err != nil {
		return nil, err
	}
	switch fi, err := os.Stat(path); {
	case err == nil && fi.IsDir():
		return nil, connectjson.Errorf(connectjson.AlreadyExists, "directory already exists: %s", path)
	case err == nil:
		return nil, connectjson.Errorf(connectjson.InvalidArgument, "path already exists but it is not a directory: %s", path)
	}
	if err := makeDirs(path, u); err != nil {
		return nil, failed("error making directory", err)
	}
	return s.respond(path)
}

func (s *Service) move(_ context.Context, h http.Header, req *moveRequest) (*entryResponse, error) {
	u, source, err := s.path(h, req.Source)
	if err != nil {
		return nil, err
	}
	_, destination, err := s.path(h, req.Destination)
	if err != nil {
		return nil, err
	}
	// First, so that a mistake does not leave new directories behind.
	if _, err := os.Lstat(source); err != nil {
		return nil, failed("source file not found", err)
	}
	if err := makeDirs(filepath.Dir(destination), u); err != nil {
		return nil, failed("error making directory", err)
	}
	if err := os.Rename(source, destination); err != nil {
		return nil, failed("error renaming", err)
	}
	return s.respond(destination)
}

func (s *Service) remove(_ context.Context, h http.Header, req *pathRequest) (*empty, error) {
	_, path, err := s.path(h, req.Path)
	if err != nil {
		return nil, err
	}
	if path == "/" {
		return nil, connectjson.Errorf(connectjson.InvalidArgument, "the root directory cannot be removed")
	}
	if err := os.RemoveAll(path); err != nil && !errors.Is(err, syscall.ENOTDIR) {
		return nil, failed("error removing file or directory", err)
	}
	return &empty{}, nil
}

func (s *Service) listDir(ctx context.Context, h http.Header, req *listDirRequest) (*listDirResponse, error) {
	_, path, err := s.path(h, req.Path)
	if err != nil {
		return nil, err
	}
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		if strings.Contains(err.Error(), "too many links") {
			return nil, connectjson.Errorf(connectjson.FailedPrecondition, "cyclic symlink or chain >255 links at %q", path)
		}
		return nil, failed("path not found", err)
	}
	fi, err := os.Stat(target)
	if err != nil {
		return nil, failed("directory not found", err)
	}
	if !fi.IsDir() {
		return nil, connectjson.Errorf(connectjson.InvalidArgument, "path is not a directory: %s", target)
	}
	entries, err := s.walk(ctx, path, target, max(1, int(req.Depth)))
	if err != nil {
		return nil, err
	}
	return &listDirResponse{Entries: entries}, nil
}

// walk lists root down to depth without following links. The entries' paths
// begin with base, the way by which the caller came to root.
func (s *Service) walk(ctx context.Context, base, root string, depth int) ([]*entryInfo, error) {
	names := s.accounts.Names()
	var entries []*entryInfo
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if path != root && errors.Is(err, os.ErrNotExist) {
				return nil // it went away meanwhile
			}
			return err
		}
		if path == root {
			return nil
		}
		if len(entries) == maxEntries {
			return connectjson.Errorf(connectjson.ResourceExhausted, "more than %d entries in %s; list with a smaller depth", maxEntries, base)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		rel := strings.TrimPrefix(strings.TrimPrefix(path, root), "/")
		e, err := s.entry(path, names)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		e.Path = filepath.Join(base, rel)
		entries = append(entries, e)
		if d.IsDir() && strings.Count(rel, "/")+1 == depth {
			return filepath.SkipDir
		}
		return nil
	})
	var e *connectjson.Error
	switch {
	case err == nil:
		return entries, nil
	case errors.As(err, &e), ctx.Err() != nil:
		return nil, err
	default:
		return nil, failed("error reading directory "+base, err)
	}
}
