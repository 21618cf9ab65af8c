package filesystem

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox/internal/connectjson"
)

const (
	// maxEvents bounds what a watcher keeps for a client that does not fetch.
	maxEvents = 1 << 16
	// maxWatchers bounds how many watchers there are that clients must remove.
	maxWatchers = 1024
)

// watch observes one directory, with everything below it if it is recursive.
type watch struct {
	service *Service
	notify  *fsnotify.Watcher
	req     *watchRequest
	root    string
	bounds  *bounds // nil: there are none
	// dirs are the directories observed by a recursive watch.
	dirs map[string]bool
	// found are files that were there before their directory was observed.
	// Their own event may come or not, and must not be told twice.
	found map[string]bool
}

// openWatch starts a watch. The caller closes w.notify.
func (s *Service) openWatch(h http.Header, req *watchRequest) (*watch, error) {
	_, root, err := s.path(h, req.Path)
	if err != nil {
		return nil, err
	}
	return s.watchPath(root, req, nil)
}

// watchPath starts a watch of root, with bounds or without.
func (s *Service) watchPath(root string, req *watchRequest, bounds *bounds) (*watch, error) {
	fi, err := os.Stat(root)
	if err != nil {
		return nil, failed("path "+root+" not found", err)
	}
	if !fi.IsDir() {
		return nil, connectjson.Errorf(connectjson.InvalidArgument, "path %s not a directory", root)
	}
	if !req.AllowNetworkMounts {
		network, err := onNetwork(root)
		if err != nil {
			return nil, failed("error checking mount status", err)
		}
		if network {
			return nil, connectjson.Errorf(connectjson.InvalidArgument, "cannot watch path on network filesystem: %s", root)
		}
	}
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, failed("error creating watcher", err)
	}
	w := &watch{service: s, notify: notify, req: req, root: root, bounds: bounds, dirs: map[string]bool{}, found: map[string]bool{}}
	if req.Recursive {
		err = w.observe(root, nil)
	} else {
		err = notify.Add(root)
	}
	if err != nil {
		notify.Close()
		return nil, failed("error adding path "+root+" to watcher", err)
	}
	return w, nil
}

// observe adds a directory and those below it; seen is told of everything in
// them. What has gone away meanwhile does not matter, except for root itself.
func (w *watch) observe(dir string, seen func(path string)) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			if w.bounds.skips(path) {
				return filepath.SkipDir
			}
			if w.bounds.reached(len(w.dirs)) {
				return errTooMany
			}
			if err = w.notify.Add(path); err == nil {
				w.dirs[path] = true
			}
		}
		if errors.Is(err, os.ErrNotExist) && path != w.root {
			return nil
		}
		if err == nil && seen != nil && path != dir {
			seen(path)
		}
		return err
	})
}

// run tells emit every event until ctx ends or the watch breaks.
func (w *watch) run(ctx context.Context, emit func(*fileEvent) error) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err, ok := <-w.notify.Errors:
			if !ok {
				err = fsnotify.ErrClosed
			}
			return connectjson.Errorf(connectjson.Internal, "watcher error: %v", err)
		case e, ok := <-w.notify.Events:
			if !ok {
				return connectjson.Errorf(connectjson.Internal, "watcher error: %v", fsnotify.ErrClosed)
			}
			if err := w.tell(e, emit); err != nil {
				return err
			}
		}
	}
}

// tell turns one event of the system into those of the service, in their
// order.
func (w *watch) tell(e fsnotify.Event, emit func(*fileEvent) error) error {
	if w.req.Recursive && e.Has(fsnotify.Create) && w.found[e.Name] {
		delete(w.found, e.Name)
		e.Op &^= fsnotify.Create
	}
	for _, op := range []struct {
		op   fsnotify.Op
		kind eventType
	}{
		{fsnotify.Create, eventCreate},
		{fsnotify.Rename, eventRename},
		{fsnotify.Chmod, eventChmod},
		{fsnotify.Write, eventWrite},
		{fsnotify.Remove, eventRemove},
	} {
		if e.Has(op.op) {
			if err := emit(w.event(e.Name, op.kind)); err != nil {
				return err
			}
		}
	}
	if !w.req.Recursive {
		return nil
	}
	return w.follow(e, emit)
}

// follow keeps a recursive watch complete when directories come and go.
func (w *watch) follow(e fsnotify.Event, emit func(*fileEvent) error) error {
	if e.Has(fsnotify.Rename) || e.Has(fsnotify.Remove) {
		delete(w.found, e.Name)
		w.leave(e.Name)
	}
	if !e.Has(fsnotify.Create) {
		return nil
	}
	if fi, err := os.Lstat(e.Name); err != nil || !fi.IsDir() {
		return nil //nolint:nilerr // what is gone again needs no watch
	}
	var paths []string
	err := w.observe(e.Name, func(path string) { paths = append(paths, path) })
	if err != nil && !errors.Is(err, errTooMany) { // those that there is no room for are left out
		return failed("error adding path "+e.Name+" to watcher", err)
	}
	for _, path := range paths {
		if len(w.found) < maxEvents {
			w.found[path] = true
		}
		if err := emit(w.event(path, eventCreate)); err != nil {
			return err
		}
	}
	return nil
}

// leave forgets a directory that is not at its path any more, which the
// system would go on to report under its old name.
func (w *watch) leave(dir string) {
	if !w.dirs[dir] {
		return
	}
	for path := range w.dirs {
		if path == dir || strings.HasPrefix(path, dir+"/") {
			delete(w.dirs, path)
			_ = w.notify.Remove(path) // a deleted directory has removed itself
		}
	}
}

