/* SPDX-License-Identifier: Apache-2.0 */
/* Limits: one contract for both keepers, the table in memory and Redis, under a clock of the test's.
 *
 * A redis-server of our own is started where one is installed, or TEST_REDIS_URL is used for the
 * contract; what must be faulty is a scripted server (test_limit_faults.c). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/mem.h"
#include "govern/limit_store.h"
#include "limit_server.h"
#include "observe/metrics.h"
#include "store/redis_private.h"
#include "store/redis_url.h"

#define SECOND UINT64_C(1000000000)
#define HOUR   (3600 * SECOND)

/* ---- the two keepers ---- */

struct keeper {
    const char *name;
    err_t (*take)(struct limit_ticket *ticket, uint64_t now_ns, struct limit_verdict *out);
    void (*settle)(struct limit_ticket *ticket, uint64_t now_ns, uint64_t used, bool is_void);
    uint64_t grain_ns;        /* of its clock */
    uint64_t least_window_ms; /* keys in Redis end by the real clock, which must not be the first */
};

static void settle_in_memory(struct limit_ticket *ticket, uint64_t now_ns, uint64_t used,
                             bool is_void)
{
    limit_memory_settle(ticket, now_ns, used, is_void);
}

static err_t take_in_redis(struct limit_ticket *ticket, uint64_t now_ns, struct limit_verdict *out)
{
    limit_redis_set_clock_us(now_ns / 1000);
    return limit_redis_take(ticket, out);
}

static void settle_in_redis(struct limit_ticket *ticket, uint64_t now_ns, uint64_t used,
                            bool is_void)
{
    limit_redis_set_clock_us(now_ns / 1000);
    limit_redis_settle(ticket, used, is_void);
}

static const struct keeper memory = {"memory", limit_memory_take, settle_in_memory, 1, 1};
static const struct keeper redis = {"redis", take_in_redis, settle_in_redis, 1000, 10000};
static const struct keeper *keeper;
static uint64_t now_ns;

/* ---- tickets ---- */

static struct limit_rule rules[64][LIMIT_MAX_RULES];
static char tenants[64][24];
static unsigned last_owner;

/* A ticket of a tenant that nobody else has. */
static struct limit_ticket fresh(unsigned slot)
{
    memset(rules[slot], 0, sizeof(rules[slot]));
    text_random_id("", tenants[slot]);
    return (struct limit_ticket){.rules = rules[slot], .tenant = str_from(tenants[slot])};
}

/* Another one that falls under the same rules. */
static struct limit_ticket twin(const struct limit_ticket *ticket, unsigned slot)
{
    struct limit_ticket copy = *ticket;

    memcpy(rules[slot], ticket->rules, sizeof(rules[slot]));
    copy.rules = rules[slot];
    copy.lease = NULL;
    return copy;
}

static struct limit_rule *add(struct limit_ticket *ticket, enum limit_unit unit, uint64_t count,
                              uint64_t window_ms)
{
    struct limit_rule *rule = &ticket->rules[ticket->count];

    *rule = (struct limit_rule){.scope = (enum limit_scope)(ticket->count % 4),
                                .unit = unit,
                                .rate = {count, window_ms},
                                .cost = 1};
    rule->owner = str_from(arena_printf(arena, "o%u", ++last_owner));
    rule->id = text_hash(rule->owner, last_owner);
    ticket->count++;
    return rule;
}

static bool passes(struct limit_ticket *ticket, struct limit_verdict *verdict)
{
    assert_null(keeper->take(ticket, now_ns, verdict));
    return verdict->refused == ticket->count;
}

static bool takes(struct limit_ticket *ticket)
{
    struct limit_verdict verdict;

    return passes(ticket, &verdict);
}

/* How many pass at once. */
static unsigned burst(struct limit_ticket *ticket)
{
    unsigned n = 0;

    while (n < 10000 && takes(ticket))
        n++;
    return n;
}

/* ---- the contract ---- */

