/* SPDX-License-Identifier: Apache-2.0 */
/* What POST /v1/responses needs besides a model: the conversation it continues, and keeping its
 * answer for later requests.
 *
 * The path of a request calls these in this order: responses_prepare after parsing, and at the end
 * responses_keep where the answer was translated, or responses_passed where it was passed through.
 * The other requests under /v1/responses are handled here as well (handlers.h). */
#ifndef GATEWAY_RESPONSES_H
#define GATEWAY_RESPONSES_H

#include "dialect/dialect.h"

struct request;
struct turn;

/* What a request that makes a response knows of the store. */
struct response_hold {
    char id[25];       /* 24 letters and digits: the answer_writer's id */
    char name[30];     /* "resp_" and that */
    struct turn *past; /* that it continues; counted; or NULL */
    struct str home;   /* "provider/model" that keeps what it continues, or empty */
    bool is_kept;      /* store: true */
    bool is_running;   /* entered in the store as such */
};

/* Take up the conversation: read store and previous_response_id, put earlier items into
 * r->ask.history and items named by item_reference into r->ask.referenced, mint the id, and enter
 * the response as running. A conversation that one target has alone makes that the wanted one
 * (r->call.caller.wanted). Does not park. Errors: NOT_FOUND (code previous_response_not_found),
 * BAD_REQUEST, BUSY. */
err_t responses_prepare(struct request *r) ERR_MUST_CHECK;

/* A translated answer is over: keep it if the caller wants that. `err` is why it ended early, NULL
 * if it did not. Harmless after responses_passed and for other requests. Does not park. */
void responses_keep(struct request *r, const struct answer_writer *writer, err_t err);

/* An answer is passed through: remember which target has it. `bytes` are the whole answer or the first event
 * of a stream. Does not park. */
void responses_passed(struct request *r, struct str bytes);

#endif
