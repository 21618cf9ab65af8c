package jupyter

import (
	"encoding/json"
	"io"
	"sync"
	"syscall"
	"time"
)

const (
	// maxWaiting is how much of a run's output waits to be received before the
	// kernel is stopped. One message of any size comes on top.
	maxWaiting = 4 << 20
	// idleTime is how long a run waits for the end of its output once it has its
	// reply. A kernel that floods its socket loses messages, that one too.
	idleTime = 3 * time.Second
	// lateTime is how long a kernel that is not Python's must be silent at the end
	// of a run: Deno's says that it is idle and then, now and then, what the result
	// was.
	lateTime = 20 * time.Millisecond
	// overhead is what a message weighs beside its content.
	overhead = 256
)

func (m *Message) size() int { return len(m.Content) + len(m.Text) + overhead }

// Request is code to run.
type Request struct {
	Code         string
	Silent       bool // no output, no history, not counted
	StoreHistory bool // it is counted and remembered
}

// A Run is a request that a kernel works on. Its messages are received in order
// with Next, by one goroutine.
type Run struct {
	k       *Kernel
	id      string
	changed chan struct{} // of one: there may be something for Next
	room    chan struct{} // of one: put may go on

	mu      sync.Mutex
	waiting []*Message      // +checklocks:mu
	size    int             // +checklocks:mu — bytes that wait
	reply   json.RawMessage // +checklocks:mu
	last    time.Time       // +checklocks:mu — when there was a sign of life
	idle    bool            // +checklocks:mu
	full    bool            // +checklocks:mu — put waits for room
	dropped bool            // +checklocks:mu — nobody wants the rest
}

// Start sends code to the kernel. One that is busy with another run gets to it
// later. The caller closes the run.
func (k *Kernel) Start(req Request) (*Run, error) {
	return k.ask("execute_request", map[string]any{
		"code": req.Code, "silent": req.Silent, "store_history": req.StoreHistory && !req.Silent,
		"user_expressions": struct{}{}, "allow_stdin": false,
		// A kernel may refuse what comes soon after an error, and is asked for one
		// thing at a time here.
		"stop_on_error": false,
	})
}

func (k *Kernel) ask(kind string, content any) (*Run, error) {
	id, frames, err := compose(k.key, k.session, kind, content)
	if err != nil {
		return nil, err
	}
	r := &Run{k: k, id: id, changed: make(chan struct{}, 1), room: make(chan struct{}, 1)}
	k.mu.Lock()
	k.runs[id] = r
	k.mu.Unlock()
	if err := k.shell.Send(frames...); err != nil {
		r.Close()
		k.Kill() // it may live, and take nothing
		return nil, k.ended()
	}
	return r, nil
}

// put takes a message, and makes the kernel wait when there are too many.
func (r *Run) put(m *Message) {
	wait := false
	r.mu.Lock()
	r.last = time.Now()
	switch m.Type {
	case "execute_reply", "kernel_info_reply":
		r.reply = m.Content
		if r.reply == nil {
			r.reply = json.RawMessage("{}")
		}
	case "status":
		r.idle = r.idle || stateOf(m) == "idle"
	default:
		if !r.dropped {
			r.waiting = append(r.waiting, m)
			r.size += m.size()
			r.full = r.size > maxWaiting
			wait = r.full
		}
	}
	late := r.idle && !r.dropped && !r.k.spec.python()
	r.mu.Unlock()
	wake(r.changed)
	if late {
		time.AfterFunc(lateTime, func() { wake(r.changed) })
	}
	if !wait {
		return
	}
	r.k.signal(syscall.SIGSTOP, false)
	for wait {
		select {
		case <-r.room:
		case <-r.k.done:
			return
		}
		r.mu.Lock()
		wait = r.size > maxWaiting/2 && !r.dropped
		r.full = wait
		r.last = time.Now()
		r.mu.Unlock()
	}
	r.k.signal(syscall.SIGCONT, false)
	wake(r.changed)
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Changed tells when Next may have something else to say. While it has not, Next
// should be called now and then, too.
func (r *Run) Changed() <-chan struct{} { return r.changed }

// Next returns the next message, or nil while there is none. The error is io.EOF
// after the last one, and ErrEnded when the kernel ends before.
func (r *Run) Next() (*Message, error) {
	select {
	case <-r.k.done:
		if m := r.take(); m != nil {
			return m, nil
		}
		return nil, ErrEnded
	default:
	}
	if m := r.take(); m != nil {
		return m, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.reply == nil || len(r.waiting) > 0 || r.full:
	case r.idle && (r.dropped || r.k.spec.python() || time.Since(r.last) >= lateTime), time.Since(r.last) > idleTime:
		return nil, io.EOF
	}
	return nil, nil
}

func (r *Run) take() *Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.waiting) == 0 {
		return nil
	}
	m := r.waiting[0]
	r.waiting[0] = nil
	r.waiting = r.waiting[1:]
	r.size -= m.size()
	wake(r.room)
	return m
}

// Reply returns what the kernel answered, JSON, once Next has returned io.EOF.
func (r *Run) Reply() json.RawMessage {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reply
}

// Drop throws away the run's output, what is there and what comes.
func (r *Run) Drop() {
	r.mu.Lock()
	r.dropped, r.waiting, r.size = true, nil, 0
	r.mu.Unlock()
	wake(r.room)
}

// Close forgets the run. The kernel goes on with it.
func (r *Run) Close() {
	r.Drop()
	r.k.mu.Lock()
	delete(r.k.runs, r.id)
	r.k.mu.Unlock()
}
