package postgres_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/pressly/goose/v3"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/store"
	"github.com/soulbox/soulbox/store/postgres"
	"github.com/soulbox/soulbox/store/storetest"
)

// server is a PostgreSQL of our own, on a port of the loopback interface.
type server struct {
	port     int
	uid, gid int // of its files
	dbs      atomic.Int32
}

var pg *server

func TestMain(m *testing.M) {
	code, err := withServer(context.Background(), m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, "postgres tests:", err)
		code = 1
	}
	os.Exit(code)
}

// withServer calls run while a fresh server is up.
func withServer(ctx context.Context, run func() int) (code int, err error) {
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // the pattern is well formed
	if len(bins) == 0 {
		return 1, errors.New("no PostgreSQL server under /usr/lib/postgresql; install one with: apt-get install -y postgresql")
	}
	bin := bins[len(bins)-1]
	dir, err := os.MkdirTemp("", "soulbox-postgres-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	// PostgreSQL refuses to run as root.
	attr := &syscall.SysProcAttr{}
	uid, gid := os.Getuid(), os.Getgid()
	if uid == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			return 1, fmt.Errorf("user postgres, whom the package postgresql makes: %w", err)
		}
		var uidErr, gidErr error
		uid, uidErr = strconv.Atoi(u.Uid)
		gid, gidErr = strconv.Atoi(u.Gid)
		if err := errors.Join(uidErr, gidErr, os.Chown(dir, uid, gid)); err != nil {
			return 1, err
		}
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	do := func(name string, args ...string) error {
		cmd := exec.CommandContext(ctx, filepath.Join(bin, name), args...)
		cmd.SysProcAttr = attr
		cmd.Dir = dir
		// The server inherits these and would keep a pipe open.
		log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer log.Close()
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Run(); err != nil {
			said, _ := os.ReadFile(log.Name()) // without it the error is less clear, and still one
			return fmt.Errorf("%s: %w\n%s", name, err, said)
		}
		return nil
	}
	port, err := freePort(ctx)
	if err != nil {
		return 1, err
	}
	data := filepath.Join(dir, "data")
	// No flushing: nothing here outlives the test.
	if err := do("initdb", "-D", data, "-A", "trust", "-U", "soulbox", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8"); err != nil {
		return 1, err
	}
	options := fmt.Sprintf("-c listen_addresses=127.0.0.1 -p %d -k %s -c fsync=off", port, dir)
	if err := do("pg_ctl", "-D", data, "-o", options, "-w", "start"); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, do("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")) }()
	pg = &server{port: port, uid: uid, gid: gid}
	return run(), nil
}

func freePort(ctx context.Context) (int, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func (s *server) url(db string) string {
	return fmt.Sprintf("postgres://soulbox@127.0.0.1:%d/%s?sslmode=disable", s.port, db)
}

// create makes an empty database and returns its URL.
func (s *server) create(t *testing.T) string {
	t.Helper()
	name := fmt.Sprintf("test%d", s.dbs.Add(1))
	s.exec(t, "CREATE DATABASE "+name)
	return s.url(name)
}

// exec may be called when the test is over.
func (s *server) exec(t *testing.T, statement string) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	conn, err := pgx.Connect(ctx, s.url("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, statement); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, url string) *store.Store {
	t.Helper()
	s, err := postgres.Open(t.Context(), url)
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
	storetest.Run(t, func(t *testing.T) *store.Store { return open(t, pg.create(t)) })
}

func TestUpgrade(t *testing.T) {
	url := pg.create(t)
	storetest.RunUpgrade(t, "../migration", goose.DialectPostgres,
		func() (*sql.DB, error) { return sql.Open("pgx", url) },
		func() (*store.Store, error) { return postgres.Open(t.Context(), url) })
}

func TestReopen(t *testing.T) {
	url := pg.create(t)
	if err := open(t, url).InsertTeam(t.Context(), &soulbox.Team{ID: "one", Slug: "one"}); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, url).TeamBySlug(t.Context(), "one"); err != nil {
		t.Error(err)
	}
}

func TestOpenBadURL(t *testing.T) {
	_, err := postgres.Open(t.Context(), "postgres://me:secret@host:notaport/db")
	if soulbox.KindOf(err) != soulbox.Invalid {
		t.Fatalf("Open: %v, want Invalid", err)
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("error %q shows the password", err)
	}
}

func TestOpenNobodyThere(t *testing.T) {
	port, err := freePort(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = postgres.Open(t.Context(), fmt.Sprintf("postgres://me:secret@127.0.0.1:%d/db?sslmode=disable&connect_timeout=2", port))
	if err == nil {
		t.Fatal("Open of a server that is not there succeeds")
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("error %q shows the password", err)
	}
}

// TestFullDisk has a disk that is full, for the tables of one database only: the
// log of the server would end it.
func TestFullDisk(t *testing.T) {
	dir, err := os.MkdirTemp("", "soulbox-postgres-full-") //nolint:usetesting // the server may not enter folders of a test
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=32m,mode=700,uid=%d,gid=%d", pg.uid, pg.gid)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil { // the server has it open
			t.Error(err)
		}
	})
	pg.exec(t, "CREATE TABLESPACE small LOCATION '"+dir+"'")
	t.Cleanup(func() { pg.exec(t, "DROP TABLESPACE small") })
	pg.exec(t, "CREATE DATABASE crowded TABLESPACE small")
	t.Cleanup(func() { pg.exec(t, "DROP DATABASE crowded") })
	s := open(t, pg.url("crowded"))
	ballast, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = ballast.Write(make([]byte, 4<<10))
	}
	if err := ballast.Close(); err != nil {
		t.Fatal(err)
	}
	team := &soulbox.Team{ID: "one", Slug: "one"}
	err = s.InsertTeam(t.Context(), team)
	if soulbox.KindOf(err) != soulbox.Unavailable || !strings.Contains(soulbox.MessageOf(err), "disk") {
		t.Errorf("a change on a full disk: %v, want Unavailable, because the disk is full", err)
	}
	if err := os.Remove(ballast.Name()); err != nil {
		t.Fatal(err)
	}
	if err := s.InsertTeam(t.Context(), team); err != nil {
		t.Errorf("after there is room again: %v", err)
	}
}