static void check_burst(void)
{
    static const struct {
        uint64_t count, window_ms;
    } rates[] = {{1, 1}, {1, 86400000}, {7, 60000}, {100, 60000}, {1000, 1000}, {999, 1}};

    for (size_t i = 0; i < sizeof(rates) / sizeof(*rates); i++) {
        struct limit_ticket ticket = fresh(0);
        struct limit_rule *rule = add(&ticket, LIMIT_REQUESTS, rates[i].count, rates[i].window_ms);

        if (rates[i].window_ms < keeper->least_window_ms)
            continue;
        assert_int_equal(burst(&ticket), rates[i].count);
        assert_int_equal(rule->remaining, 0);
        now_ns += rates[i].window_ms * 1000000 + rates[i].count * 1000;
        assert_int_equal(burst(&ticket), rates[i].count);
    }
}

struct passed {
    uint64_t at_ns, cost;
};

/* In any span t at most N + N·t/W pass. */
static void check_spans(const struct passed *passed, size_t count, const struct conf_rate *rate)
{
    unsigned __int128 window_ns = (unsigned __int128)rate->window_ms * 1000000;

    for (size_t i = 0; i < count; i++) {
        unsigned __int128 sum = 0;
        for (size_t k = i; k < count; k++) {
            sum += passed[k].cost;
            if (sum > rate->count)
                assert_true((sum - rate->count) * window_ns <=
                            (unsigned __int128)rate->count * (passed[k].at_ns - passed[i].at_ns));
        }
    }
}

static uint64_t random_state = 1;

static uint64_t random_below(uint64_t n)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (random_state >> 33) % n;
}

static void check_formula_once(void)
{
    struct passed passed[300];
    struct limit_ticket ticket = fresh(0);
    struct limit_verdict verdict;
    uint64_t count = 1 + random_below(random_below(2) ? 10 : 5000);
    struct limit_rule *rule =
        add(&ticket, LIMIT_TOKENS, count,
            keeper->least_window_ms + random_below(random_below(2) ? 100 : 100000));
    uint64_t step_ns = limit_gcra_of(rule).step_ns;
    size_t n = 0;

    for (int i = 0; i < 200; i++) {
        rule->cost = 1 + random_below(random_below(2) ? 1 : count);
        now_ns += random_below(3) ? random_below(step_ns * 4) : 0;
        now_ns -= now_ns % keeper->grain_ns;
        if (passes(&ticket, &verdict)) {
            passed[n++] = (struct passed){now_ns, rule->cost};
            continue;
        }
        /* What it says is true: a moment earlier is too early, then is not. */
        if (random_below(4) || verdict.wait_ns < 2 * keeper->grain_ns)
            continue;
        now_ns += verdict.wait_ns - 1;
        now_ns -= now_ns % keeper->grain_ns;
        assert_false(takes(&ticket));
        now_ns += keeper->grain_ns;
        assert_true(takes(&ticket));
        passed[n++] = (struct passed){now_ns, rule->cost};
    }
    check_spans(passed, n, &rule->rate);
}

static void check_formula(void)
{
    for (int i = 0; i < (keeper == &memory ? 300 : 20); i++)
        check_formula_once();
}

static void check_all_or_nothing(void)
{
    struct limit_ticket ticket = fresh(0), first;
    struct limit_verdict verdict;

    add(&ticket, LIMIT_REQUESTS, 100, 60000);
    add(&ticket, LIMIT_TOKENS, 1000, 60000)->cost = 600;
    add(&ticket, LIMIT_STREAMS, 5, 0);
    first = twin(&ticket, 1);
    assert_true(takes(&first));
    for (int i = 0; i < 200; i++) {
        assert_false(passes(&ticket, &verdict));
        assert_int_equal(verdict.refused, 1);
        assert_int_equal(ticket.rules[0].remaining, 99);
        assert_int_equal(ticket.rules[1].remaining, 400);
        assert_int_equal(ticket.rules[2].remaining, 4);
    }
    ticket.rules[1].cost = 1;
    assert_true(takes(&ticket));
    assert_int_equal(ticket.rules[0].remaining, 98);
    keeper->settle(&ticket, now_ns, 1, false);
    keeper->settle(&first, now_ns, 600, false);
}

