/* SPDX-License-Identifier: Apache-2.0 */
/* What reaches the limits' script in Redis: any tenants, keys, users, models, limits and costs, under any trouble.
 *
 * The bytes are a configuration, names, and a list of steps: take, give back, let time pass. The program's own code runs,
 * from limit_take to the bytes of a command; this file is in the place of the client (store/redis.c). Each command
 * is read again by hiredis, must be exactly what was meant, and is run by a stand-in for the script (limit_script.h).
 *
 * Two things must hold after every step. A key stands for one limit of one owner and for no other, whatever
 * the names are; and each limit stands where the same steps bring the table in memory. */
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/sys.h"
#include "base/text.h"
#include "fiber/fiber.h"
#include "fuzz_input.h"
#include "govern/limit_store.h"
#include "limit_lua.h"
#include "limit_script.h"
#include "observe/log.h"
#include "store/redis.h"
#include "store/redis_dial.h"

#define NAMES       2  /* of each kind */
#define CALLS       8  /* open at once */
#define STEPS       64 /* of one input */
#define MOST_NAME   4096
#define MOST_COUNT  UINT64_C(1000000000000) /* what conf/quota.c takes */
#define MOST_WINDOW (UINT64_C(365) * 24 * 3600 * 1000)
#define MOST_STREAM 1000000
#define BEGIN_US    UINT64_C(1700000000000000)
#define RENEW_US    UINT64_C(10000000)
/* Keeps the twins' entries in memory apart from those of calls that fell back to it. */
#define TWIN UINT64_C(0x9e3779b97f4a7c15)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What the server does with a take. */
enum mood {
    ANSWERS,
    KNOWS_NO_SCRIPT,
    IS_LEFT_ALONE,
    DIES_BEFORE,
    DIES_AFTER,
    TALKS_NONSENSE,
    MOODS
};

/* A limit of an owner, and the key that stands for it. */
struct known {
    struct str tenant, key;
    struct limit_rule twin; /* in memory */
};

/* A call of a model: what Redis keeps of it, and its twin that memory keeps. */
struct call {
    struct limit_ticket ticket, twin;
    uint64_t tokens;
    struct str lease; /* as its take named it; "-" without streams */
    bool is_open;
};

static struct {
    struct arena *arena;
    struct conf conf;
    struct str projects[NAMES], keys[NAMES], users[NAMES], models[NAMES];
    struct allowance allowances[2 * NAMES]; /* of keys, then of projects */
    struct call calls[CALLS];
    struct known known[SCRIPT_KEYS];
    size_t known_count;
    struct script script;
    uint64_t now_us;
    struct call *caller; /* of the next command; NULL: its lease tells */
    enum mood mood;
    size_t commands;
} world;

static const struct err refused = {.kind = ERR_STORE, .where = ERR_HERE, .text = "redis: a test"};

/* ---- commands ---- */

/* A name stands in a key as it is, or, if it has a strange character or is long, as its hash. */
static void check_name(struct str shown, struct str name)
{
    bool is_plain = name.len <= 64;

    for (size_t i = 0; i < name.len; i++)
        is_plain &= name.ptr[i] > ' ' && name.ptr[i] <= '~' && !strchr("{}#", name.ptr[i]);
    check(is_plain ? str_eq(shown, name) : shown.len == 33 && shown.ptr[0] == '#');
}

/* A key says what it is for, its braces enclose the tenant and nothing else, and it is plain text. */
static void check_key(struct str key, struct str tenant, const struct limit_rule *rule)
{
    const char kind[] = {'}', ':', "kupm"[rule->scope], "rts"[rule->unit], ':'};
    struct str rest = str_after(key, STR("sluice:limit:{").len);
    size_t brace = str_index(rest, '}');

    check(str_starts(key, STR("sluice:limit:{")) && brace > 0 && brace < rest.len);
    check_name((struct str){rest.ptr, brace}, tenant);
    rest = str_after(rest, brace);
    check(str_starts(rest, (struct str){kind, sizeof(kind)}));
    check_name(str_after(rest, sizeof(kind)), rule->owner);
    check(str_index(rest, '{') == rest.len && str_index(str_after(rest, 1), '}') == rest.len - 1);
    for (size_t i = 0; i < key.len; i++)
        check(key.ptr[i] > ' ' && key.ptr[i] <= '~');
}

