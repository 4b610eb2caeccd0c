-- Answers to requests that came with an Idempotency-Key. state: running (a request of `holder`, known by `mark`) | kept | large (it was
-- answered, but the answer was too large to be kept).
CREATE TABLE idempotency (
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    hash {{blob}} NOT NULL,
    state TEXT NOT NULL,
    holder TEXT NOT NULL,
    mark TEXT NOT NULL,
    expires_ms BIGINT NOT NULL,
    target TEXT NOT NULL,
    is_stream BIGINT NOT NULL,
    body {{blob}} NOT NULL,
    PRIMARY KEY (owner, name)
);
CREATE INDEX idempotency_by_expiry ON idempotency (expires_ms);
