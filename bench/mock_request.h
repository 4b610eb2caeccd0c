/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the mock provider understands of a request: where it ends, and what sort of answer it asks
 * for.
 *
 * The wishes stand in the body as a gateway relays them unchanged: "stream" and "stream_options" as
 * the API has them, everything else as strings in "metadata", which the API allows. Nothing is
 * parsed as JSON: the words are looked for near both ends of the body, so that a large prompt costs
 * nothing. A request that was translated has lost its metadata: what the prompt says behind
 * "wishes:" counts as well.
 */
#ifndef BENCH_MOCK_REQUEST_H
#define BENCH_MOCK_REQUEST_H

#include <stdbool.h>
#include <stddef.h>

enum {
    REQUEST_MAX_BYTES = 32 * 1024 * 1024, /* a longer request is refused */
};

/* What one request asks for. */
struct ask {
    bool stream;
    bool usage;
    size_t answer_bytes;
    unsigned long events;    /* content events of a stream */
    unsigned long rate;      /* events per second */
    unsigned long delay_ms;  /* before the first byte */
    unsigned long status;    /* other than 200: an error object */
    unsigned long cut_after; /* connection reset after this many events; ULONG_MAX = never */
    bool flaky_status;       /* model "flaky_status": every other request is answered with 503 */
    bool flaky_reset; /* model "flaky_reset": two of three requests are reset, as whoever loses a
                       * kept connection asks again on a new one */
};

/* A request that has arrived in full; points into the bytes it was read from. */
struct request {
    const char *head;
    size_t head_len;
    const char *body;
    size_t body_len;
};

/* Reads the request at the start of `bytes`. Returns its length, 0 when it is not all here (`need`
 * then says how many bytes there must be before another look is worth it), or SIZE_MAX when it is
 * broken or too large. Of chunked bodies (RFC 9112 7.1) only the end is found, and trailers are not
 * understood. */
size_t request_read(struct request *r, const char *bytes, size_t len, size_t *need);

/* The value of a header, up to its CR, or NULL. Points into the request. */
const char *request_header(const struct request *r, const char *name);

/* What the request asks for, and where it says nothing, what `defaults` has. */
void request_ask(const struct request *r, const struct ask *defaults, struct ask *ask);

#endif
