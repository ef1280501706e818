-- Alerts that are still to be announced to other services: entered by the transaction that opens an alert, once per
-- destination, and removed after the destination's broker has answered for the announcement.
CREATE TABLE outbox (
    number         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    destination    TEXT NOT NULL,
    alert_id       BYTEA NOT NULL REFERENCES alert (alert_id),
    claimed_until  BIGINT NOT NULL DEFAULT 0        -- until when it is left to the process that announces it; 0 is anybody's
);
CREATE INDEX outbox_queue ON outbox (destination, number);
