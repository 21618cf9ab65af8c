// Package process runs programs in the sandbox and serves E2B's process.Process
// service over them.
//
// # The life of a process
//
// Start forks it, under the user, directory and environment that the call asks
// for. Two pumps (one for a PTY) read its output and hand each chunk to every
// caller that listens; with no listener they keep reading and drop, so a
// process never hangs because nobody looks, and a slow listener slows it down
// as a slow terminal would. The process is over when its output is at its end
// and it has been reaped: a grandchild that holds the pipe open keeps the
// stream open too. Only a signal sent through us, or its deadline, cuts this
// short: then the end of the process itself is enough.
//
// How a process ended is kept for half a minute, for callers that connect late.
//
// # Reaping
//
// All waiting happens in one place (reap.go). No process id is signalled after
// it may have been given to another process.
//
// # Goroutines
//
// Per process: its pumps, which end with the output. Per service: the reaper,
// which Close ends.
package process

import (
	"context"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/soulbox/soulbox/agent/account"
	"github.com/soulbox/soulbox/agent/journal"
	"github.com/soulbox/soulbox/agent/record"
	"github.com/soulbox/soulbox/internal/connectjson"
)

const (
	// retention is how long the end of a process is remembered.
	retention = 30 * time.Second
	// maxRetained bounds how many ends are remembered.
	maxRetained = 4096
)

// accounts answers as whom a call acts.
type accounts interface {
	Caller(h http.Header) (*account.User, error)
	Resolve(u *account.User, path string) (string, error)
	Envs() map[string]string
}

// Options is what a service needs.
type Options struct {
	Accounts *account.Registry
	Journal  *journal.Journal
	Record   *record.Recorder // nil: there is none
	// Path is the PATH of processes whose environment has none.
	Path string
	// Adopt makes the service reap every child of this program, also those it
	// did not start: pid 1 must, a program with children of its own must not.
	Adopt bool
	// OOMScoreAdj is what processes get, so that the kernel kills them before
	// the agent; 0 leaves it alone.
	OOMScoreAdj int
}

// Service runs processes. It is safe for concurrent use.
type Service struct {
	accounts accounts
	journal  *journal.Journal
	record   *record.Recorder
	path     string
	reaper   *reaper
	devNull  func() (*os.File, error)
	chunks   sync.Pool // of *chunk

	mu    sync.Mutex
	procs map[uint32]*process // +checklocks:mu — by pid, until the end event is made
	ended []*process          // +checklocks:mu — oldest first
}

// New starts a service. The caller closes it.
func New(o Options) *Service {
	if o.Record == nil {
		o.Record = record.New(record.Options{}) // which stays off
	}
	return &Service{
		accounts: o.Accounts,
		journal:  o.Journal,
		record:   o.Record,
		path:     o.Path,
		reaper:   newReaper(o.Adopt, o.OOMScoreAdj),
		devNull:  sync.OnceValues(func() (*os.File, error) { return os.OpenFile(os.DevNull, os.O_RDWR, 0) }),
		procs:    map[uint32]*process{},
	}
}

// Register puts the service's procedures on mux.
func (s *Service) Register(mux *http.ServeMux) {
	const prefix = "/process.Process/"
	mux.Handle(prefix+"List", connectjson.Unary(s.list))
	mux.Handle(prefix+"Connect", connectjson.ServerStream(s.connect))
	mux.Handle(prefix+"Start", connectjson.ServerStream(s.start))
	mux.Handle(prefix+"Update", connectjson.Unary(s.update))
	mux.Handle(prefix+"StreamInput", connectjson.ClientStream(s.streamInput))
	mux.Handle(prefix+"SendInput", connectjson.Unary(s.sendInput))
	mux.Handle(prefix+"SendSignal", connectjson.Unary(s.sendSignal))
	mux.Handle(prefix+"CloseStdin", connectjson.Unary(s.closeStdin))
}

// Close kills what still runs and waits until all of it is reaped.
func (s *Service) Close() {
	s.mu.Lock()
	left := make([]*process, 0, len(s.procs))
	for _, p := range s.procs {
		left = append(left, p)
	}
	s.mu.Unlock()
	for _, p := range left {
		p.kill()
	}
	for _, p := range left {
		<-p.hub.over
	}
	s.reaper.close()
	if f, err := s.devNull(); err == nil {
		f.Close()
	}
}

// list returns the processes that run.
func (s *Service) list(context.Context, http.Header, *empty) (*listResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resp := &listResponse{Processes: make([]info, 0, len(s.procs))}
	for pid, p := range s.procs {
		resp.Processes = append(resp.Processes, info{Config: p.config, PID: connectjson.Uint32(pid), Tag: p.tag})
	}
	return resp, nil
}

// add makes a started process known. What is remembered of an earlier one with
// the same pid or tag would now answer for the wrong process.
func (s *Service) add(p *process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetLocked(time.Now(), func(old *process) bool {
		return old.pid == p.pid || old.tag != nil && p.tag != nil && *old.tag == *p.tag
	})
	s.procs[p.pid] = p
}

// retire moves a process from those that run to those that are remembered.
func (s *Service) retire(p *process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.procs[p.pid] != p {
		return // its pid already belongs to a newer process
	}
	delete(s.procs, p.pid)
	s.forgetLocked(time.Now(), nil)
	if len(s.ended) == maxRetained {
		s.ended = s.ended[1:]
	}
	s.ended = append(s.ended, p)
}

// forgetLocked drops remembered processes that are too old, or that match.
//
// +checklocks:s.mu
func (s *Service) forgetLocked(now time.Time, match func(*process) bool) {
	kept := s.ended[:0]
	for _, p := range s.ended {
		if now.Sub(p.endedAt) < retention && (match == nil || !match(p)) {
			kept = append(kept, p)
		}
	}
	clear(s.ended[len(kept):])
	s.ended = kept
}

// find returns the process that a call means. With late, one that ended a
// moment ago is found as well.
func (s *Service) find(sel *selector, late bool) (*process, error) {
	if sel == nil || (sel.PID == nil) == (sel.Tag == nil) {
		return nil, connectjson.Errorf(connectjson.InvalidArgument, "a process is selected by either pid or tag")
	}
	match := func(p *process) bool { return p.tag != nil && *p.tag == *sel.Tag }
	if sel.PID != nil {
		match = func(p *process) bool { return p.pid == uint32(*sel.PID) }
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if sel.PID != nil {
		if p, ok := s.procs[uint32(*sel.PID)]; ok {
			return p, nil
		}
	} else {
		for _, p := range s.procs {
			if match(p) {
				return p, nil
			}
		}
	}
	if late {
		s.forgetLocked(time.Now(), nil)
		for _, p := range s.ended {
			if match(p) {
				return p, nil
			}
		}
	}
	if sel.PID != nil {
		return nil, connectjson.Errorf(connectjson.NotFound, "process with pid %d not found", *sel.PID)
	}
	return nil, connectjson.Errorf(connectjson.NotFound, "process with tag %s not found", *sel.Tag)
}
