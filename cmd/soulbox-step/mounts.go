package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"github.com/containerd/containerd/v2/core/mount"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// hasMounts reports whether there is something to mount that gVisor, unlike
// runc, does not mount by itself: what RUN --mount takes from another stage.
func (s *step) hasMounts() bool {
	for _, m := range s.spec.Mounts {
		if m.Type == "overlay" {
			return true
		}
	}
	return false
}

// inside is set once this process has mounts of its own.
const inside = "SOULBOX_STEP_INSIDE"

// enterMounts gives this process a mount namespace, so that whatever it mounts
// goes away with it, however it ends. It starts this program anew, because
// gVisor starts its processes from any thread.
func enterMounts() error {
	if os.Getenv(inside) != "" {
		return nil
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	return unix.Exec("/proc/self/exe", os.Args, append(os.Environ(), inside+"=1"))
}

// mountAll mounts overlays below the bundle, and has gVisor show these places.
func (s *step) mountAll() error {
	for i, m := range s.spec.Mounts {
		if m.Type != "overlay" {
			continue
		}
		place := filepath.Join(s.bundle, "mounts", strconv.Itoa(i))
		if err := os.MkdirAll(place, 0o700); err != nil {
			return err
		}
		overlay := mount.Mount{Type: m.Type, Source: m.Source, Options: m.Options}
		if err := overlay.Mount(place); err != nil {
			return fmt.Errorf("mount what is to be at %s: %w", m.Destination, err)
		}
		options := []string{"rbind"}
		if overlay.ReadOnly() {
			options = append(options, "ro")
		}
		s.spec.Mounts[i] = specs.Mount{Destination: m.Destination, Type: "bind", Source: place, Options: options}
	}
	return nil
}
