ALTER TABLE ledger DROP COLUMN claimed_until;
