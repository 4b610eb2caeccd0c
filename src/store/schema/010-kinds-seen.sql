-- When a kind was last known to be in use: it goes when nothing that is kept can be as old. NULL: never, as those are of a
-- process that knows nothing of this.
ALTER TABLE ledger_kinds ADD COLUMN seen_ms BIGINT;
UPDATE ledger_kinds SET seen_ms = {{now_ms}};
CREATE INDEX ledger_kinds_by_seen ON ledger_kinds (seen_ms);
