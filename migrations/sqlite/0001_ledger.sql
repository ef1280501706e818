-- Nodes, their keys, and the ledger of everything that was ever received from them.
-- Times are microseconds since the Unix epoch, UTC. Ids are raw bytes. Flags are 0 or 1.

CREATE TABLE node (
    id           BLOB PRIMARY KEY CHECK (length(id) = 16),
    hostname     TEXT NOT NULL,
    labels       TEXT NOT NULL DEFAULT '{}',        -- JSON object of strings; this and the next, like the host name, as
    version      TEXT NOT NULL DEFAULT '',          -- of its agent;      the node last said of itself in a state
    kernel       TEXT NOT NULL DEFAULT '',          -- its release
    architecture TEXT NOT NULL DEFAULT '',
    fingerprint  TEXT NOT NULL DEFAULT '',          -- of the hardware, as the node gave it at enrolment
    status       TEXT NOT NULL CHECK (status IN ('active', 'pending', 'revoked')),
    enrolled_at  INTEGER NOT NULL,
    last_seen    INTEGER,                           -- by the collector's clock
    last_event   INTEGER,                           -- newest event time stored, by the node's clock
    lag          INTEGER,                           -- how long after that time it arrived
    batches      INTEGER NOT NULL DEFAULT 0,        -- stored, ever
    owed         INTEGER NOT NULL DEFAULT 0,        -- batches that the node last said it holds and that are not stored
    coverage     TEXT NOT NULL DEFAULT '{}'         -- JSON: source -> its last agent_state
) STRICT, WITHOUT ROWID;

-- Every key a node ever signed with: `verify` needs the old ones. One that gave way to another speaks only for what its
-- rotation names.
CREATE TABLE node_key (
    node        BLOB NOT NULL REFERENCES node (id),
    key_id      BLOB NOT NULL,
    public_key  BLOB NOT NULL CHECK (length(public_key) = 32),
    added_at    INTEGER NOT NULL,
    retired_at  INTEGER,
    rotation    BLOB,                               -- the signed statement by which it gave way
    PRIMARY KEY (node, key_id)
) STRICT, WITHOUT ROWID;

-- One partition file each: payloads first received on one day (a busy day has several parts).
-- expired_at set = the file is gone or about to go, and every ledger row that points here says "expired".
CREATE TABLE partition (
    id          INTEGER PRIMARY KEY,
    day         INTEGER NOT NULL,                   -- days since the Unix epoch
    part        INTEGER NOT NULL,
    batches     INTEGER NOT NULL DEFAULT 0,
    events      INTEGER NOT NULL DEFAULT 0,
    bytes       INTEGER NOT NULL DEFAULT 0,         -- of payloads
    time_from   INTEGER NOT NULL DEFAULT 9223372036854775807,
    time_to     INTEGER NOT NULL DEFAULT -9223372036854775808,
    expired_at  INTEGER,
    UNIQUE (day, part)
) STRICT;

-- The declaration of each pruning: what went, why, and the digest over the digests of what went.
CREATE TABLE pruning (
    id          INTEGER PRIMARY KEY,
    partition   INTEGER NOT NULL REFERENCES partition (id),
    reason      TEXT NOT NULL CHECK (reason IN ('age', 'bytes')),
    decided_at  INTEGER NOT NULL,
    batches     INTEGER NOT NULL,
    events      INTEGER NOT NULL,
    bytes       INTEGER NOT NULL,
    digest      BLOB NOT NULL CHECK (length(digest) = 32)
) STRICT;

-- One row per (node, epoch, number), for ever. `id` is the order of arrival.
CREATE TABLE ledger (
    id           INTEGER PRIMARY KEY,
    node         BLOB NOT NULL,
    epoch        BLOB NOT NULL CHECK (length(epoch) = 16),
    seq          INTEGER NOT NULL,
    digest       BLOB NOT NULL CHECK (length(digest) = 32),
    signed       BLOB NOT NULL,                     -- header and signature, verbatim
    eviction     BLOB,                              -- the node's signed word that it let go of the payload
    events       INTEGER NOT NULL,
    boot         BLOB,                              -- of the node; NULL if this release can't read the header
    partition    INTEGER NOT NULL REFERENCES partition (id),    -- of the day of first receipt, also without a payload
    received_at  INTEGER NOT NULL,
    unread       INTEGER NOT NULL DEFAULT 0,        -- 1: of a version or codec that this release can't read yet
    analysed     INTEGER NOT NULL DEFAULT 0         -- 1: findings are recorded; 0: not yet; 2: to be replaced
) STRICT;
CREATE UNIQUE INDEX ledger_number ON ledger (node, epoch, seq);
CREATE INDEX ledger_unanalysed ON ledger (id) WHERE analysed <> 1 AND unread = 0;
CREATE INDEX ledger_unread ON ledger (id) WHERE unread = 1;
CREATE INDEX ledger_partition ON ledger (partition, id);

