package gvisor_test

import (
	"context"
	"errors"
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
	sentry, boot := testbin.Build(t, "soulbox-sentry"), testbin.Build(t, "soulbox-boot")
	h := drivertest.Harness{
		Open: func(t *testing.T) driver.Driver {
			d, err := gvisor.New(sentry, boot, runDir, nil)
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
	}
	drivertest.Run(t, h)
	t.Run("Confined", func(t *testing.T) { testConfined(t, h) })
}

// testConfined looks at a sentry from outside: it is nobody, without any right,
// in namespaces of its own, and there is nothing in its root.
func testConfined(t *testing.T, h drivertest.Harness) {
	d, spec := h.Open(t), h.Spec(t, "iconfined")
	if _, err := d.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Destroy(context.WithoutCancel(t.Context()), spec.ID, spec.Dir); err != nil {
			t.Error(err)
		}
	})
	pids := sentries(t, spec.Dir)
	if len(pids) == 0 {
		t.Fatal("no sentry runs")
	}
	for _, pid := range pids {
		proc := fmt.Sprintf("/proc/%d/", pid)
		read := func(name string) string {
			t.Helper()
			text, err := os.ReadFile(proc + name)
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
		status := map[string]string{}
		for line := range strings.Lines(read("status")) {
			name, value, _ := strings.Cut(line, ":")
			status[name] = strings.Join(strings.Fields(value), " ")
		}
		none, nobody := strings.Repeat("0", 16), "65534 65534 65534 65534"
		for name, want := range map[string]string{
			"Uid": nobody, "Gid": nobody, "Groups": "", "Seccomp": "2",
			"CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none,
		} {
			if got := status[name]; got != want {
				t.Errorf("%s of the sentry is %q, want %q", name, got, want)
			}
		}
		for _, ns := range []string{"ipc", "mnt", "net", "pid", "user", "uts"} {
			its, err := os.Readlink(proc + "ns/" + ns)
			ours, ourErr := os.Readlink("/proc/self/ns/" + ns)
			if err := errors.Join(err, ourErr); err != nil || its == ours {
				t.Errorf("the sentry is in our namespace %s: %v", its, err)
			}
		}
		if mounts := read("mountinfo"); strings.Count(mounts, "\n") != 1 || !strings.Contains(mounts, " / / ro,nosuid,nodev,noexec,") || !strings.Contains(mounts, " - tmpfs runsc-root ") {
			t.Errorf("the sentry has mounts\n%s", mounts)
		}
		for dir, want := range map[string]string{"": "etc proc", "etc": "localtime", "proc": ""} {
			entries, err := os.ReadDir(proc + "root/" + dir)
			var names []string
			for _, e := range entries {
				names = append(names, e.Name())
			}
			if got := strings.Join(names, " "); err != nil || got != want {
				t.Errorf("/%s of the sentry has %q, want %q: %v", dir, got, want, err)
			}
		}
	}
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
