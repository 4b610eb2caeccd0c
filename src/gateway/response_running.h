/* SPDX-License-Identifier: Apache-2.0 */
/* The responses that this process works on, for whoever wants to cancel one.
 *
 * The hard thing is that a request belongs to its thread, which is told by a message; by the time that comes it may be
 * over. */
#ifndef GATEWAY_RESPONSE_RUNNING_H
#define GATEWAY_RESPONSE_RUNNING_H

#include <stdbool.h>

#include "base/list.h"
#include "base/str.h"
#include "fiber/loop.h"
#include "gateway/response_feed.h"

/* In its request's memory; zeroed: not entered. */
struct response_running {
    struct list link;
    struct str owner, id; /* must stay until it is left */
    struct loop *loop;
    void *request;
    void (*cancel)(void *request);
    struct response_feed *feed; /* of one that is made in the background; else NULL */
};

/* Enter a request of the calling thread. `cancel(request)` is called in this thread, outside fibers, when somebody
 * cancels it. */
void response_running_enter(struct response_running *running);

/* It is over. Same thread; harmless if it is not entered. */
void response_running_leave(struct response_running *running);

/* Ask the thread that works on it to give up; false if nobody here does, or without memory. Any thread. It may take
 * a moment. */
bool response_running_cancel(struct str owner, struct str id);

/* The events of one that this process makes in the background, one reference for the caller; else NULL. Any thread. */
struct response_feed *response_running_feed(struct str owner, struct str id);

/* Whether this process works on it. Any thread. */
bool response_running_has(struct str owner, struct str id);

/* How many there are, roughly. */
size_t response_running_count(void);

#endif
