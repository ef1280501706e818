-- The spool as first laid out: what a node has read and the collector has not yet said to be stored.
-- Rows that no signature covers carry `seal`, so that a flipped byte is noticed when the row is read.

-- One run of the agent each, and one more for every answer `fork`.
CREATE TABLE epoch (
    ordinal      INTEGER PRIMARY KEY,                -- the order in which this spool began them
    epoch        BLOB    NOT NULL UNIQUE,
    node         BLOB    NOT NULL,
    boot         BLOB    NOT NULL,
    next_seq     INTEGER NOT NULL,                   -- the number that the next sealed batch gets
    head         BLOB    NOT NULL,                   -- digest of the last sealed batch
    events       INTEGER NOT NULL,                   -- sealed in this epoch so far
    acked_seq    INTEGER,                            -- stored through, as the collector last signed it
    acked_digest BLOB,
    seal         BLOB    NOT NULL
) STRICT;

-- One commit's events of one priority, waiting to be sealed into a batch.
CREATE TABLE chunk (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    epoch        INTEGER NOT NULL,
    priority     INTEGER NOT NULL,
    urgent       INTEGER NOT NULL,
    events       INTEGER NOT NULL,
    raw_bytes    INTEGER NOT NULL,                   -- the events' size before compression
    rule_set     BLOB    NOT NULL,                   -- the pre-filter's version that let them through
    wall         INTEGER NOT NULL,                   -- the clocks at the commit, microseconds
    boottime     INTEGER NOT NULL,
    synchronised INTEGER NOT NULL,
    first_time   INTEGER NOT NULL,
    last_time    INTEGER NOT NULL,
    codec        INTEGER NOT NULL,
    dictionary   BLOB    NOT NULL,
    seal         BLOB    NOT NULL,
    body         BLOB    NOT NULL
) STRICT;
CREATE INDEX chunk_by_class ON chunk (epoch, priority, urgent, id);

-- Sealed batches until the collector acknowledges them. Of an evicted one the payload is gone, the header stays.
CREATE TABLE batch (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order of sealing over all epochs
    epoch        INTEGER NOT NULL,
    seq          INTEGER NOT NULL,
    priority     INTEGER NOT NULL,
    urgent       INTEGER NOT NULL,
    events       INTEGER NOT NULL,
    payload_size INTEGER NOT NULL,                   -- zero once evicted or stored
    stored       INTEGER NOT NULL,                   -- acknowledged; stays until all below it are, for its digest
    digest       BLOB    NOT NULL,
    signed       BLOB    NOT NULL,                   -- header and signature, as they travel; empty once stored
    eviction     BLOB,                               -- the node's signed word that it let go of the payload
    payload      BLOB,
    UNIQUE (epoch, seq)
) STRICT;
CREATE INDEX batch_by_urgency ON batch (urgent, id) WHERE stored = 0;
CREATE INDEX batch_by_worth ON batch (priority, id) WHERE payload_size > 0;

-- Where each source goes on, as of the last commit.
CREATE TABLE cursor (
    source       TEXT PRIMARY KEY,
    body         BLOB NOT NULL,
    seal         BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Losses that no batch has declared yet; what is not known is null.
CREATE TABLE loss (
    id           INTEGER PRIMARY KEY,
    reason       INTEGER NOT NULL,
    source       INTEGER NOT NULL,
    count        INTEGER,
    first_time   INTEGER,
    last_time    INTEGER,
    first_serial INTEGER,
    last_serial  INTEGER,
    seal         BLOB    NOT NULL
) STRICT;