static void check_giving_back(void)
{
    struct limit_ticket ticket = fresh(0);
    struct limit_rule *requests = add(&ticket, LIMIT_REQUESTS, 10, 10000);
    struct limit_rule *tokens = add(&ticket, LIMIT_TOKENS, 1000, 10000);

    /* As if it had not been: a whole burst passes afterwards. */
    tokens->cost = 500;
    assert_true(takes(&ticket));
    keeper->settle(&ticket, now_ns, 0, true);
    tokens->cost = 100;
    assert_int_equal(burst(&ticket), 10);
    /* What has run off by itself is not given back once more. */
    now_ns += 20 * SECOND;
    assert_true(takes(&ticket));
    now_ns += 5 * SECOND;
    struct limit_ticket other = twin(&ticket, 1);
    assert_int_equal(burst(&other), 10);
    keeper->settle(&ticket, now_ns, 0, true);
    assert_false(takes(&other));
    assert_int_equal(requests->rate.count, 10);
}

static void check_correction(void)
{
    struct limit_ticket ticket = fresh(0), look;
    struct limit_verdict verdict;

    add(&ticket, LIMIT_TOKENS, 1000, 10000)->cost = 800;
    assert_true(takes(&ticket));
    keeper->settle(&ticket, now_ns, 100, false);
    look = twin(&ticket, 1);
    look.rules[0].cost = 1000;
    assert_false(passes(&look, &verdict));
    assert_int_equal(look.rules[0].remaining, 900);
    assert_int_equal(verdict.wait_ns, SECOND);
    /* A debt keeps callers away, but for no longer than two windows. */
    look.rules[0].cost = 1;
    assert_true(takes(&look));
    keeper->settle(&look, now_ns, UINT64_MAX / 4, false);
    assert_false(passes(&look, &verdict));
    assert_true(verdict.wait_ns > 9 * SECOND && verdict.wait_ns <= 11 * SECOND);
    now_ns += 21 * SECOND;
    assert_true(takes(&look));
}

/* What was used up of an earlier limit is used up of the new one, and takes no longer than that to come back. */
static void check_another_rate(void)
{
    struct limit_ticket ticket = fresh(0);
    struct limit_rule *rule = add(&ticket, LIMIT_REQUESTS, 2, 3600000);

    assert_int_equal(burst(&ticket), 2);
    rule->rate = (struct conf_rate){60, 60000};
    assert_int_equal(burst(&ticket), 0);
    now_ns += SECOND;
    assert_int_equal(burst(&ticket), 1);
    rule->rate = (struct conf_rate){1, 3600000};
    assert_int_equal(burst(&ticket), 0);
    rule->rate = (struct conf_rate){60, 60000};
    now_ns += 60 * SECOND;
    assert_int_equal(burst(&ticket), 60);
    ticket = fresh(0);
    rule = add(&ticket, LIMIT_TOKENS, 10, 3600000);
    rule->cost = 10;
    assert_int_equal(burst(&ticket), 1);
    keeper->settle(&ticket, now_ns, 30, false); /* a debt, of two windows */
    rule->rate = (struct conf_rate){10, 60000};
    for (int i = 0; i < 3; i++, now_ns += 60 * SECOND)
        assert_int_equal(burst(&ticket), i == 2);
}

static void check_streams(void)
{
    struct limit_ticket tickets[4];
    struct limit_verdict verdict;

    tickets[0] = fresh(0);
    add(&tickets[0], LIMIT_STREAMS, 3, 0);
    for (unsigned i = 1; i < 4; i++)
        tickets[i] = twin(&tickets[0], i);
    for (unsigned i = 0; i < 3; i++)
        assert_true(takes(&tickets[i]));
    assert_false(passes(&tickets[3], &verdict));
    assert_int_equal(verdict.wait_ns, SECOND);
    keeper->settle(&tickets[1], now_ns, 0, false);
    assert_true(takes(&tickets[3]));
    assert_false(takes(&tickets[1]));
    for (unsigned i = 0; i < 4; i++)
        if (i != 1)
            keeper->settle(&tickets[i], now_ns, 0, i == 0);
    assert_true(takes(&tickets[1]));
    keeper->settle(&tickets[1], now_ns, 0, false);
}

static void check_contract(const struct keeper *which)
{
    keeper = which;
    now_ns = 1000 * HOUR;
    check_burst();
    check_formula();
    check_all_or_nothing();
    check_giving_back();
    check_correction();
    check_another_rate();
    if (which == &memory)
        check_streams();
}

