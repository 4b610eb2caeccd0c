/* SPDX-License-Identifier: Apache-2.0 */
/* Plans: which targets a name means, in which order, for whom; and what targets inherit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/sys.h"
#include "govern/budget_account.h"
#include "model/route_cost.h"
#include "model/router.h"

static char path[] = "/tmp/test_router_XXXXXX";
static struct conf *conf;
static struct providers *set;
static struct arena *arena;
static struct plan plan;
static struct prompt prompt;
static bool is_expanded;
static struct route_caller caller;
static struct chat_request ask;
static struct json_member members[8];

static err_t expand(const struct chat_request *request, struct arena *in, struct prompt *out)
{
    is_expanded = true;
    *out = prompt;
    return NULL;
}

static int set_up(void **state)
{
    unsetenv("OPENAI_API_KEY");
    unsetenv("ANTHROPIC_API_KEY");
    unsetenv("GEMINI_API_KEY");
    setenv("HOME", "/nonexistent", 1);
    arena = arena_new(MEM_TOOL, 16 * 1024 * 1024);
    err_scope_set(arena);
    prompt = (struct prompt){0};
    caller = (struct route_caller){0};
    ask = (struct chat_request){.body = STR("{}"), .members = members, .expand = expand};
    is_expanded = false;
    return arena ? 0 : -1;
}

static int tear_down(void **state)
{
    err_scope_set(NULL);
    arena_free(arena);
    providers_unref(set);
    set = NULL;
    conf_unref(conf);
    conf = NULL;
    health_forget();
    sys_set_clock_ms(0);
    assert_int_equal(mem_in_use(MEM_TOOL), 0);
    assert_int_equal(mem_in_use(MEM_CONF), 0);
    return 0;
}

/* Use a configuration: `models` below four providers a, b, c and d. */
static void use(const char *models)
{
    struct buf problems = buf_make(MEM_TOOL, 1024 * 1024);
    FILE *file = fopen(path, "w");

    assert_non_null(file);
    fprintf(file,
            "data_dir: /nonexistent\n"
            "providers:\n"
            "  a: {url: 'http://127.0.0.1:1/v1', retry: {attempts: 5}, breaker: {failures: 3},\n"
            "      timeouts: {idle: 9s}}\n"
            "  b: {url: 'http://127.0.0.1:2/v1', keys: [{name: x, key: k1}, {name: y, key: k2}]}\n"
            "  c: {url: 'http://127.0.0.1:3/dep/{model}/v1', query: {api-version: '1 2',\n"
            "      'a&b': ä}}\n"
            "  d: {url: 'http://127.0.0.1:4/v1'}\n"
            "%s\n",
            models);
    fclose(file);
    err_t err = conf_load(str_from(path), &problems, &conf);
    if (err)
        fail_msg("%s", err->text);
    buf_fini(&problems);
    assert_null(providers_open(conf, &set));
}

static char prices_path[] = "/tmp/test_router_prices_XXXXXX";

/* The same with a price file of one price per line. */
static void use_priced(const char *models, const char *prices)
{
    FILE *file = fopen(prices_path, "w");

    assert_non_null(file);
    fprintf(file, "currency: USD\nmodels:\n%s\n", prices);
    fclose(file);
    use(arena_printf(arena, "%s\nprices: %s", models, prices_path));
}

static err_t make_plan(const char *model)
{
    ask.model = str_from(model);
    ask.prompt = NULL;
    return router_plan(set, &ask, &caller, arena, &plan);
}

/* The labels of the plan's targets in their order, as "a/x b/y". */
static const char *labels(struct target **targets, size_t count)
{
    const char *text = "";

    for (size_t i = 0; i < count; i++)
        text = arena_printf(arena, "%s%s%.*s", text, i ? " " : "", STR_ARG(targets[i]->label));
    return text;
}

static void assert_plan(const char *model, const char *expected)
{
    err_t err = make_plan(model);

    if (err)
        fail_msg("%s", err->text);
    assert_string_equal(labels(plan.targets, plan.target_count), expected);
}

static void assert_refused(const char *model, const char *code, const char *param)
{
    err_t err = make_plan(model);

    assert_non_null(err);
    assert_string_equal(err->code, code);
    assert_string_equal(err->param, param);
}

/* ---- names ---- */

