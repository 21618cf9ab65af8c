package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox/internal/event"
)

const (
	segments  = 8
	suffix    = ".events"
	magic     = "soulbox1" // what a segment begins with
	notesFile = "record.json"
	maxNotes  = 1 << 20 // bytes
)

// notes is what is kept beside the ring. That they are there says that the
// record is on.
type notes struct {
	Paths  []string `json:"paths"`
	Epochs []Epoch  `json:"epochs"`
	Held   uint64   `json:"held,omitempty"`
}

// save replaces the notes in one step. Nothing here is synced: what a power cut
// takes from a sandbox it takes as a whole.
func (n notes) save(dir string) error {
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil { //nolint:gosec // others may keep something there
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	next := filepath.Join(dir, notesFile+".next")
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := openFile(next, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(next, filepath.Join(dir, notesFile))
}

func loadNotes(dir string) (notes, error) {
	var n notes
	f, err := openFile(filepath.Join(dir, notesFile), os.O_RDONLY)
	if err != nil {
		return n, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxNotes))
	if err == nil {
		err = json.Unmarshal(b, &n)
	}
	if err == nil && (len(n.Paths) > MaxPaths || len(n.Epochs) > maxEpochs) {
		err = errors.New("too many entries")
	}
	if err != nil {
		return notes{}, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return n, nil
}

// openFile opens a plain file: whatever a program of the sandbox has put in
// its place, a pipe or a link, must not hold up the agent.
func openFile(path string, flag int) (*os.File, error) {
	f, err := os.OpenFile(path, flag|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("%s is not a file", path), err, f.Close())
	}
	return f, nil
}

// segment is one file of the ring.
type segment struct {
	first uint64 // the number of its first event, or of the one that will be
	file  *os.File
	size  int64 // what is good of it
}

// ring is the files. It is guarded by the recorder's mutex.
type ring struct {
	dir      string
	most     int64 // bytes of a segment that has more than one event
	segments []*segment
	head     uint64 // the number of the newest event, written or lost
}

// open opens the ring in dir, or makes an empty one.
func (r *ring) open(dir string, size int64) (err error) {
	*r = ring{dir: dir, most: size / segments}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil { //nolint:gosec // others may keep something there
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries { // by name, which is by number
		name, ours := strings.CutSuffix(e.Name(), suffix)
		first, err := strconv.ParseUint(name, 10, 64)
		if !ours || err != nil || name != number(first) {
			continue
		}
		if s := r.adopt(first); s != nil {
			r.segments = append(r.segments, s)
		} else if err := os.Remove(r.path(first)); err != nil {
			return err
		}
	}
	for len(r.segments) > segments { // the last agent died before it removed one
		if err := r.dropOldest(); err != nil {
			return err
		}
	}
	if len(r.segments) == 0 {
		return r.begin()
	}
	last := r.segments[len(r.segments)-1]
	return r.cut(last)
}

// adopt opens a segment of an earlier agent; nil if it is none.
func (r *ring) adopt(first uint64) *segment {
	f, err := openFile(r.path(first), os.O_RDWR)
	if err != nil {
		return nil
	}
	fi, err := f.Stat()
	head := make([]byte, len(magic))
	if err == nil {
		_, err = f.ReadAt(head, 0)
	}
	if err != nil || string(head) != magic || first == 0 {
		f.Close()
		return nil
	}
	return &segment{first: first, file: f, size: min(fi.Size(), max(r.most, int64(len(magic)+event.MaxSize)))}
}

// cut finds the last good event of the last segment, and removes what is
// behind it.
func (r *ring) cut(s *segment) error {
	b := make([]byte, s.size)
	if _, err := s.file.ReadAt(b, 0); err != nil {
		return err
	}
	r.head = s.first - 1
	good := len(magic)
	for {
		e, n, err := event.Parse(b[good:])
		if err != nil || e.Seq <= r.head {
			break
		}
		r.head = e.Seq
		good += n
	}
	s.size = int64(good)
	return s.file.Truncate(s.size)
}

// number is a segment's name without its suffix: as long as the largest, so
// that names sort as numbers do.
func number(first uint64) string { return fmt.Sprintf("%020d", first) }

func (r *ring) path(first uint64) string {
	return filepath.Join(r.dir, number(first)+suffix)
}

// begin adds an empty segment for the event after head.
func (r *ring) begin() error {
	path := r.path(r.head + 1)
	f, err := openFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt([]byte(magic), 0); err != nil {
		return errors.Join(err, f.Close(), os.Remove(path))
	}
	r.segments = append(r.segments, &segment{first: r.head + 1, file: f, size: int64(len(magic))})
	return nil
}

// dropOldest removes the oldest segment.
func (r *ring) dropOldest() error {
	s := r.segments[0]
	if err := os.Remove(r.path(s.first)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.file.Close() // nothing is lost that was not given up
	r.segments = r.segments[1:]
	return nil
}

// write writes the frame of the event after head, which takes its number even
// if there is no room for it.
func (r *ring) write(frame []byte) error {
	s := r.segments[len(r.segments)-1]
	if s.size > int64(len(magic)) && s.size+int64(len(frame)) > r.most {
		err := r.begin()
		if err == nil && len(r.segments) > segments {
			err = r.dropOldest()
		}
		if err != nil {
			r.head++
			return err
		}
		s = r.segments[len(r.segments)-1]
	}
	r.head++
	if _, err := s.file.WriteAt(frame, s.size); err != nil {
		return errors.Join(err, s.file.Truncate(s.size)) // what is behind size does not count in any case
	}
	s.size += int64(len(frame))
	return nil
}

// close closes the files.
func (r *ring) close() {
	for _, s := range r.segments {
		s.file.Close() // every write has gone to the kernel
	}
	r.segments = nil
}
