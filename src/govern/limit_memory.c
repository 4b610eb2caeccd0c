/* SPDX-License-Identifier: Apache-2.0 */
/* Limits in this process: a hash table in shards, each under a lock of its own.
 *
 * An entry is an id and a number: when its backlog will have run off or, of streams, how many there
 * are. Like a processor's cache, a shard has sets of eight entries, and an id goes into the emptier of
 * two of them, which fills a table nearly to the last entry. What is whole again needs no entry, so a
 * newcomer takes its place; a shard grows when both sets are full, and once it may not grow any further,
 * the entry that is nearest to being whole gives way. Nothing is ever swept.
 *
 * The hard thing is all or nothing: the shards of all rules are locked, in the order of their numbers
 * so that no two calls wait for each other, and then all are looked at before any is changed. */
#include <pthread.h>
#include <stdatomic.h>

#include "base/mem.h"
#include "govern/limit_store.h"

#define SHARDS   64
#define WAYS     8
#define MIN_SETS 8
#define MAX_SETS 4096 /* of a shard: two million entries in 32 MiB */

#define STREAMS (UINT64_C(1) << 63) /* in an entry's value: it counts streams */

struct entry {
    uint64_t id; /* 0: free */
    uint64_t value;
};

struct shard {
    pthread_mutex_t lock;
    struct entry *entries;
    size_t sets;
} __attribute__((aligned(64)));

static struct shard shards[SHARDS] = {[0 ... SHARDS - 1] = {.lock = PTHREAD_MUTEX_INITIALIZER}};
static atomic_size_t bytes_held;

/* ---- entries ---- */

static struct shard *shard_of(uint64_t id)
{
    return &shards[id % SHARDS];
}

/* One of the two sets of an id, by bits that do not choose the shard. */
static struct entry *set_of(const struct shard *shard, uint64_t id, int which)
{
    uint64_t bits = which ? id >> 38 : id / SHARDS;

    return shard->entries + (bits & (shard->sets - 1)) * WAYS;
}

/* A unit is as good as another id, but for the shard. Both its sets are the next ones: they come into the processor's
 * cache together. */
uint64_t limit_memory_id(uint64_t owner, enum limit_unit unit)
{
    uint64_t id = owner + (uint64_t)unit * ((UINT64_C(1) << 38) + SHARDS);

    return id ? id : SHARDS;
}

/* Whether nobody would notice if the entry were not there. */
static bool is_whole(const struct entry *entry, uint64_t now_ns)
{
    return entry->id == 0 || entry->value == STREAMS ||
           (!(entry->value & STREAMS) && entry->value <= now_ns);
}

static struct entry *find(uint64_t id)
{
    struct shard *shard = shard_of(id);

    for (int which = 0; shard->entries && which < 2; which++) {
        struct entry *set = set_of(shard, id, which);
        for (int i = 0; i < WAYS; i++)
            if (set[i].id == id)
                return &set[i];
    }
    return NULL;
}

/* A place for an id: one that is whole, in the emptier set. NULL if there is none. */
static struct entry *find_whole(const struct shard *shard, uint64_t id, uint64_t now_ns)
{
    struct entry *place = NULL;
    int most = 0;

    for (int which = 0; which < 2; which++) {
        struct entry *set = set_of(shard, id, which), *whole = NULL;
        int count = 0;
        for (int i = 0; i < WAYS; i++)
            if (is_whole(&set[i], now_ns)) {
                whole = &set[i];
                count++;
            }
        if (count > most) {
            most = count;
            place = whole;
        }
    }
    return place;
}

/* The entry that is lost with the least harm: streams have their bit, so they come last. */
static struct entry *find_least(const struct shard *shard, uint64_t id)
{
    struct entry *least = set_of(shard, id, 0);

    for (int which = 0; which < 2; which++) {
        struct entry *set = set_of(shard, id, which);
        for (int i = 0; i < WAYS; i++)
            if (set[i].value < least->value)
                least = &set[i];
    }
    return least;
}

static bool resize(struct shard *shard, size_t sets)
{
    size_t bytes = sets * WAYS * sizeof(struct entry);
    size_t old_count = shard->sets * WAYS, old_bytes = old_count * sizeof(struct entry);
    struct entry *old = shard->entries, *fresh = mem_alloc_zero(MEM_PROCESS, bytes), *place;

    if (!fresh)
        return false;
    shard->entries = fresh;
    shard->sets = sets;
    for (size_t i = 0; i < old_count; i++)
        if (old[i].id != 0 && (place = find_whole(shard, old[i].id, 0)))
            *place = old[i];
    mem_free(MEM_PROCESS, old, old_bytes);
    atomic_fetch_add(&bytes_held, bytes - old_bytes);
    return true;
}

