package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/cleanup"
	"github.com/soulbox/soulbox/node/driver"
	"github.com/soulbox/soulbox/node/guest"
	"github.com/soulbox/soulbox/node/journal"
	"github.com/soulbox/soulbox/node/snapshot"
)

// initTimeout bounds how long a new sandbox's agent may take to hear who it is.
const initTimeout = 20 * time.Second

// Create makes sandbox sb of template t and returns once its agent answers: it
// boots, or is restored if the template has a snapshot. When it fails, or ctx
// ends before, nothing is left. A sandbox whose id is from Reserve is there
// already and only hears who it is.
func (n *Node) Create(ctx context.Context, sb *soulbox.Sandbox, t *soulbox.Template) error {
	if f := n.claim(sb.ID); f != nil {
		err := n.adopt(ctx, f, sb, t)
		if err == nil || ctx.Err() != nil {
			return err
		}
		n.Log.WarnContext(ctx, "a warm sandbox was of no use", "sandbox", sb.ID, "err", err)
	}
	o, held, err := n.originOf(ctx, t, sb.Isolation)
	if err != nil {
		return fmt.Errorf("create sandbox %s: %w", sb.ID, err)
	}
	defer held()
	return n.bringUp(ctx, sb, t, o)
}

// originOf returns what sandboxes of a template are made of. It stays until
// release is called.
func (n *Node) originOf(ctx context.Context, t *soulbox.Template, class soulbox.Isolation) (o origin, release func(), err error) {
	if t.Snapshot == "" {
		image, err := n.Images.Hold(t.Image)
		return origin{image: image, class: class}, func() {}, err
	}
	o, held, err := n.savedAs(ctx, t.Snapshot)
	if err != nil {
		return origin{}, nil, err
	}
	release = func() { held.Close() }
	switch {
	case held.Image != t.Image || !held.Memory:
		err = fmt.Errorf("snapshot %s is not that of template %s", t.Snapshot, t.ID)
	case class != "" && class != o.class:
		err = soulbox.Errorf(soulbox.Invalid, "a sandbox of template '%s' begins with programs that run, and one of isolation %s cannot", t.Name, class)
	default:
		o.token = n.Seed.AgentToken(t.Baked)
		return o, release, nil
	}
	o.image.Close()
	release()
	return origin{}, nil, err
}

// savedAs returns what is made of a snapshot, which the caller closes.
func (n *Node) savedAs(ctx context.Context, id soulbox.SnapshotID) (origin, *snapshot.Held, error) {
	held, err := n.snapshots.Hold(id)
	if err != nil {
		return origin{}, nil, err
	}
	class, err := n.reader(held.Format)
	if err != nil {
		return origin{}, nil, errors.Join(err, held.Close())
	}
	return origin{
		class: class,
		image: held.TakeImage(),
		saved: &driver.Saved{Dir: held.Dir, Memory: held.Memory, Check: func() error { return held.Check(ctx) }},
	}, held, nil
}

// An origin is what a sandbox is made of.
type origin struct {
	image *os.File // below everything; start closes it
	saved *driver.Saved
	token string            // what the agent in saved asks for until it is told otherwise
	files bool              // of saved, which has memory too, only the files are wanted
	class soulbox.Isolation // whose driver starts it
	live  *sandbox          // instead of saved: the files of this one, as they are now
}

// bringUp makes sandbox sb, whose defaults are those of t, out of o.
func (n *Node) bringUp(ctx context.Context, sb *soulbox.Sandbox, t *soulbox.Template, o origin) error {
	rec := record{ID: sb.ID, Size: sb.Size, Secure: sb.Secure, Internet: sb.Network.Internet, Image: t.Image, Isolation: o.class}
	f, err := n.start(ctx, rec, o)
	if err != nil {
		return err
	}
	return n.introduce(ctx, f, sb, t, o.token)
}

// fresh is a sandbox that runs and does not know yet who it is.
type fresh struct {
	*sandbox

	nameserver string
	told       *soulbox.Template // of a warm one: what its agent knows
	undo       cleanup.Stack
}

