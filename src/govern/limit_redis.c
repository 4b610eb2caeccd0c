/* SPDX-License-Identifier: Apache-2.0 */
/* Limits in Redis: one script (limit.lua) that looks at all rules of a call and takes all or nothing.
 *
 * Keys read "sluice:limit:{project}:ur:alice": scope and unit by their first letters (k u p m; r t s),
 * then the owner. Braces keep a call's keys together (Redis Cluster's hash tags).
 *
 * The hard thing is a replica that dies with streams open. A stream is a lease that ends by itself after
 * 30 s; as long as its call lives, it is renewed every 10 s. */
#include <openssl/sha.h>
#include <stdio.h>

#include "base/list.h"
#include "base/mem.h"
#include "base/text.h"
#include "fiber/fiber.h"
#include "govern/limit_store.h"
#include "limit_lua.h"
#include "store/redis.h"

#define LEASE_MS  30000
#define RENEW_MS  10000
#define MAX_NAME  64 /* of a name in a key; longer ones are hashed */
#define MAX_ARGS  (3 + LIMIT_MAX_RULES + 4 + 4 * LIMIT_MAX_RULES)
#define MAX_BYTES 8192
#define HEAD      3 /* integers of an answer before those of the rules */

/* A command under construction; kept per thread, because stacks are small, and no longer than until it is
 * sent. */
struct command {
    struct str args[MAX_ARGS];
    size_t count, used;
    char text[MAX_BYTES];
};

struct limit_lease {
    struct list link;
    const struct limit_ticket *ticket;
    char id[24];
};

/* A loop's: there while one of its tickets has a lease. */
struct leases {
    struct list open;
    struct timer timer;
};

static char script_sha[2 * SHA_DIGEST_LENGTH + 1];
static uint64_t test_clock_us;
static _Thread_local struct command here;

/* ---- commands ---- */

static void add_text(struct str text)
{
    here.args[here.count++] = text;
}

/* Some forty a call, so without printf. */
static void add_number(int64_t n)
{
    uint64_t left = n < 0 ? -(uint64_t)n : (uint64_t)n;
    char *at = here.text + here.used, digits[20];
    size_t count = 0, len = 0;

    do
        digits[count++] = (char)('0' + left % 10);
    while ((left /= 10) > 0);
    if (n < 0)
        at[len++] = '-';
    while (count > 0)
        at[len++] = digits[--count];
    here.used += len;
    add_text((struct str){at, len});
}

static bool is_clean(struct str name)
{
    if (name.len > MAX_NAME)
        return false;
    for (size_t i = 0; i < name.len; i++) {
        char c = name.ptr[i];
        if (c <= ' ' || c > '~' || c == '{' || c == '}' || c == '#')
            return false;
    }
    return true;
}

static void put(struct str text)
{
    memcpy(here.text + here.used, text.ptr, text.len);
    here.used += text.len;
}

/* A name as part of a key; one that could be mistaken for something else, or is long, as "#" and 128
 * bits of its SHA-256. */
static void put_name(struct str name)
{
    static const char digits[] = "0123456789abcdef";
    unsigned char hash[SHA256_DIGEST_LENGTH];

    if (is_clean(name)) {
        if (name.len > 0)
            put(name);
        return;
    }
    SHA256((const unsigned char *)name.ptr, name.len, hash);
    put(STR("#"));
    for (int i = 0; i < 16; i++) {
        here.text[here.used++] = digits[hash[i] >> 4];
        here.text[here.used++] = digits[hash[i] & 15];
    }
}

static void add_key(const struct limit_ticket *ticket, const struct limit_rule *rule)
{
    const char kind[] = {'}', ':', "kupm"[rule->scope], "rts"[rule->unit], ':'};
    char *at = here.text + here.used;

    put(STR("sluice:limit:{"));
    put_name(ticket->tenant);
    put((struct str){kind, sizeof(kind)});
    put_name(rule->owner);
    add_text((struct str){at, (size_t)(here.text + here.used - at)});
}

