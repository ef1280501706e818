-- What finds the payloads of one partition: read whole by a search for a term. `id` is the ledger's id.

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
