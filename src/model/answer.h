/* SPDX-License-Identifier: Apache-2.0 */
/* A whole answer, gathered from its deltas: what dialects print when nothing is streamed, and what
 * those of them need that end a stream by repeating all of it. */
#ifndef MODEL_ANSWER_H
#define MODEL_ANSWER_H

#include "base/buf.h"
#include "model/message.h"

/* Most text of one answer that is gathered. */
#define ANSWER_MAX_BYTES ((size_t)16 * 1024 * 1024)

enum answer_part_kind {
    ANSWER_TEXT,
    ANSWER_REASONING,
    ANSWER_REDACTED,
    ANSWER_REFUSAL,
    ANSWER_CALL
};

/* A run of deltas of one kind, in the order in which they began. */
struct answer_part {
    enum answer_part_kind kind;
    unsigned index;        /* CALL: which one, as in the deltas */
    struct buf text;       /* of a CALL its arguments */
    struct str id, name;   /* CALL */
    struct str signature;  /* REASONING, CALL */
    struct str *citations; /* TEXT: JSON, in the provider's form */
    size_t citation_count;
    struct answer_part *next;
};

struct answer_choice {
    unsigned index;
    struct answer_part *parts, *last;
    struct str logprobs; /* JSON array of token entries: "[…]"; or empty */
    enum stop_reason stop;
    struct str stop_text;
    struct answer_choice *next;

    struct buf held_logprobs; /* private: what logprobs points to */
};

struct answer {
    struct arena *arena;
    struct answer_choice *choices; /* by index */
    size_t bytes;
};

/* An empty answer whose memory belongs to the arena. */
struct answer answer_make(struct arena *arena);

/* Add deltas; what they point to is copied. Errors: UPSTREAM beyond ANSWER_MAX_BYTES, BUSY. */
err_t answer_add(struct answer *answer, const struct delta *deltas, size_t count) ERR_MUST_CHECK;

/* The first choice, or NULL for an answer without any. */
const struct answer_choice *answer_first(const struct answer *answer);

/* The arguments of a call as JSON text of an object: "{}" where the provider sent none. */
struct str answer_arguments(const struct answer_part *call);

#endif
