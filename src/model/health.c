/* SPDX-License-Identifier: Apache-2.0 */
/* Breakers, retry budgets, and the few numbers that routes need, per target and key.
 *
 * Records live in a hash table under one lock; each has a lock of its own, held for a few
 * additions. Calls, failures and repetitions are counted in a ring of slots that together span
 * breaker.window.
 *
 * The hard thing is the probe. Of all that arrive when an open target's time has come exactly one
 * may ask it; the others must not wait for the outcome, and a probe that comes to nothing (its
 * caller left) must set the right free again. */
#include "model/health.h"

#include <pthread.h>
#include <stdatomic.h>

#include "base/mem.h"
#include "base/text.h"

#define SLOTS          10
#define BUCKETS        1024
#define MAX_RECORDS    4096
#define MIN_CALLS      20 /* below that a share of failures says nothing */
#define PROBES_TO_BAD  3  /* failed ones that make a target unhealthy */
#define LIMITED_MS     1000
#define MAX_LIMITED_MS (60 * 60 * 1000)
#define OUT_MS         (5 * 60 * 1000)
#define LATENCY_MS     60000 /* how long a measured latency is believed */
#define FREE_RETRIES   3

struct slot {
    uint64_t tick; /* which stretch of time it counts */
    uint64_t calls, failures, retries;
};

enum probe { PROBE_NONE, PROBE_TAKEN, PROBE_RUNNING };

struct health {
    atomic_uint references;
    atomic_uint in_flight;
    struct health *next; /* in its bucket; under the table's lock */
    bool is_shared;
    atomic_bool is_troubled; /* open or out when a call last ended; if not, asking needs no lock */

    pthread_mutex_t lock; /* of what follows */
    struct conf_breaker breaker;
    struct conf_retry retry;
    struct slot slots[SLOTS];
    uint64_t random;

    bool is_open, is_unreachable;
    uint64_t failures_in_row;
    unsigned failed_probes;
    uint64_t since_ms, until_ms; /* of being closed or open; when the next probe is due */
    enum probe probe;
    uint64_t probe_until_ms; /* TAKEN: to be begun by then */

    bool is_refused; /* out because of our key or model */
    uint64_t out_since_ms, out_until_ms;

    uint64_t latency_ms, latency_at_ms;

    size_t bytes;
    char name[];
};

static struct {
    pthread_mutex_t lock;
    struct health *buckets[BUCKETS];
    size_t count;
} table = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* What names beyond MAX_RECORDS get. */
static struct health shared = {.is_shared = true, .lock = PTHREAD_MUTEX_INITIALIZER};

/* ---- records ---- */

static struct health **bucket_of(struct str name)
{
    return &table.buckets[text_hash(name, 0) % BUCKETS];
}

static void free_record(struct health *h)
{
    pthread_mutex_destroy(&h->lock);
    mem_free(MEM_PROCESS, h, h->bytes);
}

static bool is_open(struct health *h)
{
    pthread_mutex_lock(&h->lock);
    bool result = h->is_open;
    pthread_mutex_unlock(&h->lock);
    return result;
}

/* Drop records that nobody holds, open ones only if `all`. Under the table's lock. */
static void sweep(bool all)
{
    for (size_t i = 0; i < BUCKETS; i++) {
        struct health **link = &table.buckets[i], *h;
        while ((h = *link)) {
            if (atomic_load(&h->references) > 0 || (!all && is_open(h))) {
                link = &h->next;
                continue;
            }
            *link = h->next;
            table.count--;
            free_record(h);
        }
    }
}

static struct health *make_record(struct str name)
{
    size_t bytes = sizeof(struct health) + name.len + 1;
    struct health *h = mem_alloc_zero(MEM_PROCESS, bytes);

    if (!h)
        return NULL;
    pthread_mutex_init(&h->lock, NULL);
    h->bytes = bytes;
    h->random = text_hash(name, 1) | 1;
    memcpy(h->name, name.ptr, name.len);
    return h;
}

/* The record of a name, with a reference, under the table's lock. NULL without memory. */
static struct health *find_or_make(struct str name)
{
    struct health **bucket = bucket_of(name), *h = *bucket;