static void test_names(void **state)
{
    struct str name, owner;
    size_t at = 0;

    use("models: {m: {targets: [a/x, b/y/z]}}\ndefault_provider: d");
    assert_plan("m", "a/x b/y/z");
    assert_string_equal(plan.reason, "order");
    assert_ptr_equal(plan.alias, &conf->models[0]);
    assert_true(str_eq(plan.targets[1]->alias, STR("m")));
    assert_plan("b/q", "b/q");
    assert_null(plan.alias);
    assert_string_equal(plan.reason, "direct");
    assert_plan("gpt-5", "d/gpt-5");
    assert_plan("who/x", "d/who/x");
    assert_refused("a/", "model_not_found", "model");
    assert_false(is_expanded);
    assert_true(providers_next_name(set, &at, &name, &owner));
    assert_true(str_eq(name, STR("m")) && str_eq(owner, STR("a")));
    assert_false(providers_next_name(set, &at, &name, &owner));
}

static void test_nobody_by_default(void **state)
{
    use("");
    assert_refused("gpt-5", "model_not_found", "model");
}

static void test_fallbacks(void **state)
{
    use("models: {m: {targets: a/x, context_fallbacks: [b/l, c/l], content_fallbacks: d/o}}");
    assert_plan("m", "a/x");
    assert_string_equal(labels(plan.context_fallbacks, plan.context_fallback_count), "b/l c/l");
    assert_string_equal(labels(plan.content_fallbacks, plan.content_fallback_count), "d/o");
    assert_int_equal(plan.context_fallbacks[0]->retry.attempts, 2);
}

static void test_what_the_caller_wants(void **state)
{
    use("models: {m: {targets: [a/x, b/y], timeouts: {total: 7s}}}\ndefault_provider: d");
    caller.wanted = STR("b/y");
    assert_plan("m", "b/y");
    assert_int_equal(plan.targets[0]->timeouts.total_ms, 7000);
    assert_string_equal(plan.reason, "override");
    caller.wanted = STR("c/other");
    assert_plan("m", "c/other");
    assert_int_equal(plan.targets[0]->timeouts.total_ms, 900000);
    caller.wanted = STR("nobody/x");
    assert_refused("m", "model_not_found", "model");
    caller.wanted = STR("x");
    assert_refused("m", "model_not_found", "model");
}

/* The model's options, else the provider's, else the global ones. */
static void test_inheritance(void **state)
{
    use("models:\n"
        "  m: {targets: [a/x, b/x], retry: {budget: 5%}, breaker: {failures: 1},\n"
        "      timeouts: {connect: 1s}, unsupported: error}\n"
        "  n: {targets: [a/y, d/y]}\n"
        "retry: {attempts: 4}\nunsupported: drop");
    assert_plan("m", "a/x b/x");
    const struct target *a = plan.targets[0], *b = plan.targets[1];
    assert_int_equal(a->timeouts.connect_ms, 1000);
    assert_int_equal(a->timeouts.idle_ms, 9000);
    assert_int_equal(a->timeouts.first_token_ms, 60000);
    assert_int_equal(a->retry.attempts, 5);
    assert_int_equal(a->retry.budget_percent, 5);
    assert_int_equal(b->retry.attempts, 4);
    assert_int_equal(b->timeouts.idle_ms, 30000);
    assert_int_equal(a->unsupported, CONF_UNSUPPORTED_ERROR);
    assert_plan("n", "a/y d/y");
    assert_int_equal(plan.targets[0]->unsupported, CONF_UNSUPPORTED_DROP);
    /* breaker.failures: 1 of the model, 3 of the provider, 5 of all */
    struct health *opened[] = {a->health[0], plan.targets[0]->health[0],
                               plan.targets[1]->health[0]};
    for (size_t i = 0; i < 3; i++) {
        uint64_t until_ms, n = 0;
        while (health_look(opened[i], 1000, &until_ms) == HEALTH_ASK) {
            health_begin(opened[i], HEALTH_ASK);
            health_end(opened[i], HEALTH_ASK, HEALTH_FAILED, 1000, 0, 0);
            n++;
        }
        assert_int_equal(n, 2 * i + 1);
    }
}

/* ---- conditions ---- */

static struct http_head head_of(const char *name, const char *value)
{
    static struct http_header headers[2];

    headers[0] = (struct http_header){STR("host"), STR("x")};
    headers[1] = (struct http_header){str_from(name), str_from(value)};
    return (struct http_head){.headers = headers, .header_count = 2};
}