/* One key for each limit of an owner, and one limit for each key. */
static void check_known(struct str key, const struct limit_ticket *ticket,
                        const struct limit_rule *rule)
{
    struct known *known = world.known;

    for (; known < world.known + world.known_count; known++) {
        bool is_same = str_eq(known->tenant, ticket->tenant) &&
                       str_eq(known->twin.owner, rule->owner) && known->twin.scope == rule->scope &&
                       known->twin.unit == rule->unit;
        check(is_same == str_eq(known->key, key));
        check(is_same == (known->twin.id == (rule->id ^ TWIN)));
        if (is_same)
            return;
    }
    check(world.known_count++ < SCRIPT_KEYS);
    *known = (struct known){ticket->tenant, arena_copy(world.arena, key), *rule};
    known->twin.id ^= TWIN;
    known->twin.cost = 0;
    /* of which there is no less than there may be of any rate: to look must change nothing */
    known->twin.rate =
        (struct conf_rate){rule->unit == LIMIT_STREAMS ? MOST_COUNT : 1, MOST_WINDOW};
}

/* The command's keys are those of the ticket's rules (or of its streams alone), in their order, and have one hash tag, so
 * that a cluster keeps them together. */
static void check_keys(const struct redis_reply *command, const struct limit_ticket *ticket)
{
    bool is_renewal = str_eq(command->items[command->count - 4]->text, STR("renew"));
    struct str tag = command->items[SCRIPT_HEAD]->text;
    size_t at = SCRIPT_HEAD;

    tag.len = str_index(tag, '}') + 1;
    for (size_t i = 0; i < ticket->count; i++) {
        if (is_renewal && ticket->rules[i].unit != LIMIT_STREAMS)
            continue;
        check(at < command->count && str_starts(command->items[at]->text, tag));
        check_key(command->items[at]->text, ticket->tenant, &ticket->rules[i]);
        check_known(command->items[at++]->text, ticket, &ticket->rules[i]);
    }
    check(script_number(command->items[2]->text) == (double)(at - SCRIPT_HEAD));
}

/* The script in full, or its SHA-1. */
static void check_script(const struct redis_reply *command)
{
    struct str script = {limit_lua, sizeof(limit_lua) - 1};
    unsigned char hash[SHA_DIGEST_LENGTH];
    char name[2 * SHA_DIGEST_LENGTH + 1];

    SHA1((const unsigned char *)script.ptr, script.len, hash);
    for (size_t i = 0; i < sizeof(hash); i++)
        snprintf(name + 2 * i, 3, "%02x", hash[i]);
    if (str_eq(command->items[0]->text, STR("EVALSHA")))
        script = str_from(name);
    else
        check(str_eq(command->items[0]->text, STR("EVAL")));
    check(str_eq(command->items[1]->text, script));
}

/* Send a command and read it on the other side: the same arguments must come out, and nothing more. */
static const struct redis_reply *transmit(const struct str *args, size_t count)
{
    struct buf bytes = buf_make(MEM_TOOL, 4 * 1024 * 1024);
    struct redis_reply *command, *copy;
    struct redis_reader reader;

    check(!redis_format(&bytes, args, count) && !buf_add(&bytes, STR("*1\r\n$4\r\nPING\r\n")));
    check(!redis_reader_init(&reader) && !redis_reader_feed(&reader, buf_str(&bytes)));
    buf_fini(&bytes);
    check(!redis_reader_next(&reader, &command) && command);
    check(command->kind == REDIS_ARRAY && command->count == count);
    for (size_t i = 0; i < count; i++)
        check(command->items[i]->kind == REDIS_TEXT && str_eq(command->items[i]->text, args[i]));
    copy = redis_reply_copy(command, world.arena);
    check(copy && !redis_reader_next(&reader, &command) && command && command->count == 1 &&
          str_eq(command->items[0]->text, STR("PING")));
    redis_reader_fini(&reader);
    return copy;
}

static bool has_streams(const struct limit_ticket *ticket)
{
    for (size_t i = 0; i < ticket->count; i++)
        if (ticket->rules[i].unit == LIMIT_STREAMS)
            return true;
    return false;
}

/* Whose command it is. A lease is always the same call's. */
static struct call *caller_of(struct str lease)
{
    struct call *call = world.caller;

