// Package state tells what goes on in a sandbox at one moment: its programs,
// where they are and what they use, and the ports on which they listen. It
// reads /proc and keeps nothing.
//
// What goes away while it is being looked at is left out, and so is what the
// kernel does not tell: gVisor's /proc has all that is needed here, but a
// program may have closed itself to inspection. Everything is bounded, since
// the answer leaves the sandbox; Truncated says that there was more.
package state

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	maxProcesses = 512
	maxPorts     = 512
	maxCommand   = 4 << 10  // bytes
	maxPath      = 4 << 10  // bytes; a longer one is left out
	maxEnv       = 64 << 10 // bytes of one process
	maxFiles     = 256      // of one process
	maxLinks     = 1 << 14  // descriptors looked at of one process
	maxText      = 2 << 20  // bytes of all texts but commands together
	maxTable     = 4 << 20  // bytes of a file of /proc
	tick         = 10 * time.Millisecond
)

// A State is what goes on.
type State struct {
	At        time.Time `json:"at"`
	Processes []Process `json:"processes"`
	Ports     []Port    `json:"ports"`
	Truncated bool      `json:"truncated,omitempty"`
}

// A Process is one that was started through the agent, or a child of it.
type Process struct {
	PID       int               `json:"pid"`
	PPID      int               `json:"ppid"`
	Command   string            `json:"command"`
	Dir       string            `json:"dir,omitempty"`
	Env       map[string]string `json:"env,omitempty"`
	OpenFiles []string          `json:"openFiles,omitempty"`
	CPU       time.Duration     `json:"cpu"` // nanoseconds
	StartedAt time.Time         `json:"startedAt"`
}

// A Port is one on which a program listens.
type Port struct {
	Port    uint16 `json:"port"`
	Address string `json:"address"`
	PID     int    `json:"pid,omitempty"`
}

// Look looks at the descendants of the process self in proc, which is /proc.
func Look(ctx context.Context, proc string, self int) (*State, error) {
	l := &look{proc: proc, left: maxText, sockets: map[uint64]int{}}
	l.state = State{At: time.Now().UTC(), Processes: []Process{}, Ports: []Port{}}
	all, err := l.family(ctx, self)
	if err != nil {
		return nil, err
	}
	boot := l.bootTime()
	for _, s := range all {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		l.process(s, boot)
	}
	l.files(self, func(path string) {
		if inode, ok := socket(path); ok {
			l.sockets[inode] = self
		}
	})
	l.ports(self)
	return &l.state, nil
}

// look is one look.
type look struct {
	proc    string
	left    int            // bytes of text that there is still room for
	sockets map[uint64]int // whose they are, by inode
	state   State
}

// read reads the beginning of a file of a process.
func (l *look) read(pid int, name string, most int64) []byte {
	return readHead(filepath.Join(l.proc, strconv.Itoa(pid), name), most)
}

func readHead(path string, most int64) []byte {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	b, _ := io.ReadAll(io.LimitReader(f, most)) // what came is what there is
	return b
}

// stat is what /proc/PID/stat says.
type stat struct {
	pid, ppid  int
	name       string
	zombie     bool
	cpu, start time.Duration // start is counted from when the machine was
}

// parseStat reads one, whose second field is a name in brackets that may hold
// anything.
func parseStat(b []byte) (stat, bool) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return stat{}, false
	}
	const ppid, utime, stime, start = 1, 11, 12, 19 // behind the name
	f := strings.Fields(string(b[end+1:]))
	if len(f) <= start {
		return stat{}, false
	}
	good := true
	num := func(s string, most int64) int64 {
		n, err := strconv.ParseInt(s, 10, 64)
		good = good && err == nil && n >= 0 && n <= most
		return n
	}
	const most = int64(math.MaxInt64 / 2 / tick)
	s := stat{
		pid: int(num(strings.TrimSpace(string(b[:open])), math.MaxInt32)), name: string(b[open+1 : end]),
		zombie: f[0] == "Z" || f[0] == "X", ppid: int(num(f[ppid], math.MaxInt32)),
		cpu:   time.Duration(num(f[utime], most)+num(f[stime], most)) * tick,
		start: time.Duration(num(f[start], most)) * tick,
	}
	return s, good
}

