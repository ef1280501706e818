-- Revisions of a group's detections, for copies of them that are kept elsewhere. A group that was looked at keeps its row
-- for a while, so that the next change knows which revision it changes.
ALTER TABLE dirty_group
    ADD COLUMN revision         BYTEA,              -- 16 random bytes, new ones with each change; NULL: not changed yet
    ADD COLUMN revision_before  BYTEA,              -- the one that `revision` replaced
    ADD COLUMN settled_at       BIGINT;             -- when it was looked at; NULL: it is dirty
DROP INDEX dirty_queue;
CREATE INDEX dirty_queue ON dirty_group (marked_at) WHERE settled_at IS NULL;
CREATE INDEX dirty_settled ON dirty_group (settled_at) WHERE settled_at IS NOT NULL;