    if (call && call->lease.len == 0)
        call->lease = lease;
    for (int i = 0; i < CALLS && !call; i++)
        if (str_eq(world.calls[i].lease, lease))
            call = &world.calls[i];
    check(call && str_eq(call->lease, lease));
    check(str_eq(lease, STR("-")) != has_streams(&call->ticket));
    return call;
}

/* The lease's place among the arguments is behind the keys, the operation and the clock. */
static const struct redis_reply *serve(const struct str *args, size_t count)
{
    const struct redis_reply *command = transmit(args, count);
    size_t keys = (size_t)script_number(command->items[2]->text);

    check(SCRIPT_HEAD + keys + 3 <= count);
    check_script(command);
    check_keys(command, &caller_of(command->items[SCRIPT_HEAD + keys + 2]->text)->ticket);
    world.commands++;
    return command;
}

/* ---- in the place of store/redis.c ---- */

err_t redis_configure(struct str url, uint64_t timeout_ms)
{
    (void)url, (void)timeout_ms;
    return NULL;
}

err_t redis_check(void)
{
    return world.mood == IS_LEFT_ALONE ? &refused : NULL;
}

err_t redis_call(const struct str *args, size_t count, struct arena *arena,
                 struct redis_reply **out)
{
    const struct redis_reply *command = serve(args, count);
    struct redis_reply *reply = arena_new_struct(arena, struct redis_reply);
    int64_t numbers[3 + LIMIT_MAX_RULES];

    check(reply != NULL);
    *out = reply;
    *reply = (struct redis_reply){.kind = REDIS_ERROR, .text = STR("NOSCRIPT No matching script.")};
    if (world.mood == KNOWS_NO_SCRIPT && str_eq(args[0], STR("EVALSHA")))
        return NULL;
    if (world.mood == DIES_BEFORE)
        return &refused;
    *reply = (struct redis_reply){.kind = REDIS_ARRAY};
    reply->count = 3 + script_run(&world.script, command, numbers);
    reply->items = arena_alloc_array(arena, reply->count, sizeof(*reply->items));
    for (size_t i = 0; i < reply->count; i++) {
        reply->items[i] = arena_new_struct(arena, struct redis_reply);
        *reply->items[i] = (struct redis_reply){.kind = REDIS_INTEGER, .integer = numbers[i]};
    }
    reply->count -= world.mood == TALKS_NONSENSE;
    return world.mood == DIES_AFTER ? &refused : NULL;
}

void redis_send(const struct str *args, size_t count)
{
    int64_t nobody_waits[3 + LIMIT_MAX_RULES];

    script_run(&world.script, serve(args, count), nobody_waits);
}

err_t redis_reject(const char *why)
{
    check(world.mood == TALKS_NONSENSE && why);
    return &refused;
}

void redis_leave(void)
{
}

void redis_close(void)
{
}

/* ---- steps ---- */

static uint64_t now_ns(void)
{
    return world.now_us * 1000;
}

/* Both keepers have come to the same. */
static void compare_all(void)
{
    for (size_t i = 0; i < world.known_count; i++) {
        struct limit_rule rule = world.known[i].twin;
        struct limit_ticket probe = {.rules = &rule, .count = 1};
        struct script_key *key = script_key(&world.script, world.known[i].key);
        struct limit_verdict verdict;

        check(!limit_memory_take(&probe, now_ns(), &verdict));
        if (rule.unit == LIMIT_STREAMS)
            check((double)(MOST_COUNT - rule.remaining) == script_leases(&world.script, key));
        else
            check((double)rule.reset_ns == script_backlog(&world.script, key));
    }
}

/* The caller hears the same, whoever keeps the limits. */
static void compare_verdicts(const struct call *c, err_t err, uint64_t retry_ms,
                             const struct limit_verdict *twins)
{
    static const char *const scopes[] = {"key", "user", "project", "model"};
    static const char *const units[] = {"requests", "tokens", "streams"};
    char name[24] = "";

    check((err != NULL) == (twins->refused < c->ticket.count) && c->ticket.is_taken == !err);
    if (err) {
        const struct limit_rule *rule = &c->twin.rules[twins->refused];
        check(err_is(err, ERR_LIMITED) && retry_ms == (twins->wait_ns + 999999) / 1000000);
        snprintf(name, sizeof(name), "%s %s", scopes[rule->scope], units[rule->unit]);
    }
    check(strcmp(c->ticket.limited_by, name) == 0);
    for (size_t i = 0; i < c->ticket.count; i++) {
        const struct limit_rule *own = &c->ticket.rules[i], *twin = &c->twin.rules[i];
        check(own->remaining == twin->remaining && own->reset_ns == twin->reset_ns &&
              own->reset_ms == twin->reset_ms);
    }
}