static void test_keys_tags_and_headers(void **state)
{
    use("models:\n"
        "  m:\n"
        "    targets: [{model: a/k, when: {keys: [ci, ops]}}, {model: b/t, when: {tags: [batch, "
        "x]}},\n"
        "              {model: d/h, when: {headers: {x-a: '1'}}}]\n"
        "  n: {targets: [a/x], when: {keys: ops}}");
    assert_refused("m", "model_not_found", "model");
    assert_refused("n", "model_not_found", "model");
    caller.key = STR("ops");
    assert_plan("m", "a/k");
    assert_plan("n", "a/x");
    struct http_head head = head_of("X-Sluice-Tags", "quick, batch");
    caller.head = &head;
    assert_plan("m", "a/k b/t");
    caller.key = STR("other");
    assert_plan("m", "b/t");
    head = head_of("x-sluice-tags", "batches");
    assert_refused("m", "model_not_found", "model");
    head = head_of("X-A", "1");
    assert_plan("m", "d/h");
    head = head_of("X-A", "2");
    assert_refused("m", "model_not_found", "model");
    assert_false(is_expanded);
}

static struct part parts[4];
static struct message messages[2];

/* A prompt of one user message with that much text. */
static void write_text(size_t bytes)
{
    char *text = arena_alloc(arena, bytes);

    for (size_t i = 0; i < bytes; i++)
        text[i] = "water "[i % 6];
    parts[0] = (struct part){.kind = PART_TEXT, .text = {text, bytes}};
    messages[0] = (struct message){.role = ROLE_USER, .parts = parts, .part_count = 1};
    prompt = (struct prompt){.messages = messages, .message_count = 1};
}

static void test_prompt_tokens(void **state)
{
    use("models:\n"
        "  m: {targets: [{model: a/short, when: {max_prompt_tokens: 1000}},\n"
        "                {model: b/long, when: {min_prompt_tokens: 900}}, d/any]}");
    write_text(400);
    assert_plan("m", "a/short d/any");
    assert_true(is_expanded);
    write_text(40000);
    assert_plan("m", "b/long d/any");
    ask.expand = NULL;
    ask.body = (struct str){parts[0].text.ptr, 400};
    assert_plan("m", "a/short d/any");
}

static void test_capabilities(void **state)
{
    struct tool tool = {.is_function = true, .name = STR("f")};

    use("models:\n"
        "  m: {targets: [{model: a/t, tools: false}, {model: b/v, vision: false},\n"
        "                {model: d/j, json_schema: false}]}\n"
        "  n: {targets: [{model: a/t, tools: false}]}\n"
        "  o: {targets: [{model: a/t, tools: false, vision: false, when: {keys: x}}]}");
    assert_plan("m", "a/t b/v d/j");
    prompt.tools = &tool;
    prompt.tool_count = 1;
    assert_plan("m", "b/v d/j");
    assert_refused("n", "unsupported_parameter", "tools");
    assert_refused("o", "model_not_found", "model");
    prompt.format = FORMAT_SCHEMA;
    assert_plan("m", "b/v");
    write_text(4);
    parts[1] = (struct part){.kind = PART_IMAGE};
    messages[0].part_count = 2;
    assert_plan("m", "a/t d/j");
    /* inside of a tool's result, too */
    parts[2] = (struct part){.kind = PART_TOOL_RESULT, .parts = &parts[1], .part_count = 1};
    messages[0].parts = &parts[2];
    messages[0].part_count = 1;
    assert_plan("m", "a/t d/j");
    ask.expand = NULL; /* a protocol that is never translated has no such parts */
    assert_plan("m", "a/t b/v d/j");
}

static void test_context(void **state)
{
    use("models:\n"
        "  m: {targets: [{model: a/s, context: 1000}, {model: b/m, context: 10000}]}\n"
        "  n: {targets: [{model: a/s, context: 1000}], context_fallbacks: [c/l]}");
    write_text(400);
    assert_plan("m", "a/s b/m");
    prompt.settings[SETTING_MAX_TOKENS] = STR("950");
    assert_plan("m", "b/m");
    write_text(80000);
    assert_plan("m", "a/s b/m"); /* a guess: let them judge */
    assert_plan("n", "c/l");
    assert_ptr_equal(plan.targets, plan.context_fallbacks);
}