    while (h && !str_eq(str_from(h->name), name))
        h = h->next;
    if (!h && table.count >= MAX_RECORDS)
        sweep(false);
    if (!h && table.count >= MAX_RECORDS)
        h = &shared;
    if (!h) {
        h = make_record(name);
        if (!h)
            return NULL;
        h->next = *bucket;
        *bucket = h;
        table.count++;
    }
    atomic_fetch_add(&h->references, 1);
    return h;
}

err_t health_get(struct str name, const struct conf_breaker *breaker,
                 const struct conf_retry *retry, struct health **out)
{
    pthread_mutex_lock(&table.lock);
    struct health *h = *out = find_or_make(name);
    pthread_mutex_unlock(&table.lock);
    if (!h)
        return err_no_memory();
    pthread_mutex_lock(&h->lock);
    h->breaker = *breaker;
    h->retry = *retry;
    pthread_mutex_unlock(&h->lock);
    return NULL;
}

void health_unref(struct health *health)
{
    if (health)
        atomic_fetch_sub(&health->references, 1);
}

void health_forget(void)
{
    pthread_mutex_lock(&table.lock);
    sweep(true);
    pthread_mutex_unlock(&table.lock);
}

void health_forgive(void)
{
    pthread_mutex_lock(&table.lock);
    for (size_t i = 0; i < BUCKETS; i++)
        for (struct health *h = table.buckets[i]; h; h = h->next) {
            pthread_mutex_lock(&h->lock);
            if (h->is_refused)
                h->out_until_ms = 0;
            pthread_mutex_unlock(&h->lock);
        }
    pthread_mutex_unlock(&table.lock);
}

/* ---- counting ---- */

/* The slot of this moment, emptied if it counted another. */
static struct slot *slot_at(struct health *h, uint64_t now_ms)
{
    uint64_t span = h->breaker.window_ms / SLOTS, tick = now_ms / (span ? span : 1);
    struct slot *slot = &h->slots[tick % SLOTS];

    if (slot->tick != tick)
        *slot = (struct slot){.tick = tick};
    return slot;
}

static struct slot sum_slots(struct health *h, uint64_t now_ms)
{
    uint64_t now_tick = slot_at(h, now_ms)->tick;
    struct slot sum = {0};

    for (size_t i = 0; i < SLOTS; i++) {
        const struct slot *slot = &h->slots[i];
        if (slot->tick + SLOTS <= now_tick)
            continue;
        sum.calls += slot->calls;
        sum.failures += slot->failures;
        sum.retries += slot->retries;
    }
    return sum;
}

/* ---- the breaker ---- */

/* Marsaglia, "Xorshift RNGs" (2003): good enough to spread probes. */
static uint64_t next_random(struct health *h)
{
    h->random ^= h->random << 13;
    h->random ^= h->random >> 7;
    h->random ^= h->random << 17;
    return h->random;
}

/* Time to the next probe: doubling from breaker.open, from the third failed one on from
 * health.recheck; give or take a fifth, so that many gateways do not knock together. */
static uint64_t probe_wait_ms(struct health *h)
{
    bool is_bad = h->failed_probes >= PROBES_TO_BAD;
    unsigned doublings = is_bad ? h->failed_probes - PROBES_TO_BAD : h->failed_probes;
    uint64_t wait = is_bad ? h->breaker.recheck_ms : h->breaker.open_ms;
    uint64_t most = h->breaker.max_open_ms;

    for (; doublings && wait < most; doublings--)
        wait *= 2;
    if (wait > most)
        wait = most;
    wait = wait * (80 + next_random(h) % 41) / 100;
    return wait < most ? wait : most;
}

static void open_breaker(struct health *h, uint64_t now_ms)
{
    h->is_open = true;
    h->failed_probes = 0;
    h->probe = PROBE_NONE;
    h->since_ms = now_ms;
    h->until_ms = now_ms + probe_wait_ms(h);
}

/* What was counted before is forgotten, or it would open again at once. */
static void close_breaker(struct health *h, uint64_t now_ms)
{
    h->is_open = h->is_unreachable = false;
    h->failures_in_row = h->failed_probes = 0;
    h->since_ms = now_ms;
    h->until_ms = 0;
    for (size_t i = 0; i < SLOTS; i++)
        h->slots[i].calls = h->slots[i].failures = h->slots[i].retries = 0;
}

