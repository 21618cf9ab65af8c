-- +goose Up

-- Empty is gVisor, which all sandboxes had before there was another.
ALTER TABLE sandboxes ADD COLUMN isolation TEXT NOT NULL DEFAULT '';

-- +goose Down

ALTER TABLE sandboxes DROP COLUMN isolation;