static err_t refuse(const struct chat_request *request, struct arena *in, struct prompt *out)
{
    return err_new_detail(ERR_BAD_REQUEST, (.code = "invalid_value", .param = "messages[0]"), "no");
}

/* Where a route needs the prompt its errors are told; where it would only be nice they are not. */
static void test_prompts_that_are_wrong(void **state)
{
    use("models:\n  m: {targets: [{model: a/s, tools: false}]}\n"
        "  n: {route: sticky, targets: [a/x, b/x]}");
    ask.expand = refuse;
    assert_refused("m", "invalid_value", "messages[0]");
    assert_null(make_plan("n"));
}

/* ---- orders ---- */

#define DRAWS 20000

static void test_weighted(void **state)
{
    size_t first[4] = {0}, second_of_a = 0;

    use("models: {m: {route: weighted, targets: [{model: a/x, weight: 6}, {model: b/x, weight: "
        "3},\n"
        "                {model: d/x}, {model: c/x, weight: 0}]}}");
    for (size_t i = 0; i < DRAWS; i++) {
        assert_null(make_plan("m"));
        first[plan.targets[0]->provider->conf->index]++;
        second_of_a += plan.targets[0]->provider->conf->index == 0 &&
                       plan.targets[1]->provider->conf->index == 1;
        assert_int_equal(plan.targets[3]->provider->conf->index, 2);
        if (i % 1000 == 0) {
            arena_free(arena);
            arena = arena_new(MEM_TOOL, 16 * 1024 * 1024);
            err_scope_set(arena);
        }
    }
    assert_string_equal(plan.reason, "weighted");
    assert_in_range(first[0], DRAWS * 57 / 100, DRAWS * 63 / 100);
    assert_in_range(first[1], DRAWS * 27 / 100, DRAWS * 33 / 100);
    assert_in_range(first[3], DRAWS * 8 / 100, DRAWS * 12 / 100);
    assert_int_equal(first[2], 0);
    /* without a, b and d have shares of 3 : 1 */
    assert_in_range(second_of_a, first[0] * 72 / 100, first[0] * 78 / 100);
}

static void test_least_busy(void **state)
{
    size_t first_a = 0;

    use("models: {m: {route: least_busy, targets: [a/x, b/x, d/x]}}");
    assert_null(make_plan("m"));
    struct target *a = (struct target *)&set->aliases[0].targets[0],
                  *b = (struct target *)&set->aliases[0].targets[1];
    health_begin(a->health[0], HEALTH_ASK);
    health_begin(b->health[0], HEALTH_ASK);
    health_begin(b->health[1], HEALTH_ASK);
    assert_plan("m", "d/x a/x b/x");
    health_end(a->health[0], HEALTH_ASK, HEALTH_GOOD, 1000, 0, 5);
    for (size_t i = 0; i < 200; i++) {
        assert_null(make_plan("m"));
        assert_int_equal(plan.targets[2]->provider->conf->index, 1);
        first_a += plan.targets[0]->provider->conf->index == 0;
    }
    assert_in_range(first_a, 50, 150); /* equals take turns by chance */
    health_end(b->health[0], HEALTH_ASK, HEALTH_GOOD, 1000, 0, 5);
    health_end(b->health[1], HEALTH_ASK, HEALTH_GOOD, 1000, 0, 5);
}

static void answer_in(struct target *target, uint64_t ms)
{
    health_begin(target->health[0], HEALTH_ASK);
    health_end(target->health[0], HEALTH_ASK, HEALTH_GOOD, sys_now_ms(), 0, ms);
}

static void test_latency(void **state)
{
    sys_set_clock_ms(1000000);
    use("models: {m: {route: latency, targets: [a/x, b/x, d/x]}}");
    struct target *targets = set->aliases[0].targets;
    assert_plan("m", "a/x b/x d/x");
    answer_in(&targets[0], 300);
    answer_in(&targets[1], 100);
    assert_plan("m", "d/x b/x a/x"); /* nobody knows d yet */
    health_begin(targets[2].health[0], HEALTH_ASK);
    assert_plan("m", "b/x a/x d/x"); /* somebody is finding out */
    for (size_t i = 0; i < 3; i++)
        health_begin(targets[1].health[0], HEALTH_ASK);
    assert_plan("m", "a/x b/x d/x"); /* 300 against 4 × 100 */
    for (size_t i = 0; i < 3; i++)
        health_end(targets[1].health[0], HEALTH_ASK, HEALTH_UNKNOWN, 1000000, 0, 0);
    health_end(targets[2].health[0], HEALTH_ASK, HEALTH_GOOD, 1000000, 0, 200);
    assert_plan("m", "b/x d/x a/x");
    sys_set_clock_ms(1030000);
    answer_in(&targets[1], 100);
    answer_in(&targets[2], 200);
    sys_set_clock_ms(1061000);
    assert_plan("m", "a/x b/x d/x"); /* the slow one is given another look */
}

