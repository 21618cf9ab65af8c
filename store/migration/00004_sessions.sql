-- +goose Up

-- An empty ended_by says that a session is open.
CREATE TABLE sessions (
    id            TEXT NOT NULL PRIMARY KEY,
    team          TEXT NOT NULL REFERENCES teams (id),
    created_at    BIGINT NOT NULL,
    expires_at    BIGINT NOT NULL,
    beat_every_us BIGINT NOT NULL,
    beat_limit_us BIGINT NOT NULL,
    beat_then     TEXT NOT NULL,
    beat_at       BIGINT NOT NULL,
    metadata      TEXT NOT NULL,
    variables     TEXT NOT NULL,
    watch         TEXT NOT NULL,
    ended_at      BIGINT NOT NULL,
    ended_by      TEXT NOT NULL,
    end_reason    TEXT NOT NULL
);
CREATE INDEX sessions_of_team ON sessions (team, created_at, id);
CREATE INDEX sessions_by_end ON sessions (ended_by, ended_at);

-- A sandbox is in one session at a time, and may come back. It refers to no
-- row, because those of sandboxes go earlier.
CREATE TABLE session_members (
    session   TEXT NOT NULL REFERENCES sessions (id),
    sandbox   TEXT NOT NULL,
    joined_at BIGINT NOT NULL,
    left_at   BIGINT NOT NULL,
    PRIMARY KEY (session, joined_at, sandbox)
);
CREATE UNIQUE INDEX session_of_sandbox ON session_members (sandbox) WHERE left_at = 0;

CREATE TABLE session_saves (
    id         TEXT NOT NULL PRIMARY KEY,
    session    TEXT NOT NULL REFERENCES sessions (id),
    name       TEXT NOT NULL,
    ready      BOOLEAN NOT NULL,
    created_at BIGINT NOT NULL,
    variables  TEXT NOT NULL,
    members    TEXT NOT NULL
);
CREATE UNIQUE INDEX session_save_names ON session_saves (session, name);

-- +goose Down

DROP TABLE session_saves;
DROP TABLE session_members;
DROP TABLE sessions;
