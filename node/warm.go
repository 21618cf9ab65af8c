package node

import (
	"context"
	"fmt"
	"maps"

	"github.com/prometheus/procfs"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/node/guest"
	"github.com/soulbox/soulbox/node/pool"
)

// Reserve returns the id of a sandbox that waits ready made for a template.
// Create with that id takes it; so does Destroy. ok is false when none waits.
// It does no I/O, and what was asked for is made ahead from then on.
func (n *Node) Reserve(t *soulbox.Template) (id soulbox.SandboxID, ok bool) {
	return n.pool.Take(t)
}

// Expect has count sandboxes of a template made ahead before anybody asks.
func (n *Node) Expect(t *soulbox.Template, count int) { n.pool.Expect(t, count) }

// ForgetTemplate ends the sandboxes that wait for a template, which is no more.
func (n *Node) ForgetTemplate(id soulbox.TemplateID) { n.pool.Forget(id) }

// Pools tells how many sandboxes wait for each template, how many should, and
// what they may take.
func (n *Node) Pools() soulbox.Pools {
	return soulbox.Pools{Pools: n.pool.Stats(), Budget: n.WarmMemory, Each: warmSize}
}

// warmSize is what a waiting sandbox takes of the machine's memory that has
// booted: sentry and stubs, with some room; see docs/benchmarks.md.
const warmSize = 12 * soulbox.MiB

// restoredMore is what one that is restored takes besides what its snapshot
// holds: stubs for its programs. With a server of four processes it was 4 to 5
// MiB on two cores, whether that had 10 MB in memory or 60.
const restoredMore = 8 * soulbox.MiB

// takes returns what a waiting sandbox of t takes at most. One that is restored
// has everything in memory that its snapshot holds, or its files on disk.
func (n *Node) takes(t *soulbox.Template) soulbox.Bytes {
	if t.Snapshot == "" {
		return warmSize
	}
	return warmSize + restoredMore + n.snapshots.Size(t.Snapshot)
}

func (n *Node) openPool() {
	n.pool = pool.New(pool.Options{
		Log: n.Log, Make: n.makeWarm, Drop: n.dropWarm, Free: freeMemory,
		Each: n.takes, Budget: n.WarmMemory, Floor: n.WarmFloor,
	})
}

// freeMemory returns what the machine could still hand out.
func freeMemory() (soulbox.Bytes, error) {
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return 0, err
	}
	info, err := fs.Meminfo()
	if err != nil {
		return 0, err
	}
	if info.MemAvailableBytes == nil {
		return 0, fmt.Errorf("the kernel does not tell how much memory is available")
	}
	return soulbox.Bytes(*info.MemAvailableBytes), nil
}

// makeWarm makes a sandbox of t that belongs to nobody.
func (n *Node) makeWarm(ctx context.Context, t *soulbox.Template) (soulbox.SandboxID, error) {
	o, release, err := n.originOf(ctx, t, "")
	if err != nil {
		return "", err
	}
	defer release()
	id := soulbox.NewSandboxID()
	f, err := n.start(ctx, record{ID: id, Size: t.Size, Secure: true, Internet: true, Image: t.Image, Isolation: o.class, Warm: true}, o)
	if err != nil {
		return "", err
	}
	// It hears now what most who take it would have it told.
	if err := n.tell(ctx, f, t, guest.Identity{Token: n.token(f.record), Was: o.token, Env: t.Env}); err != nil {
		n.undo(ctx, f)
		return "", err
	}
	f.told = t
	n.mu.Lock()
	n.warm[id] = f
	n.mu.Unlock()
	n.Faults.Reach("node/warm")
	return id, nil
}

// claim takes a warm sandbox away from everybody else, or returns nil.
func (n *Node) claim(id soulbox.SandboxID) *fresh {
	n.mu.Lock()
	defer n.mu.Unlock()
	f := n.warm[id]
	delete(n.warm, id)
	return f
}

// dropWarm destroys a sandbox that nobody took.
func (n *Node) dropWarm(id soulbox.SandboxID) {
	if f := n.claim(id); f != nil {
		n.undo(n.ctx, f)
	}
}

// adopt makes a claimed sandbox that of somebody, or undoes it. Its agent
// sleeps on unless something about the sandbox is not as it was told: to wake
// it costs more than all the rest.
func (n *Node) adopt(ctx context.Context, f *fresh, sb *soulbox.Sandbox, t *soulbox.Template) error {
	if f.record.Image != t.Image || f.record.Size != sb.Size || f.told.Snapshot != t.Snapshot {
		n.undo(ctx, f)
		return soulbox.Errorf(soulbox.Conflict, "warm sandbox %s is of another template", sb.ID)
	}
	r := &f.record
	r.Warm, r.Secure, r.Internet = false, sb.Secure, sb.Network.Internet
	err := r.save(f.dir)
	n.Faults.Reach("node/claimed")
	if err == nil && !r.Internet {
		err = n.net.SetInternet(ctx, r.Slot, false)
	}
	if err != nil {
		n.undo(ctx, f)
		return fmt.Errorf("claim warm sandbox %s: %w", sb.ID, err)
	}
	if old := f.told; sb.Secure && len(sb.Env) == 0 && old.ID == t.ID && old.User == t.User && old.Workdir == t.Workdir && maps.Equal(old.Env, t.Env) {
		n.keep(f)
		return nil
	}
	return n.introduce(ctx, f, sb, t, n.token(record{ID: sb.ID, Secure: true}))
}