/* The first target's index for a conversation that is told apart by a number. */
static size_t stick(const char *model, unsigned number)
{
    const char *value = arena_printf(arena, "\"conversation %u\"", number);

    members[0] = (struct json_member){STR("prompt_cache_key"), str_from(value), false};
    ask.member_count = 1;
    assert_null(make_plan(model));
    return plan.targets[0]->provider->conf->index;
}

static void test_sticky_is_stable(void **state)
{
    size_t counts[4] = {0};

    use("models:\n"
        "  all: {route: sticky, targets: [a/x, b/x, {model: c/x, weight: 2}, d/x]}\n"
        "  less: {route: sticky, targets: [a/x, {model: c/x, weight: 2}, d/x]}");
    for (unsigned i = 0; i < 2000; i++) {
        size_t first = stick("all", i), second = plan.targets[1]->provider->conf->index;
        counts[first]++;
        assert_int_equal(stick("all", i), first);
        assert_int_equal(stick("less", i), first == 1 ? second : first);
    }
    assert_in_range(counts[0], 320, 480);
    assert_in_range(counts[1], 320, 480);
    assert_in_range(counts[2], 700, 900);
    assert_false(is_expanded);
}

/* ---- cost ---- */

static const char three_prices[] = "  a/small: {input: 1, output: 2}\n"
                                   "  b/medium: {input: 4, output: 8}\n"
                                   "  d/large: {input: 10, output: 40}";

/* A prompt of one user message. */
static void ask_text(const char *text)
{
    parts[0] = (struct part){.kind = PART_TEXT, .text = str_from(text)};
    messages[0] = (struct message){.role = ROLE_USER, .parts = parts, .part_count = 1};
    prompt.messages = messages;
    prompt.message_count = 1;
}

static const char easy[] = "Hello, thanks!";
static const char hard[] = "Prove the theorem, compare both proofs and analyse why each must fail.";

static void assert_explained(const char *expected)
{
    assert_string_equal(arena_cstr(arena, plan.explained), expected);
}

static void test_cost(void **state)
{
    use_priced(
        "models: {m: {route: cost, targets: [d/large, {model: b/medium, max_complexity: 60%},\n"
        "                {model: a/small, max_complexity: 30%}]}}",
        three_prices);
    ask_text(easy);
    assert_plan("m", "a/small b/medium d/large");
    assert_string_equal(plan.reason, "cost");
    assert_true(plan.cost->complexity.score <= 30);
    assert_int_equal(plan.cost->output_tokens, ROUTE_COST_ANSWER_TOKENS);
    assert_explained(arena_printf(arena, "cost: complexity %u <= 30, cheapest 0.001024 of 3",
                                  plan.cost->complexity.score));
    ask_text(hard);
    assert_plan("m", "d/large");
    assert_explained(arena_printf(arena, "cost: complexity %u <= 100, 0.02048 of 1",
                                  plan.cost->complexity.score));
    /* what is not asked at all is not given a chance by its price */
    prompt.settings[SETTING_MAX_TOKENS] = STR("100");
    assert_plan("m", "d/large");
    assert_int_equal(plan.cost->output_tokens, 100);
}

/* By price first, then by latency; what has no price comes last. */
static void test_cost_ties(void **state)
{
    sys_set_clock_ms(1000000);
    use_priced("models: {m: {route: cost, targets: [d/x, c/x, b/x, a/x]},\n"
               "  n: {route: cost, targets: [d/x]}}",
               "  a/x: {input: 1, output: 2}\n  b/x: {input: 1, output: 2}\n"
               "  c/x: {input: 0.5, output: 1}");
    ask_text(easy);
    struct target *targets = set->aliases[0].targets;
    answer_in(&targets[2], 300);
    answer_in(&targets[3], 100);
    assert_plan("m", "c/x a/x b/x d/x");
    assert_plan("n", "d/x");
    assert_explained(arena_printf(arena, "cost: complexity %u <= 100, no price is known",
                                  plan.cost->complexity.score));
}

