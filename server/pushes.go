package server

import (
	"context"
	"log/slog"
	"path/filepath"

	"github.com/soulbox/soulbox/blob"
	"github.com/soulbox/soulbox/blob/dir"
	"github.com/soulbox/soulbox/depot"
	"github.com/soulbox/soulbox/internal/fault"
	"github.com/soulbox/soulbox/store"
	"github.com/soulbox/soulbox/template"
)

// openDepot returns what takes pushed images in.
func openDepot(_ context.Context, log *slog.Logger, cfg Config, db *store.Store, templates *template.Registry, faults *fault.Points) (*depot.Depot, error) {
	blobs, err := openBlobs(cfg)
	if err != nil {
		return nil, err
	}
	return depot.Open(depot.Options{
		Log: log, Store: db, Templates: templates, Blobs: blobs, Dir: filepath.Join(cfg.Data, "uploads"), Faults: faults,
	})
}

// openBlobs returns where the blobs of pushed images are.
func openBlobs(cfg Config) (blob.Store, error) {
	return dir.Open(filepath.Join(cfg.Data, "blobs"))
}
