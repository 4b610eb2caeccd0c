-- Rows wait in their groups to be added up, and are not copied for it. A group's rows are those from first_id to last_id; of
-- them those with a slot at or behind `done` are not yet in the sums of their hours and days. Rows without a slot are in
-- usage_left: a group without end users is one sum or two, which it leaves with its rows.
{{lock_recent_sums}};
{{ids_come_in_groups}};
ALTER TABLE ledger_rows ADD COLUMN slot BIGINT;
CREATE TABLE usage_pending (
    first_id BIGINT PRIMARY KEY,
    last_id BIGINT NOT NULL,
    writer TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    done BIGINT NOT NULL
);
CREATE TABLE usage_left (
    first_id BIGINT NOT NULL,
    place BIGINT NOT NULL,
    begins_ms BIGINT NOT NULL,
    kind_id BIGINT NOT NULL,
    calls BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    unpriced BIGINT NOT NULL,
    input BIGINT NOT NULL,
    output BIGINT NOT NULL,
    cached BIGINT NOT NULL,
    cache_written BIGINT NOT NULL,
    reasoning BIGINT NOT NULL,
    cost_nano BIGINT NOT NULL,
    PRIMARY KEY (first_id, place)
){{clustered}};

-- What was left before is added up now.
INSERT INTO usage_hour_sums (begins_ms, slot, kind_id, user_id, calls, failed, unpriced, input, output, cached, cache_written,
        reasoning, cost_nano)
    SELECT begins_ms, slot, kind_id, user_id, SUM(calls), SUM(failed), SUM(unpriced), SUM(input), SUM(output), SUM(cached),
        SUM(cache_written), SUM(reasoning), SUM(cost_nano)
    FROM usage_recent WHERE true GROUP BY begins_ms, slot, kind_id, user_id
    ON CONFLICT (begins_ms, slot, kind_id, user_id) DO UPDATE SET calls = usage_hour_sums.calls + excluded.calls,
        failed = usage_hour_sums.failed + excluded.failed, unpriced = usage_hour_sums.unpriced + excluded.unpriced,
        input = usage_hour_sums.input + excluded.input, output = usage_hour_sums.output + excluded.output,
        cached = usage_hour_sums.cached + excluded.cached,
        cache_written = usage_hour_sums.cache_written + excluded.cache_written,
        reasoning = usage_hour_sums.reasoning + excluded.reasoning,
        cost_nano = usage_hour_sums.cost_nano + excluded.cost_nano;
INSERT INTO usage_day_sums (begins_ms, slot, kind_id, user_id, calls, failed, unpriced, input, output, cached, cache_written,
        reasoning, cost_nano)
    SELECT begins_ms - begins_ms % 86400000, slot, kind_id, user_id, SUM(calls), SUM(failed), SUM(unpriced), SUM(input),
        SUM(output), SUM(cached), SUM(cache_written), SUM(reasoning), SUM(cost_nano)
    FROM usage_recent WHERE true GROUP BY begins_ms - begins_ms % 86400000, slot, kind_id, user_id
    ON CONFLICT (begins_ms, slot, kind_id, user_id) DO UPDATE SET calls = usage_day_sums.calls + excluded.calls,
        failed = usage_day_sums.failed + excluded.failed, unpriced = usage_day_sums.unpriced + excluded.unpriced,
        input = usage_day_sums.input + excluded.input, output = usage_day_sums.output + excluded.output,
        cached = usage_day_sums.cached + excluded.cached,
        cache_written = usage_day_sums.cache_written + excluded.cache_written,
        reasoning = usage_day_sums.reasoning + excluded.reasoning,
        cost_nano = usage_day_sums.cost_nano + excluded.cost_nano;
DROP VIEW usage_hours;
DROP VIEW usage_days;
DROP VIEW usage_hour_parts;
DROP VIEW usage_day_parts;
DROP TABLE usage_recent;

-- What is not yet in the sums: found by the few groups, never by looking at all rows.
CREATE VIEW usage_recent AS
    SELECT p.writer, p.first_id, r.slot, r.at_ms - r.at_ms % 3600000 AS begins_ms, r.kind_id, r.user_id, 1 AS calls,
        CASE WHEN k.status >= 400 THEN 1 ELSE 0 END AS failed, CASE WHEN r.cost_nano IS NULL THEN 1 ELSE 0 END AS unpriced,
        r.input, r.output, r.cached, r.cache_written, r.reasoning, COALESCE(r.cost_nano, 0) AS cost_nano
    FROM usage_pending p CROSS JOIN {{rows_of_group}} r CROSS JOIN ledger_kinds k
    WHERE r.id >= p.first_id AND r.id <= p.last_id AND r.slot >= p.done AND k.id = r.kind_id
    UNION ALL
    SELECT p.writer, p.first_id, 0, l.begins_ms, l.kind_id, '', l.calls, l.failed, l.unpriced, l.input, l.output, l.cached,
        l.cache_written, l.reasoning, l.cost_nano
    FROM usage_pending p CROSS JOIN usage_left l WHERE l.first_id = p.first_id AND p.done = 0;
CREATE VIEW usage_hour_parts AS
    SELECT s.begins_ms, k.org_id, k.project_id, k.key_id, s.user_id, k.model, k.provider, k.upstream_model, s.calls,
        s.failed, s.unpriced, s.input, s.output, s.cached, s.cache_written, s.reasoning, s.cost_nano
    FROM usage_hour_sums s JOIN ledger_kinds k ON k.id = s.kind_id
    UNION ALL
    SELECT r.begins_ms, k.org_id, k.project_id, k.key_id, r.user_id, k.model, k.provider, k.upstream_model, r.calls,
        r.failed, r.unpriced, r.input, r.output, r.cached, r.cache_written, r.reasoning, r.cost_nano
    FROM usage_recent r JOIN ledger_kinds k ON k.id = r.kind_id;
CREATE VIEW usage_day_parts AS
    SELECT s.begins_ms, k.org_id, k.project_id, k.key_id, s.user_id, k.model, k.provider, k.upstream_model, s.calls,
        s.failed, s.unpriced, s.input, s.output, s.cached, s.cache_written, s.reasoning, s.cost_nano
    FROM usage_day_sums s JOIN ledger_kinds k ON k.id = s.kind_id
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
