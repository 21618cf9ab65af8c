// Package filesystem serves the files of the sandbox: E2B's
// filesystem.Filesystem service and its plain HTTP routes under /files.
//
// Everything is done as root, as E2B does: a request's user says whose home
// relative paths start at, and who owns what is created. The sandbox is the
// boundary, not its users.
//
// Uploads are written in place, not renamed into place, because programs watch
// files by name and expect a write to be a write. What fits into one buffer is
// read completely before the file is touched, so a cut-off upload leaves the
// old content; a larger one that breaks off leaves no content: a new file is
// removed again and an old one is emptied.
//
// User-defined metadata is kept in extended attributes, and in memory for files
// on file systems that have none.
package filesystem

import (
	"errors"
	"net/http"
	"os"
	"sync"
	"syscall"

	"github.com/soulbox/soulbox/agent/account"
	"github.com/soulbox/soulbox/internal/connectjson"
)

// accounts answers as whom a call acts.
type accounts interface {
	Caller(h http.Header) (*account.User, error)
	Lookup(name string) (*account.User, error)
	Names() *account.Names
	Resolve(u *account.User, path string) (string, error)
}

// Service serves files. It is safe for concurrent use.
type Service struct {
	accounts accounts
	memory   sidecar
	buffers  sync.Pool // of *[copySize]byte

	mu       sync.Mutex
	watchers map[string]*watcher // +checklocks:mu
}

// New returns a service. The caller closes it.
func New(a *account.Registry) *Service {
	return &Service{accounts: a, watchers: map[string]*watcher{}}
}

// Register puts the service's procedures and routes on mux. The routes under
// /files do not check who asks: that is up to the caller of mux.
func (s *Service) Register(mux *http.ServeMux) {
	const prefix = "/filesystem.Filesystem/"
	mux.Handle(prefix+"Stat", connectjson.Unary(s.stat))
	mux.Handle(prefix+"MakeDir", connectjson.Unary(s.makeDir))
	mux.Handle(prefix+"Move", connectjson.Unary(s.move))
	mux.Handle(prefix+"ListDir", connectjson.Unary(s.listDir))
	mux.Handle(prefix+"Remove", connectjson.Unary(s.remove))
	mux.Handle(prefix+"WatchDir", connectjson.ServerStream(s.watchDir))
	mux.Handle(prefix+"CreateWatcher", connectjson.Unary(s.createWatcher))
	mux.Handle(prefix+"GetWatcherEvents", connectjson.Unary(s.watcherEvents))
	mux.Handle(prefix+"RemoveWatcher", connectjson.Unary(s.removeWatcher))

	mux.HandleFunc("GET /files", s.download)
	mux.HandleFunc("POST /files", s.upload)
	mux.HandleFunc("POST /files/compose", s.compose)
}

// Close ends the watchers that nobody has removed.
func (s *Service) Close() {
	s.mu.Lock()
	left := s.watchers
	s.watchers = map[string]*watcher{}
	s.mu.Unlock()
	for _, w := range left {
		w.close()
	}
}

// path reads a path of a call: as whom, and where.
func (s *Service) path(h http.Header, path string) (*account.User, string, error) {
	u, err := s.accounts.Caller(h)
	if err != nil {
		return nil, "", err
	}
	path, err = s.accounts.Resolve(u, path)
	if err != nil {
		return nil, "", connectjson.Errorf(connectjson.InvalidArgument, "%v", err)
	}
	return u, path, nil
}

// failed turns an error of the file system into one of the protocol.
func failed(operation string, err error) error {
	code := connectjson.Internal
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		code = connectjson.NotFound
	case errors.Is(err, syscall.ENAMETOOLONG), errors.Is(err, syscall.EINVAL), errors.Is(err, errNotDir):
		code = connectjson.InvalidArgument
	case errors.Is(err, syscall.ELOOP):
		code = connectjson.FailedPrecondition
	case full(err):
		code = connectjson.ResourceExhausted
	}
	return connectjson.Errorf(code, "%s: %v", operation, err)
}

// full reports whether an error means that there is no room left.
func full(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
