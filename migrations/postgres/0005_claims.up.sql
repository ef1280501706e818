-- Until when a batch is left to the process that said it would judge it; 0 is anybody's.
ALTER TABLE ledger ADD COLUMN claimed_until BIGINT NOT NULL DEFAULT 0;
