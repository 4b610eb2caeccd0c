/* SPDX-License-Identifier: Apache-2.0 */
/* What every kind of provider must be able to do: translate a request into bytes and bytes into
 * events.
 *
 * A kind is one file, one line in providers.def, and its tests. Its functions are pure: no sockets,
 * clocks, globals or locks. Splitting a stream into events is shared (net/sse.h), so a decoder
 * never sees half an event. */
#ifndef MODEL_PROVIDER_H
#define MODEL_PROVIDER_H

#include "base/arena.h"
#include "base/err.h"
#include "conf/conf.h"
#include "model/message.h"
#include "net/http_parse.h"
#include "net/sse.h"

/* Most pieces of a request body. */
#define PROVIDER_MAX_PIECES 24

/* A request for the provider: the body in pieces, most of them spans of the caller's own bytes. */
struct provider_request {
    struct str target; /* below the provider's base path: "/chat/completions" */
    struct str *body;  /* in the arena, at most PROVIDER_MAX_PIECES */
    size_t body_count;
};

/* What a stream's decoder remembers between events. Zero bytes begin a stream. */
struct decoder {
    uint64_t seen[2], finished[2]; /* choices by index, bit by bit */
    struct usage usage;
    bool has_content; /* something meaningful has come: what follows belongs to it */
};

struct provider_ops {
    const char *name; /* as in the configuration */

    /* Compose the request for `model`, the provider's own name. Pieces point into the caller's body
     * or the arena. Errors: BAD_REQUEST for what the provider cannot express, BUSY without
     * memory. */
    err_t (*encode)(const struct conf_provider *provider, const struct chat_request *ask,
                    struct str model, struct arena *arena, struct provider_request *out);

    /* Read one event with data. Errors: UPSTREAM for what is not an event of this protocol or
     * reports a failure. */
    err_t (*decode)(struct decoder *decoder, const struct sse_event *in, struct event *out);

    /* The stream's body has ended cleanly: was it complete? Errors: UPSTREAM "cut off". */
    err_t (*decode_end)(const struct decoder *decoder);

    /* Check a whole answer and read its usage. Errors: UPSTREAM. */
    err_t (*decode_whole)(struct str body, struct usage *usage);
};

/* The operations of a kind. */
const struct provider_ops *provider_ops_get(enum conf_provider_kind kind);

/* providers.def: X(KIND, symbol); the kinds' operations. */
#define X(kind, symbol) extern const struct provider_ops *const symbol;
#include "model/providers.def"
#undef X

#endif
