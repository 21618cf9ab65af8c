package node

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/cleanup"
	"github.com/soulbox/soulbox/node/driver"
	"github.com/soulbox/soulbox/node/guest"
	"github.com/soulbox/soulbox/node/journal"
)

// initTimeout bounds how long a new sandbox's agent may take to hear who it is.
const initTimeout = 20 * time.Second

// Create makes sandbox sb of template t and returns once its agent answers.
// When it fails, or ctx ends before, nothing is left.
func (n *Node) Create(ctx context.Context, sb *soulbox.Sandbox, t *soulbox.Template) (err error) {
	if !sb.ID.Valid() {
		return soulbox.Errorf(soulbox.Invalid, "%q is not the id of a sandbox", sb.ID)
	}
	if err := n.checkDisk(); err != nil {
		return err
	}
	image, err := n.Images.Hold(t.Image)
	if err != nil {
		return fmt.Errorf("create sandbox %s: %w", sb.ID, err)
	}
	defer func() {
		if image != nil {
			image.Close()
		}
	}()

	var undo cleanup.Stack
	defer func() {
		if err != nil {
			if left := undo.Run(); left != nil {
				n.Log.WarnContext(ctx, "sandbox not undone completely", "sandbox", sb.ID, "err", left)
			}
		}
	}()
	lease, err := n.net.Take(ctx)
	if err != nil {
		return fmt.Errorf("create sandbox %s: %w", sb.ID, err)
	}
	undo.Push(func() error { n.net.Release(lease.Slot); return nil })
	n.Faults.Reach("node/leased")

	rec := record{ID: sb.ID, Slot: lease.Slot, Size: sb.Size, Secure: sb.Secure, Internet: sb.Network.Internet, BootID: n.bootID}
	dir := n.sandboxDir(sb.ID)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("create sandbox %s: %w", sb.ID, err)
	}
	undo.Push(func() error { return os.RemoveAll(dir) })
	if err := rec.save(dir); err != nil {
		return fmt.Errorf("record sandbox %s: %w", sb.ID, err)
	}
	n.Faults.Reach("node/recorded")

	group, err := n.cgroups.Create(sb.ID, sb.Size)
	if err != nil {
		return err
	}
	undo.Push(group.Remove)
	if !sb.Network.Internet {
		if err := n.net.SetInternet(ctx, lease.Slot, false); err != nil {
			return fmt.Errorf("create sandbox %s: %w", sb.ID, err)
		}
	}
	n.Faults.Reach("node/grouped")

	held := image
	image = nil
	inst, err := n.Driver.Start(ctx, driver.Spec{
		ID: sb.ID, Dir: dir, Image: held, Size: sb.Size,
		Netns: lease.Path, Addr: lease.Addr.String(), Hostname: hostname, Cgroup: group,
	})
	if err != nil {
		return err
	}
	undo.Push(func() error {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		return n.Driver.Destroy(clean, sb.ID, dir)
	})
	n.Faults.Reach("node/started")

	s, err := n.meet(rec, dir, inst)
	if err != nil {
		return err
	}
	undo.Push(func() error { s.agent.Close(); return nil })
	seed := make([]byte, 32)
	_, _ = rand.Read(seed) // never fails: crypto/rand ends the program instead
	initCtx, cancel := context.WithTimeout(ctx, initTimeout)
	defer cancel()
	err = s.agent.Init(initCtx, guest.Identity{
		Sandbox: sb.ID, Template: t.ID, Hostname: hostname, Token: n.token(rec), Env: merged(t.Env, sb.Env),
		User: t.User, Workdir: t.Workdir, Nameservers: []string{lease.Gateway.String()}, Seed: seed,
	})
	if err != nil {
		return fmt.Errorf("introduce sandbox %s: %w", sb.ID, err)
	}
	n.Faults.Reach("node/initialised")
	undo.Keep()
	n.admit(s)
	return nil
}

// hostname is what every sandbox calls itself. E2B's are all alike too.
const hostname = "sandbox"

// meet opens what the node keeps of a sandbox that runs.
func (n *Node) meet(rec record, dir string, inst driver.Instance) (*sandbox, error) {
	group, err := n.cgroups.Group(rec.ID)
	if err != nil {
		return nil, err
	}
	j, err := journal.Open(n.journalDir(rec.ID))
	if err != nil {
		return nil, err
	}
	return &sandbox{
		dir: dir, instance: inst, group: group, record: rec, journal: j,
		agent: guest.New(inst.Dial, n.token(rec)),
	}, nil
}

// admit lets the node look after a sandbox.
func (n *Node) admit(s *sandbox) {
	ctx, leave := context.WithCancel(n.ctx)
	s.leaving, s.left, s.followed = leave, ctx.Done(), make(chan struct{})
	n.mu.Lock()
	n.table[s.record.ID], n.slots[s.record.ID] = s, s.record.Slot
	n.mu.Unlock()
	n.work.Go(func() { n.follow(ctx, s) })
	n.work.Go(func() { n.watch(s) })
}

func (n *Node) token(r record) string {
	if !r.Secure {
		return ""
	}
	return n.Seed.AgentToken(r.ID)
}

// checkDisk refuses a sandbox while the disk is nearly full, because those
// that run would get I/O errors soon.
func (n *Node) checkDisk() error {
	var st unix.Statfs_t
	if err := unix.Statfs(n.Dir, &st); err != nil {
		return fmt.Errorf("look at the free disk: %w", err)
	}
	if free := soulbox.Bytes(st.Bavail) * soulbox.Bytes(st.Bsize); free < n.MinFree {
		return soulbox.Errorf(soulbox.Unavailable, "this machine has %d MiB of free disk left, less than the %d MiB it keeps in reserve", free/soulbox.MiB, n.MinFree/soulbox.MiB)
	}
	return nil
}

func merged(below, above map[string]string) map[string]string {
	m := make(map[string]string, len(below)+len(above))
	maps.Copy(m, below)
	maps.Copy(m, above)
	return m
}
