-- Nodes, their keys, and the ledger of everything that was ever received from them.
-- Times are microseconds since the Unix epoch, UTC. Ids are raw bytes. Days are counted from the Unix epoch.

CREATE TABLE node (
    id           BYTEA PRIMARY KEY CHECK (length(id) = 16),
    hostname     TEXT NOT NULL,
    labels       TEXT NOT NULL DEFAULT '{}',        -- JSON object of strings; this and the next, like the host name, as
    version      TEXT NOT NULL DEFAULT '',          -- of its agent;      the node last said of itself in a state
    kernel       TEXT NOT NULL DEFAULT '',          -- its release
    architecture TEXT NOT NULL DEFAULT '',
    fingerprint  TEXT NOT NULL DEFAULT '',          -- of the hardware, as the node gave it at enrolment
    status       TEXT NOT NULL CHECK (status IN ('active', 'pending', 'revoked')),
    enrolled_at  BIGINT NOT NULL,
    last_seen    BIGINT,                            -- by the collector's clock
    last_event   BIGINT,                            -- newest event time stored, by the node's clock
    lag          BIGINT,                            -- how long after that time it arrived
    batches      BIGINT NOT NULL DEFAULT 0,         -- stored, ever
    owed         BIGINT NOT NULL DEFAULT 0,         -- batches that the node last said it holds and that are not stored
    coverage     TEXT NOT NULL DEFAULT '{}'         -- JSON: source -> its last agent_state
);

-- Every key a node ever signed with: `verify` needs the old ones. One that gave way to another speaks only for what its
-- rotation names. `id` orders what was added at one time.
CREATE TABLE node_key (
    id          BIGINT GENERATED ALWAYS AS IDENTITY,
    node        BYTEA NOT NULL REFERENCES node (id),
    key_id      BYTEA NOT NULL,
    public_key  BYTEA NOT NULL CHECK (length(public_key) = 32),
    added_at    BIGINT NOT NULL,
    retired_at  BIGINT,
    rotation    BYTEA,                              -- the signed statement by which it gave way
    PRIMARY KEY (node, key_id)
);
CREATE INDEX node_key_public ON node_key (public_key);

-- One day of payloads each. expired_at set = its tables are gone or about to go, and every ledger row of the day says
-- "expired". It holds no sums: every process that stores would wait for the row.
CREATE TABLE partition (
    day         BIGINT PRIMARY KEY,
    expired_at  BIGINT
);

-- The payloads, verbatim. `id` is the ledger's id. They are compressed already.
CREATE TABLE payload (
    day    BIGINT NOT NULL,
    id     BIGINT NOT NULL,
    bytes  BYTEA NOT NULL,
    PRIMARY KEY (day, id)
) PARTITION BY RANGE (day);
ALTER TABLE payload ALTER COLUMN bytes SET STORAGE EXTERNAL;

-- What finds them: read whole by a search for a term.
CREATE TABLE batch (
    day        BIGINT NOT NULL,
    id         BIGINT NOT NULL,
    node       BYTEA NOT NULL,
    epoch      BYTEA NOT NULL,
    seq        BIGINT NOT NULL,
    time_from  BIGINT NOT NULL,
    time_to    BIGINT NOT NULL,
    types      BIGINT NOT NULL,                     -- one bit per event type
    filter     BYTEA NOT NULL,                      -- over the hashes of all terms
    PRIMARY KEY (day, id)
) PARTITION BY RANGE (day);
CREATE INDEX batch_newest ON batch (time_to DESC, id DESC);

-- The declaration of each pruning: what went, why, and the digest over the digests of what went.
CREATE TABLE pruning (
    id          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    day         BIGINT NOT NULL REFERENCES partition (day),
    reason      TEXT NOT NULL CHECK (reason IN ('age', 'bytes')),
    decided_at  BIGINT NOT NULL,
    batches     BIGINT NOT NULL,
    events      BIGINT NOT NULL,
    bytes       BIGINT NOT NULL,
    digest      BYTEA NOT NULL CHECK (length(digest) = 32)
);

-- One row per (node, epoch, number). `id` is the order of arrival; rows of several processes become visible in another
-- order, so who pages by id stops below the ids of transactions that are still running.
CREATE SEQUENCE ledger_id;
CREATE TABLE ledger (
    id            BIGINT PRIMARY KEY,
    node          BYTEA NOT NULL,
    epoch         BYTEA NOT NULL CHECK (length(epoch) = 16),
    seq           BIGINT NOT NULL,
    digest        BYTEA NOT NULL CHECK (length(digest) = 32),
    signed        BYTEA NOT NULL,                   -- header and signature, verbatim
    eviction      BYTEA,                            -- the node's signed word that it let go of the payload
    events        BIGINT NOT NULL,
    payload_bytes BIGINT NOT NULL DEFAULT 0,
    boot          BYTEA,                            -- of the node; NULL if this release can't read the header
    day           BIGINT NOT NULL REFERENCES partition (day),   -- of first receipt, also without a payload
    received_at   BIGINT NOT NULL,
    unread        BOOLEAN NOT NULL DEFAULT FALSE,   -- of a version or codec that this release can't read yet
    analysed      SMALLINT NOT NULL DEFAULT 0 CHECK (analysed BETWEEN 0 AND 2),  -- 1: findings are recorded; 0: not yet; 2: to be replaced
    checkpointed  BOOLEAN NOT NULL DEFAULT FALSE    -- a checkpoint stands for it; it stays as long as detections rest on it
);
CREATE UNIQUE INDEX ledger_number ON ledger (node, epoch, seq);
CREATE INDEX ledger_unanalysed ON ledger (id) WHERE analysed <> 1 AND NOT unread;
CREATE INDEX ledger_unread ON ledger (id) WHERE unread;
CREATE INDEX ledger_day ON ledger (day, id);
CREATE INDEX ledger_boot ON ledger (node, boot) WHERE boot IS NOT NULL;
CREATE INDEX ledger_checkpointed ON ledger (id) WHERE checkpointed;

