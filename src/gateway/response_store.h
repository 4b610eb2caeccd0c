/* SPDX-License-Identifier: Apache-2.0 */
/* The responses that callers may come back to, in the store: they survive a restart, and every process on the same
 * database sees them.
 *
 * A response belongs to the caller who made it: to others its id means nothing. What was said is kept as a chain of
 * turns, each counted by its response and by the turns that build on it, so that a conversation goes on when an
 * earlier response of it was deleted or forgotten. A response is forgotten responses.ttl after it was last continued.
 *
 * The hard thing is that nothing in it stands still: a turn that a request builds on may go while that request is
 * being answered. Then what was said before is kept with the new turn, and nothing is lost.
 *
 * All functions PARK, and block outside fibers. Without another word their errors are STORE (503: the store cannot be
 * reached) and BUSY. */
#ifndef GATEWAY_RESPONSE_STORE_H
#define GATEWAY_RESPONSE_STORE_H

#include "base/arena.h"
#include "base/err.h"
#include "store/db.h"

enum response_state {
    RESPONSE_STATE_RUNNING,
    RESPONSE_STATE_ENDED,
    RESPONSE_STATE_BROKEN,    /* it ended before its time: nothing can be built on it */
    RESPONSE_STATE_CANCELLED, /* likewise, because somebody wanted it */
    RESPONSE_STATE_KILLED,    /* likewise, with the process that made it */
    RESPONSE_STATE_ELSEWHERE, /* its provider keeps it */
    RESPONSE_STATE_COUNT
};

struct response {
    struct str id;    /* "resp_…" */
    struct str owner; /* whose it is: see request_owner */
    enum response_state state;
    struct str
        object; /* JSON, as it is or, while it is made in the background, was when it began; else empty */
    struct str events; /* to be kept with its end; see response_store_get_events */
    struct str home;   /* "provider/model" of one that is ELSEWHERE */
    struct str model;  /* as the caller named it */
    uint64_t created_s;
};

/* What was said, as items: JSON texts separated by commas, without brackets. */
struct response_turn {
    struct str past;    /* the id of the response that it continues, or empty */
    struct str history; /* all that was said up to that: a JSON array, or empty */
    struct str input, output;
};

/* Whether there is an entry of its beginning; PERHAPS: nobody heard of its commit. */
enum response_begun { RESPONSE_NOT_BEGUN, RESPONSE_BEGUN, RESPONSE_BEGUN_PERHAPS };

/* Use this database from now on (NULL: none), and forget responses after `ttl_ms`. Does not park. */
void response_store_use(struct db *db, uint64_t ttl_ms);

/* Enter a response that this process works on. */
err_t response_store_begin(const struct response *response) ERR_MUST_CHECK;

/* It is over: keep it, if it was begun in the place of that entry. One that was begun and deleted meanwhile stays
 * deleted. When this returns NULL the response survives a crash. */
err_t response_store_finish(const struct response *response, const struct response_turn *turn,
                            enum response_begun begun) ERR_MUST_CHECK;

/* Remember a response that lives at its provider. */
err_t response_store_note(const struct response *response) ERR_MUST_CHECK;

/* A caller's response, in the arena. Errors: NOT_FOUND (the same words whosever it is). */
err_t response_store_get(struct str owner, struct str id, struct arena *arena,
                         struct response *out) ERR_MUST_CHECK;

/* The events of a caller's response, as they were sent, in the arena. Empty: there were none. RESPONSE_EVENTS_LOST: they
 * were not kept. */
#define RESPONSE_EVENTS_LOST "-"
err_t response_store_get_events(struct str owner, struct str id, struct arena *arena,
                                struct str *events) ERR_MUST_CHECK;

/* What was asked in a caller's response, as a JSON array in the arena. */
err_t response_store_get_input(struct str owner, struct str id, struct arena *arena,
                               struct str *items) ERR_MUST_CHECK;

/* All items of a caller's response as a JSON array in the arena; empty if there is none such. */
err_t response_store_get_items(struct str owner, struct str id, struct arena *arena,
                               struct str *items) ERR_MUST_CHECK;

/* Take up a conversation: *items is all that was said up to and with this response, as a JSON array in the arena. For
 * one that lives at its provider it is empty and *home names it. Errors: NOT_FOUND (code
 * previous_response_not_found), BAD_REQUEST (it is still running or did not come to its end), TOO_BIG. */
err_t response_store_continue(struct str owner, struct str id, struct arena *arena,
                              struct str *items, struct str *home) ERR_MUST_CHECK;

/* Forget a response and what of its conversation nothing else builds on; `found` (may be NULL): the caller had it. */
err_t response_store_delete(struct str owner, struct str id, bool *found) ERR_MUST_CHECK;

/* Ask the process that works on a response to give up; *found: somebody does. It may take a moment. */
err_t response_store_cancel(struct str owner, struct str id, bool *found) ERR_MUST_CHECK;

/* ---- what keeper.c does from time to time ---- */

/* A number that rises when somebody asks to cancel a response. Costs nothing. */
uint64_t response_store_cancels(void);

/* Tell the threads that work on what somebody wants to be cancelled. */
err_t response_store_obey(struct arena *arena) ERR_MUST_CHECK;

/* What dead processes worked on counts as killed. */
err_t response_store_bury(void) ERR_MUST_CHECK;

/* What is entered as this process's work and is not (its end could not be written) counts as killed, too. */
err_t response_store_reconcile(struct arena *arena) ERR_MUST_CHECK;

/* Forget some of what is too old; *is_done: there is no more. */
err_t response_store_clean(struct arena *arena, bool *is_done) ERR_MUST_CHECK;

#endif
