-- Organisations → projects → keys, end users about whom something is known, and what administrators did.
-- Empty text stands for "none". `changed` is the number of identity_version at which a row was written last.

CREATE TABLE orgs (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    disabled BIGINT NOT NULL,
    created_ms BIGINT NOT NULL,
    deleted_ms BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE projects (
    id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL REFERENCES orgs (id),
    name TEXT NOT NULL,
    tier TEXT NOT NULL,
    limits TEXT NOT NULL,
    budgets TEXT NOT NULL,
    disabled BIGINT NOT NULL,
    created_ms BIGINT NOT NULL,
    deleted_ms BIGINT NOT NULL DEFAULT 0
);

-- Of a key only its SHA-256 is here. Without project it rules its org, without both everything.
CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    name TEXT NOT NULL,
    hint TEXT NOT NULL,
    scopes BIGINT NOT NULL,
    models TEXT NOT NULL,
    ips TEXT NOT NULL,
    limits TEXT NOT NULL,
    budgets TEXT NOT NULL,
    expires_ms BIGINT NOT NULL,
    disabled BIGINT NOT NULL,
    created_ms BIGINT NOT NULL,
    rotated_ms BIGINT NOT NULL,
    old_expires_ms BIGINT NOT NULL,
    revoked_ms BIGINT NOT NULL,
    hash {{blob}} NOT NULL UNIQUE,
    old_hash {{blob}},
    changed BIGINT NOT NULL
);
CREATE INDEX keys_by_time ON keys (created_ms, id);
CREATE INDEX keys_by_project ON keys (project_id, created_ms, id);
CREATE INDEX keys_by_change ON keys (changed);

-- id is "project/user".
CREATE TABLE users (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL REFERENCES projects (id),
    name TEXT NOT NULL,
    suspended BIGINT NOT NULL,
    created_ms BIGINT NOT NULL
);
CREATE INDEX users_by_time ON users (created_ms, id);

CREATE TABLE audit (
    id {{serial}},
    at_ms BIGINT NOT NULL,
    actor TEXT NOT NULL,
    actor_name TEXT NOT NULL,
    ip TEXT NOT NULL,
    org_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    action TEXT NOT NULL,
    object TEXT NOT NULL,
    detail TEXT NOT NULL
);

-- One row. `version` rises with every change; tenants and users hold it as it was when an org or a project, or a user,
-- changed last.
CREATE TABLE identity_version (
    id BIGINT PRIMARY KEY,
    version BIGINT NOT NULL,
    tenants BIGINT NOT NULL,
    users BIGINT NOT NULL
);

INSERT INTO orgs (id, name, disabled, created_ms) VALUES ('default', 'default', 0, 0);
INSERT INTO projects (id, org_id, name, tier, limits, budgets, disabled, created_ms)
VALUES ('default', 'default', 'default', '', '', '', 0, 0);
INSERT INTO identity_version (id, version, tenants, users) VALUES (1, 1, 1, 1);
