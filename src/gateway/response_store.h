/* SPDX-License-Identifier: Apache-2.0 */
/* The responses that callers may come back to, in memory, for all threads.
 *
 * A response belongs to the caller who made it: to others its id means nothing. What was said is
 * kept as a chain of turns, each counted by the turns and responses that build on it, so that a
 * conversation goes on when an earlier response of it was deleted or forgotten. A response is forgotten `ttl` after it was last
 * continued, and earlier, the longest unused first, when the store is full.
 *
 * The hard thing is that nothing in it stands still: what is looked up is copied out under the
 * lock, which is never held across a park. */
#ifndef GATEWAY_RESPONSE_STORE_H
#define GATEWAY_RESPONSE_STORE_H

#include "base/arena.h"
#include "base/err.h"
#include "fiber/loop.h"

/* One question and its answer: items as JSON texts, separated by commas, without brackets. */
struct turn;

struct response {
    struct str id; /* "resp_…" */
    struct str caller;
    struct str object; /* JSON; of one that is running or elsewhere: empty */
    struct str input;  /* items: given without brackets, gotten as a JSON array */
    struct str home;   /* "provider/model" of one that its provider keeps; else empty */
    struct str model;  /* as the caller named it */
    uint64_t created_s;
    bool is_running, is_cancelled;
    bool is_broken; /* it ended before its time: nothing can be built on it */
};

/* How large it may be and how long it keeps things; until called, 64 MiB and an hour. Any thread. */
void response_store_limit(uint64_t max_bytes, uint64_t ttl_ms);

/* Enter a response that a request in this thread is working on; `cancel(request)` is called in this
 * thread, outside fibers, when somebody cancels it. Errors: BUSY. */
err_t response_store_begin(const struct response *response, void *request,
                           void (*cancel)(void *request)) ERR_MUST_CHECK;

/* The request is over: with `output` (items) the response is kept, continuing `past` (may be NULL);
 * with output.ptr NULL it is forgotten. Strs are copied. Without memory or room it is forgotten.
 * Call in the thread of response_store_begin. */
void response_store_finish(const struct response *response, struct turn *past, struct str output);

/* Remember a response that lives at its provider. */
void response_store_note(const struct response *response);

/* Copy a caller's response out. Errors: NOT_FOUND (the same words whosever it is), BUSY. */
err_t response_store_get(struct str caller, struct str id, struct arena *arena,
                         struct response *out) ERR_MUST_CHECK;

/* Take up a conversation: `past` gets a reference on the turn, and *items all that was said up to
 * and with it, as a JSON array in the arena. For one that lives at its provider both are empty and
 * *home names it. Errors: NOT_FOUND, BAD_REQUEST (it is still running), BUSY. */
err_t response_store_continue(struct str caller, struct str id, struct arena *arena,
                              struct turn **past, struct str *items,
                              struct str *home) ERR_MUST_CHECK;

/* Give a turn back. NULL is allowed. */
void turn_unref(struct turn *turn);

/* An item of a caller's response by its own id ("msg_…"), as JSON in the arena; empty if there is none. The ids of
 * items hold that of their response. Errors: BUSY. */
err_t response_store_find_item(struct str caller, struct str item_id, struct arena *arena,
                               struct str *item) ERR_MUST_CHECK;

/* Forget a response; false if the caller has no such one. */
bool response_store_delete(struct str caller, struct str id);

/* Ask the thread that works on a response to give up; false if nobody does. It may take a moment. */
bool response_store_cancel(struct str caller, struct str id);

/* Bytes held, and forgetting everything: for views, tests and the end of the process. */
size_t response_store_bytes(void);
void response_store_clear(void);

#endif
