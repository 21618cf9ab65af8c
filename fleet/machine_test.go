package fleet_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/soulbox/soulbox"
)

// mind is what a sandbox of the machine has inside.
type mind struct {
	Files  []string // what was written to it, in order
	Heap   []string `json:",omitempty"` // what its programs remember
	Memory string   // new with every boot; "" in a snapshot without memory
}

func (m mind) clone() mind {
	return mind{Files: slices.Clone(m.Files), Heap: slices.Clone(m.Heap), Memory: m.Memory}
}

// kept returns what a snapshot has of m.
func (m mind) kept(memory bool) mind {
	m = m.clone()
	if !memory {
		m.Heap, m.Memory = nil, ""
	}
	return m
}

// machine is a node whose sandboxes and snapshots are entries of maps, and
// which fails as told. It outlives the fleets that use it, as sandboxes outlive
// a server. It complains about what no node could do.
type machine struct {
	exits chan soulbox.Exit

	mu       sync.Mutex
	dir      string // where it keeps what it has, for the next process; "": nowhere
	has      map[soulbox.SandboxID]*soulbox.Sandbox
	minds    map[soulbox.SandboxID]mind
	held     map[soulbox.SandboxID]bool
	snaps    map[soulbox.SnapshotID]mind
	lives    map[soulbox.SandboxID]int // how often it was made
	networks map[soulbox.SandboxID]soulbox.Network
	creates  int
	boots    int
	forgot   []soulbox.SandboxID
	wrongs   []string // what a fleet should not have asked for

	ready []soulbox.SandboxID // what Reserve hands out

	// All may be nil. They run without mu.
	onCreate   func(context.Context, *soulbox.Sandbox) error
	onTemplate func(*soulbox.Template) // of which one is created
	onDestroy  func(context.Context, soulbox.SandboxID) error
	onNetwork  func(soulbox.SandboxID) error
	onSnapshot func(context.Context, soulbox.SandboxID, *soulbox.Snapshot) error
	onWritten  func(soulbox.SandboxID, *soulbox.Snapshot) // it is whole
	onThaw     func(soulbox.SandboxID) error
	onRestore  func(context.Context, *soulbox.Sandbox, *soulbox.Snapshot) error // what it leaves is half-made
	onVerify   func(soulbox.SnapshotID) error
	onRemove   func(soulbox.SnapshotID) error
	onDiff     func(context.Context, soulbox.SandboxID) error
}

func newMachine() *machine {
	return &machine{
		exits:    make(chan soulbox.Exit, 16),
		has:      map[soulbox.SandboxID]*soulbox.Sandbox{},
		minds:    map[soulbox.SandboxID]mind{},
		held:     map[soulbox.SandboxID]bool{},
		snaps:    map[soulbox.SnapshotID]mind{},
		lives:    map[soulbox.SandboxID]int{},
		networks: map[soulbox.SandboxID]soulbox.Network{},
	}
}

// kept is what a machine finds again in another process.
type kept struct {
	Minds map[soulbox.SandboxID]mind
	Held  map[soulbox.SandboxID]bool
	Snaps map[soulbox.SnapshotID]mind
}

// disk makes the machine keep what it has in a file, so that it survives the
// death of the process, and reads what is there.
func (m *machine) disk(dir string) {
	m.dir = dir
	b, err := os.ReadFile(filepath.Join(dir, "machine.json"))
	if os.IsNotExist(err) {
		return
	}
	var k kept
	if err == nil {
		err = json.Unmarshal(b, &k)
	}
	if err != nil {
		panic(err)
	}
	for id, in := range k.Minds {
		m.has[id], m.minds[id] = &soulbox.Sandbox{ID: id}, in
	}
	maps.Copy(m.held, k.Held)
	maps.Copy(m.snaps, k.Snaps)
}

// keep writes what the machine has, with mu held.
func (m *machine) keep() {
	if m.dir == "" {
		return
	}
	b, err := json.Marshal(kept{m.minds, m.held, m.snaps})
	if err == nil {
		err = os.WriteFile(filepath.Join(m.dir, "machine.new"), b, 0o600)
	}
	if err == nil {
		err = os.Rename(filepath.Join(m.dir, "machine.new"), filepath.Join(m.dir, "machine.json"))
	}
	if err != nil {
		panic(err)
	}
}

