/* SPDX-License-Identifier: Apache-2.0 */
/* Answers to requests whose tools were offered as local_tools.h says. Pure. */
#ifndef MODEL_LOCAL_REPLY_H
#define MODEL_LOCAL_REPLY_H

#include "model/provider.h"

/* Turn the deltas of an event, whose texts are pieces of the JSON that the model writes, into text
 * for the user and calls. Both go on as they come. Keeps its place in decoder->outer_state. An
 * event that says nothing yet becomes QUIET. Errors: UPSTREAM for an answer that is too long,
 * BUSY. */
err_t local_reply_read(struct decoder *decoder, struct event *event) ERR_MUST_CHECK;

#endif
