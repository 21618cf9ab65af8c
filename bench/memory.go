package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/soulbox/soulbox"
)

// memory reads what the processes of idle sandboxes have for themselves, then
// what is left of it when they are paused. Only who is on the server's machine,
// and may look at its processes, sees that.
func memory(ctx context.Context, r *runner, rows []*Row) error {
	// One alone has to itself what others share: the pages of its image.
	const least, most, settle = 2, 20, 3 * time.Second
	idle, paused := rows[0], rows[1]
	ids := make([]string, max(least, min(most, r.Samples)))
	for i := range ids {
		sb, _, err := r.create(ctx)
		if err != nil {
			return err
		}
		ids[i] = sb.ID
	}
	if err := wait(ctx, settle); err != nil {
		return err
	}
	if err := weigh(idle, ids); err != nil {
		return err
	}
	if idle.samples == nil {
		for _, row := range rows {
			row.Note = "not measured: no process of the sandboxes is seen from here; run this as root on the server's machine"
		}
		return nil
	}
	idle.Note = fmt.Sprintf("%d at once, after %v", len(ids), settle)
	for _, id := range ids {
		if err := r.pause(ctx, id); err != nil {
			return err
		}
	}
	var disk soulbox.Bytes
	n := 0
	for s, err := range r.api.Sandboxes.Snapshots(ctx, soulbox.ForPause) {
		if err != nil {
			return err
		}
		for _, id := range ids {
			if s.Sandbox == id {
				disk += s.Bytes
				n++
			}
		}
	}
	if err := weigh(paused, ids); err != nil {
		return err
	}
	// A sandbox without processes has no memory of its own.
	for len(paused.samples) < len(ids) {
		paused.Add(0)
	}
	if n > 0 {
		paused.Note = fmt.Sprintf("and %.1f MB of disk each", float64(disk)/1e6/float64(n))
	}
	return nil
}

// weigh adds a sample for each sandbox that has processes here.
func weigh(row *Row, ids []string) error {
	of, err := processes(ids)
	if err != nil {
		return err
	}
	for _, id := range ids {
		sum, seen := 0, false
		for _, pid := range of[id] {
			kib, err := private(pid)
			switch {
			case os.IsNotExist(err):
				continue // it has ended meanwhile
			case os.IsPermission(err):
				continue // a process that is not ours to look at
			case err != nil:
				return err
			}
			sum, seen = sum+kib, true
		}
		if seen {
			row.Add(float64(sum) * 1024 / 1e6)
		}
	}
	return nil
}

// processes finds those of sandboxes: their cgroup or their command line names
// the sandbox, or that of a process above them does.
func processes(ids []string) (map[string][]string, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	named := map[string]string{} // sandbox by process
	parent := map[string]string{}
	for _, dir := range dirs {
		pid := filepath.Base(dir)
		for _, file := range []string{"cgroup", "cmdline"} {
			b, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil {
				continue // it has ended meanwhile
			}
			for _, id := range ids {
				if strings.Contains(string(b), "/"+id) {
					named[pid] = id
				}
			}
		}
		b, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			continue // as above
		}
		// The name in brackets may hold anything; state and parent follow it.
		if f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:])); len(f) > 1 {
			parent[pid] = f[1]
		}
	}
	of := map[string][]string{}
	for pid := range parent {
		for at, steps := pid, 0; at != "" && at != "0" && steps < len(parent); at, steps = parent[at], steps+1 {
			if id := named[at]; id != "" {
				of[id] = append(of[id], pid)
				break
			}
		}
	}
	return of, nil
}

// private is what a process has for itself, in KiB.
func private(pid string) (int, error) {
	b, err := os.ReadFile(filepath.Join("/proc", pid, "smaps_rollup"))
	if err != nil {
		return 0, err
	}
	sum := 0
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if !strings.HasPrefix(line, "Private_") || len(f) < 2 {
			continue
		}
		n, err := strconv.Atoi(f[1])
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}
