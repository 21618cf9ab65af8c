package server

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/payload"
	"github.com/soulbox/soulbox/node"
	"github.com/soulbox/soulbox/node/rootfs"
	"github.com/soulbox/soulbox/template/buildkit"
	"github.com/soulbox/soulbox/template/facts"
)

// openEngine returns what builds templates, or nil if this binary was built
// without the programs for it.
func openEngine(log *slog.Logger, cfg Config, images packer, machine *node.Node) (*buildkit.Engine, error) {
	if !payload.Has(payload.Buildkitd) || !payload.Has(payload.Step) {
		return nil, nil
	}
	daemon, err := payload.Unpack(payload.Buildkitd, cfg.Cache)
	if err != nil {
		return nil, err
	}
	step, err := payload.Unpack(payload.Step, cfg.Cache)
	if err != nil {
		return nil, err
	}
	return buildkit.Open(buildkit.Options{
		Log: log, Dir: filepath.Join(cfg.Data, "build"), Daemon: daemon, Step: step,
		OpenCell: func(ctx context.Context, size soulbox.Size, internet bool) (buildkit.Cell, error) {
			return machine.OpenCell(ctx, size, internet)
		},
		Pack: images.packBuilt, AddUser: rootfs.AddUser, MakeDir: rootfs.MakeDir, Unpack: images.Unpack,
		Registries: cfg.Registries, Mirrors: cfg.RegistryMirrors,
		Cache: soulbox.Bytes(cfg.BuildCacheMB) * soulbox.MiB, MinFree: minFree,
	})
}

// packBuilt is Pack for trees that the engine has made. They say more about
// themselves than images that were brought in.
func (p packer) packBuilt(ctx context.Context, dir, source string) (buildkit.Packed, error) {
	found, err := facts.Read(ctx, dir) // before anything of ours is in it
	if err != nil {
		return buildkit.Packed{}, err
	}
	image, user, err := p.Pack(ctx, dir, source, time.Now())
	if err != nil {
		return buildkit.Packed{}, err
	}
	return buildkit.Packed{Image: image, User: user, Facts: found}, nil
}