static void memory_keeps_the_contract(void)
{
    check_contract(&memory);
    limit_memory_clear();
    assert_int_equal(limit_memory_bytes(), 0);
}

/* ---- memory ---- */

#define THREADS 4

static struct limit_ticket hammered;
static atomic_uint passed_count;

static void *hammer(void *arg)
{
    struct limit_rule own[3];
    struct limit_ticket ticket = hammered;
    struct limit_verdict verdict;

    memcpy(own, hammered.rules, sizeof(own));
    /* In another order, so that locks taken in the order of rules would meet crosswise. */
    if ((uintptr_t)arg % 2) {
        own[0] = hammered.rules[2];
        own[2] = hammered.rules[0];
    }
    ticket.rules = own;
    for (int i = 0; i < 20000; i++) {
        if (limit_memory_take(&ticket, 5 * HOUR, &verdict))
            abort();
        if (verdict.refused == ticket.count)
            passed_count++;
    }
    return NULL;
}

static void threads_pass_exactly_as_many(void)
{
    pthread_t threads[THREADS];

    hammered = fresh(0);
    add(&hammered, LIMIT_REQUESTS, 5000, 60000);
    add(&hammered, LIMIT_REQUESTS, 4321, 60000);
    add(&hammered, LIMIT_TOKENS, 100000, 60000)->cost = 20;
    passed_count = 0;
    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, hammer, (void *)i), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(passed_count, 4321);
    limit_memory_clear();
}

static void a_million_users_fit_and_leave(void)
{
    struct limit_ticket ticket = fresh(0);
    struct limit_rule *rule = add(&ticket, LIMIT_REQUESTS, 2, 60000);
    size_t bytes;

    keeper = &memory;
    now_ns = HOUR;
    for (uint64_t i = 0; i < 1000000; i++) {
        rule->id = text_hash((struct str){(char *)&i, sizeof(i)}, 7);
        assert_true(takes(&ticket));
    }
    bytes = limit_memory_bytes();
    assert_in_range(bytes, 16 * 1000000, 64 * 1000000);
    for (uint64_t i = 0; i < 1000; i++) { /* none has been forgotten */
        rule->id = text_hash((struct str){(char *)&i, sizeof(i)}, 7);
        assert_true(takes(&ticket));
        assert_false(takes(&ticket));
    }
    now_ns += HOUR; /* whole again: newcomers take their places */
    for (uint64_t i = 1000000; i < 1500000; i++) {
        rule->id = text_hash((struct str){(char *)&i, sizeof(i)}, 7);
        assert_true(takes(&ticket));
    }
    assert_int_equal(limit_memory_bytes(), bytes);
    for (uint64_t i = 0; i < 3000000; i++) { /* more than fit */
        rule->id = text_hash((struct str){(char *)&i, sizeof(i)}, 8);
        assert_true(takes(&ticket));
    }
    assert_in_range(limit_memory_bytes(), bytes, 33 * 1024 * 1024);
    limit_memory_clear();
}

/* Three rules of an owner lie side by side: none takes another's place. The second time all are known, and used up. */
static void all_rules_of_many_owners_fit(void)
{
    const uint64_t users = 400000;
    struct limit_ticket ticket = fresh(0);
    struct limit_rule *own = ticket.rules;

    keeper = &memory;
    now_ns = HOUR;
    add(&ticket, LIMIT_REQUESTS, 2, 60000);
    add(&ticket, LIMIT_TOKENS, 2, 60000);
    add(&ticket, LIMIT_STREAMS, 2, 0);
    for (uint64_t i = 0; i < 2 * users; i++) {
        uint64_t user = i % users, owner = text_hash((struct str){(char *)&user, sizeof(user)}, 3);
        for (int unit = LIMIT_REQUESTS; unit <= LIMIT_STREAMS; unit++)
            own[unit].id = limit_memory_id(owner, (enum limit_unit)unit);
        assert_true(takes(&ticket));
        for (int unit = LIMIT_REQUESTS; unit <= LIMIT_STREAMS; unit++)
            assert_int_equal(own[unit].remaining, i < users);
    }
    assert_in_range(limit_memory_bytes(), 16 * 3 * users, 33 * 1024 * 1024);
    limit_memory_clear();
}

