/* SPDX-License-Identifier: Apache-2.0 */
/* What a caller asks of a model, and what comes back: the words that dialects, providers and calls
 * share.
 *
 * A request keeps the caller's own bytes beside what was read from them, and an event keeps its raw
 * bytes beside its meaning, so that between two parties of the same protocol everything passes
 * through unchanged. */
#ifndef MODEL_MESSAGE_H
#define MODEL_MESSAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/json_members.h"
#include "base/str.h"

/* Most members a request's top level may have; real ones have about ten. */
#define CHAT_MAX_MEMBERS 128

/* A chat request that was checked. Strs point into `body` or the request's arena. */
struct chat_request {
    struct str body; /* valid JSON object without repeated members, as the caller sent it */
    const struct json_member *members;
    size_t member_count;
    struct str model; /* as the caller named it, decoded */
    bool is_stream;   /* the answer shall come as events */
    bool wants_usage; /* the caller asked for the usage chunk at the end of the stream */
};

/* Token counts of one answer. */
struct usage {
    bool is_known; /* the provider told */
    uint64_t input, output, cached, reasoning;
};

enum event_kind {
    EVENT_QUIET,   /* to be relayed, but commits to nothing yet: a chunk with the role only */
    EVENT_CONTENT, /* meaningful: content, a tool call, a finish reason … */
    EVENT_USAGE,   /* token counts only */
    /* the end of a complete stream; raw is its end marker, empty if the provider sent none */
    EVENT_END,
    /* no further event is at hand: write out what you have gathered, the next call waits */
    EVENT_PAUSE,
    EVENT_IDLE, /* nothing came in the time given */
};

/* One event of an answer. `raw` is its bytes as they came, to the end of its blank line (empty for
 * PAUSE and IDLE). It is borrowed: good until the call after the next PAUSE, however often the
 * fiber waits elsewhere. */
struct event {
    enum event_kind kind;
    bool has_id; /* it has an "id" field (or one of those that were held and are given as one) */
    struct str raw;
};

#endif
