-- +goose Up

-- A snapshot outlives its sandbox, its template and its parent, so it refers
-- to none of them. Names are unique where people choose by them; any number of
-- snapshots may have none.
CREATE TABLE snapshots (
    id         TEXT NOT NULL PRIMARY KEY,
    team       TEXT NOT NULL REFERENCES teams (id),
    sandbox    TEXT NOT NULL,
    parent     TEXT NOT NULL,
    kind       TEXT NOT NULL,
    name       TEXT NOT NULL,
    node       TEXT NOT NULL,
    ready      BOOLEAN NOT NULL,
    has_memory BOOLEAN NOT NULL,
    bytes      BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    template   TEXT NOT NULL,
    alias      TEXT NOT NULL,
    image      TEXT NOT NULL,
    cpus       BIGINT NOT NULL,
    memory     BIGINT NOT NULL,
    disk       BIGINT NOT NULL,
    pids       BIGINT NOT NULL,
    secure     BOOLEAN NOT NULL,
    env        TEXT NOT NULL,
    username   TEXT NOT NULL,
    workdir    TEXT NOT NULL
);
CREATE INDEX snapshots_of_team ON snapshots (team, kind, created_at, id);
CREATE INDEX snapshots_of_sandbox ON snapshots (sandbox, created_at, id);
CREATE UNIQUE INDEX snapshot_names ON snapshots (team, name) WHERE kind = 'snapshot' AND name <> '';
CREATE UNIQUE INDEX checkpoint_names ON snapshots (sandbox, name) WHERE kind = 'checkpoint' AND name <> '';

-- An empty pause_snapshot says that there is no pause.
ALTER TABLE sandboxes ADD COLUMN timeout_us BIGINT NOT NULL DEFAULT 0;
ALTER TABLE sandboxes ADD COLUMN lifecycle TEXT NOT NULL DEFAULT '{}';
ALTER TABLE sandboxes ADD COLUMN pause_snapshot TEXT NOT NULL DEFAULT '';
ALTER TABLE sandboxes ADD COLUMN pause_memory BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE sandboxes ADD COLUMN paused_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE sandboxes ADD COLUMN from_snapshot TEXT NOT NULL DEFAULT '';

-- What those that live were given when they started is not recorded. All they
-- have been given since comes closest.
UPDATE sandboxes SET timeout_us = expires_at - listed_at
WHERE state IN ('starting', 'running') AND expires_at > listed_at;

-- +goose Down

-- A server of that time knows none of these states and would never end them.
-- It finishes what is ending.
UPDATE sandboxes SET state = 'ending', ended_by = 'server',
    ended_at = CASE WHEN paused_at > 0 THEN paused_at ELSE listed_at END,
    end_reason = 'it was paused, and the server went back to a version that cannot pause'
WHERE state IN ('pausing', 'paused', 'resuming');

ALTER TABLE sandboxes DROP COLUMN from_snapshot;
ALTER TABLE sandboxes DROP COLUMN paused_at;
ALTER TABLE sandboxes DROP COLUMN pause_memory;
ALTER TABLE sandboxes DROP COLUMN pause_snapshot;
ALTER TABLE sandboxes DROP COLUMN lifecycle;
ALTER TABLE sandboxes DROP COLUMN timeout_us;

DROP TABLE snapshots;
