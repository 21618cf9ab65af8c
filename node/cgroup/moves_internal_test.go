package cgroup

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// TestQuickMoves looks for the hierarchy in which the kernel is told, by a name
// that no server of this machine uses. How long a move takes is a figure of
// docs/benchmarks.md.
func TestQuickMoves(t *testing.T) {
	name := fmt.Sprintf("soulbox-test-%d", os.Getpid())
	first, err := quickMoves(name)
	if err != nil {
		t.Fatal(err)
	}
	second, err := quickMoves(name) // another server's
	if err != nil {
		t.Fatal(err)
	}
	if !listed(t, name) {
		t.Error("there is no hierarchy")
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if !listed(t, name) {
		t.Error("the hierarchy is gone although one still needs it")
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	for end := time.Now().Add(10 * time.Second); listed(t, name); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the hierarchy is left behind")
		}
	}
}

// TestQuickMovesAgain: one that is just going away does not stand in the way.
func TestQuickMovesAgain(t *testing.T) {
	name := fmt.Sprintf("soulbox-again-%d", os.Getpid())
	for range 50 {
		held, err := quickMoves(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := held.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func listed(t *testing.T, name string) bool {
	t.Helper()
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(own), ":name="+name+":")
}
