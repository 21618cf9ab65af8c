package node_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/fault"
	"github.com/soulbox/soulbox/node"
	"github.com/soulbox/soulbox/node/driver/fake"
)

func openCell(t *testing.T, n *node.Node, internet bool) *node.Cell {
	t.Helper()
	c, err := n.OpenCell(t.Context(), size, internet)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// wantCells wants so many of them on the machine, and nothing else.
func (w *world) wantCells(t *testing.T, count int) {
	t.Helper()
	var got left
	eventually(t, func() bool {
		got = w.look(t)
		return len(got.Folders) == 0 && len(got.Cgroups) == count && got.Networks == 2*count
	}, func() string { return fmt.Sprintf("%+v is left, want what %d cells have", got, count) })
}

// inNetwork starts a program in a network namespace, which waits for a line
// before it runs script.
func inNetwork(path, script string) (*exec.Cmd, io.WriteCloser, error) {
	cmd := exec.CommandContext(context.Background(), "/bin/bash", "-c", "read; "+script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if path != "" {
			ns, err := os.Open(path)
			if err == nil {
				err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
				ns.Close()
			}
			if err != nil {
				done <- err
				return
			}
		}
		done <- cmd.Start()
	}()
	return cmd, stdin, <-done
}

// within runs script in a cell, and returns the program.
func within(t *testing.T, c *node.Cell, script string) *exec.Cmd {
	t.Helper()
	cmd, stdin, err := inNetwork(c.Netns(), script)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // as above
	})
	if err := c.Add(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(stdin, "\n"); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func TestCell(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	c := openCell(t, n, true)
	if !prefix.Contains(c.Addr()) || c.Gateway() != c.Addr().Prev() || len(offline(t)) != 0 {
		t.Errorf("the cell has address %v, gateway %v; offline are %v", c.Addr(), c.Gateway(), offline(t))
	}
	if cmd := within(t, c, fmt.Sprintf(`[ "$(ip -4 -o addr show dev eth0 | awk '{print $4}')" = %s/30 ] && [ "$(ip route show default | awk '{print $3}')" = %s ]`, c.Addr(), c.Gateway())); cmd.Wait() != nil {
		t.Errorf("a program in the cell looks at its network: %v", cmd.ProcessState)
	}
	if reason, ok := c.Blame(); ok {
		t.Errorf("a program ended because %s", reason)
	}
	if cmd := within(t, c, "exec tail /dev/zero"); cmd.Wait() == nil {
		t.Error("a program that needs more memory than the cell has ended well")
	}
	if reason, ok := c.Blame(); !ok || reason != "it needed more than its 64 MiB of memory" {
		t.Errorf("Blame() = %q, %v", reason, ok)
	}
	if cpu, memory, err := c.Usage(); err != nil || cpu <= 0 || memory < 0 || memory > size.Memory {
		t.Errorf("Usage() = %v, %d, %v", cpu, memory, err)
	}

	stubborn := within(t, c, "trap '' HUP INT TERM; setsid sleep 1h & while :; do wait; done")
	other := openCell(t, n, false)
	if got := offline(t); len(got) != 1 {
		t.Errorf("offline in the kernel: %v, want the other cell", got)
	}
	bystander := within(t, other, "sleep 1h")
	for range 2 { // it repeats
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := stubborn.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("the program in the cell ended with %v, want killed", err)
	}
	if err := c.Add(os.Getpid()); soulbox.KindOf(err) != soulbox.Conflict {
		t.Errorf("Add to a cell that is closed: %v, want Conflict", err)
	}
	if err := bystander.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the program in the other cell: %v", err)
	}
	w.wantCells(t, 1)
	if ids := n.Sandboxes(); len(ids) > 0 {
		t.Errorf("Sandboxes() = %v, want none", ids)
	}

	// A program that nobody has added ends, too: it is in the network.
	stray, _, err := inNetwork(other.Netns(), "")
	if err != nil {
		t.Fatal(err)
	}
	closeNode(t, n) // which closes what is open
	for _, cmd := range []*exec.Cmd{bystander, stray} {
		if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Errorf("the program in the other cell ended with %v, want killed", err)
		}
	}
	w.wantCells(t, 0)
	if err := other.Close(); err != nil {
		t.Errorf("Close after that of the node: %v", err)
	}
	if c, err := n.OpenCell(t.Context(), size, true); soulbox.KindOf(err) != soulbox.Unavailable {
		t.Errorf("OpenCell of a node that is closed: %v, %v; want Unavailable", c, err)
	}
}

