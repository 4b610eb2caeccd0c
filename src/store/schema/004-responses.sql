-- Responses that callers may come back to, what was said in them, and the processes that work on them.
-- state: running | ended | broken | cancelled | killed | elsewhere (its provider has it: `home`).
CREATE TABLE responses (
    id TEXT NOT NULL,
    owner TEXT NOT NULL,
    state TEXT NOT NULL,
    holder TEXT NOT NULL,
    wants_cancel BIGINT NOT NULL,
    model TEXT NOT NULL,
    home TEXT NOT NULL,
    object TEXT NOT NULL,
    created_s BIGINT NOT NULL,
    used_ms BIGINT NOT NULL,
    PRIMARY KEY (id, owner)
);
CREATE INDEX responses_by_use ON responses (used_ms);
CREATE INDEX responses_by_holder ON responses (holder) WHERE holder <> '';

-- One question and its answer, under the id of the response: items as JSON, separated by commas. A conversation is
-- the chain along `past`. `uses` counts the response itself and the turns that come after; `head` holds what was said
-- before where the chain was cut; `total` is the bytes of all that was said up to here.
CREATE TABLE turns (
    id TEXT PRIMARY KEY,
    past TEXT NOT NULL,
    uses BIGINT NOT NULL,
    head TEXT NOT NULL,
    input TEXT NOT NULL,
    output TEXT NOT NULL,
    total BIGINT NOT NULL
);

-- Processes that are alive. What a dead one held is nobody's.
CREATE TABLE replicas (
    id TEXT PRIMARY KEY,
    expires_ms BIGINT NOT NULL
);
