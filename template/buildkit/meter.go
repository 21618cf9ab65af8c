package buildkit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
)

// A meter tells how much a step has written, which nothing else bounds.
type meter struct {
	folders []*os.File
	limit   soulbox.Bytes
	before  soulbox.Bytes // in the folders when the step began
	took    time.Duration // the last measurement
	err     error         // of the first, which cannot be done without
}

const (
	meterPause = 500 * time.Millisecond // at least, between two measurements
	meterShare = 10                     // one part in this of the time may be measuring
	minEntry   = 1 * soulbox.KiB        // what an empty file takes, at least
)

// newMeter measures what is in the folders now: a cache mount is not empty.
func newMeter(folders []*os.File, limit soulbox.Bytes) *meter {
	m := &meter{folders: folders, limit: limit}
	m.before, m.err = m.measure(context.Background())
	return m
}

// pause returns how long to wait until the next measurement.
func (m *meter) pause() time.Duration { return max(meterPause, meterShare*m.took) }

// check returns an error once the step has written more than its limit.
func (m *meter) check(ctx context.Context) error {
	now, err := m.measure(ctx)
	switch {
	case ctx.Err() != nil:
		return nil //nolint:nilerr // whoever waits for that hears of it
	case err != nil || m.err != nil:
		return fmt.Errorf("measure a step: %w", errors.Join(m.err, err))
	case now-m.before > m.limit:
		return soulbox.Errorf(soulbox.Exhausted, "it wrote more than its %d MiB of disk", m.limit/soulbox.MiB)
	}
	return nil
}

// measure adds up what the folders take of the disk. A file of many names
// counts once for each: that is rare, and never too little.
func (m *meter) measure(ctx context.Context) (soulbox.Bytes, error) {
	started := time.Now()
	defer func() { m.took = time.Since(started) }()
	var sum soulbox.Bytes
	for _, f := range m.folders {
		// The step changes the folder meanwhile. A root cannot be left, by
		// whatever links.
		root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
		if err != nil {
			return 0, err
		}
		err = fs.WalkDir(root.FS(), ".", func(_ string, d fs.DirEntry, err error) error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				return nil //nolint:nilerr // it is gone, or has become something else
			}
			fi, err := d.Info()
			if err != nil {
				return nil //nolint:nilerr // it is gone
			}
			if st, ok := fi.Sys().(*syscall.Stat_t); ok {
				sum += max(minEntry, soulbox.Bytes(st.Blocks)*512)
			}
			return nil
		})
		root.Close()
		if err != nil {
			return 0, err
		}
	}
	return sum, nil
}

// freeSpace returns how much can be written to the file system of dir.
func freeSpace(dir string) (soulbox.Bytes, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return soulbox.Bytes(st.Bavail) * soulbox.Bytes(st.Bsize), nil
}
