/* SPDX-License-Identifier: Apache-2.0 */
/* What src/govern/limit.lua does, in C and in the script's double-precision numbers: a stand-in for Redis that needs no
 * server. It reads a command as the server would get it, and trusts nothing of it.
 *
 * Left out is what only a server's own clock brings about: keys that end by themselves, which count for nothing then,
 * and a clock that is set back. */
#ifndef TESTS_FUZZ_LIMIT_SCRIPT_H
#define TESTS_FUZZ_LIMIT_SCRIPT_H

#include "base/check.h"
#include "govern/limit.h"
#include "store/redis_reply.h"

#define SCRIPT_KEYS   64
#define SCRIPT_LEASES 16
#define SCRIPT_HEAD   3 /* EVALSHA, the script, the number of keys */
#define EXACT_MOST    (UINT64_C(1) << 53)

struct script_lease {
    char id[32];
    size_t len;
    double ends_ms;
};

/* A rate ("TIME BACKLOG"), or a sorted set of leases. */
struct script_key {
    char name[256];
    size_t len;
    bool is_rate, is_set;
    double time_us, backlog_ns;
    struct script_lease leases[SCRIPT_LEASES];
    size_t lease_count;
};

struct script {
    struct script_key keys[SCRIPT_KEYS];
    size_t count;
    double now_us;
};

/* A command, taken apart: KEYS and ARGV, both from 0. */
struct script_call {
    struct script_key *keys[LIMIT_MAX_RULES];
    struct redis_reply **argv;
    size_t key_count, argv_count;
};

/* ---- reading ---- */

/* A whole number as tonumber reads it: nothing but digits, and exact in Lua. */
static double script_number(struct str text)
{
    bool is_negative = str_starts(text, STR("-"));
    struct str digits = str_after(text, is_negative);
    uint64_t n = 0;

    check(str_to_u64(digits, &n) && n <= EXACT_MOST);
    check(digits.len == 1 || digits.ptr[0] != '0');
    check(!is_negative || n > 0);
    return is_negative ? -(double)n : (double)n;
}

static double script_argument(const struct script_call *call, size_t i)
{
    check(i < call->argv_count);
    return script_number(call->argv[i]->text);
}

static struct script_key *script_key(struct script *s, struct str name)
{
    struct script_key *key;

    for (size_t i = 0; i < s->count; i++)
        if (str_eq((struct str){s->keys[i].name, s->keys[i].len}, name))
            return &s->keys[i];
    check(s->count < SCRIPT_KEYS && name.len <= sizeof(s->keys[0].name));
    key = &s->keys[s->count++];
    memcpy(key->name, name.ptr, name.len);
    key->len = name.len;
    return key;
}

/* A rule's first argument: "s" streams, "r" a rate. A key never changes its kind. */
static bool script_is_set(const struct script_call *call, size_t rule)
{
    struct str kind = call->argv[rule * 4 + 4]->text;
    struct script_key *key = call->keys[rule];
    bool is_set = str_eq(kind, STR("s"));

    check(is_set || str_eq(kind, STR("r")));
    check(is_set ? !key->is_rate : !key->is_set);
    *(is_set ? &key->is_set : &key->is_rate) = true;
    return is_set;
}

/* ---- rates and leases ---- */

static double script_max(double a, double b)
{
    return a > b ? a : b;
}

static double script_min(double a, double b)
{
    return a < b ? a : b;
}

static double script_now_ms(const struct script *s)
{
    return (double)((uint64_t)s->now_us / 1000);
}

static double script_backlog(const struct script *s, const struct script_key *key)
{
    check(key->time_us <= s->now_us);
    return key->time_us == 0 ? 0
                             : script_max(0, key->backlog_ns - (s->now_us - key->time_us) * 1000);
}

static void script_set_backlog(const struct script *s, struct script_key *key, double backlog_ns)
{
    check(backlog_ns <= (double)EXACT_MOST);
    key->time_us = backlog_ns <= 0 ? 0 : s->now_us;
    key->backlog_ns = backlog_ns <= 0 ? 0 : backlog_ns;
}

static void script_drop_lease(struct script_key *key, size_t i)
{
    key->leases[i] = key->leases[--key->lease_count];
}

static void script_end_lease(struct script_key *key, struct str id)
{
    for (size_t i = 0; i < key->lease_count; i++)
        if (str_eq((struct str){key->leases[i].id, key->leases[i].len}, id))
            script_drop_lease(key, i--);
}

static void script_add_lease(struct script *s, struct script_key *key, struct str id,
                             double lease_ms)
{
    struct script_lease *lease;

    check(id.len == 22 && lease_ms > 0);
    script_end_lease(key, id);
    check(key->lease_count < SCRIPT_LEASES);
    lease = &key->leases[key->lease_count++];
    memcpy(lease->id, id.ptr, id.len);
    lease->len = id.len;
    lease->ends_ms = script_now_ms(s) + lease_ms;
}