/* The best there is answers what is too hard for all; a tier is not given away. */
static void test_cost_when_nothing_fits(void **state)
{
    struct subject subject = {.org = STR("o"), .project = STR("p"), .key = STR("k")};

    use_priced(
        "models: {m: {route: cost, targets: [{model: d/large, max_complexity: 30%, tiers: gold},\n"
        "                {model: b/medium, max_complexity: 20%},\n"
        "                {model: a/small, max_complexity: 20%}]},\n"
        "  n: {route: cost, targets: [{model: d/large, tiers: [gold, silver]}]}}",
        three_prices);
    ask_text(hard);
    assert_plan("m", "a/small b/medium");
    assert_explained(arena_printf(arena,
                                  "cost: complexity %u > 20 of the best, cheapest 0.001024 of 2",
                                  plan.cost->complexity.score));
    assert_refused("n", "model_not_found", "model");
    caller.subject = &subject;
    assert_refused("n", "model_not_found", "model");
    subject.tier = STR("silver");
    assert_plan("n", "d/large");
    assert_plan("m", "a/small b/medium");
    subject.tier = STR("gold");
    assert_plan("m", "d/large");
}

/* Owners whose money runs out get what is cheapest, however hard they ask. */
static void test_cost_on_a_low_budget(void **state)
{
    struct subject subject = {.org = STR("o"), .project = STR("p"), .key = STR("k")};
    struct budget_owner owner = budget_owner_make(BUDGET_PROJECT, STR("p"), STR("p"));
    struct budget_key key = {.owner = &owner,
                             .unit = BUDGET_MONEY,
                             .quota = {.amount = 10000000000, .period = CONF_PERIOD_TOTAL}};

    use_priced(
        "budgets: {per_project: {money: 10/total}}\n"
        "models: {m: {route: cost, targets: [d/large, {model: a/small, max_complexity: 30%},\n"
        "                {model: b/medium, tiers: gold}]}}",
        three_prices);
    ask_text(hard);
    caller.subject = &subject;
    assert_plan("m", "d/large");
    struct budget_account *account = budget_account_take(&key, NULL);
    assert_non_null(account);
    budget_account_unlock(account);
    account->left = 2100000000;
    assert_plan("m", "d/large");
    account->left = 1900000000;
    assert_plan("m", "a/small");
    assert_int_equal(route_cost_choice(plan.cost, &set->aliases[0].targets[0])->verdict,
                     ROUTE_COST_DEARER);
    assert_explained(arena_printf(arena,
                                  "cost: complexity %u, 19%% of the budget left, cheapest "
                                  "0.001024 of 2",
                                  plan.cost->complexity.score));
    budget_account_give(account);
}

static void test_auto(void **state)
{
    use("models: {m: {targets: a/x}, n: {route: cost, targets: b/x}, o: {route: cost, targets: "
        "d/x}}\n"
        "default_provider: d");
    ask_text(easy);
    assert_plan("auto", "b/x");
    assert_string_equal(arena_cstr(arena, plan.alias->name), "n");
    tear_down(state);
    set_up(state);
    use("models: {n: {route: cost, targets: b/x}, auto: {targets: a/x}}");
    assert_plan("auto", "a/x");
    tear_down(state);
    set_up(state);
    use("models: {n: {targets: b/x}}\ndefault_provider: d");
    assert_plan("auto", "d/auto");
}

/* Protocols that are never translated have no question that could be measured. */
static void test_cost_of_what_is_not_understood(void **state)
{
    use_priced(
        "models: {m: {route: cost, targets: [d/large, {model: a/small, max_complexity: 0%}]}}",
        three_prices);
    ask.expand = NULL;
    ask.protocol = PROTOCOL_EMBEDDINGS;
    ask.body = STR("{\"input\": \"Prove it.\"}");
    assert_plan("m", "a/small d/large");
    assert_int_equal(plan.cost->output_tokens, 0);
    ask.protocol = PROTOCOL_COMPLETIONS;
    ask.body = STR("{\"prompt\": \"Prove the theorem and analyse why each must fail\"}");
    assert_plan("m", "d/large");
    assert_int_equal(plan.cost->output_tokens, ROUTE_COST_ANSWER_TOKENS);
}

