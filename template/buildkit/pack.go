package buildkit

import (
	"context"
	"errors"
	"fmt"
	"os"

	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/stepwire"
)

// Programs that do not exist: we do what they stand for.
const (
	packProgram = stepwire.Special + "pack" // a secret
	userProgram = stepwire.Special + "user" // a name, and perhaps sudoWord
	dirProgram  = stepwire.Special + "dir"  // a path and a user

	sudoWord   = "sudo"
	treePrefix = "tree-"
)

// pack makes an image of a result, by a step in a container on top of it. What
// that step changes goes away with the container.
func (b *running) pack(ctx context.Context, c gateway.Client, ref gateway.Reference, source string) (Packed, error) {
	b.log.finish("packing the root file system")
	b.source = source
	box, err := c.NewContainer(ctx, gateway.NewContainerRequest{Mounts: []gateway.Mount{{Dest: "/", Ref: ref}}})
	if err != nil {
		return Packed{}, err
	}
	defer func() { _ = box.Release(context.WithoutCancel(ctx)) }() // the session's end would do it, too
	p, err := box.Start(ctx, gateway.StartRequest{
		Args: []string{packProgram, b.secret}, Cwd: "/",
		Env: []string{tokenArg + "=" + stepwire.TokenTag + b.token},
	})
	if err == nil {
		err = p.Wait()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil && b.packed.Image == "" {
		err = errors.New("nothing was packed")
	}
	return b.packed, err
}

// special does what a step asks for instead of running a program. Its one
// folder is a mount of its root.
func (e *Engine) special(b *running, folders []*os.File, args []string) error {
	if len(folders) != 1 {
		return errors.New("a special step has one root")
	}
	var do func(dir string) error
	switch {
	case args[0] == packProgram && len(args) == 2 && args[1] == b.secret:
		do = func(dir string) error {
			packed, err := e.Pack(b.ctx, dir, b.source)
			b.mu.Lock()
			defer b.mu.Unlock()
			b.packed = packed
			return err
		}
	case args[0] == userProgram && (len(args) == 2 || len(args) == 3 && args[2] == sudoWord):
		do = func(dir string) error { return e.AddUser(dir, args[1], len(args) == 3) }
	case args[0] == dirProgram && len(args) == 3:
		do = func(dir string) error { return e.MakeDir(dir, args[1], args[2]) }
	default:
		return soulbox.Errorf(soulbox.Invalid, "there is no program %.100q", args[0])
	}
	return e.onTree(folders[0], do)
}

// onTree does something to a tree that root is a mount of. If we die meanwhile,
// the next Open unmounts it.
func (e *Engine) onTree(root *os.File, do func(dir string) error) (err error) {
	dir, err := os.MkdirTemp(e.dir(runDir), treePrefix+"*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(dir)) }()
	if err := unix.MoveMount(int(root.Fd()), "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount a tree: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH)) }()
	if err := root.Close(); err != nil {
		return err
	}
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC}
	if err := unix.MountSetattr(unix.AT_FDCWD, dir, 0, attr); err != nil {
		return fmt.Errorf("mount a tree: %w", err)
	}
	return do(dir)
}
