/* SPDX-License-Identifier: Apache-2.0 */
/* Calling a model: what everyone who needs an answer shares.
 *
 * Open the call, take its events (or its whole answer), finish it. Nothing is promised to the
 * caller before the first meaningful event: until then every failure is an ordinary error. */
#ifndef MODEL_CALL_H
#define MODEL_CALL_H

#include "base/buf.h"
#include "model/upstream.h"

/* How a call ended; exactly one per request. */
enum call_outcome {
    CALL_COMPLETED,
    CALL_CLIENT_CANCELLED,
    CALL_UPSTREAM_FAILED,
    CALL_TIMED_OUT,
    CALL_SHED,
    CALL_KILLED,
    CALL_OUTCOME_COUNT
};

/* An answer of the provider that refuses: relayed to the caller as it is, where it is the caller's
 * to mend. */
struct refusal {
    int status;
    struct str content_type, body, retry_after, retry_after_ms;
    bool is_relayed;
};

struct call {
    /* Given by the caller; must outlive the call. */
    struct http_pool *pool;
    struct providers *providers;
    struct arena *arena;
    const struct chat_request *ask;
    struct http_header *headers; /* of the caller's, to be passed on */
    size_t header_count;

    /* For the caller to read. */
    struct target target;    /* provider NULL: not yet routed */
    struct refusal *refusal; /* NULL: there was none */
    struct str answer;       /* whole answers */
    struct usage usage;
    int upstream_status; /* 0: no answer */
    struct str upstream_request_id;
    /* from opening to the first meaningful event or the whole answer; 0: none came */
    uint64_t first_event_us;
    uint64_t events;

    /* Private. */
    struct upstream upstream;
    struct buf held; /* quiet events before the first meaningful one */
    bool held_has_id;
    struct event first;
    /* of a stream */
    enum { CALL_HOLDING, CALL_HELD, CALL_FIRST, CALL_FLOWING, CALL_WRITTEN } phase;
    uint64_t opened_ns;
    bool was_paused;          /* the last event was a PAUSE */
    uint64_t silent_since_ms; /* when waiting for the provider's next bytes began */
};

/* PARKS: find the model, call it, and wait until the answer is certain: whole in call->answer, or
 * its first meaningful event. The request's total time-out becomes the fiber's deadline. Errors:
 * NOT_FOUND (no such model), BAD_REQUEST or LIMITED (the provider's refusal, see call->refusal),
 * UPSTREAM, TIMED_OUT, BUSY, cancellation. */
err_t call_open(struct call *call) ERR_MUST_CHECK;

/* PARKS: the next event of a stream, beginning with those that were held; usage that the caller did
 * not ask for comes with empty raw bytes. EVENT_IDLE at `at_ms`. Errors: UPSTREAM, TIMED_OUT
 * (between events or in all), cancellation. */
err_t call_next(struct call *call, uint64_t at_ms, struct event *event) ERR_MUST_CHECK;

/* PARKS briefly: let go of the upstream, count the outcome. Once per call, however it ended;
 * harmless on a call that was never opened. */
void call_finish(struct call *call, err_t err);

/* The outcome that an error (NULL: none) means, and its name ("client_cancelled"). */
enum call_outcome call_outcome(err_t err);
const char *call_outcome_name(enum call_outcome outcome);

#endif
