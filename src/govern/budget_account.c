/* SPDX-License-Identifier: Apache-2.0 */
/* A table of accounts in shards, by their owners: who changes several accounts of one owner locks once. Accounts that
 * nobody uses are given back by the lease server's sweep. */
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
    return (struct str){a->name, a->head_len};
}

static struct shard *shard_of(uint64_t hash)
{
    return &shards[hash % SHARDS];
}

static struct budget_account **bucket_of(uint64_t hash)
{
    return &buckets[hash % SHARDS][hash / SHARDS % BUCKETS];
}

struct budget_owner budget_owner_make(enum budget_scope scope, struct str id, struct str project)
{
    return (struct budget_owner){scope, id, project, text_hash(id, (uint64_t)scope)};
}

/* Accounts of one owner differ in what chooses the bucket, not the shard. */
static uint64_t hash_of(const struct budget_key *key)
{
    uint64_t which = key->begins_s << 8 | (uint64_t)key->unit << 2 | (uint64_t)key->quota.period;

    return key->owner->hash + which * SHARDS;
}

static bool is_of(const struct budget_account *a, const struct budget_key *key, uint64_t hash)
{
    return a->hash == hash && a->unit == key->unit && a->period == key->quota.period &&
           a->begins_s == key->begins_s && a->scope == key->owner->scope &&
           str_eq(a->owner, key->owner->id);
}

static struct budget_account *find(const struct budget_key *key, uint64_t hash)
{
    struct budget_account *a = *bucket_of(hash);

    while (a && !is_of(a, key, hash))
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

static struct budget_account *make(const struct budget_key *key, uint64_t hash)
{
    const struct budget_owner *owner = key->owner;
    char head[64];
    int head_len =
        snprintf(head, sizeof(head), "%s/%s/%s/%" PRIu64 "/", budget_scope_name(owner->scope),
                 budget_unit_name(key->unit), quota_period_name(key->quota.period), key->begins_s);
    size_t bytes = sizeof(struct budget_account) + 2 * owner->id.len + owner->project.len +
                   (size_t)head_len + 1;
    struct budget_account *a = mem_alloc_zero(MEM_GOVERN, bytes);
    char *to = (char *)(a + 1);

    if (!a)
        return NULL;
    *a = (struct budget_account){.hash = hash,
                                 .scope = owner->scope,
                                 .unit = key->unit,
                                 .period = key->quota.period,
                                 .begins_s = key->begins_s,
                                 .ends_s = key->ends_s,
                                 .left = key->quota.amount,
                                 .cap = key->quota.amount,
                                 .head_len = (size_t)head_len - 1,
                                 .bytes = bytes};
    list_init(&a->queued);
    a->owner = put(&to, owner->id);
    a->project = put(&to, owner->project);
    a->name = to;
    put(&to, (struct str){head, (size_t)head_len});
    put(&to, owner->id);
    return a;
}

/* Under its shard's lock. */
static struct budget_account *find_or_make(const struct budget_key *key, uint64_t hash)
{
    struct budget_account *a = find(key, hash);

    if (a || !(a = make(key, hash)))
        return a;
    a->next = *bucket_of(hash);
    *bucket_of(hash) = a;
    shard_of(hash)->count++;
    return a;
}

/* Go from one lock to another; NULL: from none, or to none. */
static void change_lock(struct shard *from, struct shard *to)
{
    if (from == to)
        return;
    if (from)
        pthread_mutex_unlock(&from->lock);
    if (to)
        pthread_mutex_lock(&to->lock);
}

/* A cap that was raised leaves as much more in the store; of one that was lowered all is counted anew. */
static void change_cap(struct budget_account *a, uint64_t cap)
{
    if (cap > a->cap) {
        a->left += cap - a->cap;
        a->spent_out_until_ms = 0;
    }
    a->gives_back |= cap < a->cap;
    a->cap = cap;
}

struct budget_account *budget_account_take(const struct budget_key *key,
                                           struct budget_account *before)
{
    uint64_t hash = hash_of(key);
    struct budget_account *a;

    change_lock(before ? shard_of(before->hash) : NULL, shard_of(hash));
    a = find_or_make(key, hash);
    if (!a) {
        change_lock(shard_of(hash), NULL);
        return NULL;
    }
    budget_account_hold(a);
    change_cap(a, key->quota.amount);
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

struct budget_account *budget_account_peek(const struct budget_key *key)
{
    uint64_t hash = hash_of(key);
    struct shard *shard = shard_of(hash);
    struct budget_account *a;

    pthread_mutex_lock(&shard->lock);
    a = find(key, hash);
    if (!a)
        pthread_mutex_unlock(&shard->lock);
    return a;
}

struct budget_account *budget_account_peek_named(struct str scope_name, struct str unit,
                                                 struct str period, uint64_t begins_s,
                                                 struct str owner_id)
{
    struct budget_key key = {.begins_s = begins_s};
    enum budget_scope scope = BUDGET_KEY;

    while (scope < BUDGET_PROJECT && !str_eq(scope_name, str_from(budget_scope_name(scope))))
        scope++;
    while (key.unit < BUDGET_MONEY && !str_eq(unit, str_from(budget_unit_name(key.unit))))
        key.unit++;
    while (key.quota.period < CONF_PERIOD_TOTAL &&
           !str_eq(period, str_from(quota_period_name(key.quota.period))))
        key.quota.period++;
    struct budget_owner owner = budget_owner_make(scope, owner_id, STR(""));
    key.owner = &owner;
    return budget_account_peek(&key);
}

void budget_account_lock(struct budget_account *a)
{
    pthread_mutex_lock(&shard_of(a->hash)->lock);
}

void budget_account_unlock(struct budget_account *a)
{
    pthread_mutex_unlock(&shard_of(a->hash)->lock);
}

void budget_account_relock(struct budget_account *from, struct budget_account *to)
{
    change_lock(from ? shard_of(from->hash) : NULL, to ? shard_of(to->hash) : NULL);
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
