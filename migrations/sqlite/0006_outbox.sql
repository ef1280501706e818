-- Alerts that are still to be announced to other services: entered by the transaction that opens an alert, once per
-- destination, and removed after the destination's broker has answered for the announcement.
CREATE TABLE outbox (
    number         INTEGER PRIMARY KEY AUTOINCREMENT,
    destination    TEXT NOT NULL,
    alert_id       BLOB NOT NULL REFERENCES alert (alert_id),
    claimed_until  INTEGER NOT NULL DEFAULT 0       -- until when it is left to whoever announces it; 0 is anybody's
) STRICT;
CREATE INDEX outbox_queue ON outbox (destination, number);