// event describes what happened at path. Only events after which something is
// there carry its entry; if it cannot be had, they come without.
func (w *watch) event(path string, kind eventType) *fileEvent {
	name := strings.TrimPrefix(strings.TrimPrefix(path, w.root), "/")
	if name == "" {
		name = "."
	}
	e := &fileEvent{Name: name, Type: kind}
	if w.req.IncludeEntry && kind != eventRemove && kind != eventRename {
		if entry, err := w.service.entry(path, w.service.accounts.Names()); err == nil {
			e.Entry = entry
		}
	}
	return e
}

// onNetwork reports whether path lies on a file system whose changes may
// happen elsewhere, unseen by this kernel.
func onNetwork(path string) (bool, error) {
	const smb2Magic = 0xFE534D42
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return false, err
	}
	switch st.Type {
	case unix.NFS_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, smb2Magic, unix.FUSE_SUPER_MAGIC:
		return true, nil
	default:
		return false, nil
	}
}

// watchDir serves WatchDir: it streams events until the caller leaves.
func (s *Service) watchDir(ctx context.Context, h http.Header, req *watchRequest, out *connectjson.Sender[watchResponse]) error {
	w, err := s.openWatch(h, req)
	if err != nil {
		return err
	}
	defer w.notify.Close()
	if err := out.Send(&watchResponse{Start: &empty{}}); err != nil {
		return err
	}
	// Events and signs of life leave through one door, as a sender serves one
	// goroutine only.
	ctx, cancel := context.WithCancel(ctx)
	events := make(chan *fileEvent)
	broken := make(chan error, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		broken <- w.run(ctx, func(e *fileEvent) error {
			select {
			case events <- e:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	alive := time.NewTicker(keepalive(h))
	defer alive.Stop()
	for {
		m := &watchResponse{}
		select {
		case m.Filesystem = <-events:
			alive.Reset(keepalive(h))
		case <-alive.C:
			m.Keepalive = &empty{}
		case err := <-broken:
			return err
		}
		if err := out.Send(m); err != nil {
			return err
		}
	}
}

// keepalive returns how often a silent stream shows that it is alive.
func keepalive(h http.Header) time.Duration {
	const standard, longest = 90, 24 * 60 * 60
	n, err := strconv.Atoi(h.Get("Keepalive-Ping-Interval"))
	if err != nil || n <= 0 || n > longest {
		n = standard
	}
	return time.Duration(n) * time.Second
}

// watcher is a watch whose events a client fetches.
type watcher struct {
	watch *watch
	stop  context.CancelFunc
	done  chan struct{} // closed when its goroutine has ended

	mu     sync.Mutex
	events []*fileEvent // +checklocks:mu
	err    error        // +checklocks:mu
}

// close ends the watcher.
func (w *watcher) close() {
	w.stop()
	<-w.done
}

// createWatcher serves CreateWatcher.
func (s *Service) createWatcher(_ context.Context, h http.Header, req *watchRequest) (*watcherID, error) {
	started, err := s.openWatch(h, req)
	if err != nil {
		return nil, err
	}
	// The watcher outlives the call that makes it; RemoveWatcher or Close ends
	// it.
	ctx, cancel := context.WithCancel(context.Background())
	w := &watcher{watch: started, stop: cancel, done: make(chan struct{})}
	id := "w" + strings.ToLower(rand.Text())
	s.mu.Lock()
	if len(s.watchers) >= maxWatchers {
		s.mu.Unlock()
		cancel()
		started.notify.Close()
		return nil, connectjson.Errorf(connectjson.ResourceExhausted, "there are already %d watchers; remove some", maxWatchers)
	}
	s.watchers[id] = w
	s.mu.Unlock()
	go w.run(ctx)
	return &watcherID{WatcherID: id}, nil
}

// run collects events until the watcher is closed or breaks.
func (w *watcher) run(ctx context.Context) {
	defer close(w.done)
	defer w.watch.notify.Close()
	err := w.watch.run(ctx, func(e *fileEvent) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.events) == maxEvents {
			return connectjson.Errorf(connectjson.ResourceExhausted, "more than %d events were not fetched", maxEvents)
		}
		w.events = append(w.events, e)
		return nil
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err, w.events = err, nil
}

// watcherEvents serves GetWatcherEvents: the events since the last call.
func (s *Service) watcherEvents(_ context.Context, _ http.Header, req *watcherID) (*watcherEvents, error) {
	s.mu.Lock()
	w, ok := s.watchers[req.WatcherID]
	s.mu.Unlock()
	if !ok {
		return nil, connectjson.Errorf(connectjson.NotFound, "watcher with id %s not found", req.WatcherID)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return nil, w.err
	}
	events := w.events
	w.events = nil
	return &watcherEvents{Events: events}, nil
}

// removeWatcher serves RemoveWatcher.
func (s *Service) removeWatcher(_ context.Context, _ http.Header, req *watcherID) (*empty, error) {
	s.mu.Lock()
	w, ok := s.watchers[req.WatcherID]
	delete(s.watchers, req.WatcherID)
	s.mu.Unlock()
	if !ok {
		return nil, connectjson.Errorf(connectjson.NotFound, "watcher with id %s not found", req.WatcherID)
	}
	w.close()
	return &empty{}, nil
}