func (m *machine) wrong(format string, args ...any) {
	m.wrongs = append(m.wrongs, fmt.Sprintf(format, args...))
}

func (m *machine) ID() soulbox.NodeID { return "node1" }

func (m *machine) Reserve(*soulbox.Template) (soulbox.SandboxID, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.ready) == 0 {
		return "", false
	}
	id := m.ready[0]
	m.ready = m.ready[1:]
	return id, true
}

// make adds a sandbox, with mu held.
func (m *machine) make(sb *soulbox.Sandbox, in mind) {
	if _, ok := m.has[sb.ID]; ok {
		m.wrong("sandbox %s is made while it is there", sb.ID)
	}
	if in.Memory == "" {
		m.boots++
		in.Memory = fmt.Sprintf("boot %d", m.boots)
	}
	m.has[sb.ID], m.minds[sb.ID] = sb, in
	m.lives[sb.ID]++
	delete(m.held, sb.ID)
	m.keep()
}

func (m *machine) Create(ctx context.Context, sb *soulbox.Sandbox, tpl *soulbox.Template) error {
	if m.onTemplate != nil {
		m.onTemplate(tpl)
	}
	m.mu.Lock()
	m.make(sb, mind{})
	m.creates++
	m.mu.Unlock()
	if m.onCreate != nil {
		return m.onCreate(ctx, sb)
	}
	return nil
}

