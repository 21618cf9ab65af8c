package server_test

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/soulbox/soulbox/bench"
	"github.com/soulbox/soulbox/client"
	"github.com/soulbox/soulbox/server/servertest"
)

// Every row of `soulbox bench` has figures of a real server, and nothing of what
// it made there is left.
func TestBench(t *testing.T) {
	s := servertest.New(t)
	s.Warm = true
	s.Start(t)
	cmd := exec.CommandContext(t.Context(), s.Binary, "bench", "--data", s.Data, "--samples", "2", "--file-mib", "8", "--json")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("soulbox bench: %v %s", err, &stderr)
	}
	var report bench.Report
	if err := json.Unmarshal(out, &report); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var got, want []string
	for _, row := range bench.Rows() {
		want = append(want, row[0])
	}
	for _, row := range report.Rows {
		got = append(got, row.Name)
		t.Logf("%s %s", strings.Join(row.Cells(), " "), row.Remark())
		program, _, _ := strings.Cut(row.Name, "-")
		switch {
		case row.Error != "":
			t.Errorf("%s: %s", row.Name, row.Error)
		case row.Failed > 0:
			t.Errorf("%s: %d failed", row.Name, row.Failed)
		case row.N == 0 && (program == "docker" || program == "runc") && strings.HasPrefix(row.Note, "not installed"):
		case row.N == 0:
			t.Errorf("%s has no samples: %s", row.Name, row.Remark())
		case row.Name == "memory-paused" && row.Max != 0:
			t.Errorf("a paused sandbox has %.1f MB of memory", row.Max)
		case row.Name == "memory-paused" && !strings.HasSuffix(row.Note, "MB of disk each"):
			t.Errorf("memory-paused does not say what it takes on disk: %q", row.Note)
		case row.Max <= 0 && row.Name != "memory-paused" && row.Name != "command-overhead":
			t.Errorf("%s is %v", row.Name, row.Cells())
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("rows %v, want %v", got, want)
	}

	c := connect(t, s)
	for info, err := range c.Sandboxes.List(t.Context(), client.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		t.Errorf("sandbox %s is left", info.ID)
	}
	for snap, err := range c.Sandboxes.Snapshots(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		t.Errorf("snapshot %s is left, a %s", snap.ID, snap.Kind)
	}
	pools, err := c.Sandboxes.Pools(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(pools.Pools) != 1 || pools.Pools[0].Name != "base" || pools.Pools[0].Hits == 0 || pools.Pools[0].Misses == 0 || pools.Budget == 0 {
		t.Errorf("pools = %+v, want those of base, of which were taken, and which were empty", pools)
	}
	s.Stop(t)
	s.WantNothingLeft(t)
}
