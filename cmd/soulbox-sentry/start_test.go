package main

import (
	"os"
	"runtime"
	"testing"

	"gvisor.dev/gvisor/pkg/gomaxprocs"
	"gvisor.dev/gvisor/pkg/sentry/seccheck"
	"gvisor.dev/gvisor/pkg/sentry/state/stateio"
)

// TestLeaveOut holds what is left out against the gVisor that is in go.mod.
func TestLeaveOut(t *testing.T) {
	leaveOut()
	t.Cleanup(func() { moreProcs = 0 })
	procs := runtime.NumCPU() + spare
	gomaxprocs.SetBase(runtime.NumCPU())
	pages, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	reader := stateio.NewPagesFileFDReaderDefault(int32(pages.Fd()))
	if n := reader.MaxParallel(); n != readers {
		t.Errorf("gVisor has %d readers, not %d", n, readers)
	}
	if n := runtime.GOMAXPROCS(0); n != procs {
		t.Errorf("%d processors for Go while memory is read, want %d", n, procs)
	}
	if err := reader.Close(); err != nil {
		t.Error(err)
	}
	if n := runtime.GOMAXPROCS(0); n != procs {
		t.Errorf("%d processors for Go after that, want %d", n, procs)
	}
	if seccheck.Initialize(); len(seccheck.Points) > 0 {
		t.Errorf("%d trace points", len(seccheck.Points))
	}
}