func (m *machine) Destroy(ctx context.Context, id soulbox.SandboxID) error {
	if m.onDestroy != nil {
		if err := m.onDestroy(ctx, id); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drop(id)
	return nil
}

// drop removes a sandbox, with mu held.
func (m *machine) drop(id soulbox.SandboxID) {
	delete(m.has, id)
	delete(m.minds, id)
	delete(m.held, id)
	m.keep()
}

func (m *machine) Snapshot(ctx context.Context, id soulbox.SandboxID, snap *soulbox.Snapshot, hold bool) (soulbox.Bytes, error) {
	if m.onSnapshot != nil {
		if err := m.onSnapshot(ctx, id, snap); err != nil {
			return 0, err
		}
	}
	if hold {
		if err := m.hold(id); err != nil {
			return 0, err
		}
	}
	if err := m.writeDown(id, snap, hold); err != nil {
		return 0, err
	}
	if m.onWritten != nil {
		m.onWritten(id, snap)
	}
	return 4 * soulbox.KiB, nil
}

func (m *machine) writeDown(id soulbox.SandboxID, snap *soulbox.Snapshot, hold bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	in, ok := m.minds[id]
	if !ok {
		return soulbox.Errorf(soulbox.NotFound, "sandbox %s not found", id)
	}
	if _, ok := m.snaps[snap.ID]; ok {
		m.wrong("snapshot %s is written twice", snap.ID)
		return soulbox.Errorf(soulbox.Conflict, "snapshot %s exists", snap.ID)
	}
	if m.held[id] != hold {
		m.wrong("sandbox %s is written down, and held: %v", id, !hold)
	}
	m.snaps[snap.ID] = in.kept(snap.Memory)
	m.keep()
	return nil
}

func (m *machine) Thaw(_ context.Context, id soulbox.SandboxID) error {
	if m.onThaw != nil {
		if err := m.onThaw(id); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.has[id]; !ok {
		return soulbox.Errorf(soulbox.NotFound, "sandbox %s not found", id)
	}
	delete(m.held, id)
	m.keep()
	return nil
}

func (m *machine) Restore(ctx context.Context, sb *soulbox.Sandbox, snap *soulbox.Snapshot) error {
	m.mu.Lock()
	in, ok := m.snaps[snap.ID]
	if !ok {
		m.mu.Unlock()
		return soulbox.Errorf(soulbox.NotFound, "snapshot %s not found", snap.ID)
	}
	m.make(sb, in.kept(snap.Memory))
	m.mu.Unlock()
	if m.onRestore != nil {
		return m.onRestore(ctx, sb, snap)
	}
	return nil
}

func (m *machine) Verify(_ context.Context, id soulbox.SnapshotID) error {
	if m.onVerify != nil {
		if err := m.onVerify(id); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.snaps[id]; !ok {
		return soulbox.Errorf(soulbox.NotFound, "snapshot %s not found", id)
	}
	return nil
}

func (m *machine) RemoveSnapshot(_ context.Context, id soulbox.SnapshotID) error {
	if m.onRemove != nil {
		if err := m.onRemove(id); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.snaps, id)
	m.keep()
	return nil
}

// Diff tells of each line that was written since as of a file.
func (m *machine) Diff(ctx context.Context, id soulbox.SandboxID, a, b *soulbox.Snapshot) (soulbox.Changes, error) {
	if m.onDiff != nil {
		if err := m.onDiff(ctx, id); err != nil {
			return soulbox.Changes{}, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	before, ok := m.snaps[a.ID]
	after, alive := m.minds[id]
	if b != nil {
		after, alive = m.snaps[b.ID]
	}
	if !ok || !alive {
		return soulbox.Changes{}, soulbox.Errorf(soulbox.NotFound, "nothing to compare")
	}
	var all soulbox.Changes
	for _, line := range after.Files {
		if !slices.Contains(before.Files, line) {
			all.List = append(all.List, soulbox.Change{Path: "/" + line, Kind: soulbox.Created, Type: soulbox.File})
		}
	}
	return all, nil
}

func (m *machine) Snapshots(context.Context) (map[soulbox.SnapshotID]soulbox.Bytes, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	sizes := map[soulbox.SnapshotID]soulbox.Bytes{}
	for id := range m.snaps {
		sizes[id] = 4 * soulbox.KiB
	}
	return sizes, nil
}

// snapshots returns the ids of what is written down, in order.
func (m *machine) snapshots() []soulbox.SnapshotID {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.snaps))
}

func (m *machine) Sandboxes() []soulbox.SandboxID {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.has))
}

func (m *machine) Exits() <-chan soulbox.Exit { return m.exits }

func (m *machine) SetNetwork(_ context.Context, id soulbox.SandboxID, n soulbox.Network) error {
	if m.onNetwork != nil {
		if err := m.onNetwork(id); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.networks[id] = n
	return nil
}

func (m *machine) Logs(_ context.Context, id soulbox.SandboxID, _ soulbox.LogQuery) ([]soulbox.LogEntry, error) {
	return []soulbox.LogEntry{{Message: "log of " + string(id)}}, nil
}

func (m *machine) Forget(_ context.Context, id soulbox.SandboxID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forgot = append(m.forgot, id)
	return nil
}

func (m *machine) forgotten() []soulbox.SandboxID {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.forgot)
}

// write does what a program in a sandbox does, and returns in which of its
// lives; ok is false when it does not run.
func (m *machine) write(id soulbox.SandboxID, line string) (life int, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	in, ok := m.minds[id]
	if !ok || m.held[id] {
		return 0, false
	}
	in.Files = append(slices.Clone(in.Files), line)
	m.minds[id] = in
	m.keep()
	return m.lives[id], true
}

// note does what a program in a sandbox does that also remembers what it wrote.
func (m *machine) note(id soulbox.SandboxID, line string) (ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	in, ok := m.minds[id]
	if !ok || m.held[id] {
		return false
	}
	in = in.clone()
	in.Files, in.Heap = append(in.Files, line), append(in.Heap, line)
	m.minds[id] = in
	m.keep()
	return true
}

// hold stops a sandbox that is about to be written down.
func (m *machine) hold(id soulbox.SandboxID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.has[id]; !ok {
		return soulbox.Errorf(soulbox.NotFound, "sandbox %s not found", id)
	}
	if m.held[id] {
		m.wrong("sandbox %s is held twice", id)
	}
	m.held[id] = true
	m.keep()
	return nil
}

// written returns what a snapshot has.
func (m *machine) written(id soulbox.SnapshotID) (in mind, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	in, ok = m.snaps[id]
	return in.clone(), ok
}

// inside returns what a sandbox that runs has, and in which of its lives.
func (m *machine) inside(id soulbox.SandboxID) (in mind, life int, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	in, ok = m.minds[id]
	return in.clone(), m.lives[id], ok && !m.held[id]
}

// complaints returns what a fleet asked for and should not have.
func (m *machine) complaints() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.wrongs)
}

// die makes a sandbox end by itself.
func (m *machine) die(id soulbox.SandboxID, by soulbox.Ender, reason string) {
	m.mu.Lock()
	m.drop(id)
	m.mu.Unlock()
	m.exits <- soulbox.Exit{ID: id, End: soulbox.End{At: time.Now().UTC().Truncate(time.Microsecond), By: by, Reason: reason}}
}
