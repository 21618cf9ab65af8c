package server_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/server"
)

// free is a configuration that nothing stands in the way of.
func free(t *testing.T) server.Config {
	t.Helper()
	return server.Config{Data: t.TempDir(), Listen: "127.0.0.1:0", Metrics: "127.0.0.1:0"}
}

func examine(t *testing.T, cfg server.Config) []server.Check {
	t.Helper()
	checks, err := server.Doctor(t.Context(), cfg)
	if err != nil {
		t.Fatalf("Doctor: %v", err)
	}
	for _, c := range checks {
		if c.Found == "" || !c.OK && c.Remedy == "" {
			t.Errorf("%+v tells too little", c)
		}
	}
	return checks
}

// ill returns the names of the checks that are not OK.
func ill(checks []server.Check) []string {
	var names []string
	for _, c := range checks {
		if !c.OK {
			names = append(names, c.Name)
		}
	}
	return names
}

func check(t *testing.T, checks []server.Check, name string) server.Check {
	t.Helper()
	i := slices.IndexFunc(checks, func(c server.Check) bool { return c.Name == name })
	if i < 0 {
		t.Fatalf("there is no check %q in %+v", name, checks)
	}
	return checks[i]
}

// The machine that runs these tests can run the server: others of them do.
func TestDoctorHere(t *testing.T) {
	cfg := free(t)
	checks := examine(t, cfg)
	if got := ill(checks); len(got) != 0 {
		t.Errorf("not OK: %v of %+v", got, checks)
	}
	want := []string{"root", "kernel", "user namespaces", "cgroups", "nftables", "mkfs.erofs", "mmdebstrap", "memory", "disk", "port for clients", "port for Prometheus"}
	var got []string
	for _, c := range checks {
		got = append(got, c.Name)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("checks (-want +got):\n%s", diff)
	}
	// What was found, by other means.
	release, err := exec.CommandContext(t.Context(), "uname", "-r").Output()
	if err != nil {
		t.Fatal(err)
	}
	mkfs, err := exec.LookPath("mkfs.erofs")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"root": "user id 0", "kernel": strings.TrimSpace(string(release)), "mkfs.erofs": mkfs, "port for clients": "127.0.0.1:0 is free",
	} {
		if got := check(t, checks, name).Found; got != want {
			t.Errorf("%s: found %q, want %q", name, got, want)
		}
	}
	if got := check(t, checks, "disk").Found; !strings.HasSuffix(got, " MiB free in "+cfg.Data) {
		t.Errorf("disk: found %q, want the data folder", got)
	}
	if left, err := os.ReadDir(cfg.Data); len(left) != 0 || err != nil {
		t.Errorf("the data folder holds %v, %v; want nothing", left, err)
	}
}

func TestDoctorPorts(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg := free(t)
	cfg.Listen = l.Addr().String()
	checks := examine(t, cfg)
	if diff := cmp.Diff([]string{"port for clients"}, ill(checks)); diff != "" {
		t.Errorf("not OK (-want +got):\n%s", diff)
	}
	c := check(t, checks, "port for clients")
	if !strings.Contains(c.Found, "address already in use") || !strings.Contains(c.Remedy, "--listen") {
		t.Errorf("the port: %+v, want that it is in use, and --listen", c)
	}

	cfg = free(t)
	cfg.Metrics = "192.0.2.1:80" // nobody's
	checks = examine(t, cfg)
	if diff := cmp.Diff([]string{"port for Prometheus"}, ill(checks)); diff != "" {
		t.Errorf("not OK (-want +got):\n%s", diff)
	}
	if c := check(t, checks, "port for Prometheus"); !strings.Contains(c.Remedy, "--metrics") {
		t.Errorf("the port: %+v, want --metrics", c)
	}

	cfg.Metrics = "off"
	if c := check(t, examine(t, cfg), "port for Prometheus"); !c.OK || c.Found != "off" {
		t.Errorf("metrics that are off: %+v", c)
	}
}

func TestDoctorPrograms(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	checks := examine(t, free(t))
	if diff := cmp.Diff([]string{"mkfs.erofs", "mmdebstrap"}, ill(checks)); diff != "" {
		t.Errorf("not OK (-want +got):\n%s", diff)
	}
	if c := check(t, checks, "mkfs.erofs"); !strings.Contains(c.Remedy, "erofs-utils") || !strings.Contains(c.Found, "not installed") {
		t.Errorf("mkfs.erofs: %+v, want the package's name", c)
	}
	if c := check(t, checks, "mmdebstrap"); !strings.Contains(c.Remedy, "--base") {
		t.Errorf("mmdebstrap: %+v, want the way without it", c)
	}
}

func TestDoctorDisk(t *testing.T) {
	cfg := free(t)
	dir := cfg.Data
	cfg.Data = filepath.Join(dir, "not", "there", "yet")
	if c := check(t, examine(t, cfg), "disk"); !c.OK || !strings.HasSuffix(c.Found, " in "+dir) {
		t.Errorf("a folder that is not there yet: %+v, want the one above", c)
	}
	if _, err := os.Stat(filepath.Join(dir, "not")); err == nil {
		t.Error("the doctor made the folder")
	}

	small := t.TempDir()
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(small, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	cfg.Data = filepath.Join(small, "data")
	checks := examine(t, cfg)
	if diff := cmp.Diff([]string{"disk"}, ill(checks)); diff != "" {
		t.Errorf("not OK (-want +got):\n%s", diff)
	}
	if c := check(t, checks, "disk"); c.Found != "1 MiB free in "+small || !strings.Contains(c.Remedy, "--data") {
		t.Errorf("a small disk: %+v", c)
	}

	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.Data = filepath.Join(file, "data")
	if c := check(t, examine(t, cfg), "disk"); c.OK || !strings.Contains(c.Found, "not a directory") {
		t.Errorf("a folder below a file: %+v, want not OK", c)
	}
}

// Without root the doctor says so instead of failing.
func TestDoctorAsNobody(t *testing.T) {
	cfg := free(t)
	done := make(chan []string)
	go func() {
		defer close(done)
		// Only this thread changes its user, and it ends with the goroutine,
		// because nothing unlocks it.
		runtime.LockOSThread()
		const nobody = 65534
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			t.Error(errno)
			return
		}
		checks, err := server.Doctor(t.Context(), cfg)
		if err != nil {
			t.Errorf("Doctor: %v", err)
		}
		done <- ill(checks)
	}()
	got := <-done
	for _, want := range []string{"root", "nftables"} {
		if !slices.Contains(got, want) {
			t.Errorf("not OK: %v, want %s among them", got, want)
		}
	}
}

func TestDoctorRefuses(t *testing.T) {
	_, err := server.Doctor(t.Context(), server.Config{Data: t.TempDir(), Listen: "nonsense"})
	if soulbox.KindOf(err) != soulbox.Invalid {
		t.Errorf("Doctor: %v, want Invalid", err)
	}
}

// What sandboxes of isolation runc need is looked at where they are allowed.
func TestDoctorOnIsolation(t *testing.T) {
	cfg := free(t)
	without := examine(t, cfg)
	cfg.Isolation = []string{"gvisor", "runc"}
	with := examine(t, cfg)
	if len(with) != len(without)+2 || !check(t, with, "mkfs.ext4").OK || !check(t, with, "file systems").OK {
		t.Errorf("with runc %+v, without %+v; want two checks more, and this machine has both", with, without)
	}
}
