/* SPDX-License-Identifier: Apache-2.0 */
/* How callers speak: what each dialect must be able to do. Pure translators, like the providers.
 *
 * A dialect reads requests, tells of errors in the way its SDKs raise as typed exceptions, and,
 * where the provider speaks another protocol, writes answers from their meaning. */
#ifndef DIALECT_DIALECT_H
#define DIALECT_DIALECT_H

#include "base/buf.h"
#include "model/answer.h"
#include "net/http_parse.h"

/* An answer being translated. */
struct answer_writer {
    /* Given. */
    const struct dialect *dialect;
    struct chat_request *ask;
    struct arena *arena;
    uint64_t created_s;        /* Unix time */
    uint64_t ended_s;          /* likewise, for the last event; 0: not told */
    struct str id;             /* minted for this answer, without prefix: 24 letters and digits */
    struct str model;          /* as the answer shall name it; known from the first event on */
    const struct usage *usage; /* of the call, as far as it is known */
    bool hides_reasoning;      /* chat: reasoning_content is left out */

    struct buf out; /* what is to be sent; the owner sends and drops it */
    void *state;    /* the dialect's */
};

struct dialect {
    const char *name;
    enum protocol protocol;

    /* Check a body and read what concerns everybody. Strs of *out point into `body` or the arena. Unknown
     * members are not judged. Errors: BAD_REQUEST with code and param. */
    err_t (*parse)(struct str body, struct arena *arena, struct chat_request *out);

    /* Whether a header of the caller's goes on to a provider that speaks the same protocol. */
    bool (*forwards)(struct str header);

    /* The status that an error has in this dialect, and its body, in the arena (a static one without memory).
     * request_id may be empty. */
    int (*error_status)(err_t err);
    struct str (*print_error)(err_t err, struct str request_id, struct arena *arena);

    /* An error as the last event of a stream, whole with its blank line, at the end of `out`. `writer` is NULL for a
     * stream that is passed through. Its head may not have been followed by anything yet. */
    err_t (*write_error)(struct answer_writer *writer, err_t err, struct arena *arena,
                         struct buf *out);

    /* Write what a stream's event means to writer->out: CONTENT with deltas, END (closing events, usage and marker).
     * The first CONTENT is led by what opens a stream. */
    err_t (*write_event)(struct answer_writer *writer, const struct event *event);

    /* Write a whole answer to writer->out. */
    err_t (*write_answer)(struct answer_writer *writer, const struct answer *answer);

    /* In streams: a sign of life; the same where events carry ids (see reply.c); what marks the end when a provider of
     * the same protocol forgot it. */
    struct str heartbeat, heartbeat_with_ids, end_marker;

    /* Where its SDK looks for the request's id, if that is not x-request-id: as HTTP_LINE has names. */
    struct str request_id_line;
};

/* dialects.def: X(symbol). */
#define X(symbol) extern const struct dialect *const symbol;
#include "dialect/dialects.def"
#undef X

/* The dialect in which to answer what came without a route: by path and headers (anthropic-version or
 * x-api-key mean Anthropic). */
const struct dialect *dialect_guess(const struct http_head *head);

#endif
