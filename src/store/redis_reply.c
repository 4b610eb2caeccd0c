/* SPDX-License-Identifier: Apache-2.0 */
/* Answers of Redis: hiredis' parser makes them, in memory of ours.
 *
 * The hard thing is an answer that comes in parts: what is read of it must stay. So the arena is emptied only
 * when the next answer is asked for and nothing has been read of it yet. */
#include "store/redis_reply.h"

#include <hiredis/hiredis.h>

#define MAX_REPLY_BYTES ((size_t)1024 * 1024)
#define MAX_ITEMS       4096
#define MAX_ARENA_BYTES (4 * MAX_REPLY_BYTES)

#if HIREDIS_MAJOR >= 1
#define ELEMENT_COUNT size_t
#else
#define ELEMENT_COUNT int
#endif

/* ---- what hiredis calls ---- */

static void *place(const redisReadTask *task, struct redis_reply *reply)
{
    if (reply && task->parent)
        ((struct redis_reply *)task->parent->obj)->items[task->idx] = reply;
    return reply;
}

static struct redis_reply *make(const redisReadTask *task, enum redis_kind kind)
{
    struct redis_reader *reader = task->privdata;
    struct redis_reply *reply = arena_new_struct(reader->arena, struct redis_reply);

    if (reply)
        reply->kind = kind;
    return reply;
}

static void *make_string(const redisReadTask *task, char *ptr, size_t len)
{
    struct redis_reader *reader = task->privdata;
    enum redis_kind kind = task->type == REDIS_REPLY_ERROR    ? REDIS_ERROR
                           : task->type == REDIS_REPLY_STATUS ? REDIS_STATUS
                                                              : REDIS_TEXT;
    struct redis_reply *reply = make(task, kind);

    if (reply)
        reply->text = arena_copy(reader->arena, (struct str){ptr, len});
    return reply && reply->text.ptr ? place(task, reply) : NULL;
}

static void *make_array(const redisReadTask *task, ELEMENT_COUNT count)
{
    struct redis_reader *reader = task->privdata;
    struct redis_reply *reply;

    if (count > MAX_ITEMS || !(reply = make(task, REDIS_ARRAY)))
        return NULL;
    reply->count = (size_t)count;
    reply->items = arena_alloc_array(reader->arena, reply->count, sizeof(*reply->items));
    return reply->items ? place(task, reply) : NULL;
}

static void *make_integer(const redisReadTask *task, long long n)
{
    struct redis_reply *reply = make(task, REDIS_INTEGER);

    if (reply)
        reply->integer = n;
    return place(task, reply);
}

static void *make_nil(const redisReadTask *task)
{
    return place(task, make(task, REDIS_NIL));
}

#if HIREDIS_MAJOR >= 1
/* RESP3's, which we never ask for. */
static void *make_double(const redisReadTask *task, double n, char *ptr, size_t len)
{
    (void)n;
    return make_string(task, ptr, len);
}

static void *make_bool(const redisReadTask *task, int n)
{
    return make_integer(task, n);
}
#endif

static void leave_to_arena(void *reply)
{
    (void)reply;
}

static redisReplyObjectFunctions functions = {
    .createString = make_string,
    .createArray = make_array,
    .createInteger = make_integer,
    .createNil = make_nil,
#if HIREDIS_MAJOR >= 1
    .createDouble = make_double,
    .createBool = make_bool,
#endif
    .freeObject = leave_to_arena,
};

/* ---- readers ---- */

err_t redis_reader_init(struct redis_reader *r)
{
    *r = (struct redis_reader){.arena = arena_new(MEM_UPSTREAM, MAX_ARENA_BYTES)};
    if (r->arena)
        r->reader = redisReaderCreateWithFunctions(&functions);
    if (r->reader) {
        r->reader->privdata = r;
        return NULL;
    }
    arena_free(r->arena);
    r->arena = NULL;
    return err_no_memory();
}

void redis_reader_fini(struct redis_reader *r)
{
    if (r->reader)
        redisReaderFree(r->reader);
    arena_free(r->arena);
    *r = (struct redis_reader){0};
}

static err_t problem_of(const struct redis_reader *r)
{
    return err_new(ERR_STORE, "redis: %s", r->reader->errstr);
}

err_t redis_reader_feed(struct redis_reader *r, struct str bytes)
{
    r->pending_bytes += bytes.len;
    if (r->pending_bytes > MAX_REPLY_BYTES)
        return err_new(ERR_STORE, "redis: an answer over %zu bytes", MAX_REPLY_BYTES);
    return redisReaderFeed(r->reader, bytes.ptr, bytes.len) == REDIS_OK ? NULL : problem_of(r);
}

err_t redis_reader_next(struct redis_reader *r, struct redis_reply **out)
{
    void *reply = NULL;

    *out = NULL;
    if (r->reader->ridx < 0) /* nothing is read by halves */
        arena_reset(r->arena);
    if (redisReaderGetReply(r->reader, &reply) != REDIS_OK)
        return problem_of(r);
    if (reply)
        r->pending_bytes = 0;
    *out = reply;
    return NULL;
}

struct redis_reply *redis_reply_copy(const struct redis_reply *reply, struct arena *arena)
{
    struct redis_reply *copy = arena_new_struct(arena, struct redis_reply);

    if (!copy)
        return NULL;
    *copy = *reply;
    if (reply->text.ptr && !(copy->text = arena_copy(arena, reply->text)).ptr)
        return NULL;
    copy->items = arena_alloc_array(arena, reply->count, sizeof(*copy->items));
    for (size_t i = 0; copy->items && i < reply->count; i++)
        if (!(copy->items[i] = redis_reply_copy(reply->items[i], arena)))
            return NULL;
    return copy->items ? copy : NULL;
}

bool redis_reply_is_error(const struct redis_reply *reply, struct str word)
{
    return reply->kind == REDIS_ERROR && str_starts(reply->text, word) &&
           (reply->text.len == word.len || reply->text.ptr[word.len] == ' ');
}