static void set_member(size_t i, struct str key, struct str value)
{
    members[i] = (struct json_member){key, value, false};
    ask.member_count = i + 1;
}

/* The whole order as one text: as good as the key it is made from. */
static const char *order(void)
{
    assert_null(make_plan("m"));
    return labels(plan.targets, plan.target_count);
}

/* Which signs decide: with another value of it the order must change for one of a few values. */
static bool depends_on(struct str key, const char *before, const char *after)
{
    const char *first = NULL;

    for (int i = 0; i < 12; i++) {
        char *value = arena_printf(arena, "%s%d%s", before, i, after);
        set_member(0, key, str_from(value));
        const char *is = order();
        if (first && strcmp(first, is) != 0)
            return true;
        first = is;
    }
    return false;
}

static void test_signs_of_a_conversation(void **state)
{
    use("models: {m: {route: sticky, targets: [a/x, b/x, c/x, d/x]}}");
    assert_true(depends_on(STR("prompt_cache_key"), "\"k", "\""));
    assert_true(depends_on(STR("conversation"), "{\"id\":\"c", "\"}"));
    assert_true(depends_on(STR("metadata"), "{\"user_id\":\"u", "\"}"));
    assert_true(depends_on(STR("previous_response_id"), "\"resp_", "\""));
    assert_false(depends_on(STR("user"), "\"u", "\""));
    ask.history = STR("[]"); /* the conversation is known from its beginning */
    assert_false(depends_on(STR("previous_response_id"), "\"resp_", "\""));
    struct http_head head = head_of("x-claude-code-session-id", "s");
    caller.head = &head;
    assert_false(depends_on(STR("metadata"), "{\"user_id\":\"u", "\"}"));
}

static void test_signs_of_a_user(void **state)
{
    use("models: {m: {route: sticky, sticky_by: user, targets: [a/x, b/x, c/x, d/x]}}");
    assert_true(depends_on(STR("user"), "\"u", "\""));
    assert_true(depends_on(STR("safety_identifier"), "\"u", "\""));
    assert_true(depends_on(STR("metadata"), "{\"user_id\":\"u", "\"}"));
    assert_false(depends_on(STR("prompt_cache_key"), "\"k", "\""));
}

/* Without a sign a conversation is how it began. */
static void test_beginnings(void **state)
{
    const char *first = NULL;
    bool differs = false;

    use("models: {m: {route: sticky, targets: [a/x, b/x, c/x, d/x]}}");
    for (size_t i = 1; i < 12; i++) {
        write_text(i);
        const char *is = order();
        messages[1] = (struct message){.role = ROLE_ASSISTANT, .parts = parts, .part_count = 1};
        prompt.message_count = 2; /* it goes on */
        assert_string_equal(order(), is);
        differs = differs || (first && strcmp(first, is) != 0);
        first = is;
    }
    assert_true(differs);
}

/* ---- for attempts ---- */

static void end_with(struct target *target, size_t key, enum health_sign sign, size_t times)
{
    while (times--) {
        health_begin(target->health[key], HEALTH_ASK);
        health_end(target->health[key], HEALTH_ASK, sign, 1000, 0, 0);
    }
}

