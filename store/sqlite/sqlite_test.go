package sqlite_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/store"
	"github.com/soulbox/soulbox/store/sqlite"
	"github.com/soulbox/soulbox/store/storetest"
)

func open(t *testing.T, path string) *store.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) *store.Store {
		return open(t, filepath.Join(t.TempDir(), "odd ?#% name.db"))
	})
}

func TestUpgrade(t *testing.T) {
	path := filepath.Join(t.TempDir(), "soulbox.db")
	storetest.RunUpgrade(t, "../migration", goose.DialectSQLite3,
		func() (*sql.DB, error) { return sql.Open("sqlite", path) },
		func() (*store.Store, error) { return sqlite.Open(t.Context(), path) })
}

func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "soulbox.db")
	for i, slug := range []string{"one", "two"} {
		s, err := sqlite.Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.InsertTeam(t.Context(), &soulbox.Team{ID: soulbox.TeamID(slug), Slug: slug}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.TeamBySlug(t.Context(), "one"); err != nil {
			t.Errorf("open number %d: %v", i+1, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOneAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "soulbox.db")
	open(t, path)
	_, err := sqlite.Open(t.Context(), path)
	if soulbox.KindOf(err) != soulbox.Conflict {
		t.Fatalf("second Open: %v, want a Conflict", err)
	}
	if got := soulbox.MessageOf(err); !strings.Contains(got, filepath.Dir(path)) {
		t.Errorf("message %q does not name the folder", got)
	}
}

func TestOpenNowhere(t *testing.T) {
	if _, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "no", "folder.db")); err == nil {
		t.Error("Open in a folder that does not exist succeeds")
	}
}

// ballast fills a disk, and returns what takes the room away from it again.
func ballast(t *testing.T, dir string) (drop func()) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4<<10))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	return func() {
		t.Helper()
		if err := errors.Join(f.Close(), os.Remove(f.Name())); err != nil {
			t.Fatal(err)
		}
	}
}

func wantFull(t *testing.T, what string, err error) {
	t.Helper()
	if soulbox.KindOf(err) != soulbox.Unavailable || !strings.Contains(soulbox.MessageOf(err), "disk") {
		t.Errorf("%s: %v, want Unavailable, because the disk is full", what, err)
	}
}

// TestFullDisk has a disk that is full while the database is open, and when it
// is opened. Nothing of what was there is lost, and changes are made as soon as
// there is room.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "soulbox.db")
	s, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	insert := func(ctx context.Context, slug string) error {
		return s.InsertTeam(ctx, &soulbox.Team{ID: soulbox.TeamID(slug), Slug: slug})
	}
	if err := insert(t.Context(), "before"); err != nil {
		t.Fatal(err)
	}
	drop := ballast(t, dir)
	errs := make(chan error)
	for i := range 4 { // several share a transaction
		go func() { errs <- insert(t.Context(), fmt.Sprint("full", i)) }()
	}
	for range 4 {
		wantFull(t, "a change on a full disk", <-errs)
	}
	if _, err := s.TeamBySlug(t.Context(), "before"); err != nil {
		t.Errorf("reading on a full disk: %v", err)
	}
	drop()
	for i := range 4 {
		if err := insert(t.Context(), fmt.Sprint("full", i)); err != nil {
			t.Errorf("after there is room again: %v", err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	drop = ballast(t, dir)
	_, err = sqlite.Open(t.Context(), path)
	wantFull(t, "Open on a full disk", err)
	drop()
	if s, err = sqlite.Open(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	for _, slug := range []string{"before", "full0", "full3"} {
		if _, err := s.TeamBySlug(t.Context(), slug); err != nil {
			t.Error(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// child is the environment variable that makes the test binary a process that
// inserts a team, says so, and waits to be killed.
const child = "SQLITE_TEST_CHILD"

func TestMain(m *testing.M) {
	path := os.Getenv(child)
	if path == "" {
		os.Exit(m.Run())
	}
	s, err := sqlite.Open(context.Background(), path)
	if err != nil {
		panic(err)
	}
	if err := s.InsertTeam(context.Background(), &soulbox.Team{ID: "t", Slug: "survivor"}); err != nil {
		panic(err)
	}
	_, _ = os.Stdout.WriteString("written\n")
	time.Sleep(time.Minute)
}

// TestKill9 kills a process that has just written: the record must be there,
// and the lock must not.
func TestKill9(t *testing.T) {
	path := filepath.Join(t.TempDir(), "soulbox.db")
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), child+"="+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "written\n" {
		t.Fatalf("child said %q, %v", line, err)
	}
	if _, err := sqlite.Open(t.Context(), path); soulbox.KindOf(err) != soulbox.Conflict {
		t.Errorf("Open while another process has it: %v, want a Conflict", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed, and says so
	if _, err := open(t, path).TeamBySlug(t.Context(), "survivor"); err != nil {
		t.Errorf("after kill -9: %v", err)
	}
}
