-- +goose Up

-- Empty is gVisor, which sandboxes of all templates had unless they asked for
-- another.
ALTER TABLE templates ADD COLUMN isolation TEXT NOT NULL DEFAULT '';

-- +goose Down

ALTER TABLE templates DROP COLUMN isolation;
