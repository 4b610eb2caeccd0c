-- Credit that another process asks for: when it was asked for first, or 0. Its holder gives back what is idle and sets it to 0.
ALTER TABLE budget_leases ADD COLUMN recalled_ms BIGINT NOT NULL DEFAULT 0;
CREATE INDEX budget_leases_recalled ON budget_leases (holder) WHERE recalled_ms > 0;