static void test_picking_a_key(void **state)
{
    struct http_header headers[] = {{STR("x-ratelimit-limit-requests"), STR("100")},
                                    {STR("x-ratelimit-remaining-requests"), STR("10")}};
    struct http_head head = {.headers = headers, .header_count = 2};
    enum health_verdict verdict;
    uint64_t until_ms;

    use("models: {m: {targets: [b/x, a/x]}}");
    struct target *b = &set->aliases[0].targets[0], *a = &set->aliases[0].targets[1];
    assert_int_equal(providers_pick_credential(a, 1000, &verdict, &until_ms), 0);
    assert_int_equal(providers_pick_credential(b, 1000, &verdict, &until_ms), 0);
    assert_int_equal(verdict, HEALTH_ASK);
    health_begin(b->health[0], HEALTH_ASK);
    assert_int_equal(providers_pick_credential(b, 1000, &verdict, &until_ms), 1);
    health_end(b->health[0], HEALTH_ASK, HEALTH_UNKNOWN, 1000, 0, 0);
    credential_note(&b->provider->credentials[0], &head, 1000);
    assert_int_equal(providers_pick_credential(b, 1000, &verdict, &until_ms), 1);

    end_with(b, 1, HEALTH_OUT, 1); /* less room is better than none */
    assert_int_equal(providers_pick_credential(b, 1000, &verdict, &until_ms), 0);
    assert_int_equal(verdict, HEALTH_ASK);
    end_with(b, 0, HEALTH_FAILED, 5);
    assert_int_equal(providers_pick_credential(b, 1000, &verdict, &until_ms), 0);
    assert_int_equal(verdict, HEALTH_AVOID);
    assert_in_range(until_ms, 5000, 7000); /* the earlier one */
    assert_int_equal(providers_pick_credential(b, 7000, &verdict, &until_ms), 0);
    assert_int_equal(verdict, HEALTH_PROBE);
    assert_int_equal(providers_pick_credential(b, 7000, &verdict, &until_ms), 0);
    assert_int_equal(verdict, HEALTH_AVOID);
    /* a key that works does not keep the other from being probed */
    assert_int_equal(providers_pick_credential(b, 400000, &verdict, &until_ms), 0);
    assert_int_equal(verdict, HEALTH_PROBE);
    assert_int_equal(providers_pick_credential(b, 400000, &verdict, &until_ms), 1);
    assert_int_equal(verdict, HEALTH_ASK);
}

static void test_target_paths(void **state)
{
    struct str out;

    use("models: {m: {targets: [a/x, c/gpt 4/ü]}}");
    struct target *targets = set->aliases[0].targets;
    assert_null(providers_target_path(&targets[0], STR("/chat"), arena, &out));
    assert_true(str_eq(out, STR("/chat")));
    assert_null(providers_target_path(&targets[1], STR("/chat"), arena, &out));
    assert_true(str_eq(out, STR("/dep/gpt%204%2F%C3%BC/v1/chat?api-version=1%202&a%26b=%C3%A4")));
    assert_int_equal(targets[1].provider->origin.base_path.len, 0);
    assert_null(providers_target_path(&targets[1], STR("/c?alt=sse"), arena, &out));
    assert_true(str_ends(out, STR("/v1/c?alt=sse&api-version=1%202&a%26b=%C3%A4")));
}

static void test_no_memory(void **state)
{
#ifdef SLUICE_FAULTS
    static const char *const names[] = {"m", "b/new", "n"};

    use("models: {m: {route: weighted, targets: [{model: a/x, tools: off}, b/x],\n"
        "             context_fallbacks: d/x}, n: {route: cost, targets: [a/x, b/x]}}");
    for (size_t i = 0; i < 3; i++) {
        for (uint64_t n = 1;; n++) {
            struct arena *small = arena_new(MEM_TOOL, 1024 * 1024);
            ask.model = str_from(names[i]);
            ask.prompt = NULL;
            mem_fail_nth(n);
            err_t err = router_plan(set, &ask, &caller, small, &plan);
            bool over = mem_fail_count() < n;
            mem_fail_nth(0);
            arena_free(small);
            assert_true(over ? !err : err_is(err, ERR_BUSY));
            if (over)
                break;
        }
    }
#endif
}

static int make_file(void **state)
{
    int fd = mkstemp(path), other = mkstemp(prices_path);

    return fd < 0 || other < 0 || close(fd) ? -1 : close(other);
}

static int remove_file(void **state)
{
    return unlink(path) || unlink(prices_path);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(names),
        TEST(nobody_by_default),
        TEST(fallbacks),
        TEST(what_the_caller_wants),
        TEST(inheritance),
        TEST(keys_tags_and_headers),
        TEST(prompt_tokens),
        TEST(capabilities),
        TEST(context),
        TEST(prompts_that_are_wrong),
        TEST(weighted),
        TEST(least_busy),
        TEST(latency),
        TEST(cost),
        TEST(cost_ties),
        TEST(cost_when_nothing_fits),
        TEST(cost_on_a_low_budget),
        TEST(auto),
        TEST(cost_of_what_is_not_understood),
        TEST(sticky_is_stable),
        TEST(signs_of_a_conversation),
        TEST(signs_of_a_user),
        TEST(beginnings),
        TEST(picking_a_key),
        TEST(target_paths),
        TEST(no_memory),
    };

    return cmocka_run_group_tests(tests, make_file, remove_file);
}
