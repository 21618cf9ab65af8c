package templates

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// With victimVar set, this program builds a tree where it is started, to be
// killed meanwhile.
const victimVar = "SOULBOX_TEMPLATES_TEST_VICTIM"

func TestMain(m *testing.M) {
	if os.Getenv(victimVar) != "" {
		_, err := Base(context.Background(), "tree", nil)
		fmt.Fprintln(os.Stderr, "built:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// mounters returns the processes that see something mounted at path.
func mounters(t *testing.T, path string) []string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, p := range all {
		b, err := os.ReadFile(filepath.Join(p, "mountinfo"))
		if err == nil && bytes.Contains(b, []byte(" "+path+" ")) { // else it is gone
			found = append(found, p)
		}
	}
	return found
}

// A build that dies leaves no program running, and nothing of this machine in
// the tree, which whoever removes it would remove as well.
func TestBaseKilled(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tree")
	mounted := filepath.Join(dir, "proc")
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Dir, cmd.Env = filepath.Dir(dir), append(os.Environ(), victimVar+"=1")
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for deadline := time.Now().Add(3 * time.Minute); len(mounters(t, mounted)) == 0; time.Sleep(10 * time.Millisecond) {
		select {
		case err := <-ended:
			t.Fatalf("it ended with %v before anything was mounted: %s", err, &said)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing is mounted in the tree")
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-ended

	var left []string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if left = mounters(t, mounted); len(left) == 0 {
			break
		}
	}
	if len(left) > 0 {
		t.Errorf("%v still see what was mounted", left)
		for _, name := range []string{"proc", "sys", "dev/pts", "dev/shm"} {
			_ = unix.Unmount(filepath.Join(dir, name), unix.MNT_DETACH) // or what is there would go with the folder
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
}