static enum health_verdict look(struct health *h, uint64_t now_ms, uint64_t *until_ms)
{
    bool is_probed =
        h->probe == PROBE_RUNNING || (h->probe == PROBE_TAKEN && now_ms < h->probe_until_ms);

    *until_ms = 0;
    if (now_ms < h->out_until_ms) {
        *until_ms = h->out_until_ms;
        return HEALTH_REFUSING;
    }
    if (!h->is_open)
        return HEALTH_ASK;
    if (now_ms >= h->until_ms && !is_probed)
        return HEALTH_PROBE;
    *until_ms = now_ms < h->until_ms ? h->until_ms : now_ms + h->breaker.open_ms;
    return h->is_unreachable ? HEALTH_REFUSING : HEALTH_AVOID;
}

enum health_verdict health_look(struct health *health, uint64_t now_ms, uint64_t *until_ms)
{
    pthread_mutex_lock(&health->lock);
    enum health_verdict verdict = look(health, now_ms, until_ms);
    pthread_mutex_unlock(&health->lock);
    return verdict;
}

enum health_verdict health_admit(struct health *health, uint64_t now_ms, uint64_t *until_ms)
{
    *until_ms = 0;
    if (!atomic_load_explicit(&health->is_troubled, memory_order_relaxed))
        return HEALTH_ASK;
    pthread_mutex_lock(&health->lock);
    enum health_verdict verdict = look(health, now_ms, until_ms);
    if (verdict == HEALTH_PROBE) {
        health->probe = PROBE_TAKEN;
        health->probe_until_ms = now_ms + health->breaker.open_ms;
    }
    pthread_mutex_unlock(&health->lock);
    return verdict;
}

/* ---- calls ---- */

void health_begin(struct health *health, enum health_verdict verdict)
{
    atomic_fetch_add_explicit(&health->in_flight, 1, memory_order_relaxed);
    if (verdict != HEALTH_PROBE)
        return;
    pthread_mutex_lock(&health->lock);
    health->probe = PROBE_RUNNING;
    pthread_mutex_unlock(&health->lock);
}

static bool is_failure(enum health_sign sign)
{
    return sign == HEALTH_FAILED || sign == HEALTH_UNREACHABLE;
}

/* A moving average over the last eight or so; a failure makes a target look slow. */
static void note_latency(struct health *h, enum health_sign sign, uint64_t now_ms,
                         uint64_t first_ms)
{
    if (is_failure(sign) && h->latency_ms && h->latency_ms < MAX_LIMITED_MS)
        h->latency_ms *= 2;
    else if (sign == HEALTH_GOOD && first_ms)
        h->latency_ms = h->latency_ms ? (7 * h->latency_ms + first_ms + 4) / 8 : first_ms;
    else
        return;
    h->latency_at_ms = now_ms;
}

/* A limit or a refused key: the target is not at fault, but not to be asked for a while. */
static void put_out(struct health *h, enum health_sign sign, uint64_t now_ms, uint64_t until_ms)
{
    if (sign == HEALTH_OUT)
        until_ms = now_ms + OUT_MS;
    else if (until_ms == 0)
        until_ms = now_ms + LIMITED_MS;
    else if (until_ms > now_ms + MAX_LIMITED_MS)
        until_ms = now_ms + MAX_LIMITED_MS;
    if (now_ms >= h->out_until_ms)
        h->out_since_ms = now_ms;
    else if (until_ms < h->out_until_ms)
        return;
    h->is_refused = sign == HEALTH_OUT;
    h->out_until_ms = until_ms;
}

static void end_probe(struct health *h, enum health_sign sign, uint64_t now_ms)
{
    h->probe = PROBE_NONE;
    if (!h->is_open || sign == HEALTH_UNKNOWN)
        return;
    if (!is_failure(sign)) {
        close_breaker(h, now_ms);
        return;
    }
    h->is_unreachable = sign == HEALTH_UNREACHABLE;
    if (++h->failed_probes == PROBES_TO_BAD)
        h->since_ms = now_ms;
    h->until_ms = now_ms + probe_wait_ms(h);
}

