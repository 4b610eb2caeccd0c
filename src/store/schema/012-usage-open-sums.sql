-- Sums of an hour are added to until it is over, and only here. Then they are moved to the hours that are kept, and added to
-- their day, in the order of the key. So rows that come at random change pages of one table, and of a small one.
CREATE TABLE usage_open_sums (
    begins_ms BIGINT NOT NULL,
    slot BIGINT NOT NULL,
    kind_id BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    calls BIGINT,
    failed BIGINT,
    unpriced BIGINT,
    input BIGINT,
    output BIGINT,
    cached BIGINT,
    cache_written BIGINT,
    reasoning BIGINT,
    cost_nano BIGINT,
    PRIMARY KEY (begins_ms, slot, kind_id, user_id)
){{clustered}};

DROP VIEW usage_hours;
DROP VIEW usage_days;
DROP VIEW usage_hour_parts;
DROP VIEW usage_day_parts;
CREATE VIEW usage_hour_parts AS
    SELECT s.begins_ms, k.org_id, k.project_id, k.key_id, s.user_id, k.model, k.provider, k.upstream_model, s.calls,
        s.failed, s.unpriced, s.input, s.output, s.cached, s.cache_written, s.reasoning, s.cost_nano
    FROM usage_hour_sums s JOIN ledger_kinds k ON k.id = s.kind_id
    UNION ALL
    SELECT o.begins_ms, k.org_id, k.project_id, k.key_id, o.user_id, k.model, k.provider, k.upstream_model, o.calls,
        o.failed, o.unpriced, o.input, o.output, o.cached, o.cache_written, o.reasoning, o.cost_nano
    FROM usage_open_sums o JOIN ledger_kinds k ON k.id = o.kind_id
    UNION ALL
    SELECT r.begins_ms, k.org_id, k.project_id, k.key_id, r.user_id, k.model, k.provider, k.upstream_model, r.calls,
        r.failed, r.unpriced, r.input, r.output, r.cached, r.cache_written, r.reasoning, r.cost_nano
    FROM usage_recent r JOIN ledger_kinds k ON k.id = r.kind_id;
CREATE VIEW usage_day_parts AS
    SELECT s.begins_ms, k.org_id, k.project_id, k.key_id, s.user_id, k.model, k.provider, k.upstream_model, s.calls,
        s.failed, s.unpriced, s.input, s.output, s.cached, s.cache_written, s.reasoning, s.cost_nano
    FROM usage_day_sums s JOIN ledger_kinds k ON k.id = s.kind_id
    UNION ALL
    SELECT o.begins_ms - o.begins_ms % 86400000, k.org_id, k.project_id, k.key_id, o.user_id, k.model, k.provider,
        k.upstream_model, o.calls, o.failed, o.unpriced, o.input, o.output, o.cached, o.cache_written, o.reasoning,
        o.cost_nano
    FROM usage_open_sums o JOIN ledger_kinds k ON k.id = o.kind_id
    UNION ALL
    SELECT r.begins_ms - r.begins_ms % 86400000, k.org_id, k.project_id, k.key_id, r.user_id, k.model, k.provider,
        k.upstream_model, r.calls, r.failed, r.unpriced, r.input, r.output, r.cached, r.cache_written, r.reasoning,
        r.cost_nano
    FROM usage_recent r JOIN ledger_kinds k ON k.id = r.kind_id;
CREATE VIEW usage_hours AS
    SELECT begins_ms, org_id, project_id, key_id, user_id, model, provider, upstream_model,
        CAST(SUM(calls) AS BIGINT) AS calls, CAST(SUM(failed) AS BIGINT) AS failed,
        CAST(SUM(unpriced) AS BIGINT) AS unpriced, CAST(SUM(input) AS BIGINT) AS input,
        CAST(SUM(output) AS BIGINT) AS output, CAST(SUM(cached) AS BIGINT) AS cached,
        CAST(SUM(cache_written) AS BIGINT) AS cache_written, CAST(SUM(reasoning) AS BIGINT) AS reasoning,
        CAST(SUM(cost_nano) AS BIGINT) AS cost_nano
    FROM usage_hour_parts
    GROUP BY begins_ms, org_id, project_id, key_id, user_id, model, provider, upstream_model;
CREATE VIEW usage_days AS
    SELECT begins_ms, org_id, project_id, key_id, user_id, model, provider, upstream_model,
        CAST(SUM(calls) AS BIGINT) AS calls, CAST(SUM(failed) AS BIGINT) AS failed,
        CAST(SUM(unpriced) AS BIGINT) AS unpriced, CAST(SUM(input) AS BIGINT) AS input,
        CAST(SUM(output) AS BIGINT) AS output, CAST(SUM(cached) AS BIGINT) AS cached,
        CAST(SUM(cache_written) AS BIGINT) AS cache_written, CAST(SUM(reasoning) AS BIGINT) AS reasoning,
        CAST(SUM(cost_nano) AS BIGINT) AS cost_nano
    FROM usage_day_parts
    GROUP BY begins_ms, org_id, project_id, key_id, user_id, model, provider, upstream_model;
