// Package cgroup bounds what a sandbox takes from the machine — memory,
// processor time, processes — and counts what it took.
//
// All groups of an installation lie below one parent, so that a server which
// starts after a crash finds those that nobody needs any more. It works on
// cgroup v2 and on the separate hierarchies of v1, through the library that
// runc uses. On v1 only memory, cpu, cpuacct and pids are used: each further
// hierarchy would cost a sandbox's start another pair of migrations.
//
// The group of a sandbox holds the sentry with everything in it, so the memory
// limit covers the guest's memory, the sentry's own, and the page cache of
// what the guest writes. When it is reached and nothing can be reclaimed, the
// kernel kills the sentry; [Group.Usage] then tells so.
package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs"
	"github.com/opencontainers/cgroups/fs2"
	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
)

// mountPoint is where every distribution mounts the hierarchies.
const mountPoint = "/sys/fs/cgroup"

// controllers of v1 that a sandbox is put into.
var controllers = []string{"memory", "cpu", "cpuacct", "pids"}

// A Parent holds the groups of one installation. Safe for concurrent use.
type Parent struct {
	unified bool
	paths   map[string]string // v1: controller → folder; v2: "" → folder
}

// A Group is one sandbox's. Safe for concurrent use.
type Group struct {
	id      soulbox.SandboxID
	manager manager
	folders []string
}

// manager is what the two versions have in common.
type manager interface {
	Apply(pid int) error
	Set(*cgroups.Resources) error
	AddPid(sub string, pid int) error
	GetStats() (*cgroups.Stats, error)
	OOMKillCount() (uint64, error)
}

// Usage is what a group has used.
type Usage struct {
	CPU      time.Duration // since it was made
	Memory   soulbox.Bytes // without what can be dropped at once
	Cache    soulbox.Bytes
	OOMKills uint64 // how often the kernel killed in it
	PIDsMax  bool   // whether it ever ran into its process limit
}

// Open returns the parent called name, which is made when the first group is.
// It is an error when the kernel lacks a controller that limits need.
func Open(name string) (*Parent, error) {
	if name == "" || name != filepath.Base(name) || strings.HasPrefix(name, ".") {
		return nil, soulbox.Errorf(soulbox.Invalid, "%q cannot be the name of a cgroup", name)
	}
	p := &Parent{unified: cgroups.IsCgroup2UnifiedMode(), paths: map[string]string{}}
	if p.unified {
		have, err := os.ReadFile(filepath.Join(mountPoint, "cgroup.controllers"))
		if err != nil {
			return nil, fmt.Errorf("open cgroups: %w", err)
		}
		if c := lacks(string(have)); c != "" {
			return nil, fmt.Errorf("open cgroups: the kernel offers no %s controller in %s", c, mountPoint)
		}
		p.paths[""] = filepath.Join(mountPoint, name)
		return p, nil
	}
	for _, c := range controllers {
		root := filepath.Join(mountPoint, c)
		if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
			return nil, fmt.Errorf("open cgroups: the %s hierarchy is not mounted: %w", c, err)
		}
		p.paths[c] = filepath.Join(root, name)
	}
	return p, nil
}

// lacks returns the first controller that limits need and that is not in the
// list which v2 gives of those that it has, or "".
func lacks(list string) string {
	have := strings.Fields(list)
	for _, c := range []string{"memory", "cpu", "pids"} {
		if !slices.Contains(have, c) {
			return c
		}
	}
	return ""
}

// Group returns the group of sandbox id, whether it exists or not.
func (p *Parent) Group(id soulbox.SandboxID) (*Group, error) {
	if !id.Valid() {
		return nil, soulbox.Errorf(soulbox.Invalid, "%q is not the id of a sandbox", id)
	}
	g := &Group{id: id}
	conf := &cgroups.Cgroup{Resources: &cgroups.Resources{SkipDevices: true}}
	var err error
	if p.unified {
		g.folders = []string{filepath.Join(p.paths[""], string(id))}
		g.manager, err = fs2.NewManager(conf, g.folders[0])
	} else {
		paths := make(map[string]string, len(p.paths))
		for c, dir := range p.paths {
			paths[c] = filepath.Join(dir, string(id))
			g.folders = append(g.folders, paths[c])
		}
		g.manager, err = fs.NewManager(conf, paths)
	}
	if err != nil {
		return nil, fmt.Errorf("cgroup of %s: %w", id, err)
	}
	return g, nil
}