/* A ticket like the call's, before that is used. Returns whether it asks for more than could ever be had. */
static bool make_twin(struct call *c)
{
    bool is_too_large = false;

    c->twin = c->ticket;
    c->twin.rules = arena_alloc_array(world.arena, LIMIT_MAX_RULES, sizeof(struct limit_rule));
    check(c->twin.rules != NULL);
    for (size_t i = 0; i < c->ticket.count; i++) {
        struct limit_rule *rule = &c->twin.rules[i];
        *rule = c->ticket.rules[i];
        rule->id ^= TWIN;
        rule->cost = rule->unit == LIMIT_TOKENS ? c->tokens : 1;
        is_too_large |= rule->cost > rule->rate.count;
    }
    return is_too_large;
}

/* Redis was of no use. What it may have taken stays taken there, but for streams, which were given back unheard. */
static void fall_back(struct call *c)
{
    struct limit_verdict verdict;

    check(!c->ticket.is_shared && !c->ticket.lease);
    if (world.mood != DIES_AFTER && world.mood != TALKS_NONSENSE)
        return;
    check(!limit_memory_take(&c->twin, now_ns(), &verdict));
    if (verdict.refused == c->twin.count && has_streams(&c->twin))
        limit_memory_settle(&c->twin, now_ns(), c->tokens, false);
}

static void take(struct call *c)
{
    size_t before = world.commands, expected = 1;
    struct limit_verdict verdict;
    uint64_t retry_ms;
    bool is_too_large = make_twin(c);
    err_t err;

    world.caller = c;
    err = limit_take(&c->ticket, c->tokens, &retry_ms);
    c->is_open = c->ticket.is_taken;
    if (c->ticket.count == 0 || is_too_large) {
        check(is_too_large == (err != NULL) && retry_ms == 0 && !c->is_open);
        check(world.commands == before);
        return;
    }
    if (world.mood == ANSWERS || world.mood == KNOWS_NO_SCRIPT) {
        expected += world.mood == KNOWS_NO_SCRIPT;
        check(c->ticket.is_shared && !limit_memory_take(&c->twin, now_ns(), &verdict));
        compare_verdicts(c, err, retry_ms, &verdict);
    } else {
        expected = world.mood == IS_LEFT_ALONE ? 0 : 1 + has_streams(&c->twin);
        fall_back(c);
    }
    check(world.commands == before + expected);
}

static void begin_call(struct fuzz_input *in, struct call *c)
{
    unsigned which = input_byte(in);
    struct subject subject = {.project = world.projects[which & 1],
                              .key = world.keys[which >> 1 & 1],
                              .user = world.users[which >> 2 & 1],
                              .user_is_limited = which & 16,
                              .key_allowance = &world.allowances[which >> 1 & 1],
                              .project_allowance = &world.allowances[NAMES + (which & 1)]};

    world.mood = input_byte(in) % MOODS;
    *c = (struct call){.tokens = input_number(in)};
    if (which & 32)
        subject.key_allowance = subject.project_allowance = NULL;
    check(
        !limit_find(&c->ticket, &world.conf, &subject, world.models[which >> 3 & 1], world.arena));
    take(c);
}

static void end_call(struct fuzz_input *in, struct call *c)
{
    uint64_t used = input_number(in);
    bool is_void = input_byte(in) & 1, is_shared = c->ticket.is_shared;
    size_t before = world.commands;

    world.caller = c;
    limit_settle(&c->ticket, used, is_void);
    check(!c->ticket.lease && !c->ticket.is_taken);
    check(world.commands <= before + is_shared);
    if (is_shared)
        limit_memory_settle(&c->twin, now_ns(), used, is_void);
    *c = (struct call){0};
}

static void do_nothing(struct timer *timer)
{
    (void)timer;
}

