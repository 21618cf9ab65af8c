package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/node/cgroup"
	"github.com/soulbox/soulbox/node/driver"
	"github.com/soulbox/soulbox/node/netns"
)

// Purge ends every sandbox of the installation whose node folder is dir and
// removes everything that it has in the kernel: processes, cgroups,
// namespaces, devices and rules. What it knows on disk stays, except for the
// sandboxes themselves. It is given all drivers that sandboxes may belong to.
// No node may be open in dir. It repeats.
func Purge(ctx context.Context, log *slog.Logger, dir, instance string, all ...driver.Driver) error {
	entries, err := os.ReadDir(filepath.Join(dir, "sandboxes"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("purge node: %w", err)
	}
	var errs []error
	for _, e := range entries {
		id := soulbox.SandboxID(e.Name())
		if !id.Valid() {
			continue
		}
		home := filepath.Join(dir, "sandboxes", e.Name())
		if err := destroyWith(ctx, all, id, home); err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, os.RemoveAll(home))
	}
	groups, err := cgroup.Open("soulbox-" + instance)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	ids, err := groups.Sandboxes()
	errs = append(errs, err)
	for _, id := range ids {
		g, err := groups.Group(id)
		if err == nil {
			err = wipe(ctx, g)
		}
		errs = append(errs, err)
	}
	errs = append(errs, groups.Remove(), netns.Purge(ctx, log, netns.Options{Instance: instance}))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("purge node: %w", err)
	}
	return nil
}
