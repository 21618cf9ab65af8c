package server

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/soulbox/soulbox/blob"
	"github.com/soulbox/soulbox/blob/dir"
	"github.com/soulbox/soulbox/blob/s3"
	"github.com/soulbox/soulbox/depot"
	"github.com/soulbox/soulbox/internal/fault"
	"github.com/soulbox/soulbox/store"
	"github.com/soulbox/soulbox/template"
)

// bucketTime is how long a bucket may take to answer when the server opens.
const bucketTime = 30 * time.Second

// openDepot returns what takes pushed images in.
func openDepot(ctx context.Context, log *slog.Logger, cfg Config, db *store.Store, templates *template.Registry, faults *fault.Points) (*depot.Depot, error) {
	blobs, err := openBlobs(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return depot.Open(depot.Options{
		Log: log, Store: db, Templates: templates, Blobs: blobs, Dir: filepath.Join(cfg.Data, "uploads"), Faults: faults,
	})
}

// openBlobs returns where the blobs of pushed images are.
func openBlobs(ctx context.Context, cfg Config) (blob.Store, error) {
	if cfg.Blobs == "" {
		return dir.Open(filepath.Join(cfg.Data, "blobs"))
	}
	bucket, prefix, err := s3.ParseURL(cfg.Blobs)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, bucketTime)
	defer cancel()
	return s3.Open(ctx, s3.Options{Bucket: bucket, Prefix: prefix, Endpoint: cfg.BlobsEndpoint, Region: cfg.BlobsRegion})
}