static void without_memory_nothing_is_taken(void)
{
    struct limit_ticket ticket = fresh(0);
    struct limit_verdict verdict;
    uint64_t n = 0;
    err_t err;

    add(&ticket, LIMIT_REQUESTS, 2, 60000);
    add(&ticket, LIMIT_REQUESTS, 3, 60000);
    do {
        mem_fail_nth(++n);
        err = limit_memory_take(&ticket, HOUR, &verdict);
        mem_fail_nth(0);
    } while (err && n < 10);
    assert_null(err);
    assert_int_equal(ticket.rules[0].remaining, 1);
    assert_int_equal(ticket.rules[1].remaining, 2);
    limit_memory_clear();
}

/* ---- finding and refusing ---- */

static struct conf conf;

static void configure(const char *url)
{
    conf.redis.url = str_from(url);
    conf.redis.timeout_ms = 500;
    assert_null(limit_configure(&conf));
}

static void rules_follow_the_subject(void)
{
    struct allowance own = {.requests = {7, 1000}, .streams = 2};
    struct subject subject = {.project = STR("p"), .key = STR("k"), .user = STR("u")};
    struct limit_ticket ticket, other;

    conf = (struct conf){.limits = {.per_key = {.requests = {100, 60000}, .tokens = {9, 1000}},
                                    .per_user = {.requests = {5, 1000}},
                                    .per_model = {.requests = {4, 1000}}}};
    configure("");
    assert_null(limit_find(&ticket, &conf, &subject, STR(""), arena));
    assert_int_equal(ticket.count, 2);
    assert_true(limit_wants_tokens(&ticket));
    subject.user_is_limited = true;
    subject.key_allowance = &own;
    assert_null(limit_find(&ticket, &conf, &subject, STR("m"), arena));
    assert_int_equal(ticket.count, 5);
    assert_int_equal(ticket.rules[0].rate.count, 7);
    assert_int_equal(ticket.rules[1].rate.count, 9);
    assert_int_equal(ticket.rules[2].unit, LIMIT_STREAMS);
    /* Another project's user of the same name is someone else. */
    subject.project = STR("q");
    assert_null(limit_find(&other, &conf, &subject, STR("m"), arena));
    for (size_t i = 0; i < ticket.count; i++)
        assert_int_not_equal(ticket.rules[i].id, other.rules[i].id);
    conf = (struct conf){0};
    assert_null(limit_find(&ticket, &conf, &subject, STR("m"), arena));
    assert_int_equal(ticket.count, 2); /* its own */
    subject.key_allowance = NULL;
    assert_null(limit_find(&ticket, &conf, &subject, STR("m"), arena));
    assert_int_equal(ticket.count, 0);
}

static void refusals_say_what_and_when(void)
{
    struct subject subject = {
        .project = STR("p"), .key = STR("k"), .user = STR("u"), .user_is_limited = true};
    struct limit_ticket ticket;
    uint64_t retry_ms;
    err_t err;

    conf = (struct conf){
        .limits = {.per_user = {.requests = {2, 60000}, .tokens = {50, 60000}, .streams = 9}}};
    configure("");
    assert_null(limit_find(&ticket, &conf, &subject, STR(""), arena));
    assert_null(limit_take(&ticket, 10, &retry_ms));
    limit_settle(&ticket, 10, false);
    assert_null(limit_take(&ticket, 10, &retry_ms));
    err = limit_take(&ticket, 10, &retry_ms);
    assert_true(err_is(err, ERR_LIMITED));
    assert_int_equal(err_status(err), 429);
    assert_string_equal(err->code, "rate_limit_exceeded");
    assert_string_equal(err->text, "Rate limit reached for this user: 2 requests per 1m. Try "
                                   "again in 30s.");
    assert_in_range(retry_ms, 29000, 30000);
    err = limit_take(&ticket, 51, &retry_ms);
    assert_string_equal(err->code, "request_too_large");
    assert_int_equal(retry_ms, 0);
    assert_int_equal(
        metric_value(metric_series_get(METRIC_LIMIT_REFUSED, "user", "requests", NULL)), 1);
    assert_int_equal(metric_value(metric_series_get(METRIC_LIMIT_REFUSED, "user", "tokens", NULL)),
                     1);
    limit_settle(&ticket, 0, true);
    limit_settle(&ticket, 0, true);
    limit_memory_clear();
}

