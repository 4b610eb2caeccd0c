-- Sums name the kinds of the ledger's rows, as rows do, and come in twice: at first each group of rows leaves its own behind
-- the others, in usage_recent; later those of one slot (what users are shared out by) are added to their hours and
-- days at once, whose pages are then changed once for many. What was used is in both together, at every moment.
-- Numbers are not declared NOT NULL, for then SQLite would keep a copy of each page that an ON CONFLICT changes.
{{lock_old_sums}};
CREATE TABLE usage_recent (
    slot BIGINT NOT NULL,
    part BIGINT NOT NULL,
    begins_ms BIGINT NOT NULL,
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
    PRIMARY KEY (slot, part, begins_ms, kind_id, user_id)
){{clustered}};
CREATE TABLE usage_hour_sums (
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
CREATE TABLE usage_day_sums (
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

-- The sums that there are do not tell routes and outcomes apart: their kinds have none.
INSERT INTO ledger_kinds (org_id, project_id, key_id, model, provider, upstream_model, route, outcome, status, booked)
    SELECT org_id, project_id, key_id, model, provider, upstream_model, '', '', 0, '' FROM (
        SELECT org_id, project_id, key_id, model, provider, upstream_model FROM usage_hours
        UNION SELECT org_id, project_id, key_id, model, provider, upstream_model FROM usage_days) AS kinds
    WHERE true
    ON CONFLICT (key_id, model, booked, provider, upstream_model, route, outcome, status, project_id, org_id) DO NOTHING;
INSERT INTO usage_hour_sums (begins_ms, slot, kind_id, user_id, calls, failed, unpriced, input, output, cached,
        cache_written, reasoning, cost_nano)
    SELECT u.begins_ms, 0, k.id, u.user_id, u.calls, u.failed, u.unpriced, u.input, u.output, u.cached,
        u.cache_written, u.reasoning, u.cost_nano
    FROM usage_hours u JOIN ledger_kinds k ON k.key_id = u.key_id AND k.model = u.model AND k.booked = ''
        AND k.provider = u.provider AND k.upstream_model = u.upstream_model AND k.route = ''
        AND k.outcome = '' AND k.status = 0 AND k.project_id = u.project_id AND k.org_id = u.org_id;
INSERT INTO usage_day_sums (begins_ms, slot, kind_id, user_id, calls, failed, unpriced, input, output, cached,
        cache_written, reasoning, cost_nano)
    SELECT u.begins_ms, 0, k.id, u.user_id, u.calls, u.failed, u.unpriced, u.input, u.output, u.cached,
        u.cache_written, u.reasoning, u.cost_nano
    FROM usage_days u JOIN ledger_kinds k ON k.key_id = u.key_id AND k.model = u.model AND k.booked = ''
        AND k.provider = u.provider AND k.upstream_model = u.upstream_model AND k.route = ''
        AND k.outcome = '' AND k.status = 0 AND k.project_id = u.project_id AND k.org_id = u.org_id;
DROP TABLE usage_hours;
DROP TABLE usage_days;

-- All that is to be added up, and sums as they were shown before.
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
