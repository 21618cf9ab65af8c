package notebook

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// historyFolder is beside notebooks, and has a file for each.
	historyFolder = ".soulbox"
	maxRuns       = 1000
	// maxHistory is of a history's file, and maxRecord of a line in it; a record
	// has two hundred bytes, and two lines.
	maxHistory = 1 << 20
	maxRecord  = 1 << 10
)

// Run is that a cell ran.
type Run struct {
	ID      string    `json:"run"`
	Cell    string    `json:"cell"`
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
	Status  string    `json:"status"` // "running" until it is over
	Count   *int64    `json:"execution_count"`
	Source  string    `json:"source_sha256"`
}

// history is the file with the runs of a notebook.
func (p *place) history() string { return historyFolder + "/" + key(p.name) + ".runs" }

// Record adds a run to a notebook's history, or what became of it.
func (s *Store) Record(ctx context.Context, name string, run Run) error {
	line, err := encode(run, "")
	if err != nil {
		return err
	}
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	p, err := s.at(name, false)
	if err != nil {
		return err
	}
	defer p.close()
	old, err := p.readHistory()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(old)+len(line) > maxHistory {
		old = shorten(old)
	}
	if err := p.root.Mkdir(historyFolder, folderMode); err == nil {
		if err := p.giveFolder(); err != nil {
			return err
		}
	}
	// A line that a crash has cut does not take the next one with it.
	if len(old) > 0 && old[len(old)-1] != '\n' {
		old = append(old, '\n')
	}
	text := append(append(old, line...), '\n')
	draft := historyFolder + "/" + key(p.name) + ".tmp"
	if _, err := p.draft(draft, text, false); err != nil {
		return err
	}
	return p.root.Rename(draft, p.history())
}

func (p *place) giveFolder() error {
	root, err := os.OpenRoot(p.store.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	uid, gid, err := owner(root)
	if err != nil || uid == os.Geteuid() {
		return err
	}
	return p.root.Lchown(historyFolder, uid, gid)
}

func (p *place) readHistory() ([]byte, error) {
	f, err := p.root.OpenFile(p.history(), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fs.ErrNotExist
	}
	return io.ReadAll(io.LimitReader(f, maxHistory))
}

// shorten keeps the newer half of a history.
func shorten(text []byte) []byte {
	text = text[len(text)/2:]
	_, rest, _ := bytes.Cut(text, []byte("\n"))
	return slices.Clone(rest)
}

// moveHistory takes over what is known of another notebook's runs.
func (p *place) moveHistory(from *place) error {
	text, err := from.readHistory()
	if err != nil {
		return err
	}
	if err := p.root.Mkdir(historyFolder, folderMode); err == nil {
		if err := p.giveFolder(); err != nil {
			return err
		}
	}
	if _, err := p.draft(p.history(), text, false); err != nil {
		return err
	}
	return from.root.Remove(from.history())
}

// Runs returns the runs of a notebook's cells, the newest first.
func (s *Store) Runs(name string) ([]Run, error) {
	p, err := s.at(name, false)
	if err != nil {
		return nil, err
	}
	defer p.close()
	if _, err := p.root.Lstat(p.name); err != nil {
		return nil, cannot(err, p.path)
	}
	text, err := p.readHistory()
	if errors.Is(err, fs.ErrNotExist) {
		return []Run{}, nil
	}
	if err != nil {
		return nil, cannot(err, p.path)
	}
	return parseRuns(text), nil
}

// parseRuns reads what it can of a history, which anybody may have written.
func parseRuns(text []byte) []Run {
	runs := []Run{}
	at := map[string]int{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, maxHistory)
	for lines.Scan() {
		var r Run
		if len(lines.Bytes()) > maxRecord || json.Unmarshal(lines.Bytes(), &r) != nil || r.ID == "" {
			continue
		}
		if i, ok := at[r.ID]; ok {
			runs[i] = r
			continue
		}
		at[r.ID] = len(runs)
		runs = append(runs, r)
	}
	slices.Reverse(runs)
	return runs[:min(len(runs), maxRuns)]
}
