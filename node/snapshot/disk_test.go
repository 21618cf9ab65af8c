package snapshot_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
)

// The tests run in a mount namespace of their own, so that their small disks
// cannot outlive the process.
const insideVar = "SOULBOX_SNAPSHOT_TEST_INSIDE"

func TestMain(m *testing.M) {
	if os.Getenv(insideVar) != "" {
		os.Exit(m.Run())
	}
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	cmd := exec.CommandContext(context.Background(), self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideVar+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// newDisk returns a room on a disk of its own with the given tmpfs options.
func newDisk(t *testing.T, options string) *room {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil { // not if anything is still open
			t.Errorf("unmount: %v", err)
		}
	})
	r := &room{dir: filepath.Join(dir, "snapshots"), image: filepath.Join(dir, "image")}
	if err := os.WriteFile(r.image, []byte("the root image"), 0o600); err != nil {
		t.Fatal(err)
	}
	return r
}

// A disk may be full at any step: while the driver writes, before the link, the
// manifest, its last byte. However much there is, the snapshot is whole or
// nothing of it is there.
func TestFullDisk(t *testing.T) {
	for _, tt := range []struct {
		name, options string
		first, step   int // the first has room for the root image
	}{
		{"blocks", "size=%dk", 4, 4},
		{"inodes", "nr_inodes=%d", 3, 1}, // a link takes one as well
	} {
		t.Run(tt.name, func(t *testing.T) {
			full, wrote := 0, false
			for n := tt.first; !wrote && n < 500; n += tt.step {
				r := newDisk(t, fmt.Sprintf(tt.options, n))
				s := r.open(t, format)
				id := soulbox.NewSnapshotID()
				_, err := s.Write(t.Context(), r.draft(id), fill, nothing)
				if err == nil {
					wrote = true
					if err := s.Verify(t.Context(), id); err != nil {
						t.Errorf("it just fits, and Verify says %v", err)
					}
					continue
				}
				full++
				wantKind(t, fmt.Sprintf("room for %d", n), err, soulbox.Unavailable)
				if said := soulbox.MessageOf(err); !strings.Contains(said, "free disk") {
					t.Errorf("room for %d: the customer reads %q", n, said)
				}
				if left := r.entries(t); len(left) > 0 {
					t.Errorf("room for %d: left %v", n, left)
				}
			}
			if !wrote || full < 3 {
				t.Errorf("written: %v after %d full disks; want each step to fail once", wrote, full)
			}
		})
	}
}

// An image on another disk cannot be linked; nothing is copied instead.
func TestImageElsewhere(t *testing.T) {
	r := newRoom(t)
	s := r.open(t, format)
	d := r.draft(soulbox.NewSnapshotID())
	d.Path = newDisk(t, "size=1m").image
	if _, err := s.Write(t.Context(), d, fill, nothing); !errors.Is(err, syscall.EXDEV) {
		t.Errorf("Write: %v, want EXDEV", err)
	}
	if left := r.entries(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