static void replicas_share(void)
{
    struct subject subject = {.project = STR("p"), .key = STR("k")};
    struct limit_ticket ticket;
    uint64_t retry_ms;
    unsigned n = 0;

    conf = (struct conf){.limits = {.per_key = {.requests = {10, 60000}}, .replicas = 3}};
    configure("");
    do
        assert_null(limit_find(&ticket, &conf, &subject, STR(""), arena));
    while (!limit_take(&ticket, 0, &retry_ms) && ++n);
    assert_int_equal(n, 3);
    conf.limits.replicas = 1;
    configure("");
    limit_memory_clear();
}

static void addresses_are_read(void)
{
    static const struct {
        const char *url, *host, *user, *password;
        unsigned port;
        size_t hosts; /* 0: refused */
    } cases[] = {
        {"redis://h", "h", "", "", 6379, 1},
        {"redis://:pa%40ss@h:1/2", "h", "", "pa@ss", 1, 1},
        {"redis://u:p@x@[::1]:7", "::1", "u", "p@x", 7, 1},
        {"redis+sentinel://a,b:2,c/mymaster/3", "a", "", "", 26379, 3},
        {"redis+sentinel://a", "", "", "", 0, 0},
        {"rediss+sentinel://u:p@a,b/m", "a", "u", "p", 26379, 2},
        {"redis+sentinel://a/m?ca=x", "", "", "", 0, 0},
        {"redis+cluster://u:p@a,[::1]:7000/0", "a", "u", "p", 6379, 2},
        {"rediss+cluster://a:7000,b,c", "a", "", "", 7000, 3},
        {"redis+cluster://a/1", "", "", "", 0, 0},
        {"rediss://h?ca=/nowhere/ca.pem", "", "", "", 0, 0},
        {"rediss://h?ca=", "", "", "", 0, 0},
        {"redis://h?ca=x", "", "", "", 0, 0},
        {"redis://a,b", "", "", "", 0, 0},
        {"redis://", "", "", "", 0, 0},
        {"redis://h:0", "", "", "", 0, 0},
        {"redis://h:99999", "", "", "", 0, 0},
        {"redis://h/x", "", "", "", 0, 0},
        {"redis://[::1", "", "", "", 0, 0},
        {"redis://u@h", "", "", "", 0, 0},
        {"redis://u:%zz@h", "", "", "", 0, 0},
        {"http://h", "", "", "", 0, 0},
        {"redis+sentinel://a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a/m", "", "", "", 0, 0},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct redis_target *target = NULL;
        err_t err = redis_target_make(str_from(cases[i].url), 50, &target);

        if (cases[i].hosts == 0) {
            assert_true(err_is(err, ERR_CONFIG));
            continue;
        }
        assert_null(err);
        assert_int_equal(target->host_count, cases[i].hosts);
        assert_true(str_eq(target->hosts[0].name, str_from(cases[i].host)));
        assert_int_equal(target->hosts[0].port, cases[i].port);
        assert_true(str_eq(target->user, str_from(cases[i].user)));
        assert_true(str_eq(target->password, str_from(cases[i].password)));
        redis_target_unref(target);
    }
}

/* Numbers of the specification's CRC and of CLUSTER KEYSLOT. */
static void slots_are_those_of_the_hash_tag(void)
{
    static const struct {
        const char *key;
        unsigned slot;
    } cases[] = {
        {"123456789", 12739},
        {"foo", 12182},
        {"{user1000}.following", 3443},
        {"foo{}{bar}", 8363},
        {"foo{{bar}}zap", 4015},
        {"foo{bar}{zap}", 5061},
        {"foo{bar", 15278},
        {"{", 4092},
        {"", 0},
        {"sluice:limit:{proj_a}:ur:alice", 12041},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        assert_int_equal(redis_cluster_slot(str_from(cases[i].key)), cases[i].slot);
}

/* ---- Redis ---- */

static struct redis_reply *ask_redis(size_t count, const char *const *words)
{
    struct str args[16];
    struct redis_reply *reply;

    for (size_t i = 0; i < count; i++)
        args[i] = str_from(words[i]);
    assert_null(redis_call(args, count, arena, &reply));
    return reply;
}

#define ASK(...)                                                                                   \
    ask_redis(sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *),                              \
              (const char *const[]){__VA_ARGS__})

