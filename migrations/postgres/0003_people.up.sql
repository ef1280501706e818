-- Who may do what, and what they did. Secrets are kept as hashes only.

CREATE TABLE join_token (
    secret_hash  BYTEA PRIMARY KEY CHECK (length(secret_hash) = 32),
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT NOT NULL,
    uses_left    BIGINT NOT NULL CHECK (uses_left >= 0)
);

-- `user` is a word of SQL's.
CREATE TABLE person (
    name           TEXT PRIMARY KEY,
    role           TEXT NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    password_hash  TEXT NOT NULL,                   -- argon2id, PHC string
    created_at     BIGINT NOT NULL,
    disabled_at    BIGINT
);

CREATE TABLE session (
    token_hash  BYTEA PRIMARY KEY CHECK (length(token_hash) = 32),
    person      TEXT NOT NULL REFERENCES person (name) ON DELETE CASCADE,
    created_at  BIGINT NOT NULL,
    expires_at  BIGINT NOT NULL
);
CREATE INDEX session_expiry ON session (expires_at);
CREATE INDEX session_person ON session (person);

CREATE TABLE api_token (
    id          TEXT PRIMARY KEY,
    token_hash  BYTEA NOT NULL UNIQUE CHECK (length(token_hash) = 32),
    name        TEXT NOT NULL,
    role        TEXT NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    created_by  TEXT NOT NULL,
    created_at  BIGINT NOT NULL,
    expires_at  BIGINT,
    revoked_at  BIGINT
);

-- Who changed what. Every entry carries the digest of the one before (docs/audit-trail.md says how it is made), so texts
-- stay exactly as they are written here. Who appends takes turns by an advisory lock.
CREATE TABLE audit_trail (
    number    BIGINT PRIMARY KEY,                   -- from 1, without gaps
    previous  BYTEA NOT NULL,                       -- the digest of the entry before; of the first: zeros
    digest    BYTEA NOT NULL,
    at        BIGINT NOT NULL,
    actor     TEXT NOT NULL,
    origin    TEXT NOT NULL,                        -- an address, or nothing
    action    TEXT NOT NULL,
    object    TEXT NOT NULL,
    outcome   TEXT NOT NULL,
    detail    TEXT NOT NULL                         -- a JSON object
);
CREATE FUNCTION audit_trail_only_goes_on() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    last audit_trail;
BEGIN
    SELECT * INTO last FROM audit_trail ORDER BY number DESC LIMIT 1;
    IF NEW.number <> coalesce(last.number, 0) + 1
        OR NEW.previous <> coalesce(last.digest, decode(repeat('00', 32), 'hex')) THEN
        RAISE EXCEPTION 'the audit trail is append-only';
    END IF;
    RETURN NEW;
END$$;
CREATE TRIGGER audit_trail_only_goes_on BEFORE INSERT ON audit_trail
    FOR EACH ROW EXECUTE FUNCTION audit_trail_only_goes_on();
CREATE FUNCTION audit_trail_is_append_only() RETURNS trigger LANGUAGE plpgsql AS
$$BEGIN RAISE EXCEPTION 'the audit trail is append-only'; END$$;
CREATE TRIGGER audit_trail_is_never_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_trail
    FOR EACH STATEMENT EXECUTE FUNCTION audit_trail_is_append_only();

CREATE TABLE setting (
    key         TEXT PRIMARY KEY,
    value       TEXT NOT NULL,                      -- JSON
    changed_at  BIGINT NOT NULL
);