// Create makes the group of sandbox id with the limits of size. Making it
// again sets the limits again.
func (p *Parent) Create(id soulbox.SandboxID, size soulbox.Size) (*Group, error) {
	g, err := p.Group(id)
	if err != nil {
		return nil, err
	}
	const none = -1 // make it, move nobody
	if err := g.manager.Apply(none); err != nil {
		return nil, fmt.Errorf("make the cgroup of %s: %w", id, err)
	}
	if err := g.manager.Set(p.resources(size)); err != nil {
		return nil, errors.Join(fmt.Errorf("limit the cgroup of %s: %w", id, err), g.Remove())
	}
	return g, nil
}

// cpuPeriod is the kernel's default, in µs.
const cpuPeriod = 100_000

func (p *Parent) resources(size soulbox.Size) *cgroups.Resources {
	pids := int64(size.PIDs)
	r := &cgroups.Resources{
		Memory:      int64(size.Memory),
		CpuQuota:    int64(size.CPUs) * cpuPeriod,
		CpuPeriod:   cpuPeriod,
		PidsLimit:   &pids,
		SkipDevices: true,
	}
	// The limit is one of memory, not of memory that is somewhere else: a
	// sandbox that swaps slows everybody's disk. A kernel without swap
	// accounting has no file for it.
	if p.unified || exists(filepath.Join(mountPoint, "memory", "memory.memsw.limit_in_bytes")) {
		r.MemorySwap = r.Memory
	}
	return r
}

// Add moves processes into the group. One that has ended is skipped.
func (g *Group) Add(pids ...int) error {
	for _, pid := range pids {
		if err := g.manager.AddPid("", pid); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("move process %d into the cgroup of %s: %w", pid, g.id, err)
		}
	}
	return nil
}

// Usage counts. It works as long as the group exists, also when its last
// process has ended.
func (g *Group) Usage() (Usage, error) {
	st, err := g.manager.GetStats()
	if err != nil {
		return Usage{}, fmt.Errorf("read the cgroup of %s: %w", g.id, err)
	}
	u := Usage{
		CPU:    time.Duration(st.CpuStats.CpuUsage.TotalUsage),
		Memory: soulbox.Bytes(st.MemoryStats.Usage.Usage),
	}
	cache, v1 := st.MemoryStats.Stats["total_inactive_file"]
	if !v1 {
		cache = st.MemoryStats.Stats["inactive_file"]
	}
	u.Cache = soulbox.Bytes(cache)
	u.Memory = max(0, u.Memory-u.Cache)
	u.PIDsMax = g.pidsMax()
	if u.OOMKills, err = g.manager.OOMKillCount(); err != nil {
		return Usage{}, fmt.Errorf("read the cgroup of %s: %w", g.id, err)
	}
	return u, nil
}

// pidsMax reports whether a fork was ever refused in the group.
func (g *Group) pidsMax() bool {
	for _, dir := range g.folders {
		b, err := os.ReadFile(filepath.Join(dir, "pids.events"))
		if err == nil {
			return !strings.HasPrefix(string(b), "max 0\n")
		}
	}
	return false
}

// Remove removes the group. It must be empty of processes; a group that does
// not exist is removed already.
func (g *Group) Remove() error {
	// Not manager.Destroy: it forgets the folders, and Add would then succeed
	// without moving anybody.
	var errs []error
	for _, dir := range g.folders {
		errs = append(errs, cgroups.RemovePath(dir))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove the cgroup of %s: %w", g.id, err)
	}
	return nil
}

// Sandboxes returns the ids of the groups that exist.
func (p *Parent) Sandboxes() ([]soulbox.SandboxID, error) {
	seen := map[soulbox.SandboxID]bool{}
	var ids []soulbox.SandboxID
	for _, dir := range p.paths {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("list cgroups: %w", err)
		}
		for _, e := range entries {
			id := soulbox.SandboxID(e.Name())
			if e.IsDir() && id.Valid() && !seen[id] {
				seen[id] = true
				ids = append(ids, id)
			}
		}
	}
	return ids, nil
}

// Remove removes the parent itself. It must have no groups.
func (p *Parent) Remove() error {
	var errs []error
	for _, dir := range p.paths {
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove %s: %w", dir, err))
		}
	}
	return errors.Join(errs...)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
