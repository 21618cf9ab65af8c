-- +goose Up
-- Lists ask for the few that live among the many that have ended.
CREATE INDEX sandboxes_of_team_in_state ON sandboxes (team, state, listed_at, id);

-- +goose Down
DROP INDEX sandboxes_of_team_in_state;