static void check_every_key_ends(void)
{
    struct redis_reply *keys = ASK("KEYS", "sluice:*");

    assert_true(keys->count > 0);
    for (size_t i = 0; i < keys->count; i++) {
        int64_t left_ms = ASK("PTTL", keys->items[i]->text.ptr)->integer;
        assert_true(left_ms != -1); /* 0: within this millisecond; -2: it has ended */
    }
}

static void check_clock_jumps(void)
{
    struct limit_ticket ticket = fresh(0);

    keeper = &redis;
    add(&ticket, LIMIT_REQUESTS, 10, 60000);
    assert_int_equal(burst(&ticket), 10);
    now_ns -= HOUR; /* nobody is kept away for longer than a window */
    assert_int_equal(burst(&ticket), 0);
    now_ns += 6 * SECOND;
    assert_int_equal(burst(&ticket), 1);
    now_ns += 60 * SECOND;
    assert_int_equal(burst(&ticket), 10);
    now_ns += HOUR; /* and no more than one burst comes of it */
    assert_int_equal(burst(&ticket), 10);
}

/* A replica that dies gives its streams back; one that lives keeps them. */
static void check_leases(void)
{
    struct limit_ticket dead = fresh(0), alive, late;

    keeper = &redis;
    add(&dead, LIMIT_STREAMS, 2, 0);
    alive = twin(&dead, 1);
    late = twin(&dead, 2);
    assert_true(takes(&dead));
    now_ns += 20 * SECOND;
    assert_true(takes(&alive));
    assert_false(takes(&late));
    now_ns += 11 * SECOND;
    assert_true(takes(&late));
    keeper->settle(&late, now_ns, 0, false);
    keeper->settle(&alive, now_ns, 0, false);
    keeper->settle(&dead, now_ns, 0, false);
    assert_int_equal(ASK("KEYS", "*:ks:*")->count, 0);
}

static void check_names(void)
{
    static const char *const names[] = {"plain",
                                        "a}b",
                                        "a:b",
                                        "#",
                                        "",
                                        "\xff\xfe\n",
                                        "a name that is so long that it would make a key of a "
                                        "length that nobody wants to see"};

    keeper = &redis;
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        for (size_t k = 0; k < sizeof(names) / sizeof(*names); k++) {
            struct limit_ticket ticket = fresh(0);
            add(&ticket, LIMIT_REQUESTS, 1, 60000)->owner = str_from(names[k]);
            ticket.tenant = str_from(names[i]);
            assert_int_equal(burst(&ticket), 1); /* all are different */
        }
}

static unsigned fibers_left, fibers_passed;

static void hammer_fiber(void *arg)
{
    struct limit_ticket ticket = twin(arg, 10 + fibers_left % 40);
    struct limit_verdict verdict;
    struct arena *own = arena_new(MEM_REQUEST, 1024 * 1024);

    fiber_set_arena(own);
    for (int i = 0; i < 5; i++)
        if (!limit_redis_take(&ticket, &verdict) && verdict.refused == ticket.count)
            fibers_passed++;
    fiber_set_arena(NULL);
    arena_free(own);
    fibers_left--;
}

static void check_fibers(void)
{
    struct limit_ticket ticket = fresh(0);

    add(&ticket, LIMIT_REQUESTS, 77, 60000);
    limit_redis_set_clock_us(now_ns / 1000);
    for (fibers_left = 0; fibers_left < 40;) {
        fibers_left++;
        assert_null(fiber_start("hammer", hammer_fiber, &ticket, NULL));
    }
    while (fibers_left > 0)
        assert_null(fiber_sleep(1));
    assert_int_equal(fibers_passed, 77);
}

