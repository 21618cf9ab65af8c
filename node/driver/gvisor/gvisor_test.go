package gvisor_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/testbin"
	"github.com/soulbox/soulbox/node/driver"
	"github.com/soulbox/soulbox/node/driver/drivertest"
	"github.com/soulbox/soulbox/node/driver/gvisor"
	"github.com/soulbox/soulbox/node/netns"
	"github.com/soulbox/soulbox/node/rootfs"
)

// TestDriver runs the suite on real sentries with the real agent in them.
func TestDriver(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test makes namespaces: run it as root")
	}
	keepStandardFiles(t)
	images, image := agentImage(t)
	network := openNetwork(t)
	runDir, err := os.MkdirTemp("/run", "soulbox-test-") //nolint:usetesting // t.TempDir is too long for the name of a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		left, err := os.ReadDir(runDir)
		if err != nil || len(left) > 0 {
			t.Errorf("left in the folder for sockets: %v, %v", left, err)
		}
		os.RemoveAll(runDir)
	})
	sentry := testbin.Build(t, "soulbox-sentry")
	drivertest.Run(t, drivertest.Harness{
		Open: func(t *testing.T) driver.Driver {
			d, err := gvisor.New(sentry, runDir, nil)
			if err != nil {
				t.Fatal(err)
			}
			return d
		},
		Spec: func(t *testing.T, id soulbox.SandboxID) driver.Spec {
			lease, err := network.Take(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { network.Release(lease.Slot) })
			root, err := images.Hold(image)
			if err != nil {
				t.Fatal(err)
			}
			return driver.Spec{
				ID: id, Dir: t.TempDir(), Image: root, Hostname: "sandbox",
				Size:  soulbox.Size{CPUs: 1, Memory: 256 * soulbox.MiB, Disk: 64 * soulbox.MiB},
				Netns: lease.Path, Addr: lease.Addr.String(),
			}
		},
		Crash: func(t *testing.T, spec driver.Spec) {
			pids := sentries(t, spec.Dir)
			if len(pids) == 0 {
				t.Fatalf("no sentry runs for %s", spec.Dir)
			}
			for _, pid := range pids {
				if err := unix.Kill(pid, unix.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
		},
	})
}

// keepStandardFiles gives the test its standard files back at the end.
func keepStandardFiles(t *testing.T) {
	in, out, errs := os.Stdin, os.Stdout, os.Stderr
	t.Cleanup(func() { os.Stdin, os.Stdout, os.Stderr = in, out, errs })
}

// agentImage builds an image that holds nothing but the agent and what every
// image is given.
func agentImage(t *testing.T) (*rootfs.Store, string) {
	t.Helper()
	agent, err := os.Open(testbin.Build(t, "soulbox-agent"))
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Close()
	tree := filepath.Join(t.TempDir(), "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := rootfs.Prepare(tree, agent); err != nil {
		t.Fatal(err)
	}
	images, err := rootfs.Open(slog.New(slog.DiscardHandler), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	img, err := images.Build(t.Context(), tree, rootfs.BuildOptions{Source: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return images, img.ID
}

func openNetwork(t *testing.T) *netns.Network {
	t.Helper()
	opts := netns.Options{Instance: "gvtest", Ready: 2}
	log := slog.New(slog.DiscardHandler)
	network, err := netns.Open(t.Context(), log, opts, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := network.Close(); err != nil {
			t.Error(err)
		}
		if err := netns.Purge(context.WithoutCancel(t.Context()), log, opts); err != nil {
			t.Error(err)
		}
	})
	return network
}

// sentries returns the processes whose command line names dir.
func sentries(t *testing.T, dir string) []int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, e := range entries {
		b, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		var pid int
		if strings.Contains(string(b), "\x00--bundle="+dir+"\x00") {
			if _, err := fmt.Sscan(e.Name(), &pid); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}