/* A call that was made as usual. */
static void end_usual(struct health *h, enum health_sign sign, uint64_t now_ms)
{
    struct slot sum;

    if (!is_failure(sign)) {
        if (sign == HEALTH_GOOD)
            h->failures_in_row = 0;
        return;
    }
    h->is_unreachable = sign == HEALTH_UNREACHABLE;
    sum = sum_slots(h, now_ms);
    if (++h->failures_in_row >= h->breaker.failures ||
        (sum.calls >= MIN_CALLS && sum.failures * 100 >= h->breaker.ratio_percent * sum.calls))
        open_breaker(h, now_ms);
}

void health_end(struct health *h, enum health_verdict verdict, enum health_sign sign,
                uint64_t now_ms, uint64_t until_ms, uint64_t first_ms)
{
    atomic_fetch_sub_explicit(&h->in_flight, 1, memory_order_relaxed);
    if (h->is_shared)
        return;
    pthread_mutex_lock(&h->lock);
    note_latency(h, sign, now_ms, first_ms);
    if (sign != HEALTH_UNKNOWN) {
        struct slot *slot = slot_at(h, now_ms);
        slot->calls++;
        slot->failures += is_failure(sign);
    }
    if (verdict == HEALTH_PROBE)
        end_probe(h, sign, now_ms);
    else if (!h->is_open)
        end_usual(h, sign, now_ms);
    else if (verdict == HEALTH_AVOID && sign == HEALTH_GOOD)
        close_breaker(h, now_ms);
    if (sign == HEALTH_LIMITED || sign == HEALTH_OUT)
        put_out(h, sign, now_ms, until_ms);
    atomic_store_explicit(&h->is_troubled, h->is_open || now_ms < h->out_until_ms,
                          memory_order_relaxed);
    pthread_mutex_unlock(&h->lock);
}

bool health_take_retry(struct health *h, uint64_t now_ms)
{
    struct slot sum;
    bool ok;

    pthread_mutex_lock(&h->lock);
    sum = sum_slots(h, now_ms);
    uint64_t firsts = sum.calls > sum.retries ? sum.calls - sum.retries : 0;
    ok = !h->is_open && h->retry.budget_percent > 0 &&
         sum.retries * 100 < h->retry.budget_percent * firsts + FREE_RETRIES * 100;
    if (ok)
        slot_at(h, now_ms)->retries++;
    pthread_mutex_unlock(&h->lock);
    return ok;
}

/* ---- for the router and for views ---- */

unsigned health_in_flight(const struct health *health)
{
    return atomic_load_explicit(&health->in_flight, memory_order_relaxed);
}

static uint64_t latency(const struct health *h, uint64_t now_ms)
{
    return now_ms < h->latency_at_ms + LATENCY_MS ? h->latency_ms : 0;
}

uint64_t health_latency_ms(struct health *health, uint64_t now_ms)
{
    pthread_mutex_lock(&health->lock);
    uint64_t result = latency(health, now_ms);
    pthread_mutex_unlock(&health->lock);
    return result;
}

static struct health_view view_of(struct health *h, uint64_t now_ms)
{
    struct slot sum = sum_slots(h, now_ms);
    struct health_view view = {
        .name = h->name,
        .state = "closed",
        .since_ms = h->since_ms,
        .until_ms = h->until_ms,
        .failures_in_row = h->failures_in_row,
        .calls = sum.calls,
        .failures = sum.failures,
        .in_flight = health_in_flight(h),
        .latency_ms = latency(h, now_ms),
    };

    if (now_ms < h->out_until_ms) {
        view.state = "out";
        view.since_ms = h->out_since_ms;
        view.until_ms = h->out_until_ms;
    } else if (h->is_open && h->probe == PROBE_RUNNING) {
        view.state = "half_open";
    } else if (h->is_open) {
        view.state = h->failed_probes >= PROBES_TO_BAD ? "unhealthy" : "open";
    }
    return view;
}

void health_each(uint64_t now_ms, void (*see)(const struct health_view *view, void *arg), void *arg)
{
    pthread_mutex_lock(&table.lock);
    for (size_t i = 0; i < BUCKETS; i++)
        for (struct health *h = table.buckets[i]; h; h = h->next) {
            pthread_mutex_lock(&h->lock);
            struct health_view view = view_of(h, now_ms);
            pthread_mutex_unlock(&h->lock);
            see(&view, arg);
        }
    pthread_mutex_unlock(&table.lock);
}
