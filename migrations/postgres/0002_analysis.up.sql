-- Detections, the groups to recompute, and alerts.

-- Matches of a correlation's base rule in one batch, for one group. The durable truth of every correlation.
CREATE TABLE detection (
    id           BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch        BIGINT NOT NULL REFERENCES ledger (id),
    correlation  TEXT NOT NULL,
    rule         TEXT NOT NULL,                     -- the base rule
    grp          TEXT NOT NULL,                     -- canonical group-by values
    rule_set     TEXT NOT NULL,
    time_from    BIGINT NOT NULL,
    time_to      BIGINT NOT NULL,
    points       TEXT NOT NULL,                     -- JSON array of points
    grp_hash     BYTEA NOT NULL,                    -- BLAKE3 of `grp`, which may be longer than an index takes
    UNIQUE (batch, correlation, rule, grp_hash)
);
CREATE INDEX detection_group ON detection (correlation, grp_hash, time_from);
CREATE INDEX detection_age ON detection (time_to);

-- Groups that new detections touched. A worker locks one, recomputes it and clears it, unless it was touched again meanwhile.
CREATE TABLE dirty_group (
    correlation   TEXT NOT NULL,
    grp           TEXT NOT NULL,
    grp_hash      BYTEA NOT NULL,
    touched       BIGINT NOT NULL,                  -- counts the touches
    marked_at     BIGINT NOT NULL,                  -- by the collector's clock: first marked, first served
    time_from     BIGINT NOT NULL,
    time_to       BIGINT NOT NULL,
    locked_until  BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (correlation, grp_hash)
);
CREATE INDEX dirty_queue ON dirty_group (marked_at);

CREATE TABLE alert (
    alert_id             BYTEA PRIMARY KEY CHECK (length(alert_id) = 16),
    correlation_id       TEXT NOT NULL,
    fingerprint          TEXT NOT NULL,
    rule                 TEXT NOT NULL,             -- JSON: id, name, description, level, version
    rule_id              TEXT NOT NULL,
    rule_name            TEXT NOT NULL,             -- of `rule`
    grp                  TEXT,                      -- the correlation's group; NULL for a single-event alert
    stamp                BIGINT,                    -- a single event's own time, unshifted; NULL for a correlation's alert
    timestamp            BIGINT NOT NULL,           -- event time
    received_at          BIGINT NOT NULL,           -- when it was first written here
    changed_at           BIGINT NOT NULL,
    severity             TEXT NOT NULL,
    alert_type           TEXT NOT NULL,
    triggered_by         TEXT NOT NULL,             -- JSON
    actor_id             TEXT,                      -- of `triggered_by`
    impacted_resource    TEXT NOT NULL,             -- JSON
    action_observed      TEXT NOT NULL,
    source_service_name  TEXT NOT NULL,
    server_hostname      TEXT NOT NULL,
    node                 BYTEA,
    description          TEXT NOT NULL,
    evidence             TEXT NOT NULL,             -- JSON: where the events are
    events               TEXT NOT NULL,             -- JSON: copies, so that pruning never empties an alert
    metadata             TEXT NOT NULL,             -- JSON
    machine              TEXT NOT NULL CHECK (machine IN ('standing', 'amended', 'superseded', 'withdrawn')),
    superseded_by        BYTEA,
    status               TEXT NOT NULL DEFAULT 'open'
                         CHECK (status IN ('open', 'acknowledged', 'resolved', 'false_positive')),
    assignee             TEXT,
    note                 TEXT,
    deleted_at           BIGINT
);
CREATE INDEX alert_newest ON alert (received_at DESC, alert_id DESC);
CREATE INDEX alert_group ON alert (rule_id, md5(grp)) WHERE grp IS NOT NULL;
CREATE INDEX alert_stamp ON alert (rule_id, node, stamp, alert_id)
    WHERE stamp IS NOT NULL AND machine IN ('standing', 'amended');
CREATE INDEX alert_open ON alert (severity) WHERE status = 'open' AND deleted_at IS NULL;

-- Single events that a rule matched on a node in an hour of their own time: beyond a bound they are told by number only.
CREATE TABLE storm (
    rule_id  TEXT NOT NULL,
    node     BYTEA NOT NULL,
    hour     BIGINT NOT NULL,                       -- since the Unix epoch
    matched  BIGINT NOT NULL,
    PRIMARY KEY (rule_id, node, hour)
);