-- Runs of evicted batches of which only a signed range is left. Rows that are in the ledger as well stay there.
CREATE TABLE fold (
    node          BYTEA NOT NULL,
    epoch         BYTEA NOT NULL,
    first         BIGINT NOT NULL,
    last          BIGINT NOT NULL,
    first_digest  BYTEA NOT NULL,
    last_digest   BYTEA NOT NULL,
    signed        BYTEA NOT NULL,                   -- the whole statement, verbatim
    received_at   BIGINT NOT NULL,
    PRIMARY KEY (node, epoch, first, last)
);
CREATE INDEX fold_end ON fold (node, epoch, last);

-- What contradicts the ledger is kept too: other bytes under a number that is taken, a second successor of one head.
-- Evidence, not data: it is neither analysed nor searched; its payload is kept here and pruned by age.
CREATE TABLE forked_batch (
    node         BYTEA NOT NULL,
    epoch        BYTEA NOT NULL,
    seq          BIGINT NOT NULL,
    digest       BYTEA NOT NULL,
    signed       BYTEA NOT NULL,
    payload      BYTEA,
    received_at  BIGINT NOT NULL,
    PRIMARY KEY (node, epoch, seq, digest)
);
CREATE INDEX forked_age ON forked_batch (received_at);

-- One row per (node, epoch), locked and advanced in the transaction that stores. An empty state lives within a
-- transaction only: it is the row that is locked before there is anything to say.
CREATE TABLE epoch (
    node         BYTEA NOT NULL,
    epoch        BYTEA NOT NULL,
    state        BYTEA NOT NULL,                    -- runs stored, losses, forks: `wire`'s epoch ledger
    through      BIGINT NOT NULL,                   -- every number up to here is stored or accounted for; 0 = none
    owed         BIGINT NOT NULL,                   -- numbers missing that may still come
    lost         BIGINT NOT NULL,                   -- numbers missing for good
    predecessor  BYTEA,                             -- the epoch that this one says it follows
    first_seen   BIGINT NOT NULL,
    last_seen    BIGINT NOT NULL,
    PRIMARY KEY (node, epoch)
);
CREATE INDEX epoch_recent ON epoch (node, last_seen);

-- What is missing for good: numbers below what the node still holds that never came.
CREATE TABLE lost_range (
    node         BYTEA NOT NULL,
    epoch        BYTEA NOT NULL,
    first        BIGINT NOT NULL,
    last         BIGINT NOT NULL,
    recorded_at  BIGINT NOT NULL,
    PRIMARY KEY (node, epoch, first)
);

-- Declared losses, summed; each declaration itself stays in its signed header.
CREATE TABLE loss (
    node      BYTEA NOT NULL,
    source    TEXT NOT NULL,
    reason    TEXT NOT NULL,
    count     BIGINT NOT NULL,                      -- events; saturating
    unknown   BIGINT NOT NULL DEFAULT 0,            -- declarations that could not give a count
    last_at   BIGINT NOT NULL,
    PRIMARY KEY (node, source, reason)
);

-- What is wrong with a node's data: once per cause, until a person closes it.
CREATE TABLE flag (
    id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    node       BYTEA NOT NULL,
    epoch      BYTEA NOT NULL,
    seq        BIGINT NOT NULL,                     -- 0: the epoch as such
    kind       TEXT NOT NULL,
    detail     TEXT NOT NULL,
    raised_at  BIGINT NOT NULL,
    count      BIGINT NOT NULL DEFAULT 1,
    closed_at  BIGINT,
    closed_by  TEXT,
    UNIQUE (node, epoch, seq, kind)
);
CREATE INDEX flag_open ON flag (node) WHERE closed_at IS NULL;

-- Arrivals per minute and node: what the rate chart draws.
CREATE TABLE arrival (
    minute  BIGINT NOT NULL,                        -- minutes since the Unix epoch, by the collector's clock
    node    BYTEA NOT NULL,
    events  BIGINT NOT NULL,
    PRIMARY KEY (minute, node)
);

-- Offsets (wall clock minus time since boot, microseconds) of a boot, before and after it was first synchronised.
-- Each is the one noted earliest in the boot, so that the order of arrival does not matter.
CREATE TABLE clock (
    node         BYTEA NOT NULL,
    boot         BYTEA NOT NULL,
    unsynced_at  BIGINT,                            -- time since boot of the earliest fact without synchronisation
    unsynced     BIGINT,
    synced_at    BIGINT,                            -- time since boot of the earliest fact with it
    synced       BIGINT,
    PRIMARY KEY (node, boot)
);

-- Checkpoints: what stands for the first numbers of an epoch when their rows are gone.
CREATE TABLE checkpoint (
    node     BYTEA NOT NULL,
    epoch    BYTEA NOT NULL,
    last     BIGINT NOT NULL,                       -- all numbers from 1 through this one
    digest   BYTEA NOT NULL CHECK (length(digest) = 32),    -- of the last one
    signed   BYTEA NOT NULL,                        -- the site's statement, verbatim
    made_at  BIGINT NOT NULL,
    PRIMARY KEY (node, epoch)
);
