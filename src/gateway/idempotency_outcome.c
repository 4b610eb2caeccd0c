/* SPDX-License-Identifier: Apache-2.0 */
/* A list of what waits, in one block each; the oldest is written by the keeper's fiber alone. */
#include "gateway/idempotency_outcome.h"

#include <pthread.h>
#include <string.h>

#include "base/list.h"
#include "base/mem.h"
#include "base/sys.h"

/* What waits at most: then answers are noted as too large to be kept, and at twice as much nothing is. */
#define MOST_BYTES ((size_t)16 * 1024 * 1024)

struct late {
    struct list link;
    size_t bytes;
    struct idempotency_outcome of; /* its texts stand behind it */
};

static struct {
    pthread_mutex_t lock;
    struct list waiting; /* oldest first */
    size_t bytes;
} late = {.lock = PTHREAD_MUTEX_INITIALIZER, .waiting = {&late.waiting, &late.waiting}};

/* ---- writing ---- */

static err_t free_key(struct db *db, const struct idempotency_outcome *o)
{
    return db_run(db, DB_WRITE,
                  DB_ASK("DELETE FROM idempotency WHERE owner = $1 AND name = $2 AND mark = $3",
                         DB_OF_TEXT(o->owner), DB_OF_TEXT(o->name), DB_OF_TEXT(o->mark)),
                  NULL, NULL);
}

static err_t write_end(struct db *db, const struct idempotency_outcome *o)
{
    if (o->end == IDEMPOTENCY_FREE)
        return free_key(db, o);
    return db_run(
        db, DB_WRITE,
        DB_ASK("UPDATE idempotency SET state = $1, holder = '', expires_ms = {{now_ms}} + $2, "
               "target = $3, is_stream = $4, body = $5 "
               "WHERE owner = $6 AND name = $7 AND mark = $8",
               DB_OF_TEXT(o->end == IDEMPOTENCY_KEPT ? STR("kept") : STR("large")),
               DB_OF_INT(o->ttl_ms), DB_OF_TEXT(o->target), DB_OF_INT(o->is_stream),
               DB_OF_BLOB(o->body), DB_OF_TEXT(o->owner), DB_OF_TEXT(o->name), DB_OF_TEXT(o->mark)),
        NULL, NULL);
}

/* ---- later ---- */

static struct str put(char **to, struct str text)
{
    struct str copy = {*to, text.len};

    if (text.len > 0)
        memcpy(*to, text.ptr, text.len);
    *to += text.len;
    return copy;
}

static struct late *copy(const struct idempotency_outcome *o)
{
    size_t bytes = sizeof(struct late) + o->owner.len + o->name.len + o->mark.len + o->target.len +
                   o->body.len;
    struct late *made = mem_alloc(MEM_BODY, bytes);
    char *to;

    if (!made)
        return NULL;
    to = (char *)(made + 1);
    *made = (struct late){.bytes = bytes, .of = *o};
    made->of.owner = put(&to, o->owner);
    made->of.name = put(&to, o->name);
    made->of.mark = put(&to, o->mark);
    made->of.target = put(&to, o->target);
    made->of.body = put(&to, o->body);
    return made;
}

static size_t bytes_waiting(void)
{
    size_t bytes;

    pthread_mutex_lock(&late.lock);
    bytes = late.bytes;
    pthread_mutex_unlock(&late.lock);
    return bytes;
}

/* A copy; without its answer where there is no room for that: it was too large. NULL: no room at all. */
static struct late *copy_some(struct idempotency_outcome o, size_t bytes)
{
    struct late *made = NULL;

    if (bytes >= 2 * MOST_BYTES)
        return NULL;
    if (o.end != IDEMPOTENCY_KEPT || bytes + o.body.len <= MOST_BYTES)
        made = copy(&o);
    if (made || o.end != IDEMPOTENCY_KEPT)
        return made;
    o.end = IDEMPOTENCY_LARGE;
    o.body = STR("");
    return copy(&o);
}

static void keep_waiting(const struct idempotency_outcome *o)
{
    struct late *made = copy_some(*o, bytes_waiting());

    if (!made)
        return; /* the mark ends by itself */
    pthread_mutex_lock(&late.lock);
    list_push(&late.waiting, &made->link);
    late.bytes += made->bytes;
    pthread_mutex_unlock(&late.lock);
}

err_t idempotency_outcome_write(struct db *db, const struct idempotency_outcome *outcome)
{
    err_t err = write_end(db, outcome);

    if (err)
        keep_waiting(outcome);
    return err;
}

static struct late *first(void)
{
    struct list *link;

    pthread_mutex_lock(&late.lock);
    link = list_first(&late.waiting);
    pthread_mutex_unlock(&late.lock);
    return link ? container_of(link, struct late, link) : NULL;
}

static void drop(struct late *done)
{
    pthread_mutex_lock(&late.lock);
    list_remove(&done->link);
    late.bytes -= done->bytes;
    pthread_mutex_unlock(&late.lock);
    mem_free(MEM_BODY, done, done->bytes);
}

err_t idempotency_outcome_catch_up(struct db *db, uint64_t until_ms)
{
    struct late *oldest;

    while ((oldest = first()) && sys_now_ms() < until_ms) {
        TRY(write_end(db, &oldest->of));
        drop(oldest);
    }
    return NULL;
}

void idempotency_outcome_forget(void)
{
    struct late *oldest;

    while ((oldest = first()))
        drop(oldest);
}
