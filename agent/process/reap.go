package process

import (
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// reaper starts children and is the only one to wait for them.
//
// A child is known before it can be reaped, because forking and making it known
// happen under one lock, which reaping takes as well. And it is unknown before
// its pid can be used again, because a dead child is looked at first (WNOWAIT)
// and released under the same lock; signals are sent under that lock too.
type reaper struct {
	adopt bool
	score *oomScore

	mu       sync.Mutex
	children map[int]func(syscall.WaitStatus) // +checklocks:mu

	sigs chan os.Signal
	done chan struct{}
}

func newReaper(adopt bool, oomScoreAdj int) *reaper {
	r := &reaper{
		adopt:    adopt,
		score:    openOOMScore(oomScoreAdj),
		children: map[int]func(syscall.WaitStatus){},
		sigs:     make(chan os.Signal, 1),
		done:     make(chan struct{}),
	}
	signal.Notify(r.sigs, unix.SIGCHLD)
	go r.run()
	return r
}

// close ends the reaper. No child may be left.
func (r *reaper) close() {
	signal.Stop(r.sigs)
	close(r.sigs)
	<-r.done
	r.score.close()
}

func (r *reaper) run() {
	defer close(r.done)
	for range r.sigs {
		if r.adopt {
			r.reapAll()
		} else {
			r.reapOwn()
		}
	}
}

// fork starts a program. ended is called once, from the reaper, after the
// child is gone; it must not block.
func (r *reaper) fork(path string, argv []string, attr *syscall.ProcAttr, ended func(syscall.WaitStatus)) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.score.raise()
	pid, err := syscall.ForkExec(path, argv, attr)
	r.score.restore()
	if err != nil {
		return 0, err
	}
	r.children[pid] = ended
	return pid, nil
}

// kill signals a child, unless it is gone.
func (r *reaper) kill(pid int, sig syscall.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.children[pid]; !ok {
		return nil
	}
	return syscall.Kill(pid, sig)
}

// reapAll releases every dead child of this program, its own and those it
// inherited.
func (r *reaper) reapAll() {
	for {
		var si unix.Siginfo
		err := unix.Waitid(unix.P_ALL, 0, &si, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return // no children at all
		}
		pid := siginfoPID(&si)
		if pid == 0 || !r.release(pid) {
			return
		}
	}
}

// siginfoPID reads si_pid, which x/sys does not name: on 64-bit Linux the union
// that holds it starts after three ints and their padding.
func siginfoPID(si *unix.Siginfo) int {
	const offset = 16
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(si), offset))) //nolint:gosec // within the structure, whose layout is the kernel's
}

// reapOwn releases the dead among the children that were started here.
func (r *reaper) reapOwn() {
	r.mu.Lock()
	pids := make([]int, 0, len(r.children))
	for pid := range r.children {
		pids = append(pids, pid)
	}
	r.mu.Unlock()
	for _, pid := range pids {
		r.release(pid)
	}
}

// release reaps one child if it is dead, and reports whether it was.
func (r *reaper) release(pid int) bool {
	r.mu.Lock()
	var ws syscall.WaitStatus
	got, err := syscall.Wait4(pid, &ws, syscall.WNOHANG, nil)
	for err == syscall.EINTR {
		got, err = syscall.Wait4(pid, &ws, syscall.WNOHANG, nil)
	}
	var ended func(syscall.WaitStatus)
	reaped := err == nil && got == pid
	if reaped {
		ended = r.children[pid]
		delete(r.children, pid)
	}
	r.mu.Unlock()
	if ended != nil {
		ended(ws)
	}
	return reaped
}

// oomScore makes children inherit an oom_score_adj that the agent itself does
// not keep: it is raised around the fork, two writes to a file that stays open.
type oomScore struct {
	file         *os.File
	high, normal []byte
}

func openOOMScore(adj int) *oomScore {
	if adj == 0 {
		return &oomScore{}
	}
	f, err := os.OpenFile("/proc/self/oom_score_adj", os.O_RDWR, 0)
	if err != nil {
		return &oomScore{} // best effort: some sandboxes have no such file
	}
	normal := make([]byte, 16)
	n, err := f.Read(normal)
	if err != nil {
		f.Close()
		return &oomScore{}
	}
	return &oomScore{file: f, high: []byte(strconv.Itoa(adj)), normal: normal[:n]}
}

func (o *oomScore) raise() {
	if o.file != nil {
		_, _ = o.file.WriteAt(o.high, 0) // best effort
	}
}

func (o *oomScore) restore() {
	if o.file != nil {
		_, _ = o.file.WriteAt(o.normal, 0) // best effort
	}
}

func (o *oomScore) close() {
	if o.file != nil {
		o.file.Close()
	}
}
