-- +goose Up

-- Of which image that was pushed a build was made: the digest of its manifest,
-- which is a blob. Empty: it came about in another way.
ALTER TABLE builds ADD COLUMN manifest TEXT NOT NULL DEFAULT '';
CREATE INDEX builds_by_manifest ON builds (manifest) WHERE manifest <> '';

-- Blobs that teams have pushed to repositories lately. They stay until the row
-- goes, and for as long as a build has them.
CREATE TABLE claims (
    team   TEXT NOT NULL REFERENCES teams (id),
    name   TEXT NOT NULL,
    digest TEXT NOT NULL,
    size   BIGINT NOT NULL,
    at     BIGINT NOT NULL,
    PRIMARY KEY (team, name, digest)
);
CREATE INDEX claims_by_digest ON claims (digest);
CREATE INDEX claims_by_time ON claims (at);

-- +goose Down

DROP TABLE claims;
DROP INDEX builds_by_manifest;
ALTER TABLE builds DROP COLUMN manifest;
