package cgroup_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/soulbox/soulbox/node/cgroup"
)

// TestQuickMoves looks for the hierarchy in which the kernel is told. How long
// a move takes is a figure of docs/benchmarks.md.
func TestQuickMoves(t *testing.T) {
	before := listed(t)
	first, err := cgroup.QuickMoves()
	if err != nil {
		t.Fatal(err)
	}
	second, err := cgroup.QuickMoves() // another server's
	if err != nil {
		t.Fatal(err)
	}
	if !listed(t) {
		t.Error("there is no hierarchy")
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if !listed(t) {
		t.Error("the hierarchy is gone although one still needs it")
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	if before { // that of a server on this machine
		return
	}
	for end := time.Now().Add(10 * time.Second); listed(t); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the hierarchy is left behind")
		}
	}
}

func listed(t *testing.T) bool {
	t.Helper()
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(own), ":name=soulbox:")
}
