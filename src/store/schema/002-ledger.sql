-- One row for each call of a model, never changed; hourly and daily sums of them. `booked` lists the budgets that a row was
-- spent of, as "scope/unit/period/begin" with spaces between; whose they are, say project_id, key_id and user_id.
CREATE TABLE ledger (
    id {{serial}},
    at_ms BIGINT NOT NULL,
    request_id TEXT NOT NULL,
    org_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    key_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    model TEXT NOT NULL,
    provider TEXT NOT NULL,
    upstream_model TEXT NOT NULL,
    route TEXT NOT NULL,
    outcome TEXT NOT NULL,
    status BIGINT NOT NULL,
    duration_ms BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    input BIGINT NOT NULL,
    output BIGINT NOT NULL,
    cached BIGINT NOT NULL,
    cache_written BIGINT NOT NULL,
    reasoning BIGINT NOT NULL,
    is_estimated BIGINT NOT NULL,
    cost_nano BIGINT,
    booked TEXT NOT NULL
);
CREATE INDEX ledger_by_time ON ledger (at_ms);
CREATE TABLE usage_hours (
    begins_ms BIGINT NOT NULL,
    org_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    key_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    model TEXT NOT NULL,
    provider TEXT NOT NULL,
    upstream_model TEXT NOT NULL,
    calls BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    unpriced BIGINT NOT NULL,
    input BIGINT NOT NULL,
    output BIGINT NOT NULL,
    cached BIGINT NOT NULL,
    cache_written BIGINT NOT NULL,
    reasoning BIGINT NOT NULL,
    cost_nano BIGINT NOT NULL,
    PRIMARY KEY (begins_ms, project_id, key_id, user_id, model, provider, upstream_model, org_id)
);
CREATE TABLE usage_days (
    begins_ms BIGINT NOT NULL,
    org_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    key_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    model TEXT NOT NULL,
    provider TEXT NOT NULL,
    upstream_model TEXT NOT NULL,
    calls BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    unpriced BIGINT NOT NULL,
    input BIGINT NOT NULL,
    output BIGINT NOT NULL,
    cached BIGINT NOT NULL,
    cache_written BIGINT NOT NULL,
    reasoning BIGINT NOT NULL,
    cost_nano BIGINT NOT NULL,
    PRIMARY KEY (begins_ms, project_id, key_id, user_id, model, provider, upstream_model, org_id)
);
-- The last group of rows that each process committed, so that one whose commit was in doubt is not entered twice.
CREATE TABLE ledger_writers (
    writer TEXT PRIMARY KEY,
    last BIGINT NOT NULL,
    at_ms BIGINT NOT NULL
);
