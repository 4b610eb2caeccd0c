/* SPDX-License-Identifier: Apache-2.0 */
/* The events of a response that is made in the background, for whoever wants to follow: its maker adds them, and any
 * number of callers read them from the beginning, in whatever threads.
 *
 * The hard thing is that a reader waits in a loop of his own: he is woken by a message to it, and does not go before
 * that has come. */
#ifndef GATEWAY_RESPONSE_FEED_H
#define GATEWAY_RESPONSE_FEED_H

#include "base/buf.h"
#include "base/err.h"

struct response_feed; /* counted */

/* An empty feed, one reference for the caller; NULL without memory. */
struct response_feed *response_feed_new(void);
struct response_feed *response_feed_ref(struct response_feed *feed);
void response_feed_unref(struct response_feed *feed); /* NULL is allowed */

/* ---- for the maker ---- */

/* Add whole events, which nobody reads yet. If they find no room all are lost: readers get an error, and the text is
 * empty. */
void response_feed_add(struct response_feed *feed, struct str events);

/* Let everybody read what was added; no more will come if `is_over`. */
void response_feed_tell(struct response_feed *feed, bool is_over);

/* All that was added; good until more is. */
struct str response_feed_text(const struct response_feed *feed);

/* ---- for readers ---- */

/* Add to `out` what was told behind the first *at bytes, which moves on. Errors: BUSY (events were lost, or there is no
 * memory). */
err_t response_feed_read(struct response_feed *feed, size_t *at, struct buf *out,
                         bool *is_over) ERR_MUST_CHECK;

/* PARKS until more than `at` bytes were told or it is over; or perhaps for nothing. Errors: fiber_wait_over at
 * `until_ms`, those of fiber_park. */
err_t response_feed_wait(struct response_feed *feed, size_t at, uint64_t until_ms) ERR_MUST_CHECK;

#endif
