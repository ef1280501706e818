-- The audit trail becomes a chain. What the table before held was not chained, and no release wrote it.
DROP TABLE audit_trail;

-- Who changed what. Every entry carries the digest of the one before (docs/audit-trail.md says how it is made), so texts
-- stay exactly as they are written here.
CREATE TABLE audit_trail (
    number    INTEGER PRIMARY KEY,                  -- from 1, without gaps
    previous  BLOB NOT NULL,                        -- the digest of the entry before; of the first: zeros
    digest    BLOB NOT NULL,
    at        INTEGER NOT NULL,
    actor     TEXT NOT NULL,
    origin    TEXT NOT NULL,                        -- an address, or nothing
    action    TEXT NOT NULL,
    object    TEXT NOT NULL,
    outcome   TEXT NOT NULL,
    detail    TEXT NOT NULL                         -- a JSON object
) STRICT;
-- Also against INSERT OR REPLACE, which asks no trigger for deletions.
CREATE TRIGGER audit_trail_only_goes_on BEFORE INSERT ON audit_trail
WHEN NEW.number <> (SELECT coalesce(max(number), 0) + 1 FROM audit_trail)
    OR NEW.previous <> coalesce((SELECT digest FROM audit_trail ORDER BY number DESC LIMIT 1), zeroblob(32))
BEGIN SELECT raise(ABORT, 'the audit trail is append-only'); END;
CREATE TRIGGER audit_trail_is_never_changed BEFORE UPDATE ON audit_trail
BEGIN SELECT raise(ABORT, 'the audit trail is append-only'); END;
CREATE TRIGGER audit_trail_is_never_shortened BEFORE DELETE ON audit_trail
BEGIN SELECT raise(ABORT, 'the audit trail is append-only'); END;
