/* SPDX-License-Identifier: Apache-2.0 */
/* One attempt at one target: send the request, then its answer whole or event by event. */
#ifndef MODEL_UPSTREAM_H
#define MODEL_UPSTREAM_H

#include "model/providers.h"

struct upstream {
    const struct target *target;
    struct http_call http;
    struct sse_reader reader;
    struct decoder decoder;
    struct str piece; /* bytes of the answer not yet taken as events */
    bool is_open;
    bool is_translated;     /* events come as deltas, to be written in the caller's dialect */
    bool is_counted;        /* among the provider's requests in flight */
    bool gave_events;       /* since the last wait: a PAUSE is due before the next one */
    bool must_pause;        /* the event given last is good only until the next is looked for */
    uint64_t last_bytes_ms; /* when the last bytes came */
};

/* What is asked: the request, the caller's headers that are passed on to a provider of the same
 * protocol, and when the head of the answer must have come. */
struct upstream_ask {
    struct chat_request *chat;
    const struct http_header *headers;
    size_t header_count;
    uint64_t head_at_ms;
    struct str prefill;     /* see struct encoding */
    bool wants_deltas;      /* also between parties of one protocol */
    struct arena **scratch; /* for deltas: made when first needed, by the caller to be freed */
    struct str dropped;     /* made: see struct encoding */
};

/* PARKS: put the request into the words of the target (which must outlive the attempt), send it
 * with one of its provider's credentials, and await the head of the answer. The attempt is closed
 * with upstream_close (arranged in the arena); `up` begins as all zeros. Errors: BAD_REQUEST (the target cannot express it:
 * code unsupported_parameter), UPSTREAM, TIMED_OUT, BUSY (code provider_busy: the provider has too much in flight),
 * cancellation. An answer with a status other than 2xx is not an error here. */
err_t upstream_open(struct upstream *up, struct http_pool *pool, const struct target *target,
                    const struct credential *credential, struct upstream_ask *ask,
                    struct arena *arena) ERR_MUST_CHECK;

/* PARKS: the next event, as struct event says; EVENT_IDLE when nothing came by `at_ms`. Never parks
 * between events that came together. Errors: UPSTREAM (cut off, malformed, reported failure),
 * cancellation. After an error or EVENT_END do not call again. */
err_t upstream_next(struct upstream *up, uint64_t at_ms, struct event *event) ERR_MUST_CHECK;

/* PARKS: the whole answer, checked: its bytes and, translated, its deltas; good until
 * upstream_close. Errors: UPSTREAM, TIMED_OUT at `at_ms`, cancellation; answer->raw is then what came of it, as
 * far as that is known. */
err_t upstream_read_whole(struct upstream *up, uint64_t at_ms, struct arena *arena,
                          struct event *answer) ERR_MUST_CHECK;

/* PARKS: the body of an answer that is not a success, at most 64 KiB of it, secrets masked; empty if it
 * is longer or does not come. Errors: memory, cancellation. */
err_t upstream_read_refusal(struct upstream *up, uint64_t at_ms, struct arena *arena,
                            struct str *body) ERR_MUST_CHECK;

/* End the attempt: the connection goes back to the pool if the answer was read to its end (waiting
 * for that at most `grace_ms`: PARKS if > 0), else it is closed, which cancels the work upstream.
 * Harmless twice. */
void upstream_close(struct upstream *up, uint64_t grace_ms);

#endif