// start takes a sandbox to where its agent listens. Its record, which start
// completes, comes before everything else of it.
func (n *Node) start(ctx context.Context, rec record, o origin) (_ *fresh, err error) {
	defer func() {
		if o.image != nil {
			o.image.Close()
		}
	}()
	id := rec.ID
	if !id.Valid() {
		return nil, soulbox.Errorf(soulbox.Invalid, "%q is not the id of a sandbox", id)
	}
	d, err := n.driver(rec.Isolation)
	if err != nil {
		return nil, err
	}
	if err := n.checkDisk(); err != nil {
		return nil, err
	}
	if err := n.awaitDiscarded(ctx, id); err != nil {
		return nil, err
	}
	f := &fresh{sandbox: &sandbox{record: rec}}
	undo := &f.undo
	defer func() {
		if err != nil {
			n.undo(ctx, f)
		}
	}()
	lease, err := n.net.Take(ctx)
	if err != nil {
		return nil, fmt.Errorf("create sandbox %s: %w", id, err)
	}
	undo.Push(func() error { n.net.Release(lease.Slot); return nil })
	n.Faults.Reach("node/leased")

	f.nameserver = lease.Gateway.String()
	rec.Slot, rec.BootID = lease.Slot, n.bootID
	dir := n.sandboxDir(id)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create sandbox %s: %w", id, err)
	}
	undo.Push(func() error { return os.RemoveAll(dir) })
	if err := rec.save(dir); err != nil {
		return nil, fmt.Errorf("record sandbox %s: %w", id, err)
	}
	n.Faults.Reach("node/recorded")
	if err := link(o.image, filepath.Join(dir, imageFile)); err != nil {
		return nil, fmt.Errorf("create sandbox %s: %w", id, err)
	}

	group, err := n.cgroups.Create(id, rec.Size)
	if err != nil {
		return nil, err
	}
	undo.Push(group.Remove)
	if !rec.Internet {
		if err := n.net.SetInternet(ctx, lease.Slot, false); err != nil {
			return nil, fmt.Errorf("create sandbox %s: %w", id, err)
		}
	}
	n.Faults.Reach("node/grouped")
	if o.live != nil {
		files := filepath.Join(dir, savedFolder)
		if err := n.saveLive(ctx, o.live, files); err != nil {
			return nil, fmt.Errorf("save the files of sandbox %s: %w", o.live.record.ID, err)
		}
		o.saved = &driver.Saved{Dir: files, Check: func() error { return nil }} // written a moment ago
	}

	spec := driver.Spec{
		ID: id, Dir: dir, Image: o.image, Size: rec.Size,
		Netns: lease.Path, Addr: lease.Addr.String(), Hostname: hostname, Cgroup: group, Saved: o.saved,
	}
	o.image = nil
	undo.Push(func() error {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		return n.end(clean, id, dir)
	})
	if o.files {
		if err := n.leaveMemory(ctx, &spec); err != nil {
			return nil, err
		}
	}
	inst, err := d.Start(ctx, spec)
	if err != nil {
		return nil, err
	}
	n.Faults.Reach("node/started")
	if o.files || o.live != nil { // whoever still reads them has them open
		if err := os.RemoveAll(spec.Saved.Dir); err != nil {
			return nil, fmt.Errorf("create sandbox %s: %w", id, err)
		}
	}
	if f.sandbox, err = n.meet(rec, dir, inst); err != nil {
		f.sandbox = &sandbox{record: rec}
		return nil, err
	}
	undo.Push(func() error { f.agent.Close(); return nil })
	return f, nil
}

// introduce tells a fresh sandbox that it is sb, and lets the node look after
// it. token is what its agent asks for until then.
func (n *Node) introduce(ctx context.Context, f *fresh, sb *soulbox.Sandbox, t *soulbox.Template, token string) error {
	id := guest.Identity{Token: n.token(f.record), Was: token, Env: merged(t.Env, sb.Env)}
	if err := n.tell(ctx, f, t, id); err != nil {
		n.undo(ctx, f)
		return err
	}
	n.keep(f)
	return nil
}

// keep lets the node look after a sandbox that knows who it is.
func (n *Node) keep(f *fresh) {
	n.Faults.Reach("node/initialised")
	f.undo.Keep()
	n.admit(f.sandbox)
}

// tell gives the agent of a fresh sandbox, made of t, the identity id, of which
// it fills in what follows from the two.
func (n *Node) tell(ctx context.Context, f *fresh, t *soulbox.Template, id guest.Identity) error {
	id.Sandbox, id.Template, id.Hostname = f.record.ID, t.ID, hostname
	id.User, id.Workdir, id.Nameservers = t.User, t.Workdir, []string{f.nameserver}
	id.Seed = make([]byte, 32)
	_, _ = rand.Read(id.Seed) // never fails: crypto/rand ends the program instead
	ctx, cancel := context.WithTimeout(ctx, initTimeout)
	defer cancel()
	if err := f.agent.Init(ctx, id); err != nil {
		return fmt.Errorf("introduce sandbox %s: %w", f.record.ID, err)
	}
	return nil
}

// undo takes back a sandbox that came to nothing.
func (n *Node) undo(ctx context.Context, f *fresh) {
	if left := f.undo.Run(); left != nil {
		n.Log.WarnContext(ctx, "sandbox not undone completely", "sandbox", f.record.ID, "err", left)
	}
}

// imageFile is a link to a sandbox's root image, in its folder: what is
// written down of it needs the image, whatever becomes of the template.
const imageFile = "image.erofs"

// savedFolder is where files lie, in the folder of the sandbox that is made of
// them, until it has started.
const savedFolder = "files"

// link gives an open file another name, even if it has lost the first one.
func link(f *os.File, path string) error {
	err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
	if err != nil {
		return &os.LinkError{Op: "link", Old: f.Name(), New: path, Err: err}
	}
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