/* EVALSHA (or EVAL) up to the script's first three arguments. */
static void begin(const struct limit_ticket *ticket, bool is_whole, bool streams_alone,
                  struct str op)
{
    size_t keys = 0;

    here.count = here.used = 0;
    add_text(is_whole ? STR("EVAL") : STR("EVALSHA"));
    add_text(is_whole ? (struct str){limit_lua, sizeof(limit_lua) - 1} : str_from(script_sha));
    for (size_t i = 0; i < ticket->count; i++)
        keys += !streams_alone || ticket->rules[i].unit == LIMIT_STREAMS;
    add_number((int64_t)keys);
    for (size_t i = 0; i < ticket->count; i++)
        if (!streams_alone || ticket->rules[i].unit == LIMIT_STREAMS)
            add_key(ticket, &ticket->rules[i]);
    add_text(op);
    add_number((int64_t)test_clock_us);
    add_text(ticket->lease ? str_from(ticket->lease->id) : STR("-"));
}

static void compose_take(const struct limit_ticket *ticket, bool is_whole)
{
    begin(ticket, is_whole, false, STR("take"));
    add_number(LEASE_MS);
    for (size_t i = 0; i < ticket->count; i++) {
        const struct limit_rule *rule = &ticket->rules[i];
        struct limit_gcra gcra = limit_gcra_of(rule);

        add_text(rule->unit == LIMIT_STREAMS ? STR("s") : STR("r"));
        add_number((int64_t)limit_product(rule->cost, gcra.step_ns));
        add_number((int64_t)gcra.span_ns);
        add_number((int64_t)limit_most(rule, gcra));
    }
}

static void compose_settle(const struct limit_ticket *ticket, uint64_t used_tokens, bool is_void)
{
    begin(ticket, false, false, STR("settle"));
    add_number((int64_t)(ticket->taken_ns / 1000));
    for (size_t i = 0; i < ticket->count; i++) {
        const struct limit_rule *rule = &ticket->rules[i];

        add_text(rule->unit == LIMIT_STREAMS ? STR("s") : STR("r"));
        add_number(limit_correction(rule, used_tokens, is_void));
        add_number((int64_t)limit_most(rule, limit_gcra_of(rule)));
        add_number((int64_t)rule->reset_ns);
    }
}

/* ---- leases ---- */

static void renew_all(struct timer *timer)
{
    list_each (it, &container_of(timer, struct leases, timer)->open) {
        const struct limit_lease *lease = container_of(it, struct limit_lease, link);

        begin(lease->ticket, false, true, STR("renew"));
        add_number(LEASE_MS);
        redis_send(here.args, here.count);
    }
    if (timer_set(timer, loop_now_ms() + RENEW_MS, renew_all))
        return; /* a timer that has been set before needs no memory */
}

/* This loop's leases, made if there are none. */
static err_t leases_get(struct leases **out)
{
    struct leases *leases = *loop_slot(LOOP_SLOT_LEASES);
    err_t err;

    *out = leases;
    if (leases)
        return NULL;
    *out = leases = mem_alloc_zero(MEM_PROCESS, sizeof(*leases));
    if (!leases)
        return err_no_memory();
    list_init(&leases->open);
    err = timer_set(&leases->timer, loop_now_ms() + RENEW_MS, renew_all);
    if (err)
        mem_free(MEM_PROCESS, leases, sizeof(*leases));
    else
        *loop_slot(LOOP_SLOT_LEASES) = leases;
    return err;
}

/* With the last lease the rest goes. */
static void leases_give(struct leases *leases)
{
    if (!list_is_empty(&leases->open))
        return;
    timer_clear(&leases->timer);
    mem_free(MEM_PROCESS, leases, sizeof(*leases));
    *loop_slot(LOOP_SLOT_LEASES) = NULL;
}

static bool has_streams(const struct limit_ticket *ticket)
{
    for (size_t i = 0; i < ticket->count; i++)
        if (ticket->rules[i].unit == LIMIT_STREAMS)
            return true;
    return false;
}

