package template

import (
	"context"
	"errors"

	"github.com/soulbox/soulbox"
)

// Fail ends a draft of which nothing can come, and says why. With anything but
// a draft it is Invalid.
func (r *Registry) Fail(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, build soulbox.BuildID, why soulbox.BuildFailure) error {
	return errors.ErrUnsupported
}
