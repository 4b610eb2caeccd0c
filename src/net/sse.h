/* SPDX-License-Identifier: Apache-2.0 */
/* Event streams to events (WHATWG HTML §9.2, "Server-sent events"). Pure.
 *
 * Bytes come cut anywhere. An event is given out as soon as its blank line has come, with its raw
 * bytes for relaying and its fields for reading. One that lies whole within the bytes given is not
 * copied; of one that is cut, only its own bytes are held. What is unfinished at the end of the
 * stream is discarded, as the standard says.
 *
 * The hard thing is a line end CR LF cut in two: CR ends the line at once, and the LF that may
 * follow is none of the next line's. */
#ifndef NET_SSE_H
#define NET_SSE_H

#include "base/buf.h"
#include "base/err.h"
#include "base/str.h"

#define SSE_MAX_EVENT_BYTES ((size_t)16 * 1024 * 1024)

struct sse_event {
    /* All bytes since the end of the previous event: comments, fields and the blank line, as
     * they came. The raw bytes of all events make up the stream again, except for a byte-order
     * mark at its very start. When a CR LF that ended an event was cut, the LF leads the next
     * event, which does no harm wherever it is relayed to: after CR it is no line, and elsewhere
     * an empty one. */
    struct str raw;
    struct str type; /* the "event" field; empty if none */
    struct str data; /* the "data" fields joined with LF */
    bool has_id;     /* an "id" field, which changes what clients make of later comments */
    /* False: comments or other fields only, not to be dispatched. True with empty `data` is an
     * event to the standard; upstreams send it to keep the connection open. */
    bool has_data;
};

struct sse_reader {
    /* private: */
    struct buf held;   /* the start of an event not yet complete, or the one given out last */
    struct buf joined; /* data of the event given out last, when it has several data lines */
    bool past_start;   /* the byte-order mark was looked for */
    bool after_cr;     /* the previous event ended with CR; a LF that follows belongs to it */
    bool was_given;    /* `held` was given out and goes with the next call */
};

/* A reader of a new stream; allocates nothing until an event is cut or has several data lines. */
void sse_init(struct sse_reader *reader);

/* Free what is held. */
void sse_fini(struct sse_reader *reader);

/* Take the next event out of *bytes, advancing it. *found: *event is filled, and good until the
 * next call on this reader and as long as the bytes given. Not *found: *bytes was used up; an
 * unfinished event is held. UTF-8 is not looked at. Errors, after which the stream is of no use:
 * UPSTREAM for an event over SSE_MAX_EVENT_BYTES, BUSY without memory. */
err_t sse_next(struct sse_reader *reader, struct str *bytes, struct sse_event *event,
               bool *found) ERR_MUST_CHECK;

/* Whether bytes of an unfinished event are held: at the end of the stream they are to be
 * discarded. */
bool sse_is_unfinished(const struct sse_reader *reader);

/* Begin an event of that type at the end of `out`: its data follows, on one line. Errors: TOO_BIG, BUSY. */
err_t sse_begin(struct buf *out, const char *type) ERR_MUST_CHECK;

#endif
