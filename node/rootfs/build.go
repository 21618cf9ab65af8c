package rootfs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
)

// imageUUID is the same in every image, because identity is the SHA-256 and a
// random UUID would change it.
const imageUUID = "50b0c5ed-0000-4000-8000-000000000001"

// A BuildOptions says what [Store.Build] records and how far times reach.
type BuildOptions struct {
	// Source says for people where the tree came from.
	Source string

	// Started is when work on the tree began. Files that changed after it
	// carry no time worth keeping and get the newest time before it, which
	// makes two builds of the same packages equal. The zero time keeps all.
	Started time.Time
}

// clockTick is by how much the time that the kernel gives a file may lie behind
// the clock: one tick at 100 a second.
const clockTick = 10 * time.Millisecond

// Build makes an image of the tree at dir, which must not change meanwhile, and
// returns it. Building the same content again returns the image that is there.
// Extended attributes are not kept: gVisor cannot read them in EROFS.
func (s *Store) Build(ctx context.Context, dir string, opts BuildOptions) (Image, error) {
	limit := opts.Started
	if !limit.IsZero() {
		limit = limit.Add(-clockTick)
	}
	newest, err := newestBefore(ctx, dir, limit)
	if err != nil {
		return Image{}, fmt.Errorf("build image of %s: %w", dir, err)
	}
	agent, err := agentIn(ctx, dir)
	if err != nil {
		return Image{}, fmt.Errorf("build image of %s: %w", dir, err)
	}
	temp, err := os.CreateTemp(s.dir, tempPrefix+"*")
	if err != nil {
		return Image{}, fmt.Errorf("build image of %s: %w", dir, err)
	}
	defer temp.Close()
	defer func() { _ = os.Remove(temp.Name()) }() // renamed away on success
	if err := unix.Flock(int(temp.Fd()), unix.LOCK_EX); err != nil {
		return Image{}, fmt.Errorf("build image of %s: lock: %w", dir, err)
	}
	if err := mkfs(ctx, temp.Name(), dir, newest); err != nil {
		return Image{}, fmt.Errorf("build image of %s: %w", dir, err)
	}
	id, size, err := hash(ctx, temp)
	if err != nil {
		return Image{}, fmt.Errorf("build image of %s: hash: %w", dir, err)
	}
	img := Image{ID: id, Size: size, Agent: agent, Source: opts.Source, Created: time.Now().UTC().Truncate(time.Second)}
	if have, err := s.Get(id); err == nil {
		if have.Agent == agent {
			return have, nil
		}
		// Somebody may hold the file, so it stays; its manifest comes from a
		// soulbox that did not write down the agent.
		img.Source, img.Created = have.Source, have.Created
		if err := s.describe(img); err != nil {
			return Image{}, fmt.Errorf("build image of %s: %w", dir, err)
		}
		return img, nil
	}
	if err := s.publish(temp, img); err != nil {
		return Image{}, fmt.Errorf("build image of %s: %w", dir, err)
	}
	s.log.InfoContext(ctx, "image built", "image", id, "bytes", size, "source", opts.Source)
	return img, nil
}

// publish writes the manifest and moves the image to its name, each safely on
// disk before the next.
func (s *Store) publish(temp *os.File, img Image) error {
	if err := temp.Chmod(0o444); err != nil {
		return err
	}
	if err := temp.Sync(); err != nil {
		return err
	}
	if err := s.describe(img); err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), s.Path(img.ID)); err != nil {
		return err
	}
	d, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// describe writes the manifest of img.
func (s *Store) describe(img Image) error {
	b, err := json.MarshalIndent(img, "", "  ")
	if err != nil {
		return err
	}
	m, err := os.CreateTemp(s.dir, tempPrefix+"*")
	if err != nil {
		return err
	}
	defer m.Close()
	defer func() { _ = os.Remove(m.Name()) }() // renamed away on success
	if _, err := m.Write(append(b, '\n')); err != nil {
		return err
	}
	if err := errors.Join(m.Chmod(0o444), m.Sync()); err != nil {
		return err
	}
	return os.Rename(m.Name(), s.manifest(img.ID))
}

// agentIn returns the SHA-256 of the agent in the tree at dir, in hex, or
// nothing when there is none.
func agentIn(ctx context.Context, dir string) (string, error) {
	t, err := openTree(dir)
	if err != nil {
		return "", err
	}
	defer t.close()
	f, err := t.file(AgentPath)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum, _, err := hash(ctx, f)
	return sum, err
}

// mkfs writes an EROFS image of dir into the existing file at path.
func mkfs(ctx context.Context, path, dir string, newest time.Time) error {
	cmd := exec.CommandContext(ctx, "mkfs.erofs",
		"-x-1",                // extended attributes make gVisor fail with "Operation not supported"
		"-E", "noinline_data", // gVisor cannot map a program whose tail is inlined
		"-U", imageUUID,
		"--quiet", path, dir)
	// The time of the image, and the latest that a file of it may have. The
	// option -T would give this time to all files, and Python would compile
	// every module again because its sources look newer than before.
	cmd.Env = append(cmd.Environ(), "LC_ALL=C", "SOURCE_DATE_EPOCH="+strconv.FormatInt(newest.Unix(), 10))
	var out bytes.Buffer
	cmd.Stderr = &out
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	switch said := lastLine(out.String()); {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, exec.ErrNotFound):
		return soulbox.Errorf(soulbox.Unavailable, "mkfs.erofs is not installed on this machine; install the package erofs-utils")
	case strings.Contains(out.String(), unix.ENOSPC.Error()), strings.Contains(out.String(), "No space left"):
		return soulbox.Errorf(soulbox.Unavailable, "the disk that keeps images is full")
	default:
		return fmt.Errorf("mkfs.erofs: %w: %s", err, said)
	}
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// newestBefore returns the newest time of a file in dir that is older than
// limit, or than now when limit is zero. An image of nothing but new files gets
// 1970, like everything that has no time of its own.
func newestBefore(ctx context.Context, dir string, limit time.Time) (time.Time, error) {
	if limit.IsZero() {
		limit = time.Now().Add(time.Second)
	}
	newest := time.Unix(0, 0)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		if t := fi.ModTime(); t.Before(limit) && t.After(newest) {
			newest = t
		}
		return nil
	})
	return newest, err
}
