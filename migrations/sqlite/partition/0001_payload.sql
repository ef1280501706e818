-- One partition file: verbatim payloads, and the narrow table that finds them. `id` is the ledger's id.

CREATE TABLE payload (
    id     INTEGER PRIMARY KEY,
    bytes  BLOB NOT NULL
) STRICT;

CREATE TABLE batch (
    id         INTEGER PRIMARY KEY,
    node       BLOB NOT NULL,
    epoch      BLOB NOT NULL,
    seq        INTEGER NOT NULL,
    time_from  INTEGER NOT NULL,
    time_to    INTEGER NOT NULL,
    types      INTEGER NOT NULL,                    -- one bit per event type
    filter     BLOB NOT NULL                        -- over the hashes of all terms
) STRICT;
CREATE INDEX batch_newest ON batch (time_to DESC, id DESC, time_from, types, node);
