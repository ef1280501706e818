DELETE FROM dirty_group WHERE settled_at IS NOT NULL;
DROP INDEX dirty_settled, dirty_queue;
ALTER TABLE dirty_group DROP COLUMN settled_at, DROP COLUMN revision_before, DROP COLUMN revision;
CREATE INDEX dirty_queue ON dirty_group (marked_at);