func TestCellRefused(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	for _, bad := range []soulbox.Size{
		{},
		{CPUs: 1, Memory: 64 * soulbox.MiB},
		{CPUs: 1, PIDs: 100},
		{CPUs: -1, Memory: 64 * soulbox.MiB, PIDs: 100},
	} {
		if c, err := n.OpenCell(t.Context(), bad, true); soulbox.KindOf(err) != soulbox.Invalid {
			t.Errorf("OpenCell(%+v) = %v, %v; want Invalid", bad, c, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if c, err := n.OpenCell(ctx, size, true); !errors.Is(err, context.Canceled) {
		t.Errorf("OpenCell for somebody who has gone: %v, %v", c, err)
	}
	w.wantCells(t, 0)
}

const (
	crashVar = "SOULBOX_NODE_TEST_CRASH" // the folder of the node that is to die
	faultVar = "SOULBOX_NODE_TEST_FAULT" // the step at which it dies
)

// crash opens a node and a cell, starts programs in the cell, in its network
// alone and under its limits alone, tells their numbers and dies without a
// chance to clean up.
func crash(dir string) {
	n, err := node.Open(context.Background(), node.Options{
		Log: slog.New(slog.DiscardHandler), ID: "n1", Dir: dir, Instance: instance, Driver: fake.New(nil),
		Prefix: prefix, Resolver: resolver, Faults: fault.Arm(os.Getenv(faultVar)),
	})
	if err != nil {
		panic(err)
	}
	c, err := n.OpenCell(context.Background(), size, true)
	if err != nil {
		panic(err)
	}
	var pids []int
	for _, is := range []struct{ networked, limited bool }{{true, true}, {true, false}, {false, true}} {
		path := ""
		if is.networked {
			path = c.Netns()
		}
		cmd, stdin, err := inNetwork(path, "trap '' HUP INT TERM; sleep 1h & while :; do wait; done")
		if err == nil && is.limited {
			err = c.Add(cmd.Process.Pid)
		}
		if err == nil {
			_, err = io.WriteString(stdin, "\n")
		}
		if err != nil {
			panic(err)
		}
		pids = append(pids, cmd.Process.Pid)
	}
	if err := json.NewEncoder(os.Stdout).Encode(pids); err != nil {
		panic(err)
	}
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// What a server that is killed leaves of a cell is ended and removed by the
// next one, or by a purge.
func TestCellAfterKill(t *testing.T) {
	for _, step := range []string{"cell/leased", "cell/grouped", ""} {
		for _, purge := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s purge %v", filepath.Base(step), purge), func(t *testing.T) {
				w := newWorld(t)
				self, err := os.Executable()
				if err != nil {
					t.Fatal(err)
				}
				cmd := exec.CommandContext(t.Context(), self)
				cmd.Env = append(os.Environ(), crashVar+"="+w.dir, faultVar+"="+step)
				cmd.Stderr = os.Stderr
				out, err := cmd.StdoutPipe()
				if err == nil {
					err = cmd.Start()
				}
				if err != nil {
					t.Fatal(err)
				}
				line, _ := bufio.NewReader(out).ReadBytes('\n') // the programs have the pipe, too
				if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
					t.Fatalf("the server ended with %v, want killed", err)
				}
				var pids []int
				if step == "" {
					if err := json.Unmarshal(line, &pids); err != nil || len(pids) != 3 || slices.ContainsFunc(pids, func(pid int) bool { return !lives(pid) }) {
						t.Fatalf("the server started %q, %v", line, err)
					}
				}
				if got := w.look(t); got.Networks == 0 {
					t.Fatalf("only %+v is left of it: the check below proves nothing", got)
				}
				if purge {
					if err := node.Purge(t.Context(), slog.New(slog.DiscardHandler), w.dir, instance, w.driver); err != nil {
						t.Fatal(err)
					}
				} else {
					wantNoExit(t, w.open(t))
				}
				for _, pid := range pids {
					eventually(t, func() bool { return !lives(pid) }, func() string { return fmt.Sprintf("process %d runs on", pid) })
				}
				w.wantCells(t, 0)
			})
		}
	}
}

// lives reports whether a process runs.
func lives(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	state := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	return err == nil && state[0] != "Z" && state[0] != "X"
}

// Cells of several who build at once have different networks.
func TestCellsAtOnce(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	const count = 8
	got := make(chan netip.Addr, count)
	for range count {
		go func() {
			c, err := n.OpenCell(context.WithoutCancel(t.Context()), size, true)
			if err != nil {
				t.Error(err)
				got <- netip.Addr{}
				return
			}
			got <- c.Addr()
		}()
	}
	seen := map[netip.Addr]bool{}
	for range count {
		select {
		case a := <-got:
			seen[a] = true
		case <-time.After(patience):
			t.Fatal("OpenCell does not return")
		}
	}
	if len(seen) != count {
		t.Errorf("%d cells have %d addresses", count, len(seen))
	}
	w.wantCells(t, count)
}
