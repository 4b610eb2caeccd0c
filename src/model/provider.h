/* SPDX-License-Identifier: Apache-2.0 */
/* What every kind of provider must be able to do: translate a request into bytes and bytes into
 * events.
 *
 * A kind is one file, one line in providers.def, and its tests. Its functions are pure: no sockets,
 * clocks, locks or globals, but for room to work in. Splitting a stream into events is shared (net/sse.h), so a decoder
 * never sees half an event. How a provider is reached and shown a key is providers.c's. */
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

/* A request being put into a provider's words. */
struct encoding {
    /* Given. */
    const struct conf_provider *provider;
    struct chat_request *ask;
    struct str model; /* the provider's own name of it */
    struct arena *arena;
    enum conf_unsupported unsupported; /* what to do with what the provider has no word for */
    bool
        must_expand; /* the caller's bytes do not say it all: an earlier conversation belongs to them */
    struct str prefill; /* text of a broken answer that is to be continued; usually empty */

    /* Made. The body comes in pieces, most of them spans of the caller's own bytes or the arena. */
    struct str target; /* below the provider's base path: "/chat/completions" */
    struct str *body;  /* in the arena, at most PROVIDER_MAX_PIECES */
    size_t body_count;
    struct str dropped; /* names of what was dropped or clamped: "seed, logit_bias"; or empty */
    /* the answer means something else than its bytes say, though the protocol is the caller's: it
     * is to be read as deltas and written anew */
    bool must_translate;
    const void *for_decoder; /* private to the kind, in the arena: what its decoder must know */
};

struct tokens_tally;

/* What a stream's decoder remembers between events. Zero bytes begin a stream, but for the first
 * four, which are given. */
struct decoder {
    enum protocol protocol; /* in which the provider answers */
    bool must_translate;    /* given: as the encoding says after encode */
    bool has_content;       /* something meaningful has come: what follows belongs to it */
    bool is_ended;          /* private to the kind */
    bool has_said_more;     /* words came after the usage that was told last */
    struct arena *scratch; /* NULL: deltas are not asked for; emptied between events by the owner */
    struct arena *arena;   /* of the request, for what must last: id and model */
    const void *from_encoder; /* given: the encoding's for_decoder */

    /* Counts the texts of what is not read as deltas; NULL: nobody counts. Of a whole answer it counts what deltas do not
     * tell, too, where the kind has such, and there are no deltas then. */
    struct tokens_tally *tally;

    struct usage usage;
    struct usage apart;   /* in it, but not in what the provider sums up */
    struct str odd_end;   /* the provider's word for an end that is none of the usual; static */
    struct str id, model; /* the answer's, as the provider named them; only with scratch */

    /* Private to the kind. */
    uint64_t seen[2], finished[2]; /* choices by index, bit by bit */
    unsigned tool_count[2];        /* begun: in choice 0, and in the last other one seen */
    unsigned open_kind, open_index;
    struct str stop_text;
    enum stop_reason stop;
    void *state, *outer_state; /* what needs more room, in `arena` */
};

struct provider_ops {
    const char *name; /* as in the configuration */

    /* The protocol in which this provider shall be asked what came in `asked`: the same one if it
     * speaks it, and the bytes pass through, else the one to translate into. PROTOCOL_COUNT: it
     * cannot answer such a request at all. */
    enum protocol (*choose)(const struct conf_provider *provider, enum protocol asked);

    /* Compose the request. With choose() == ask->protocol from the caller's own bytes, unless there
     * is a prefill. Errors: BAD_REQUEST (code unsupported_parameter, param) for what the provider cannot express,
     * BUSY without memory. */
    err_t (*encode)(struct encoding *encoding);

    /* Read one event with data, and with decoder->scratch its deltas. Errors: UPSTREAM: code
     * "upstream_invalid" for what is not an event of this protocol, "upstream_error" for a failure
     * that is reported. */
    err_t (*decode)(struct decoder *decoder, const struct sse_event *in, struct event *out);

    /* The stream's body has ended cleanly: was it complete? With scratch, *out may get closing deltas
     * (kind EVENT_END). Errors: UPSTREAM "upstream_truncated". */
    err_t (*decode_end)(struct decoder *decoder, struct event *out);

    /* Check a whole answer and read its usage, and with scratch its deltas into *out (kind
     * EVENT_CONTENT). Where the bytes that came are not those for the caller, though nothing is read
     * as deltas, out->raw becomes the latter, in decoder->arena. Errors: UPSTREAM. */
    err_t (*decode_whole)(struct decoder *decoder, struct str body, struct event *out);
};

/* The operations of a kind. */
const struct provider_ops *provider_ops_get(enum conf_provider_kind kind);

/* providers.def: X(KIND, symbol); the kinds' operations. */
#define X(kind, symbol) extern const struct provider_ops *const symbol;
#include "model/providers.def"
#undef X

#endif
