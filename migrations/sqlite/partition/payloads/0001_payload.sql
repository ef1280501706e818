-- The payloads of one partition, verbatim. `id` is the ledger's id.

CREATE TABLE payload (
    id     INTEGER PRIMARY KEY,
    bytes  BLOB NOT NULL
) STRICT;
