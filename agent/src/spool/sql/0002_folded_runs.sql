-- A run of batches whose payloads were evicted folds into one row: `seq` is its first number, `last_seq` its last.
ALTER TABLE batch ADD COLUMN last_seq INTEGER NOT NULL DEFAULT 0;
UPDATE batch SET last_seq = seq;
CREATE INDEX batch_bare ON batch (epoch, seq) WHERE payload_size = 0 AND stored = 0;
