-- Checkpoints: what stands for the first numbers of an epoch when their rows are gone.

CREATE TABLE checkpoint (
    node     BLOB NOT NULL,
    epoch    BLOB NOT NULL,
    last     INTEGER NOT NULL,                      -- all numbers from 1 through this one
    digest   BLOB NOT NULL CHECK (length(digest) = 32),  -- of the last one
    signed   BLOB NOT NULL,                         -- the site's statement, verbatim
    made_at  INTEGER NOT NULL,
    PRIMARY KEY (node, epoch)
) STRICT, WITHOUT ROWID;

-- 1: a checkpoint stands for the row, which stays only as long as detections rest on it.
ALTER TABLE ledger ADD COLUMN checkpointed INTEGER NOT NULL DEFAULT 0;
CREATE INDEX ledger_checkpointed ON ledger (id) WHERE checkpointed = 1;

-- A part of a day ends when payloads and headers have reached its size: many small batches are rows more than payload.
ALTER TABLE partition ADD COLUMN header_bytes INTEGER NOT NULL DEFAULT 0;