static err_t open_lease(struct limit_ticket *ticket)
{
    struct limit_lease *lease;
    struct leases *leases;

    TRY(leases_get(&leases));
    lease = mem_alloc(MEM_PROCESS, sizeof(*lease));
    if (!lease) {
        leases_give(leases);
        return err_no_memory();
    }
    lease->ticket = ticket;
    text_random_id("", lease->id);
    list_push(&leases->open, &lease->link);
    ticket->lease = lease;
    return NULL;
}

static void close_lease(struct limit_ticket *ticket)
{
    if (!ticket->lease)
        return;
    list_remove(&ticket->lease->link);
    mem_free(MEM_PROCESS, ticket->lease, sizeof(*ticket->lease));
    ticket->lease = NULL;
    leases_give(*loop_slot(LOOP_SLOT_LEASES));
}

/* ---- calls ---- */

/* What the script answers: {refused (from 1; 0: none), wait_ns, now_us, level...}. */
static bool is_answer(const struct redis_reply *reply, size_t rules)
{
    if (reply->kind != REDIS_ARRAY || reply->count != HEAD + rules)
        return false;
    for (size_t i = 0; i < reply->count; i++)
        if (reply->items[i]->kind != REDIS_INTEGER || reply->items[i]->integer < 0)
            return false;
    return (uint64_t)reply->items[0]->integer <= rules &&
           reply->items[2]->integer < INT64_MAX / 1000;
}

bool limit_redis_read(struct limit_ticket *ticket, const struct redis_reply *reply,
                      struct limit_verdict *out)
{
    size_t refused;

    if (!is_answer(reply, ticket->count))
        return false;
    refused = (size_t)reply->items[0]->integer;
    out->refused = refused ? refused - 1 : ticket->count;
    out->wait_ns = (uint64_t)reply->items[1]->integer;
    ticket->taken_ns = (uint64_t)reply->items[2]->integer * 1000;
    for (size_t i = 0; i < ticket->count; i++)
        limit_tell(&ticket->rules[i], limit_gcra_of(&ticket->rules[i]),
                   (uint64_t)reply->items[HEAD + i]->integer);
    return true;
}

/* PARKS: ask with the script's hash, and with its text if the server does not know it (any more). */
static err_t ask(struct limit_ticket *ticket, struct limit_verdict *out)
{
    struct arena *arena = fiber_arena();
    struct redis_reply *reply;

    if (!arena)
        return err_no_memory();
    for (int is_whole = 0; is_whole <= 1; is_whole++) {
        compose_take(ticket, is_whole);
        TRY(redis_call(here.args, here.count, arena, &reply));
        if (reply->kind != REDIS_ERROR)
            break;
    }
    if (limit_redis_read(ticket, reply, out))
        return NULL;
    return redis_reject("what the limits' script answered makes no sense");
}

err_t limit_redis_take(struct limit_ticket *ticket, struct limit_verdict *out)
{
    err_t err;

    ticket->taken_ns = 0;
    TRY(redis_check());
    if (has_streams(ticket))
        TRY(open_lease(ticket));
    err = ask(ticket, out);
    if (err && ticket->lease) { /* it may have been taken all the same */
        compose_settle(ticket, 0, true);
        redis_send(here.args, here.count);
    }
    if (err || out->refused < ticket->count)
        close_lease(ticket);
    return err;
}

void limit_redis_settle(struct limit_ticket *ticket, uint64_t used_tokens, bool is_void)
{
    bool is_needed = ticket->lease != NULL;

    for (size_t i = 0; i < ticket->count; i++)
        is_needed |= limit_correction(&ticket->rules[i], used_tokens, is_void) != 0;
    if (is_needed) {
        compose_settle(ticket, used_tokens, is_void);
        redis_send(here.args, here.count);
    }
    close_lease(ticket);
}

void limit_redis_init(void)
{
    unsigned char hash[SHA_DIGEST_LENGTH];

    SHA1((const unsigned char *)limit_lua, sizeof(limit_lua) - 1, hash);
    for (int i = 0; i < SHA_DIGEST_LENGTH; i++)
        snprintf(script_sha + 2 * i, 3, "%02x", hash[i]);
}

void limit_redis_set_clock_us(uint64_t now_us)
{
    test_clock_us = now_us;
}
