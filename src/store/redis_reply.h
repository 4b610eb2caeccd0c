/* SPDX-License-Identifier: Apache-2.0 */
/* Answers of Redis (RESP2), read by hiredis from bytes as they come. */
#ifndef STORE_REDIS_REPLY_H
#define STORE_REDIS_REPLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/str.h"

#define REDIS_CLUSTER_HINT "it is of a cluster: redis.url must begin with redis+cluster://"

enum redis_kind { REDIS_NIL, REDIS_TEXT, REDIS_STATUS, REDIS_ERROR, REDIS_INTEGER, REDIS_ARRAY };

struct redis_reply {
    enum redis_kind kind;
    int64_t integer;
    struct str text; /* of TEXT, STATUS and ERROR */
    struct redis_reply **items;
    size_t count;
};

struct redisReader;

/* Reads one connection's bytes. */
struct redis_reader {
    struct redisReader *reader;
    struct arena *arena;
    size_t pending_bytes; /* fed since the last whole reply */
};

/* Begin; and end, which is harmless twice. Errors: BUSY. */
err_t redis_reader_init(struct redis_reader *reader) ERR_MUST_CHECK;
void redis_reader_fini(struct redis_reader *reader);

/* Take bytes in. Errors: STORE for an answer over 1 MiB, BUSY. */
err_t redis_reader_feed(struct redis_reader *reader, struct str bytes) ERR_MUST_CHECK;

/* The next whole reply, or NULL in *out. It is good until the next call. Errors: STORE when the bytes are
 * no answers of Redis, or nonsense in size; then nothing more can be read. */
err_t redis_reader_next(struct redis_reader *reader, struct redis_reply **out) ERR_MUST_CHECK;

/* A copy in an arena, or NULL without memory. */
struct redis_reply *redis_reply_copy(const struct redis_reply *reply, struct arena *arena);

/* Whether it is an error that begins with this word, as in "NOSCRIPT". */
bool redis_reply_is_error(const struct redis_reply *reply, struct str word);

#endif