/* How many leases have not ended. */
static double script_leases(const struct script *s, struct script_key *key)
{
    for (size_t i = 0; i < key->lease_count; i++)
        if (key->leases[i].ends_ms <= script_now_ms(s))
            script_drop_lease(key, i--);
    return (double)key->lease_count;
}

/* ---- the three operations ---- */

static void script_take(struct script *s, const struct script_call *call, int64_t *reply)
{
    double levels[LIMIT_MAX_RULES], wait = 0;
    size_t refused = 0;

    check(call->argv_count == 4 + 4 * call->key_count);
    for (size_t i = 0; i < call->key_count; i++) {
        double cost = script_argument(call, i * 4 + 5), span = script_argument(call, i * 4 + 6);
        double most = script_argument(call, i * 4 + 7);
        bool is_set = script_is_set(call, i);
        double longer;

        check(cost >= 0 && span > 0 && most >= span);
        levels[i] = is_set ? script_leases(s, call->keys[i]) : script_backlog(s, call->keys[i]);
        if (!is_set && levels[i] > most)
            script_set_backlog(s, call->keys[i], levels[i] = most);
        longer = is_set ? (levels[i] + 1 > span ? 1e9 : 0) : levels[i] + cost - span;
        if (longer > wait) {
            refused = i + 1;
            wait = longer;
        }
    }
    for (size_t i = 0; refused == 0 && i < call->key_count; i++) {
        bool is_set = script_is_set(call, i);

        levels[i] += is_set ? 1 : script_argument(call, i * 4 + 5);
        if (is_set)
            script_add_lease(s, call->keys[i], call->argv[2]->text, script_argument(call, 3));
        else
            script_set_backlog(s, call->keys[i], levels[i]);
    }
    reply[0] = (int64_t)refused;
    reply[1] = (int64_t)wait;
    reply[2] = (int64_t)s->now_us;
    for (size_t i = 0; i < call->key_count; i++)
        reply[3 + i] = (int64_t)levels[i];
}

static void script_settle(struct script *s, const struct script_call *call)
{
    double ran_off = script_max(0, s->now_us - script_argument(call, 3)) * 1000;

    check(call->argv_count == 4 + 4 * call->key_count);
    for (size_t i = 0; i < call->key_count; i++) {
        double change = script_argument(call, i * 4 + 5), most = script_argument(call, i * 4 + 6);
        double reset = script_argument(call, i * 4 + 7), backlog;

        check(most >= 0 && reset >= 0);
        if (script_is_set(call, i)) {
            check(change == 0);
            script_end_lease(call->keys[i], call->argv[2]->text);
            continue;
        }
        if (change == 0)
            continue;
        backlog = script_backlog(s, call->keys[i]);
        backlog = change < 0 ? backlog - script_min(-change, script_max(0, reset - ran_off))
                             : script_min(backlog + change, script_max(backlog, most));
        script_set_backlog(s, call->keys[i], backlog);
    }
}

static void script_renew(struct script *s, const struct script_call *call)
{
    check(call->argv_count == 4);
    for (size_t i = 0; i < call->key_count; i++) {
        check(call->keys[i]->is_set);
        script_add_lease(s, call->keys[i], call->argv[2]->text, script_argument(call, 3));
    }
}

/* Run a whole command. Returns how many rules it had; of a take `reply` is 3 + that many integers. */
static size_t script_run(struct script *s, const struct redis_reply *command, int64_t *reply)
{
    struct script_call call = {0};
    struct str op;

    check(command->kind == REDIS_ARRAY && command->count >= SCRIPT_HEAD);
    for (size_t i = 0; i < command->count; i++)
        check(command->items[i]->kind == REDIS_TEXT);
    call.key_count = (size_t)script_number(command->items[2]->text);
    check(call.key_count <= LIMIT_MAX_RULES && call.key_count > 0);
    check(command->count >= SCRIPT_HEAD + call.key_count + 3);
    for (size_t i = 0; i < call.key_count; i++)
        call.keys[i] = script_key(s, command->items[SCRIPT_HEAD + i]->text);
    call.argv = command->items + SCRIPT_HEAD + call.key_count;
    call.argv_count = command->count - SCRIPT_HEAD - call.key_count;
    check(script_argument(&call, 1) == s->now_us);
    op = call.argv[0]->text;
    if (str_eq(op, STR("take")))
        script_take(s, &call, reply);
    else if (str_eq(op, STR("settle")))
        script_settle(s, &call);
    else if (str_eq(op, STR("renew")))
        script_renew(s, &call);
    else
        check(!"an operation that the script does not have");
    return call.key_count;
}

#endif