// family returns the descendants of self that live, oldest pid first.
func (l *look) family(ctx context.Context, self int) ([]stat, error) {
	dir, err := os.Open(l.proc)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	children := map[int][]stat{}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		const most = 4 << 10
		if s, ok := parseStat(l.read(pid, "stat", most)); ok && s.pid == pid && pid != self {
			children[s.ppid] = append(children[s.ppid], s)
		}
	}
	var found []stat
	for next := []int{self}; len(next) > 0; next = next[1:] {
		for _, s := range children[next[0]] {
			if !s.zombie {
				found = append(found, s)
			}
			next = append(next, s.pid)
		}
		delete(children, next[0]) // should what was read at two moments make a circle
	}
	slices.SortFunc(found, func(a, b stat) int { return a.pid - b.pid })
	if len(found) > maxProcesses {
		found, l.state.Truncated = found[:maxProcesses], true
	}
	return found, nil
}

// bootTime returns when the machine was started, by its clock now.
func (l *look) bootTime() time.Time {
	for line := range bytes.Lines(readHead(filepath.Join(l.proc, "stat"), maxTable)) {
		if text, ok := bytes.CutPrefix(line, []byte("btime ")); ok {
			sec, err := strconv.ParseInt(string(bytes.TrimSpace(text)), 10, 64)
			if err == nil {
				return time.Unix(sec, 0).UTC()
			}
		}
	}
	return time.Time{}
}

// fits takes room for a text, if there is any.
func (l *look) fits(n int) bool {
	if n > l.left {
		l.state.Truncated = true
		return false
	}
	l.left -= n
	return true
}

// process adds one process.
func (l *look) process(s stat, boot time.Time) {
	p := Process{PID: s.pid, PPID: s.ppid, CPU: s.cpu, StartedAt: boot.Add(s.start)}
	if boot.IsZero() {
		p.StartedAt = l.state.At
	}
	command := l.read(s.pid, "cmdline", maxCommand+1)
	if len(command) > maxCommand {
		command, l.state.Truncated = command[:maxCommand], true
	}
	p.Command = strings.TrimSpace(strings.ReplaceAll(string(command), "\x00", " "))
	if p.Command == "" {
		p.Command = "[" + s.name + "]"
	}
	if dir, err := os.Readlink(filepath.Join(l.proc, strconv.Itoa(s.pid), "cwd")); err == nil && len(dir) <= maxPath && l.fits(len(dir)) {
		p.Dir = dir
	}
	if env := l.env(s.pid); len(env) > 0 {
		p.Env = env
	}
	seen := map[string]bool{}
	l.files(s.pid, func(path string) {
		if inode, ok := socket(path); ok {
			l.sockets[inode] = s.pid
		}
		if !strings.HasPrefix(path, "/") || len(path) > maxPath || seen[path] {
			return
		}
		if len(p.OpenFiles) == maxFiles {
			l.state.Truncated = true
			return
		}
		if l.fits(len(path)) {
			seen[path] = true
			p.OpenFiles = append(p.OpenFiles, path)
		}
	})
	l.state.Processes = append(l.state.Processes, p)
}

// env returns what a process was started with.
func (l *look) env(pid int) map[string]string {
	b := l.read(pid, "environ", maxEnv+1)
	if len(b) > maxEnv {
		b, l.state.Truncated = b[:bytes.LastIndexByte(b, 0)+1], true // the last one may be a half
	}
	if !l.fits(len(b)) {
		return nil
	}
	env := map[string]string{}
	for kv := range strings.SplitSeq(string(b), "\x00") {
		if name, value, ok := strings.Cut(kv, "="); ok && name != "" {
			env[name] = value
		}
	}
	return env
}

// files calls each with what the descriptors of a process lead to, in their
// order.
func (l *look) files(pid int, each func(path string)) {
	path := filepath.Join(l.proc, strconv.Itoa(pid), "fd")
	dir, err := os.Open(path)
	if err != nil {
		return
	}
	defer dir.Close()
	names, err := dir.Readdirnames(maxLinks)
	if err != nil && !errors.Is(err, io.EOF) {
		return
	}
	l.state.Truncated = l.state.Truncated || len(names) == maxLinks
	slices.SortFunc(names, func(a, b string) int {
		if d := len(a) - len(b); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	for _, name := range names {
		if target, err := os.Readlink(filepath.Join(path, name)); err == nil {
			each(target)
		}
	}
}

// socket returns the inode of a socket, if that is where a descriptor leads.
func socket(path string) (uint64, bool) {
	text, ok := strings.CutPrefix(path, "socket:[")
	if !ok {
		return 0, false
	}
	inode, err := strconv.ParseUint(strings.TrimSuffix(text, "]"), 10, 64)
	return inode, err == nil
}
