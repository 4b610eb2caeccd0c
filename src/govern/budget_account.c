/* SPDX-License-Identifier: Apache-2.0 */
/* A table of accounts in shards. Accounts that nobody uses are given back by the lease server's sweep. */
#include "govern/budget_account.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>

#include "base/check.h"
#include "base/mem.h"
#include "base/text.h"
#include "conf/quota.h"

#define SHARDS  64
#define BUCKETS 1024 /* of each */

static struct shard {
    pthread_mutex_t lock;
    size_t count; /* of accounts */
} shards[SHARDS] = {[0 ... SHARDS - 1] = {.lock = PTHREAD_MUTEX_INITIALIZER}};

/* Apart from the locks, so that a sweep over empty shards touches none of its pages. */
static struct budget_account *buckets[SHARDS][BUCKETS];

const char *budget_scope_name(enum budget_scope scope)
{
    static const char *const names[] = {"key", "user", "project"};

    return names[scope];
}

const char *budget_unit_name(enum budget_unit unit)
{
    static const char *const names[] = {"tokens", "money"};

    return names[unit];
}

struct str budget_account_head(const struct budget_account *a)
{
    return (struct str){a->name, strlen(a->name) - a->owner.len - 1};
}

static struct shard *shard_of(uint64_t hash)
{
    return &shards[hash % SHARDS];
}

static struct budget_account **bucket_of(uint64_t hash)
{
    return &buckets[hash % SHARDS][hash / SHARDS % BUCKETS];
}

static uint64_t hash_of(const struct budget_claim *c)
{
    uint64_t seed = c->period_s << 8 | (uint64_t)c->scope << 4 | (uint64_t)c->unit << 2 |
                    (uint64_t)c->quota.period;

    return text_hash(c->owner, seed);
}

static bool is_of(const struct budget_account *a, const struct budget_claim *c, uint64_t hash)
{
    return a->hash == hash && a->scope == c->scope && a->unit == c->unit &&
           a->period == c->quota.period && a->begins_s == c->period_s && str_eq(a->owner, c->owner);
}

static struct budget_account *find(const struct budget_claim *claim, uint64_t hash)
{
    struct budget_account *a = *bucket_of(hash);

    while (a && !is_of(a, claim, hash))
        a = a->next;
    return a;
}

static struct str put(char **to, struct str text)
{
    char *at = *to;

    memcpy(at, text.ptr, text.len);
    *to += text.len;
    return (struct str){at, text.len};
}

static struct budget_account *make(const struct budget_claim *c, struct str project,
                                   uint64_t ends_s, uint64_t hash)
{
    char head[64];
    int head_len =
        snprintf(head, sizeof(head), "%s/%s/%s/%" PRIu64 "/", budget_scope_name(c->scope),
                 budget_unit_name(c->unit), quota_period_name(c->quota.period), c->period_s);
    size_t bytes =
        sizeof(struct budget_account) + 2 * c->owner.len + project.len + (size_t)head_len + 1;
    struct budget_account *a = mem_alloc_zero(MEM_GOVERN, bytes);
    char *to = (char *)(a + 1);

    if (!a)
        return NULL;
    *a = (struct budget_account){.hash = hash,
                                 .scope = c->scope,
                                 .unit = c->unit,
                                 .period = c->quota.period,
                                 .begins_s = c->period_s,
                                 .ends_s = ends_s,
                                 .left = c->quota.amount,
                                 .cap = c->quota.amount,
                                 .bytes = bytes};
    list_init(&a->queued);
    a->owner = put(&to, c->owner);
    a->project = put(&to, project);
    a->name = to;
    put(&to, (struct str){head, (size_t)head_len});
    put(&to, c->owner);
    return a;
}

struct budget_account *budget_account_take(const struct budget_claim *claim, struct str project,
                                           uint64_t ends_s)
{
    uint64_t hash = hash_of(claim);
    struct shard *shard = shard_of(hash);
    struct budget_account *a;

    pthread_mutex_lock(&shard->lock);
    a = find(claim, hash);
    if (!a) {
        a = make(claim, project, ends_s, hash);
        if (a) {
            a->next = *bucket_of(hash);
            *bucket_of(hash) = a;
            shard->count++;
        }
    }
    if (a) {
        a->references++;
        a->gives_back |= claim->quota.amount < a->cap;
        a->cap = claim->quota.amount;
    }
    pthread_mutex_unlock(&shard->lock);
    return a;
}

void budget_account_hold(struct budget_account *a)
{
    atomic_fetch_add_explicit(&a->references, 1, memory_order_relaxed);
}

void budget_account_give(struct budget_account *a)
{
    check(atomic_fetch_sub_explicit(&a->references, 1, memory_order_acq_rel) > 0);
}

struct budget_account *budget_account_peek(const struct budget_claim *claim)
{
    uint64_t hash = hash_of(claim);
    struct shard *shard = shard_of(hash);
    struct budget_account *a;

    pthread_mutex_lock(&shard->lock);
    a = find(claim, hash);
    if (!a)
        pthread_mutex_unlock(&shard->lock);
    return a;
}

void budget_account_lock(struct budget_account *a)
{
    pthread_mutex_lock(&shard_of(a->hash)->lock);
}

void budget_account_unlock(struct budget_account *a)
{
    pthread_mutex_unlock(&shard_of(a->hash)->lock);
}

static void visit_bucket(struct shard *shard, struct budget_account **at,
                         bool (*visit)(struct budget_account *account, void *arg), void *arg)
{
    while (*at) {
        struct budget_account *a = *at;
        if (!visit(a, arg)) {
            at = &a->next;
            continue;
        }
        check(a->references == 0);
        *at = a->next;
        shard->count--;
        mem_free(MEM_GOVERN, a, a->bytes);
    }
}

void budget_account_each(bool (*visit)(struct budget_account *account, void *arg), void *arg)
{
    for (size_t i = 0; i < SHARDS; i++) {
        pthread_mutex_lock(&shards[i].lock);
        for (size_t b = 0; b < BUCKETS && shards[i].count > 0; b++)
            visit_bucket(&shards[i], &buckets[i][b], visit, arg);
        pthread_mutex_unlock(&shards[i].lock);
    }
}