static void check_lost_data(void)
{
    struct limit_ticket ticket = fresh(0);

    keeper = &redis;
    add(&ticket, LIMIT_REQUESTS, 3, 60000);
    assert_int_equal(burst(&ticket), 3);
    ASK("FLUSHALL");
    ASK("SCRIPT", "FLUSH");
    assert_int_equal(burst(&ticket), 3);
    /* What is in a key's place, but not ours. */
    ASK("FLUSHALL");
    assert_true(takes(&ticket));
    ASK("SET", ASK("KEYS", "*:kr:*")->items[0]->text.ptr, "garbage", "PX", "60000");
    assert_int_equal(burst(&ticket), 3);
}

static void redis_keeps_the_contract(void)
{
    configure(server_url());
    check_contract(&redis);
    check_clock_jumps();
    check_names();
    check_fibers();
    check_every_key_ends();
    if (!server_is_ours())
        return;
    ASK("FLUSHALL");
    keeper = &redis;
    check_streams();
    ASK("FLUSHALL");
    check_leases();
    check_lost_data();
    check_every_key_ends();
}

static void logging_in_works(void)
{
    if (!server_is_ours())
        return;
    configure(server_url());
    ASK("ACL", "SETUSER", "limits", "on", ">s@cret", "~sluice:*", "+@all");
    ASK("CONFIG", "SET", "requirepass", "all");
    configure(arena_printf(arena, "redis://limits:s%%40cret@127.0.0.1:%u/3", server.port));
    keeper = &redis;
    struct limit_ticket ticket = fresh(0);
    add(&ticket, LIMIT_REQUESTS, 3, 60000);
    assert_int_equal(burst(&ticket), 3);
    configure(arena_printf(arena, "redis://:wrong@127.0.0.1:%u", server.port));
    struct limit_verdict verdict;
    assert_true(err_is(limit_redis_take(&ticket, &verdict), ERR_STORE));
    configure(arena_printf(arena, "redis://:all@127.0.0.1:%u", server.port));
    assert_int_equal(burst(&ticket), 3);
    ASK("CONFIG", "SET", "requirepass", "");
}

static void done(void)
{
    limit_redis_set_clock_us(0);
    configure("");
}

#define TEST(name)                                                                                 \
    static void test_##name(void **state)                                                          \
    {                                                                                              \
        (void)state;                                                                               \
        run_in_fiber(name, limit_leave);                                                           \
        done();                                                                                    \
    }
#define REDIS_TEST(name)                                                                           \
    static void test_##name(void **state)                                                          \
    {                                                                                              \
        (void)state;                                                                               \
        if (!server_url())                                                                         \
            skip();                                                                                \
        run_in_fiber(name, limit_leave);                                                           \
        done();                                                                                    \
    }

TEST(memory_keeps_the_contract)
TEST(threads_pass_exactly_as_many)
TEST(a_million_users_fit_and_leave)
TEST(all_rules_of_many_owners_fit)
TEST(without_memory_nothing_is_taken)
TEST(rules_follow_the_subject)
TEST(refusals_say_what_and_when)
TEST(replicas_share)
TEST(addresses_are_read)
TEST(slots_are_those_of_the_hash_tag)
REDIS_TEST(redis_keeps_the_contract)
REDIS_TEST(logging_in_works)

static int stop(void **state)
{
    (void)state;
    child_close(&server, SIGKILL);
    limit_close();
    assert_int_equal(mem_in_use(MEM_UPSTREAM), 0);
    assert_int_equal(mem_in_use(MEM_CONF), 0);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory_keeps_the_contract),
        cmocka_unit_test(test_threads_pass_exactly_as_many),
        cmocka_unit_test(test_a_million_users_fit_and_leave),
        cmocka_unit_test(test_all_rules_of_many_owners_fit),
        cmocka_unit_test(test_without_memory_nothing_is_taken),
        cmocka_unit_test(test_rules_follow_the_subject),
        cmocka_unit_test(test_refusals_say_what_and_when),
        cmocka_unit_test(test_replicas_share),
        cmocka_unit_test(test_addresses_are_read),
        cmocka_unit_test(test_slots_are_those_of_the_hash_tag),
        cmocka_unit_test(test_redis_keeps_the_contract),
        cmocka_unit_test(test_logging_in_works),
    };

    return cmocka_run_group_tests(tests, NULL, stop);
}