/* An entry for an id that has none. Its shard has memory. */
static struct entry *make(uint64_t id, uint64_t now_ns)
{
    struct shard *shard = shard_of(id);
    struct entry *entry;

    while (!(entry = find_whole(shard, id, now_ns)))
        if (shard->sets >= MAX_SETS || !resize(shard, shard->sets * 2)) {
            entry = find_least(shard, id);
            break;
        }
    *entry = (struct entry){.id = id};
    return entry;
}

/* ---- all shards of a ticket ---- */

/* One bit for each shard. */
static uint64_t shard_bit(const struct limit_rule *rule)
{
    return UINT64_C(1) << rule->id % SHARDS;
}

static uint64_t shards_of(const struct limit_ticket *ticket)
{
    uint64_t mask = 0;

    for (size_t i = 0; i < ticket->count; i++)
        mask |= shard_bit(&ticket->rules[i]);
    return mask;
}

static void lock_all(uint64_t mask)
{
    for (; mask; mask &= mask - 1)
        pthread_mutex_lock(&shards[__builtin_ctzll(mask)].lock);
}

static void unlock_all(uint64_t mask)
{
    for (; mask; mask &= mask - 1)
        pthread_mutex_unlock(&shards[__builtin_ctzll(mask)].lock);
}

static bool prepare_all(uint64_t mask)
{
    for (; mask; mask &= mask - 1) {
        struct shard *shard = &shards[__builtin_ctzll(mask)];
        if (!shard->entries && !resize(shard, MIN_SETS))
            return false;
    }
    return true;
}

/* ---- taking ---- */

/* The backlog, or the number of streams; no entry: none. */
static uint64_t level_of(const struct limit_rule *rule, const struct entry *entry, uint64_t now_ns)
{
    if (!entry)
        return 0;
    if (rule->unit == LIMIT_STREAMS)
        return entry->value & ~STREAMS;
    return entry->value > now_ns ? entry->value - now_ns : 0;
}

static void set_level(const struct limit_rule *rule, struct entry *entry, uint64_t level,
                      uint64_t now_ns)
{
    entry->value = rule->unit == LIMIT_STREAMS ? STREAMS | level : now_ns + level;
}

/* The same, where the limit may have been another one before. */
static uint64_t level_now(const struct limit_rule *rule, struct limit_gcra gcra,
                          struct entry *entry, uint64_t now_ns)
{
    uint64_t level = level_of(rule, entry, now_ns), most = limit_most(rule, gcra);

    if (rule->unit == LIMIT_STREAMS || level <= most)
        return level;
    set_level(rule, entry, most, now_ns);
    return most;
}

/* What taking it adds to the level. */
static uint64_t weight_of(const struct limit_rule *rule, struct limit_gcra gcra)
{
    return rule->unit == LIMIT_STREAMS ? rule->cost : limit_product(rule->cost, gcra.step_ns);
}

/* What is known of a rule while a ticket is judged. */
struct look {
    struct limit_gcra gcra;
    struct entry *entry; /* NULL: none yet */
    uint64_t weight;
    uint64_t level; /* as it will be if none of the rules refuses, else as it is */
};

/* Look at all rules; the one that makes the call wait longest refuses it. */
static void judge(const struct limit_ticket *ticket, uint64_t now_ns, struct look *looks,
                  struct limit_verdict *out)
{
    *out = (struct limit_verdict){.refused = ticket->count};
    for (size_t i = 0; i < ticket->count; i++) {
        const struct limit_rule *rule = &ticket->rules[i];
        struct look *look = &looks[i];
        uint64_t wait_ns;

        look->gcra = limit_gcra_of(rule);
        look->weight = weight_of(rule, look->gcra);
        look->entry = find(rule->id);
        look->level = level_now(rule, look->gcra, look->entry, now_ns) + look->weight;
        if (look->level <= look->gcra.span_ns)
            continue;
        wait_ns =
            rule->unit == LIMIT_STREAMS ? UINT64_C(1000000000) : look->level - look->gcra.span_ns;
        if (wait_ns > out->wait_ns)
            *out = (struct limit_verdict){.refused = i, .wait_ns = wait_ns};
    }
    for (size_t i = 0; out->refused < ticket->count && i < ticket->count; i++)
        looks[i].level -= looks[i].weight;
}

