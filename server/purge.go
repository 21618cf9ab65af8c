package server

import (
	"context"
	"errors"
	"log/slog"
	"os"

	"github.com/soulbox/soulbox/node"
)

// Purge ends every sandbox of the data folder and removes everything that the
// installation has in the kernel and in /run. Its data stays; the next start
// finds a machine as after a reboot. No server may run on the folder.
func Purge(ctx context.Context, log *slog.Logger, cfg Config) error {
	cfg, err := cfg.filled()
	if err != nil {
		return err
	}
	// Opening the database makes sure that no server uses the folder.
	db, err := openStore(ctx, cfg)
	if err != nil {
		return err
	}
	defer db.Close()
	driver, err := gvisorDriver(cfg, nil)
	if err != nil {
		return err
	}
	others, err := otherDrivers(cfg, nil)
	if err != nil {
		return err
	}
	return errors.Join(node.Purge(ctx, log, cfg.Data, cfg.instance(), append(others, driver)...), os.RemoveAll(cfg.runDir()))
}
