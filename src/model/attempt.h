/* SPDX-License-Identifier: Apache-2.0 */
/* The record of what was tried for a request, step by step: for its log line, for the caller
 * (x-sluice-attempts), and for the operator (the last ones that did not go smoothly). */
#ifndef MODEL_ATTEMPT_H
#define MODEL_ATTEMPT_H

#include "model/health.h"
#include "model/providers.h"

enum attempt_result {
#define X(id, ...) ATTEMPT_##id,
#include "model/attempts.def"
#undef X
    ATTEMPT_RESULT_COUNT
};

enum attempt_next {
    ATTEMPT_STOP,
    ATTEMPT_NEXT,
    ATTEMPT_AGAIN,
    ATTEMPT_TO_CONTEXT,
    ATTEMPT_TO_CONTENT
};

struct attempt {
    const struct target *target;
    const struct credential *credential; /* NULL: it was not asked */
    enum attempt_result result;
    int status; /* of the answer; 0: none */
    uint64_t ms;
};

/* "ok", "http_503", "auth_401" …: at most 31 bytes and a NUL in `text`. */
const char *attempt_result_name(const struct attempt *attempt, char text[32]);

/* What a result teaches, and what may follow it. */
enum health_sign attempt_sign(enum attempt_result result);
enum attempt_next attempt_next(enum attempt_result result);

/* "openai/gpt-4o;http_503;12, claude/sonnet;ok;240", in the arena; empty without memory. */
struct str attempts_print(const struct attempt *attempts, size_t count, struct arena *arena);

/* Keep a request's record for the admin view: the last 256 of the process. Any thread. */
void attempts_keep(const char *request_id, struct str model, struct str record,
                   const char *outcome);

/* One that was kept; strs are good during the visit. */
struct attempts_view {
    uint64_t at_ms; /* Unix time */
    struct str request_id, model, record, outcome;
};
void attempts_each(void (*see)(const struct attempts_view *view, void *arg), void *arg);

#endif
