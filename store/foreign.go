package store

import (
	"context"

	"github.com/soulbox/soulbox"
)

// TemplateSnapshots returns the snapshots that belong to builds of templates.
// None has one yet.
func (*Store) TemplateSnapshots(context.Context) ([]soulbox.SnapshotID, error) { return nil, nil }
