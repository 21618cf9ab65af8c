package filesystem_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/soulbox/soulbox/agent/account"
	"github.com/soulbox/soulbox/agent/filesystem"
)

func TestWatchTree(t *testing.T) {
	s := filesystem.New(account.New("/nonexistent", "/nonexistent"))
	t.Cleanup(s.Close)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	tree, link := filepath.Join(dir, "tree"), filepath.Join(dir, "link")
	if err := errors.Join(os.MkdirAll(tree+"/old/own", 0o755), os.Symlink("tree", link)); err != nil {
		t.Fatal(err)
	}
	w, err := s.WatchTree(link, link+"/old/own", link+"/old/later/own")
	if err != nil {
		t.Fatal(err)
	}
	events := make(chan string, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- w.Run(ctx, func(path, op string) { events <- op + " " + strings.TrimPrefix(path, tree) })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
	want := func(event string) {
		t.Helper()
		for deadline := time.After(20 * time.Second); ; {
			select {
			case got := <-events:
				if strings.Contains(got, "/own/") {
					t.Errorf("%s is told", got)
				}
				if got == event {
					return
				}
			case <-deadline:
				t.Fatalf("no %q", event)
			}
		}
	}
	write(t, tree+"/old/own/x", "x")
	write(t, tree+"/old/later/own/x", "x")
	write(t, tree+"/old/a", "x")
	want("create /old/a")
	want("write /old/a")
	if err := os.Rename(tree+"/old/a", tree+"/b"); err != nil {
		t.Fatal(err)
	}
	want("rename /old/a")
	want("create /b")
	if err := errors.Join(os.Chmod(tree+"/b", 0o600), os.Remove(tree+"/b")); err != nil {
		t.Fatal(err)
	}
	want("chmod /b")
	want("remove /b")
	write(t, tree+"/new/below/c", "x") // in folders that are new as well
	want("create /new/below/c")
}

func TestWatchTreeRefused(t *testing.T) {
	s := filesystem.New(account.New("/nonexistent", "/nonexistent"))
	t.Cleanup(s.Close)
	dir := t.TempDir()
	write(t, dir+"/file", "")
	for _, path := range []string{dir + "/none", dir + "/file", "/proc", "/proc/self", dir + "/own/below", "/sys/kernel"} {
		if err := os.MkdirAll(dir+"/own/below", 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := s.WatchTree(path, dir+"/own"); err == nil {
			t.Errorf("%s can be watched", path)
		}
	}
	for i := range 8200 {
		if err := os.Mkdir(dir+"/own/"+string(rune('一'+i)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.WatchTree(dir); err == nil || !strings.Contains(err.Error(), "8192") {
		t.Errorf("a tree of 8200 folders: %v", err)
	}
	w, err := s.WatchTree(dir, dir+"/own")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = w.Run(ctx, func(string, string) {}) // closes it
}
