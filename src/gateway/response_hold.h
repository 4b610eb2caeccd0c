/* SPDX-License-Identifier: Apache-2.0 */
/* What POST /v1/responses needs besides a model: the conversation it continues, and a hold on its answer, which is kept for
 * later requests.
 *
 * The path of a request calls these in this order: response_hold_prepare after parsing; where the answer is
 * translated, response_hold_begin before its first event and response_hold_keep before its last, else response_hold_passed.
 * Those later requests are in responses.h. */
#ifndef GATEWAY_RESPONSE_HOLD_H
#define GATEWAY_RESPONSE_HOLD_H

#include "dialect/dialect.h"
#include "gateway/response_running.h"
#include "gateway/response_store.h"

struct request;

/* What a request that makes a response knows of the store. */
struct response_hold {
    char id[25];                /* 24 letters and digits: the answer_writer's id */
    char name[30];              /* "resp_" and that */
    struct str owner;           /* whose it is */
    struct str past;            /* id of the response that it continues, or empty */
    struct str home;            /* "provider/model" that keeps what it continues, or empty */
    bool is_kept;               /* store: true */
    enum response_begun begun;  /* in the store, as running */
    bool is_over;               /* nothing is left to be kept */
    bool is_in_background;      /* made here, while the caller may do something else */
    struct response_feed *feed; /* its events, once it has begun */
    struct response_running running;
};

/* PARKS: take up the conversation: read store and previous_response_id, put earlier items into r->ask.history and
 * items named by item_reference into r->ask.referenced, mint the id. A conversation that one target has alone makes
 * that the wanted one (r->call.caller.wanted). Errors: NOT_FOUND (code previous_response_not_found), BAD_REQUEST,
 * TOO_BIG, STORE, BUSY. */
err_t response_hold_prepare(struct request *r) ERR_MUST_CHECK;

/* PARKS: a translated stream is about to begin: show it as running, for whoever asks for it or cancels it. A store
 * that is away keeps no caller from his answer. */
void response_hold_begin(struct request *r);

/* PARKS: the same for one that is made in the background: `object` is what is shown of it, hold->feed what is told.
 * Errors: STORE, BUSY. */
err_t response_hold_enter(struct request *r, struct str object) ERR_MUST_CHECK;

/* PARKS: a translated answer is over: keep it if the caller wants that. `err` is why it ended early, NULL if it did
 * not. When this returns the answer is in the store, or the log says why it is not. Harmless twice, after
 * response_hold_passed and for other requests. */
void response_hold_keep(struct request *r, const struct answer_writer *writer, err_t err);

/* PARKS: an answer is passed through: remember which target has it. `bytes` are the whole answer or the first event
 * of a stream. */
void response_hold_passed(struct request *r, struct str bytes);

#endif
