-- What was spent of each budget in each period, what processes hold of it, and which alerts are due.
CREATE TABLE budget_periods (
    account TEXT PRIMARY KEY,
    scope TEXT NOT NULL,
    owner TEXT NOT NULL,
    project_id TEXT NOT NULL,
    unit TEXT NOT NULL,
    period TEXT NOT NULL,
    begins_s BIGINT NOT NULL,
    ends_s BIGINT NOT NULL,
    cap BIGINT NOT NULL,
    spent BIGINT NOT NULL,
    leased BIGINT NOT NULL,
    opened_ms BIGINT NOT NULL
);
CREATE INDEX budget_periods_by_owner ON budget_periods (project_id, scope, owner);
CREATE TABLE budget_leases (
    account TEXT NOT NULL,
    holder TEXT NOT NULL,
    amount BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    PRIMARY KEY (account, holder)
);
CREATE INDEX budget_leases_by_expiry ON budget_leases (expires_ms);
CREATE TABLE budget_alerts (
    account TEXT NOT NULL,
    percent BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    spent BIGINT NOT NULL,
    cap BIGINT NOT NULL,
    sent_ms BIGINT,
    tries BIGINT NOT NULL,
    next_ms BIGINT NOT NULL,
    PRIMARY KEY (account, percent)
);
