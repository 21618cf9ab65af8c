-- +goose Up

-- Empty is the build that the template has.
ALTER TABLE sandboxes ADD COLUMN build TEXT NOT NULL DEFAULT '';

-- +goose Down

ALTER TABLE sandboxes DROP COLUMN build;
