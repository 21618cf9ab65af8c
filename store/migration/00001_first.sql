-- Portable between SQLite and PostgreSQL: BIGINT, TEXT, BOOLEAN and DOUBLE
-- PRECISION only. Times are microseconds since 1970, 0 stands for "never".
-- Maps are JSON objects in TEXT.

-- +goose Up

CREATE TABLE teams (
    id             TEXT NOT NULL PRIMARY KEY,
    name           TEXT NOT NULL,
    slug           TEXT NOT NULL UNIQUE,
    max_sandboxes  BIGINT NOT NULL,
    max_timeout_us BIGINT NOT NULL,
    max_memory     BIGINT NOT NULL,
    max_cpus       BIGINT NOT NULL,
    created_at     BIGINT NOT NULL
);

CREATE TABLE api_keys (
    id         TEXT NOT NULL PRIMARY KEY,
    team       TEXT NOT NULL REFERENCES teams (id),
    name       TEXT NOT NULL,
    hash       TEXT NOT NULL UNIQUE,
    suffix     TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    last_used  BIGINT NOT NULL
);
CREATE INDEX api_keys_of_team ON api_keys (team);

-- The team of a template is empty for the house's own, so it refers to nothing.
CREATE TABLE templates (
    id         TEXT NOT NULL PRIMARY KEY,
    team       TEXT NOT NULL,
    name       TEXT NOT NULL,
    public     BOOLEAN NOT NULL,
    image      TEXT NOT NULL,
    cpus       BIGINT NOT NULL,
    memory     BIGINT NOT NULL,
    disk       BIGINT NOT NULL,
    pids       BIGINT NOT NULL,
    env        TEXT NOT NULL,
    username   TEXT NOT NULL,
    workdir    TEXT NOT NULL,
    source     TEXT NOT NULL,
    starts     BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (team, name)
);

-- A sandbox outlives its template in our memory, so it does not refer to it.
-- listed_at orders lists: when it started, or until then when it was created.
CREATE TABLE sandboxes (
    id         TEXT NOT NULL PRIMARY KEY,
    team       TEXT NOT NULL REFERENCES teams (id),
    template   TEXT NOT NULL,
    alias      TEXT NOT NULL,
    node       TEXT NOT NULL,
    state      TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    listed_at  BIGINT NOT NULL,
    ended_at   BIGINT NOT NULL,
    ended_by   TEXT NOT NULL,
    end_reason TEXT NOT NULL,
    cpus       BIGINT NOT NULL,
    memory     BIGINT NOT NULL,
    disk       BIGINT NOT NULL,
    pids       BIGINT NOT NULL,
    network    TEXT NOT NULL,
    secure     BOOLEAN NOT NULL,
    env        TEXT NOT NULL,
    metadata   TEXT NOT NULL
);
CREATE INDEX sandboxes_of_team ON sandboxes (team, listed_at, id);
CREATE INDEX sandboxes_by_state ON sandboxes (state, ended_at);

-- An index over sandboxes.metadata, for filters. Values may be long, which is
-- why only the sandbox is indexed here.
CREATE TABLE sandbox_metadata (
    sandbox TEXT NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE,
    name    TEXT NOT NULL,
    value   TEXT NOT NULL
);
CREATE INDEX sandbox_metadata_of_sandbox ON sandbox_metadata (sandbox);

CREATE TABLE usage_samples (
    sandbox     TEXT NOT NULL,
    at          BIGINT NOT NULL,
    cpu_percent DOUBLE PRECISION NOT NULL,
    cpu_count   BIGINT NOT NULL,
    mem_used    BIGINT NOT NULL,
    mem_total   BIGINT NOT NULL,
    mem_cache   BIGINT NOT NULL,
    disk_used   BIGINT NOT NULL,
    disk_total  BIGINT NOT NULL,
    PRIMARY KEY (sandbox, at)
);
CREATE INDEX usage_samples_by_time ON usage_samples (at);

-- +goose Down

DROP TABLE usage_samples;
DROP TABLE sandbox_metadata;
DROP TABLE sandboxes;
DROP TABLE templates;
DROP TABLE api_keys;
DROP TABLE teams;
