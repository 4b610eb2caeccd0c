/* SPDX-License-Identifier: Apache-2.0 */
/* Calling a model: what everyone who needs an answer shares.
 *
 * Open the call, take its events (or its whole answer), finish it. Nothing is promised to the
 * caller before the first meaningful event: until then every failure is an ordinary error. */
#ifndef MODEL_CALL_H
#define MODEL_CALL_H

#include "base/buf.h"
#include "govern/admission.h"
#include "model/continuation.h"
#include "model/failover.h"
#include "model/refusal.h"
#include "model/tokens.h"
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

struct call {
    /* Given by the caller; must outlive the call. */
    struct http_pool *pool;
    struct providers *providers;
    struct arena *arena;
    struct chat_request *ask;
    struct route_caller caller;
    const struct subject
        *subject; /* on whose account it goes; NULL: nobody's, nothing is limited or booked */
    struct str request_id;
    const char *route;           /* static, for the ledger: "/v1/chat/completions" */
    struct http_header *headers; /* of the caller's, to be passed on */
    size_t header_count;

    /* For the caller to read. */
    const struct target *target;   /* who answers, or was asked last; NULL: nobody yet */
    const struct refusal *refusal; /* of the last attempt; NULL: there was none */
    /* A whole answer: its bytes or, translated, its deltas. Of a stream the first meaningful event, for call_next alone. */
    struct event answer;
    struct str dropped;      /* names of what the provider has no word for; or empty */
    struct str answer_model; /* as the provider calls it; translated answers only */
    struct usage usage;
    struct usage *lost; /* of attempts that failed, and are charged for all the same; NULL: none */
    uint64_t images;    /* in the prompt, where they have a price */
    struct admission *admission; /* its limits, reservation and cost; NULL: none were looked for */
    struct attempt *attempts;
    size_t attempt_count;
    uint64_t retry_at_ms; /* nobody was asked: when it may be tried again; else 0 */
    struct str upstream_request_id;
    int upstream_status; /* 0: no answer */
    bool is_translated;  /* the answer comes as deltas, to be written by the caller's dialect */
    bool is_passed;  /* not a call of ours: passed on as it is, or answered without a provider */
    bool is_settled; /* private, like what follows after the numbers */
    bool has_begun;  /* an event of the answer has come */
    /* from opening to the first meaningful event or the whole answer; 0: none came */
    uint64_t first_event_us;
    uint64_t events;

    /* Private. */
    struct plan plan;
    struct failover failover;          /* the way through the plan so far */
    struct continuation *continuation; /* NULL: the answer will not be gone on with */
    struct journal_slot *journal;      /* where the stream is noted; NULL: nowhere */
    size_t attempt_room;
    struct candidate current; /* being asked; health NULL: nobody is */
    uint64_t attempt_opened_ms, attempt_first_ms;
    struct upstream upstream;
    struct arena *scratch;     /* of the deltas */
    struct tokens_tally tally; /* of what was said in a stream */
    struct buf held;           /* quiet events before the first meaningful one */
    bool held_has_id, held_is_owned;
    bool was_paused; /* the last event was a PAUSE */
    /* of a stream */
    enum { CALL_HOLDING, CALL_HELD, CALL_FIRST, CALL_FLOWING, CALL_WRITTEN, CALL_BROKEN } phase;
    uint64_t opened_ns, total_at_ms;
    uint64_t silent_since_ms; /* when waiting for the provider's next bytes began */
};

/* PARKS: find who may answer, ask one after the other, and wait until an answer is certain: whole in
 * call->answer, or its first meaningful event. The request's total time-out becomes the fiber's
 * deadline. Errors: NOT_FOUND (no such model), BAD_REQUEST or LIMITED (the provider's refusal, see
 * call->refusal), UPSTREAM or TIMED_OUT (all were tried), BUSY (none may be asked at the moment, see
 * retry_at_ms), cancellation. */
err_t call_open(struct call *call) ERR_MUST_CHECK;

/* PARKS: the next event of a stream, beginning with those that were held; usage that the caller did
 * not ask for comes with empty raw bytes. Translated, an event's deltas count and nothing else. EVENT_IDLE at `at_ms`, but not
 * between EVENT_BROKEN and what follows it. Errors: UPSTREAM, TIMED_OUT (between events or in all),
 * cancellation. */
err_t call_next(struct call *call, uint64_t at_ms, struct event *event) ERR_MUST_CHECK;

/* What was asked is not needed any more to go on with a stream that is passed through: only its tokens
 * are, if the stream breaks off, and they are counted now unless the provider has told them. False:
 * the request's body must stay. True: it may go, and call->ask has lost it. Does not park; takes time
 * in proportion to the prompt. */
bool call_forget_question(struct call *call);

/* Nothing more will be said, or the call has failed: settle what it took and reserved, for the caller who has heard the end
 * may come back at once and is to find it free. Does not park; harmless twice, and call_finish does it if
 * nobody has. */
void call_settle(struct call *call, err_t err);

/* PARKS briefly: let go of the upstream, count the outcome. Once per call, however it ended;
 * harmless on a call that was never opened. */
void call_finish(struct call *call, err_t err);

/* The outcome that an error (NULL: none) means, and its name ("client_cancelled"). */
enum call_outcome call_outcome(err_t err);
const char *call_outcome_name(enum call_outcome outcome);

#endif
