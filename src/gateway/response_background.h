/* SPDX-License-Identifier: Apache-2.0 */
/* Responses that are made in the background (`background: true`), and responses as a stream of events once more.
 *
 * Where a target of the model speaks the responses API itself, the request is passed on and its provider makes the
 * response. Else it is made here: the caller is told at once that it is queued, or its events as they come, and the
 * request goes on whether he stays or not. */
#ifndef GATEWAY_RESPONSE_BACKGROUND_H
#define GATEWAY_RESPONSE_BACKGROUND_H

#include <stdbool.h>

#include "base/err.h"

struct request;
struct response;

/* Find out whether the response shall be made here in the background: hold->is_in_background. Errors: those of
 * router_plan and chat_prompt, BAD_REQUEST with `store: false`. */
err_t response_background_find(struct request *r) ERR_MUST_CHECK;

/* Whether that is so. */
bool response_background_is(const struct request *r);

/* PARKS until the response is made. Errors before the caller was answered: STORE, BUSY; later: as call_open and
 * call_next, told already. */
err_t response_background_run(struct request *r) ERR_MUST_CHECK;

/* PARKS: answer with the events of a response of ours, from the one behind `starting_after` (query) on; of one that is
 * being made, also those to come. Errors: BAD_REQUEST where they are not to be had, STORE, cancellation. */
err_t response_background_stream(struct request *r, const struct response *response) ERR_MUST_CHECK;

#endif
