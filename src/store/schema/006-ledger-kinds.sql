-- What many rows of the ledger have in common is kept once, and a row names it: less is written for each call. The view
-- `ledger` shows them as one. Kinds are never deleted: sums, which stay as well, are by more than they are.
CREATE TABLE ledger_kinds (
    id {{serial}},
    org_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    key_id TEXT NOT NULL,
    model TEXT NOT NULL,
    provider TEXT NOT NULL,
    upstream_model TEXT NOT NULL,
    route TEXT NOT NULL,
    outcome TEXT NOT NULL,
    status BIGINT NOT NULL,
    booked TEXT NOT NULL,
    UNIQUE (key_id, model, booked, provider, upstream_model, route, outcome, status, project_id, org_id)
);
INSERT INTO ledger_kinds (org_id, project_id, key_id, model, provider, upstream_model, route, outcome, status, booked)
    SELECT DISTINCT org_id, project_id, key_id, model, provider, upstream_model, route, outcome, status, booked FROM ledger;
CREATE TABLE ledger_rows (
    id {{serial}},
    at_ms BIGINT NOT NULL,
    request_id TEXT NOT NULL,
    kind_id BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    duration_ms BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    input BIGINT NOT NULL,
    output BIGINT NOT NULL,
    cached BIGINT NOT NULL,
    cache_written BIGINT NOT NULL,
    reasoning BIGINT NOT NULL,
    is_estimated BIGINT NOT NULL,
    cost_nano BIGINT
);
INSERT INTO ledger_rows (id, at_ms, request_id, kind_id, user_id, duration_ms, attempts, input, output, cached,
        cache_written, reasoning, is_estimated, cost_nano)
    SELECT l.id, l.at_ms, l.request_id, k.id, l.user_id, l.duration_ms, l.attempts, l.input, l.output, l.cached,
        l.cache_written, l.reasoning, l.is_estimated, l.cost_nano
    FROM ledger l JOIN ledger_kinds k ON k.key_id = l.key_id AND k.model = l.model AND k.booked = l.booked
        AND k.provider = l.provider AND k.upstream_model = l.upstream_model AND k.route = l.route
        AND k.outcome = l.outcome AND k.status = l.status AND k.project_id = l.project_id AND k.org_id = l.org_id
    ORDER BY l.id;
DROP TABLE ledger;
{{ledger_ids_go_on}};
CREATE INDEX ledger_rows_by_time ON ledger_rows (at_ms);
CREATE VIEW ledger AS
    SELECT r.id, r.at_ms, r.request_id, k.org_id, k.project_id, k.key_id, r.user_id, k.model, k.provider, k.upstream_model,
        k.route, k.outcome, k.status, r.duration_ms, r.attempts, r.input, r.output, r.cached, r.cache_written, r.reasoning,
        r.is_estimated, r.cost_nano, k.booked
    FROM ledger_rows r JOIN ledger_kinds k ON k.id = r.kind_id;