-- Runs of evicted batches of which only a signed range is left. Rows that are in the ledger as well stay there.
CREATE TABLE fold (
    node          BLOB NOT NULL,
    epoch         BLOB NOT NULL,
    first         INTEGER NOT NULL,
    last          INTEGER NOT NULL,
    first_digest  BLOB NOT NULL,
    last_digest   BLOB NOT NULL,
    signed        BLOB NOT NULL,                    -- the whole statement, verbatim
    received_at   INTEGER NOT NULL,
    PRIMARY KEY (node, epoch, first, last)
) STRICT, WITHOUT ROWID;
CREATE INDEX fold_end ON fold (node, epoch, last);

-- What contradicts the ledger is kept too: other bytes under a number that is taken, a second successor of one head.
-- Evidence, not data: it is neither analysed nor searched; its payload is kept here and pruned by age.
CREATE TABLE forked_batch (
    node         BLOB NOT NULL,
    epoch        BLOB NOT NULL,
    seq          INTEGER NOT NULL,
    digest       BLOB NOT NULL,
    signed       BLOB NOT NULL,
    payload      BLOB,
    received_at  INTEGER NOT NULL,
    PRIMARY KEY (node, epoch, seq, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX forked_age ON forked_batch (received_at);

-- One row per (node, epoch), advanced in the transaction that stores.
CREATE TABLE epoch (
    node         BLOB NOT NULL,
    epoch        BLOB NOT NULL,
    state        BLOB NOT NULL,                     -- runs stored, losses, forks: `wire`'s epoch ledger
    through      INTEGER NOT NULL,                  -- every number up to here is stored or accounted for; 0 = none
    owed         INTEGER NOT NULL,                  -- numbers missing that may still come
    lost         INTEGER NOT NULL,                  -- numbers missing for good
    predecessor  BLOB,                              -- the epoch that this one says it follows
    first_seen   INTEGER NOT NULL,
    last_seen    INTEGER NOT NULL,
    PRIMARY KEY (node, epoch)
) STRICT, WITHOUT ROWID;
CREATE INDEX epoch_recent ON epoch (node, last_seen);

-- What is missing for good: numbers below what the node still holds that never came.
CREATE TABLE lost_range (
    node         BLOB NOT NULL,
    epoch        BLOB NOT NULL,
    first        INTEGER NOT NULL,
    last         INTEGER NOT NULL,
    recorded_at  INTEGER NOT NULL,
    PRIMARY KEY (node, epoch, first)
) STRICT, WITHOUT ROWID;

-- Declared losses, summed; each declaration itself stays in its signed header.
CREATE TABLE loss (
    node      BLOB NOT NULL,
    source    TEXT NOT NULL,
    reason    TEXT NOT NULL,
    count     INTEGER NOT NULL,                     -- events; saturating
    unknown   INTEGER NOT NULL DEFAULT 0,           -- declarations that could not give a count
    last_at   INTEGER NOT NULL,
    PRIMARY KEY (node, source, reason)
) STRICT, WITHOUT ROWID;

-- What is wrong with a node's data: once per cause, until a person closes it.
CREATE TABLE flag (
    id         INTEGER PRIMARY KEY,
    node       BLOB NOT NULL,
    epoch      BLOB NOT NULL,
    seq        INTEGER NOT NULL,                    -- 0: the epoch as such
    kind       TEXT NOT NULL,
    detail     TEXT NOT NULL,
    raised_at  INTEGER NOT NULL,
    count      INTEGER NOT NULL DEFAULT 1,
    closed_at  INTEGER,
    closed_by  TEXT,
    UNIQUE (node, epoch, seq, kind)
) STRICT;
CREATE INDEX flag_open ON flag (node) WHERE closed_at IS NULL;

-- Arrivals per minute and node: what the rate chart draws.
CREATE TABLE arrival (
    minute  INTEGER NOT NULL,                       -- minutes since the Unix epoch, by the collector's clock
    node    BLOB NOT NULL,
    events  INTEGER NOT NULL,
    PRIMARY KEY (minute, node)
) STRICT, WITHOUT ROWID;

-- Offsets (wall clock minus time since boot, microseconds) of a boot, before and after it was first synchronised.
-- Each is the one noted earliest in the boot, so that the order of arrival does not matter.
CREATE TABLE clock (
    node         BLOB NOT NULL,
    boot         BLOB NOT NULL,
    unsynced_at  INTEGER,                           -- time since boot of the earliest fact without synchronisation
    unsynced     INTEGER,
    synced_at    INTEGER,                           -- time since boot of the earliest fact with it
    synced       INTEGER,
    PRIMARY KEY (node, boot)
) STRICT, WITHOUT ROWID;