/* Two rules never have one id, so no level that was seen is out of date when it is set. What is there is set first:
 * a newcomer may move the others, or take the place of one. */
static void set_all(const struct limit_ticket *ticket, const struct look *looks, uint64_t now_ns)
{
    bool has_new = false;

    for (size_t i = 0; i < ticket->count; i++)
        if (looks[i].entry)
            set_level(&ticket->rules[i], looks[i].entry, looks[i].level, now_ns);
        else
            has_new = true;
    for (size_t i = 0; has_new && i < ticket->count; i++)
        if (!looks[i].entry)
            set_level(&ticket->rules[i], make(ticket->rules[i].id, now_ns), looks[i].level, now_ns);
}

static void take_all(struct limit_ticket *ticket, uint64_t now_ns, struct limit_verdict *out)
{
    struct look looks[LIMIT_MAX_RULES];

    judge(ticket, now_ns, looks, out);
    if (out->refused == ticket->count)
        set_all(ticket, looks, now_ns);
    for (size_t i = 0; i < ticket->count; i++)
        limit_tell(&ticket->rules[i], looks[i].gcra, looks[i].level);
}

err_t limit_memory_take(struct limit_ticket *ticket, uint64_t now_ns, struct limit_verdict *out)
{
    uint64_t mask = shards_of(ticket);
    bool has_memory;

    lock_all(mask);
    has_memory = prepare_all(mask);
    if (has_memory)
        take_all(ticket, now_ns, out);
    unlock_all(mask);
    ticket->taken_ns = now_ns;
    return has_memory ? NULL : err_no_memory();
}

/* ---- giving back ---- */

/* A backlog runs off oldest first. What is left of a call's part, and can be given back, is what has not
 * run off since then: else time would be credited twice. */
static void correct(const struct limit_ticket *ticket, const struct limit_rule *rule,
                    int64_t change_ns, uint64_t now_ns)
{
    struct entry *entry = find(rule->id);
    uint64_t level = level_of(rule, entry, now_ns), ran_off = now_ns - ticket->taken_ns;
    uint64_t left = rule->reset_ns > ran_off ? rule->reset_ns - ran_off : 0;
    uint64_t most = limit_most(rule, limit_gcra_of(rule));

    if (change_ns < 0) {
        uint64_t back = (uint64_t)-change_ns < left ? (uint64_t)-change_ns : left;
        level -= back < level ? back : level;
    } else {
        most = level > most ? level : most;
        level = level + (uint64_t)change_ns < most ? level + (uint64_t)change_ns : most;
    }
    set_level(rule, entry ? entry : make(rule->id, now_ns), level, now_ns);
}

static void release(const struct limit_rule *rule)
{
    struct entry *entry = find(rule->id);

    if (entry && entry->value > STREAMS)
        entry->value--;
}

void limit_memory_settle(const struct limit_ticket *ticket, uint64_t now_ns, uint64_t used_tokens,
                         bool is_void)
{
    int64_t changes[LIMIT_MAX_RULES];
    uint64_t mask = 0;

    for (size_t i = 0; i < ticket->count; i++) {
        const struct limit_rule *rule = &ticket->rules[i];
        changes[i] = limit_correction(rule, used_tokens, is_void);
        if (rule->unit == LIMIT_STREAMS || changes[i])
            mask |= shard_bit(rule);
    }
    lock_all(mask);
    for (size_t i = 0; i < ticket->count; i++) {
        const struct limit_rule *rule = &ticket->rules[i];
        if (rule->unit == LIMIT_STREAMS)
            release(rule);
        else if (changes[i] && shard_of(rule->id)->entries)
            correct(ticket, rule, changes[i], now_ns);
    }
    unlock_all(mask);
}

void limit_memory_clear(void)
{
    for (int i = 0; i < SHARDS; i++) {
        pthread_mutex_lock(&shards[i].lock);
        mem_free(MEM_PROCESS, shards[i].entries, shards[i].sets * WAYS * sizeof(struct entry));
        shards[i].entries = NULL;
        shards[i].sets = 0;
        pthread_mutex_unlock(&shards[i].lock);
    }
    atomic_store(&bytes_held, 0);
}

size_t limit_memory_bytes(void)
{
    return atomic_load(&bytes_held);
}