/* The loop's clock, too. A timer that is due makes the loop look at all of them. */
static void set_clock(uint64_t now_us)
{
    struct timer due = {0};

    world.now_us = now_us;
    world.script.now_us = (double)now_us;
    limit_redis_set_clock_us(now_us);
    sys_set_clock_ms(1000000 + (now_us - BEGIN_US) / 1000);
    check(!timer_set(&due, 0, do_nothing) && !fiber_yield() && !fiber_yield());
    timer_clear(&due);
}

/* While streams are open no more than the ten seconds after which they are renewed, a few times. */
static void pass_time(uint64_t us)
{
    bool has_lease = false;

    for (int i = 0; i < CALLS; i++)
        has_lease |= world.calls[i].ticket.lease != NULL;
    us %= has_lease ? 6 * RENEW_US : UINT64_C(1) << 43;
    world.caller = NULL;
    while (us > 0) {
        uint64_t step_us = has_lease && us > RENEW_US ? RENEW_US : us;
        set_clock(world.now_us + step_us);
        us -= step_us;
    }
}

/* ---- the input ---- */

static void read_rate(struct fuzz_input *in, struct conf_rate *rate)
{
    rate->count = input_number(in) % (MOST_COUNT + 1);
    rate->window_ms = rate->count ? 1 + input_number(in) % MOST_WINDOW : 0;
}

static void read_limits(struct fuzz_input *in, struct conf_limits *limits)
{
    read_rate(in, &limits->requests);
    read_rate(in, &limits->tokens);
    limits->streams = input_number(in) % (MOST_STREAM + 1);
}

static void read_allowance(struct fuzz_input *in, struct allowance *out)
{
    struct conf_limits limits;

    read_limits(in, &limits);
    *out = (struct allowance){
        .requests = limits.requests, .tokens = limits.tokens, .streams = limits.streams};
}

static void read_world(struct fuzz_input *in)
{
    struct conf *conf = &world.conf;
    struct conf_limits *limits[] = {&conf->limits.per_key, &conf->limits.per_user,
                                    &conf->limits.per_project, &conf->limits.per_model};

    conf->redis.url = STR("redis://nowhere");
    conf->limits.replicas = 1 + input_number(in) % 10000;
    for (size_t i = 0; i < sizeof(limits) / sizeof(*limits); i++)
        read_limits(in, limits[i]);
    for (size_t i = 0; i < 2 * NAMES; i++)
        read_allowance(in, &world.allowances[i]);
    for (int i = 0; i < NAMES; i++) {
        world.projects[i] = input_text(in, world.arena, MOST_NAME);
        world.keys[i] = input_text(in, world.arena, MOST_NAME);
        world.users[i] = input_text(in, world.arena, MOST_NAME);
        world.models[i] = input_text(in, world.arena, MOST_NAME);
        if (world.projects[i].len == 0) /* every call is on the account of a project */
            world.projects[i] = STR("default");
    }
}

static void run_input(void *arg)
{
    struct fuzz_input *in = arg;

    fiber_set_arena(world.arena);
    read_world(in);
    set_clock(BEGIN_US);
    check(!limit_configure(&world.conf));
    for (int step = 0; step < STEPS && in->left > 0; step++) {
        unsigned what = input_byte(in);
        struct call *call = &world.calls[what % CALLS];

        if (what & 128)
            pass_time(input_number(in));
        else if (call->is_open)
            end_call(in, call);
        else
            begin_call(in, call);
        compare_all();
    }
    for (int i = 0; i < CALLS; i++)
        if (world.calls[i].is_open)
            end_call(in, &world.calls[i]);
    compare_all();
    for (size_t i = 0; i < world.script.count; i++)
        check(script_leases(&world.script, &world.script.keys[i]) == 0);
    limit_memory_clear();
    fiber_set_arena(NULL);
    loop_stop(loop_self());
}

static struct loop *loop;

static void close_loop(void)
{
    loop_close(loop);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};

    if (!loop) {
        check(!log_open(&(struct log_options){.level = LOG_ERROR}));
        check(!loop_open(&loop) && atexit(close_loop) == 0);
    }
    memset(&world, 0, sizeof(world));
    world.arena = arena_new(MEM_TOOL, (size_t)256 * 1024 * 1024);
    check(world.arena != NULL);
    check(!fiber_start_later("fuzz", run_input, &in, NULL));
    loop_run(loop);
    arena_free(world.arena);
    check(mem_in_use(MEM_TOOL) == 0 && limit_memory_bytes() == 0);
    return 0;
}
