package template

import (
	"context"
	"time"
)

// Prune forgets what is old at a time, as the registry does every hour.
func Prune(ctx context.Context, r *Registry, at time.Time) error { return r.pruneOnce(ctx, at) }

// Rebake makes snapshots of older versions again, as Start does behind.
func Rebake(ctx context.Context, r *Registry) error { return r.rebake(ctx) }

// Unified compares texts as Diff does recipes.
func Unified(a, b []string) string { return unified(a, b) }

// MaxLog bounds the log of one build.
const MaxLog = maxLog

// Silence sets after what time without a line who watches a build is told so.
func Silence(r *Registry, d time.Duration) { r.news.silence = d }

// Again sets after what time a template of the house is tried again that failed.
func Again(r *Registry, d time.Duration) { r.again = d }
