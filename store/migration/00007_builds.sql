-- +goose Up

-- Each of these repeats what the default build of the template has. An empty
-- build says that none is ready, or that the row is older than builds are: who
-- opens the store gives those with an image one.
ALTER TABLE templates ADD COLUMN build TEXT NOT NULL DEFAULT '';
ALTER TABLE templates ADD COLUMN major BIGINT NOT NULL DEFAULT 0;
ALTER TABLE templates ADD COLUMN minor BIGINT NOT NULL DEFAULT 0;
ALTER TABLE templates ADD COLUMN patch BIGINT NOT NULL DEFAULT 0;
ALTER TABLE templates ADD COLUMN snapshot TEXT NOT NULL DEFAULT '';
ALTER TABLE templates ADD COLUMN baked TEXT NOT NULL DEFAULT '';

-- How many of its starts were those of other teams.
ALTER TABLE templates ADD COLUMN downloads BIGINT NOT NULL DEFAULT 0;

-- Lists and structures are JSON in TEXT. An empty failure is none. Packages,
-- which are many, come last: few queries read them.
CREATE TABLE builds (
    id         TEXT NOT NULL PRIMARY KEY,
    template   TEXT NOT NULL REFERENCES templates (id),
    team       TEXT NOT NULL,
    state      TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    queued_at  BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    ended_at   BIGINT NOT NULL,
    failure    TEXT NOT NULL,
    recipe     TEXT NOT NULL,
    tags       TEXT NOT NULL,
    bump       TEXT NOT NULL,
    major      BIGINT NOT NULL,
    minor      BIGINT NOT NULL,
    patch      BIGINT NOT NULL,
    retired    TEXT NOT NULL,
    image      TEXT NOT NULL,
    snapshot   TEXT NOT NULL,
    baked      TEXT NOT NULL,
    cpus       BIGINT NOT NULL,
    memory     BIGINT NOT NULL,
    disk       BIGINT NOT NULL,
    pids       BIGINT NOT NULL,
    isolation  TEXT NOT NULL,
    env        TEXT NOT NULL,
    username   TEXT NOT NULL,
    workdir    TEXT NOT NULL,
    base       TEXT NOT NULL,
    facts      TEXT NOT NULL,
    packages   TEXT NOT NULL
);
CREATE INDEX builds_of_template ON builds (template, created_at, id);
CREATE INDEX builds_by_state ON builds (state, ended_at);
CREATE INDEX builds_with_snapshot ON builds (snapshot) WHERE snapshot <> '';
CREATE UNIQUE INDEX build_versions ON builds (template, major, minor, patch) WHERE state = 'ready';

CREATE TABLE template_tags (
    template TEXT NOT NULL REFERENCES templates (id),
    name     TEXT NOT NULL,
    build    TEXT NOT NULL REFERENCES builds (id),
    at       BIGINT NOT NULL,
    PRIMARY KEY (template, name)
);

-- What a template tells those who look for one; a template without a row tells
-- nothing. published_at is 0 while it is private.
CREATE TABLE listings (
    template     TEXT NOT NULL PRIMARY KEY REFERENCES templates (id),
    description  TEXT NOT NULL,
    readme       TEXT NOT NULL,
    licence      TEXT NOT NULL,
    categories   TEXT NOT NULL,
    keywords     TEXT NOT NULL,
    fork_of      TEXT NOT NULL,
    published_at BIGINT NOT NULL
);

CREATE TABLE template_ratings (
    template TEXT NOT NULL REFERENCES templates (id),
    team     TEXT NOT NULL REFERENCES teams (id),
    stars    BIGINT NOT NULL,
    at       BIGINT NOT NULL,
    PRIMARY KEY (template, team)
);

CREATE TABLE template_reports (
    template TEXT NOT NULL REFERENCES templates (id),
    team     TEXT NOT NULL REFERENCES teams (id),
    reason   TEXT NOT NULL,
    at       BIGINT NOT NULL,
    PRIMARY KEY (template, team)
);

-- +goose Down

DROP TABLE template_reports;
DROP TABLE template_ratings;
DROP TABLE listings;
DROP TABLE template_tags;
DROP TABLE builds;

-- A server of that time makes no sense of a template without an image.
DELETE FROM templates WHERE image = '';

ALTER TABLE templates DROP COLUMN downloads;
ALTER TABLE templates DROP COLUMN baked;
ALTER TABLE templates DROP COLUMN snapshot;
ALTER TABLE templates DROP COLUMN patch;
ALTER TABLE templates DROP COLUMN minor;
ALTER TABLE templates DROP COLUMN major;
ALTER TABLE templates DROP COLUMN build;
