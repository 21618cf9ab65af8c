package server_test

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
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
	s.Settings = "isolation: [gvisor, runc]\n"
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
		case strings.HasPrefix(row.Name, "memory-paused") && row.Max != 0:
			t.Errorf("%s: a paused sandbox has %.1f MB of memory", row.Name, row.Max)
		case strings.HasPrefix(row.Name, "memory-paused") && !strings.HasSuffix(row.Note, "MB of disk each"):
			t.Errorf("%s does not say what it takes on disk: %q", row.Name, row.Note)
		case row.Max <= 0 && !strings.HasPrefix(row.Name, "memory-paused") && !strings.HasPrefix(row.Name, "command-overhead"):
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
	templates, err := c.Templates.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, tpl := range templates {
		if !tpl.House {
			t.Errorf("template %s is left", tpl.Name)
		}
	}
	pools, err := c.Sandboxes.Pools(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(pools.Pools) != 1 || pools.Pools[0].Name != "base" || pools.Pools[0].Hits == 0 || pools.Pools[0].Misses == 0 || pools.Budget == 0 {
		t.Errorf("pools = %+v, want those of base, of which were taken, and which were empty", pools)
	}
	for _, pattern := range []string{"/sys/fs/cgroup/soulbox-bench-*", "/sys/fs/cgroup/*/soulbox-bench-*"} {
		if left, err := filepath.Glob(pattern); err != nil || len(left) > 0 {
			t.Errorf("cgroups of BuildKit are left: %v, %v", left, err)
		}
	}
	s.Stop(t)
	s.WantNothingLeft(t)
}

// A server that allows no containers has none measured, which is no failure.
func TestBenchWithoutContainers(t *testing.T) {
	s := servertest.New(t)
	s.Start(t)
	out, err := exec.CommandContext(t.Context(), s.Binary, "bench", "--data", s.Data, "--samples", "2", "--rows", "create-runc,command-overhead-runc,memory-idle-runc,file-up", "--file-mib", "8", "--json").Output()
	if err != nil {
		t.Errorf("soulbox bench: %v", err)
	}
	var report bench.Report
	if err := json.Unmarshal(out, &report); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if len(report.Rows) != 4 {
		t.Errorf("%d rows, want 4: %s", len(report.Rows), out)
	}
	for _, row := range report.Rows {
		contained := strings.HasSuffix(row.Name, "-runc")
		said := strings.HasPrefix(row.Note, "not measured: ") && strings.Contains(row.Note, `isolation runc are not allowed on this server; its operator can allow them with the setting "isolation"`)
		if row.Error != "" || contained != said || contained != (row.N == 0) {
			t.Errorf("%s has %d samples and says %q, want why there is none of containers", row.Name, row.N, row.Remark())
		}
	}
	s.Stop(t)
	s.WantNothingLeft(t)
}
