/* SPDX-License-Identifier: Apache-2.0 */
/* Prices: decimals to the last digit, what a file may say, which price holds, what a call costs, and
 * LiteLLM's list. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/mem.h"
#include "govern/price.h"
#include "govern/price_decimal.h"

#define DAY UINT64_C(86400000)

static struct arena *arena;
static struct buf printed;

static int set_up(void **state)
{
    arena = arena_new(MEM_TOOL, 16 * 1024 * 1024);
    printed = buf_make(MEM_TOOL, 1024 * 1024);
    err_scope_set(arena);
    return 0;
}

static int tear_down(void **state)
{
    err_scope_set(NULL);
    arena_free(arena);
    buf_fini(&printed);
    assert_int_equal(mem_in_use(MEM_CONF), 0);
    assert_int_equal(mem_in_use(MEM_TOOL), 0);
    return 0;
}

static void assert_str(struct str s, const char *expected)
{
    if (!str_eq(s, str_from(expected)))
        fail_msg("\"%.*s\" instead of \"%s\"", STR_ARG(s), expected);
}

static struct prices *read_ok(const char *text)
{
    struct prices *prices;
    err_t err = prices_read(STR("p"), str_from(text), &prices);

    if (err)
        fail_msg("%s", err->text);
    return prices;
}

static void assert_refused(const char *text, const char *expected)
{
    struct prices *prices;
    err_t err = prices_read(STR("p"), str_from(text), &prices);

    assert_null(prices);
    assert_true(err_is(err, ERR_CONFIG));
    assert_string_equal(err->text, expected);
}

/* ---- decimals ---- */

static void test_decimals(void **state)
{
    static const struct {
        const char *text;
        int power;
        uint64_t value;
        bool is_exact;
        const char *printed; /* NULL: not looked at */
    } good[] = {
        {"0", 6, 0, true, "0"},
        {"2.50", 6, 2500000, true, "2.5"},
        {"0.000001", 6, 1, true, "0.000001"},
        {"0.0000001", 6, 1, false, NULL},
        {"1.5e-07", 12, 150000, true, NULL},
        {"1.5E-7", 12, 150000, true, NULL},
        {"2.5e-06", 12, 2500000, true, NULL},
        {"3e+2", 6, 300000000, true, "300"},
        {"1e2", 0, 100, true, "100"},
        {"0e99999", 6, 0, true, "0"},
        {"0.000e-99999", 6, 0, true, "0"},
        {"1e-99999", 6, 1, false, NULL},
        {"1000000000000000000", 0, PRICE_DECIMAL_MAX, true, NULL},
        {"1000000", 12, PRICE_DECIMAL_MAX, true, "1000000"},
        {"0.33333333333333333333333333333333333333333333333333", 6, 333334, false, NULL},
        {"0.50000000000000000000000000000000000000000000000000", 6, 500000, true, "0.5"},
        {"100000000000000000000000000000000000000000000000000e-44", 6, 1000000000000, true, NULL},
    };
    static const char *const bad[] = {"",       ".5",  "5.",        "-1",   "+1",
                                      "1,5",    "1e",  "e5",        "1e+",  "1e-",
                                      "1.2.3",  "NaN", "Infinity",  "0x10", "1 ",
                                      " 1",     "1_0", "1e9999999", "1e20", "1000000000000000001",
                                      "1e99999"};
    uint64_t value;
    bool is_exact;

    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_true(price_decimal_parse(str_from(good[i].text), good[i].power, &value, &is_exact));
        assert_int_equal(value, good[i].value);
        assert_int_equal(is_exact, good[i].is_exact);
        printed.len = 0;
        assert_null(price_decimal_print(value, good[i].power, &printed));
        if (good[i].printed)
            assert_str(buf_str(&printed), good[i].printed);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (price_decimal_parse(str_from(bad[i]), 0, &value, &is_exact))
            fail_msg("\"%s\" was taken for a number", bad[i]);
}

/* ---- the file ---- */

static void test_defaults_of_a_price(void **state)
{
    struct prices *prices =
        read_ok("currency: EUR\nmodels:\n  a/full: {input: 2.5, output: 10, cached: 1.25, "
                "cache_written: 3, reasoning: 12, image: 0.001, request: 0.01}\n"
                "  a/least: {input: 2.5, output: 10}\n  a/free: {input: 0, output: 0}\n");
    const struct price *full = price_find(prices, STR("a"), STR("full"), 0);
    const struct price *least = price_find(prices, STR("a"), STR("least"), 0);

    assert_str(prices_currency(prices), "EUR");
    assert_int_equal(prices_count(prices), 3);
    assert_int_equal(full->input_pico, 2500000);
    assert_int_equal(full->cached_pico, 1250000);
    assert_int_equal(full->cache_written_pico, 3000000);
    assert_int_equal(full->reasoning_pico, 12000000);
    assert_int_equal(full->image_pico, 1000000000);
    assert_int_equal(full->request_pico, 10000000000);
    assert_int_equal(least->cached_pico, least->input_pico);
    assert_int_equal(least->cache_written_pico, least->input_pico);
    assert_int_equal(least->reasoning_pico, least->output_pico);
    assert_int_equal(least->image_pico, 0);
    assert_non_null(price_find(prices, STR("a"), STR("free"), 0));
    prices_unref(prices);
}

static uint64_t input_of(const struct prices *prices, const char *provider, const char *model)
{
    const struct price *price = price_find(prices, str_from(provider), str_from(model), 0);

    return price ? price->input_pico / 1000000 : 0;
}

static void test_which_key_wins(void **state)
{
    static char long_name[1000];
    struct prices *prices = read_ok("currency: USD\nmodels:\n"
                                    "  openai/gpt-4o: {input: 1, output: 1}\n"
                                    "  openai/gpt-4*: {input: 2, output: 1}\n"
                                    "  openai/gpt-4o-*: {input: 3, output: 1}\n"
                                    "  openai/*: {input: 4, output: 1}\n"
                                    "  gpt-4o: {input: 5, output: 1}\n"
                                    "  gpt-*: {input: 6, output: 1}\n"
                                    "  x/m/n: {input: 7, output: 1}\n"
                                    "  \"*\": {input: 9, output: 1}\n");

    assert_int_equal(input_of(prices, "openai", "gpt-4o"), 1);
    assert_int_equal(input_of(prices, "openai", "gpt-4.1"), 2);
    assert_int_equal(input_of(prices, "openai", "gpt-4o-mini"), 3);
    assert_int_equal(input_of(prices, "openai", "o3"), 4);
    assert_int_equal(input_of(prices, "azure", "gpt-4o"), 5);
    assert_int_equal(input_of(prices, "azure", "gpt-4o-mini"), 6);
    assert_int_equal(input_of(prices, "x", "m/n"), 7);
    assert_int_equal(input_of(prices, "y", "x/m/n"), 9); /* x/m/n is x's m/n alone */
    assert_int_equal(input_of(prices, "", ""), 9);
    memset(long_name, 'g', sizeof long_name - 1);
    assert_int_equal(input_of(prices, "openai", long_name), 4);
    assert_int_equal(input_of(prices, long_name, "gpt-4o"), 5);
    prices_unref(prices);
    prices = read_ok("currency: USD\nmodels: {}\n");
    assert_int_equal(input_of(prices, "openai", "gpt-4o"), 0);
    prices_unref(prices);
}

static void test_dates(void **state)
{
    struct prices *prices =
        read_ok("currency: USD\nmodels:\n  m:\n"
                "    - {input: 3, output: 1, from: 2026-03-01T12:30:00Z}\n"
                "    - {input: 1, output: 1, until: 2026-01-01}\n"
                "    - {input: 2, output: 1, from: 2026-01-01, until: 2026-02-01}\n"
                "  leap: {input: 1, output: 1, from: 2000-02-29, until: 2000-03-01}\n");
    const uint64_t january = 20454 * DAY; /* 2026-01-01 */
    const uint64_t march = (20454 + 31 + 28) * DAY + 45000000;
    static const struct {
        int64_t offset;
        uint64_t input;
    } rows[] = {{-1, 1}, {0, 2}, {31 * (int64_t)DAY - 1, 2}, {31 * (int64_t)DAY, 0}};

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct price *price =
            price_find(prices, STR("x"), STR("m"), january + (uint64_t)rows[i].offset);
        assert_int_equal(price ? price->input_pico / 1000000 : 0, rows[i].input);
    }
    assert_null(price_find(prices, STR("x"), STR("m"), march - 1));
    assert_int_equal(price_find(prices, STR("x"), STR("m"), march)->input_pico, 3000000);
    assert_null(price_find(prices, STR("x"), STR("leap"), 11016 * DAY - 1));
    assert_non_null(price_find(prices, STR("x"), STR("leap"), 11016 * DAY));
    assert_null(price_find(prices, STR("x"), STR("leap"), 11017 * DAY));
    prices_unref(prices);
}

static void test_files_that_are_refused(void **state)
{
    assert_refused("", "p: currency must be three capital letters like USD (ISO 4217)\n"
                       "p: models must be a map of names and prices");
    assert_refused("[]", "p: currency must be three capital letters like USD (ISO 4217)\n"
                         "p: models must be a map of names and prices");
    assert_refused("currency: dollars\nmodels: []\nmodel: {}\n",
                   "p:1: currency must be three capital letters like USD (ISO 4217)\n"
                   "p:2: models must be a map of names and prices\n"
                   "p:3: unknown option \"model\": a price file has currency and models");
    assert_refused("currency: USD\nmodels:\n  a: {input: 1}\n  a: {input: 1}\n",
                   "p:4: \"a\" is here again, after line 3");
    assert_refused(
        "currency: USD\nmodels:\n  a: 5\n  b: []\n  c*d: {input: 1, output: 1}\n"
        "  d: {input: -1, output: 1.0000001, image: 1e-13, cached: [1]}\n"
        "  e: {input: 1, outptu: 1}\n  f: {input: 1, output: 2e12}\n",
        "p:3: a price must be like {input: 2.50, output: 10}\n"
        "p:4: b has no price\n"
        "p:5: a model must be named like provider/model or model, with \"*\" at most at its end\n"
        "p:6: input must be a number like 2.50, not \"-1\"\n"
        "p:6: output has more than 6 digits after the point\n"
        "p:6: image has more than 12 digits after the point\n"
        "p:6: cached must be a number like 2.50, not \"\"\n"
        "p:7: a price has no \"outptu\" (did you mean \"output\"?)\n"
        "p:7: a price needs input and output; what is free costs 0\n"
        "p:8: output must be a number like 2.50, not \"2e12\"");
    assert_refused(
        "currency: USD\nmodels:\n  a:\n    - {input: 1, output: 1, until: 2026-01-02}\n"
        "    - {input: 1, output: 1, from: 2026-01-01}\n"
        "  b: {input: 1, output: 1, from: 2026-01-01, until: 2026-01-01}\n"
        "  c: {input: 1, output: 1, from: 2025-02-29, until: 01.02.2026}\n"
        "  d: {input: 1, output: 1, from: 2026-01-01T24:00:00Z, until: "
        "2026-01-01T10:00:00+01:00}\n",
        "p:5: this price and the one of line 4 hold at the same time\n"
        "p:6: until must be later than from\n"
        "p:7: from must be a date like 2026-01-01 or 2026-01-01T12:30:00Z, not \"2025-02-29\"\n"
        "p:7: until must be a date like 2026-01-01 or 2026-01-01T12:30:00Z, not \"01.02.2026\"\n"
        "p:8: from must be a date like 2026-01-01 or 2026-01-01T12:30:00Z, not "
        "\"2026-01-01T24:00:00Z\"\n"
        "p:8: until must be a date like 2026-01-01 or 2026-01-01T12:30:00Z, not "
        "\"2026-01-01T10:00:00+01:00\"");
}

/* A file of mistakes is not told in full. */
static void test_many_problems(void **state)
{
    struct prices *prices;

    assert_null(buf_add(&printed, STR("currency: USD\nmodels:\n")));
    for (int i = 0; i < 30; i++)
        assert_null(buf_printf(&printed, "  m%d: 1\n", i));
    err_t err = prices_read(STR("p"), buf_str(&printed), &prices);
    assert_true(err_is(err, ERR_CONFIG));
    assert_non_null(strstr(err->text, "p:22: a price must be"));
    assert_null(strstr(err->text, "p:23:"));
    assert_true(str_ends(str_from(err->text), STR("\nand 10 more")));
}

static void test_load(void **state)
{
    char name[] = "/tmp/test_price_XXXXXX";
    struct prices *prices;
    int fd = mkstemp(name);

    assert_true(fd >= 0 && write(fd, "currency: USD\nmodels: {}\n", 25) == 25);
    close(fd);
    assert_null(prices_load(str_from(name), &prices));
    prices_unref(prices);
    unlink(name);
    err_t err = prices_load(str_from(name), &prices);
    assert_true(err_is(err, ERR_CONFIG));
    assert_non_null(strstr(err->text, "No such file"));
    assert_true(err_is(prices_load(STR("/tmp"), &prices), ERR_CONFIG));
}

/* A table outlives its successor as long as somebody uses it. */
static void test_references(void **state)
{
    struct prices *first = read_ok("currency: USD\nmodels: {a: {input: 1, output: 1}}\n");
    struct prices *used = prices_ref(first);

    prices_unref(first);
    assert_int_equal(input_of(used, "x", "a"), 1);
    prices_unref(used);
    prices_unref(NULL);
    assert_null(prices_ref(NULL));
}

/* ---- cost ---- */

static void test_cost(void **state)
{
    struct prices *prices = read_ok(
        "currency: USD\nmodels:\n"
        "  a: {input: 2.5, output: 10, cached: 1.25, cache_written: 3.75, reasoning: 20, image: "
        "0.001, request: 0.0005}\n"
        "  tiny: {input: 0.000001, output: 0.000001}\n"
        "  most: {input: 1000000000000, output: 1000000000000, image: 1000000, request: 1000000}\n"
        "  free: {input: 0, output: 0}\n");
    const struct price *a = price_find(prices, STR(""), STR("a"), 0);
    const struct price *tiny = price_find(prices, STR(""), STR("tiny"), 0);
    const struct price *most = price_find(prices, STR(""), STR("most"), 0);
    const struct price *free_one = price_find(prices, STR(""), STR("free"), 0);
    const struct price_usage all = {UINT64_MAX, UINT64_MAX, 0, 0, 0, UINT64_MAX};

#define COST(price, ...) price_cost(price, &(struct price_usage){__VA_ARGS__})
    assert_int_equal(COST(a, .input = 0), 500000);
    assert_int_equal(COST(a, .input = 1000000), 2500500000);
    assert_int_equal(COST(a, .input = 100, .cached = 40, .cache_written = 10), /* 50, 40, 10 */
                     500000 + 125000 + 50000 + 37500);
    assert_int_equal(COST(a, .output = 100, .reasoning = 60), 500000 + 400000 + 1200000);
    assert_int_equal(COST(a, .images = 3), 500000 + 3000000);
    /* Parts that are more than the whole are no reason to charge more than the whole. */
    assert_int_equal(COST(a, .input = 10, .cached = 20, .cache_written = 5), 500000 + 12500);
    assert_int_equal(COST(a, .output = 10, .reasoning = 20), 500000 + 200000);
    /* Rounded up, once: 1, 1000 and 1001 pico-units. */
    assert_int_equal(COST(tiny, .input = 1), 1);
    assert_int_equal(COST(tiny, .input = 500, .output = 500), 1);
    assert_int_equal(COST(tiny, .input = 1001), 2);
    assert_int_equal(COST(tiny, .input = 0), 0);
    assert_int_equal(price_cost(free_one, &all), 0);
    assert_true(price_cost(most, &all) == UINT64_MAX);
    assert_true(COST(tiny, .input = UINT64_MAX) == UINT64_MAX / 1000 + 1);
#undef COST
    prices_unref(prices);
}

/* ---- LiteLLM ---- */

static void test_litellm(void **state)
{
    static const char json[] =
        " {\"sample_spec\": {\"input_cost_per_token\": 0.0},\n"
        "  \"gpt-4o\": {\"litellm_provider\": \"openai\", \"input_cost_per_token\": 2.5e-06,\n"
        "     \"output_cost_per_token\": 1e-05, \"cache_read_input_token_cost\": 1.25e-06},\n"
        "  \"o3\": {\"litellm_provider\": \"openai\", \"input_cost_per_token\": 1.1e-06,\n"
        "     \"output_cost_per_token\": 4.4e-06, \"output_cost_per_reasoning_token\": 5e-06},\n"
        "  \"claude\": {\"litellm_provider\": \"anthropic\", \"input_cost_per_token\": 0.000003,\n"
        "     \"output_cost_per_token\": 15E-6, \"cache_creation_input_token_cost\": 3.75e-06,\n"
        "     \"input_cost_per_token_above_200k_tokens\": 6e-06},\n"
        "  \"groq/a\": {\"litellm_provider\": \"groq\", \"mode\": \"embedding\",\n"
        "     \"input_cost_per_token\": 1.5e-07},\n"
        "  \"a\": {\"litellm_provider\": \"groq\", \"mode\": \"embedding\", "
        "\"input_cost_per_token\": 9},\n"
        "  \"together_ai/b/c\": {\"litellm_provider\": \"together_ai\",\n"
        "     \"input_cost_per_token\": 3.3333333333e-08, \"output_cost_per_token\": 0,\n"
        "     \"input_cost_per_image\": 0.0004},\n"
        "  \"vertex_ai/d\": {\"litellm_provider\": \"vertex_ai-language-models\",\n"
        "     \"output_cost_per_token\": 1e-6, \"input_cost_per_token\": 0,\n"
        "     \"cache_read_input_token_cost\": null},\n"
        "  \"bare\": {\"mode\": \"rerank\", \"input_cost_per_request\": 0.005},\n"
        "  \"bedrock/*/x\": {\"litellm_provider\": \"bedrock\", \"input_cost_per_token\": 1e-6},\n"
        "  \"whisper\": {\"litellm_provider\": \"openai\", \"input_cost_per_second\": 0.0001},\n"
        "  \"text\": \"no object\"}\n";
    struct prices *prices;
    struct str yaml;

    assert_null(price_import_litellm(str_from(json), arena, &yaml));
    assert_str(yaml,
               "# 7 models, from LiteLLM's list. Per million tokens; image and request: each.\n"
               "# 1 of them cost more with long prompts; that is not in here.\n"
               "# 1 others are not in here, because this cannot say what they cost.\n"
               "currency: USD\nmodels:\n"
               "  \"anthropic/claude\": {input: 3, output: 15, cache_written: 3.75}\n"
               "  \"bare\": {input: 0, output: 0, request: 0.005}\n"
               "  \"groq/a\": {input: 0.15, output: 0}\n"
               "  \"openai/gpt-4o\": {input: 2.5, output: 10, cached: 1.25}\n"
               "  \"openai/o3\": {input: 1.1, output: 4.4, reasoning: 5}\n"
               "  \"together/b/c\": {input: 0.033334, output: 0, image: 0.0004}\n"
               "  \"vertex_ai/d\": {input: 0, output: 1}\n");
    assert_null(prices_read(STR("p"), yaml, &prices));
    assert_int_equal(prices_count(prices), 7);
    prices_unref(prices);
    assert_null(price_import_litellm(STR("{}"), arena, &yaml));
    assert_null(prices_read(STR("p"), yaml, &prices));
    assert_int_equal(prices_count(prices), 0);
    prices_unref(prices);
}

/* What costs by things that a price file does not have is told of, or left out rather than free. */
static void test_litellm_makes_nothing_free(void **state)
{
    static const char json[] =
        "{\"rerank\": {\"litellm_provider\": \"cohere\", \"mode\": \"rerank\",\n"
        "     \"input_cost_per_query\": 0.002, \"input_cost_per_token\": 0.0,\n"
        "     \"output_cost_per_token\": 0.0},\n"
        "  \"both\": {\"mode\": \"rerank\", \"input_cost_per_request\": 0.5,\n"
        "     \"input_cost_per_query\": 0.25},\n"
        "  \"free\": {\"mode\": \"chat\", \"input_cost_per_token\": 0,\n"
        "     \"output_cost_per_token\": 0e-7},\n"
        "  \"sound\": {\"mode\": \"chat\", \"input_cost_per_token\": 1e-6,\n"
        "     \"output_cost_per_token\": 2e-6, \"input_cost_per_audio_token\": 1e-4,\n"
        "     \"input_cost_per_token_priority\": 2e-6},\n"
        "  \"half\": {\"mode\": \"chat\", \"input_cost_per_token\": 1e-6,\n"
        "     \"output_cost_per_token\": null},\n"
        "  \"letters\": {\"mode\": \"chat\", \"input_cost_per_token\": 0,\n"
        "     \"output_cost_per_token\": 0, \"input_cost_per_character\": 1e-6,\n"
        "     \"output_cost_per_character\": 2e-6, \"input_cost_per_image\": 0.0004},\n"
        "  \"pixels\": {\"mode\": \"image_generation\", \"input_cost_per_token\": 0,\n"
        "     \"input_cost_per_pixel\": 4e-8}}";
    struct prices *prices;
    struct str yaml;

    assert_null(price_import_litellm(str_from(json), arena, &yaml));
    assert_str(yaml,
               "# 4 models, from LiteLLM's list. Per million tokens; image and request: each.\n"
               "# 1 of them cost by other things, too, like sound or pixels; that is not in here.\n"
               "# 3 others are not in here, because this cannot say what they cost.\n"
               "currency: USD\nmodels:\n"
               "  \"both\": {input: 0, output: 0, request: 0.5}\n"
               "  \"cohere/rerank\": {input: 0, output: 0, request: 0.002}\n"
               "  \"free\": {input: 0, output: 0}\n"
               "  \"sound\": {input: 1, output: 2}\n");
    assert_null(prices_read(STR("p"), yaml, &prices));
    prices_unref(prices);
}

/* What writes nothing has no price of output; of everything else it must be there. */
static void test_litellm_leaves_out_what_has_no_price_of_output(void **state)
{
    static const char json[] =
        "{\"vectors\": {\"mode\": \"embedding\", \"input_cost_per_token\": 1e-7},\n"
        "  \"pictures\": {\"mode\": \"embedding\", \"input_cost_per_image\": 1e-3},\n"
        "  \"order\": {\"mode\": \"rerank\", \"input_cost_per_query\": 0.002},\n"
        "  \"watch\": {\"mode\": \"moderation\", \"input_cost_per_token\": 0},\n"
        "  \"find\": {\"mode\": \"search\", \"input_cost_per_query\": 0.005},\n"
        "  \"nobody-says\": {\"input_cost_per_token\": 1e-6},\n"
        "  \"who-asks\": {\"input_cost_per_request\": 0.005},\n"
        "  \"words\": {\"mode\": \"chat\", \"input_cost_per_token\": 1e-6},\n"
        "  \"draw\": {\"mode\": \"image_generation\", \"input_cost_per_token\": 5e-6,\n"
        "     \"output_cost_per_image_token\": 4e-5},\n"
        "  \"hear\": {\"mode\": \"audio_transcription\", \"output_cost_per_token\": 12e-6,\n"
        "     \"input_cost_per_second\": 1e-4},\n"
        "  \"no-price\": {\"mode\": \"chat\", \"max_tokens\": 4096}}";
    struct str yaml;

    assert_null(price_import_litellm(str_from(json), arena, &yaml));
    assert_str(yaml,
               "# 4 models, from LiteLLM's list. Per million tokens; image and request: each.\n"
               "# 6 others are not in here, because this cannot say what they cost.\n"
               "currency: USD\nmodels:\n"
               "  \"find\": {input: 0, output: 0, request: 0.005}\n"
               "  \"order\": {input: 0, output: 0, request: 0.002}\n"
               "  \"vectors\": {input: 0.1, output: 0}\n"
               "  \"watch\": {input: 0, output: 0}\n");
}

static void test_litellm_tells_of_prices_in_tiers(void **state)
{
    static const char json[] =
        "{\"only\": {\"mode\": \"chat\", \"tiered_pricing\": [{\"range\": [0, 32000],\n"
        "     \"input_cost_per_token\": 1e-6, \"output_cost_per_token\": 2e-6}]},\n"
        "  \"also\": {\"mode\": \"chat\", \"input_cost_per_token\": 1e-6,\n"
        "     \"output_cost_per_token\": 2e-6, \"tiered_pricing\": []}}";
    struct str yaml;

    assert_null(price_import_litellm(str_from(json), arena, &yaml));
    assert_str(yaml,
               "# 1 models, from LiteLLM's list. Per million tokens; image and request: each.\n"
               "# 1 of them cost more with long prompts; that is not in here.\n"
               "# 1 others are not in here, because they have only tiers of prices.\n"
               "currency: USD\nmodels:\n"
               "  \"also\": {input: 1, output: 2}\n");
}

#define GOOD_ENTRY                                                                                 \
    "\"good\": {\"input_cost_per_token\": 1e-6, \"output_cost_per_token\": 2e-6,\n"                \
    " \"search_context_cost_per_query\": {\"size_low\": 0.01}}"

/* A mistake in the list costs the entry that it is in, and never makes it free. */
static void test_litellm_leaves_out_what_has_a_wrong_price(void **state)
{
    static const char *const wrong[] = {
        "\"input_cost_per_token\": 1e-6, \"output_cost_per_token\": \"2e-6\"",
        "\"input_cost_per_token\": \"1e-6\", \"output_cost_per_token\": \"2e-6\"",
        "\"input_cost_per_token\": -1e-6, \"output_cost_per_token\": 2e-6",
        "\"input_cost_per_tok\\u0065n\": -1e-6, \"output_cost_per_token\": 2e-6",
        "\"input_cost_per_token\": 1e300, \"output_cost_per_token\": 2e-6",
        "\"input_cost_per_token\": {}, \"output_cost_per_token\": 2e-6",
        "\"input_cost_per_token\": 1e-6, \"output_cost_per_token\": false",
        "\"input_cost_per_token\": 0, \"output_cost_per_token\": 0,"
        " \"input_cost_per_character\": \"1e-6\"",
    };
    struct str yaml;

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const char *json =
            arena_printf(arena, "{\"a\": {\"mode\": \"chat\", %s}, " GOOD_ENTRY "}", wrong[i]);
        assert_null(price_import_litellm(str_from(json), arena, &yaml));
        assert_str(yaml,
                   "# 1 models, from LiteLLM's list. Per million tokens; image and request: each.\n"
                   "# 1 others are not in here, because what should be a price is none: a.\n"
                   "currency: USD\nmodels:\n"
                   "  \"good\": {input: 1, output: 2}\n");
    }
}

static void test_litellm_names_the_first_wrong_prices(void **state)
{
#define WRONG(name) "\"" name "\": {\"input_cost_per_token\": \"\"}"
    static const char json[] =
        "{" WRONG("one/a") ", " WRONG("b") ", " GOOD_ENTRY
                                           ", " WRONG("c") ", " WRONG("d\\n") ", " WRONG("e") "}";
    struct prices *prices;
    struct str yaml;

    assert_null(price_import_litellm(str_from(json), arena, &yaml));
    assert_true(str_find(yaml, STR("# 4 others are not in here, because what should be a price is "
                                   "none: one/a, b, c, ...\n")) < yaml.len);
    assert_null(prices_read(STR("p"), yaml, &prices));
    assert_int_equal(prices_count(prices), 1);
    prices_unref(prices);
#undef WRONG
}

static void test_litellm_that_is_refused(void **state)
{
    static const char *const rows[][2] = {
        {"", "invalid JSON"},
        {"[]", "the file must be a JSON object of models"},
        {"{\"a\": {\"input_cost_per_token\": 1e-6, }}", "invalid JSON"},
    };
    struct str yaml;

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        err_t err = price_import_litellm(str_from(rows[i][0]), arena, &yaml);
        assert_true(err_is(err, ERR_BAD_REQUEST));
        assert_non_null(strstr(err->text, rows[i][1]));
        assert_int_equal(yaml.len, 0);
    }
}

/* ---- without memory ---- */

/* With every allocation failing in turn, reading fails cleanly or works; nothing leaks. */
static void test_no_memory(void **state)
{
#ifdef SLUICE_FAULTS
    static const char text[] = "currency: USD\nmodels:\n  a: {input: 1, output: 1}\n"
                               "  b*: [{input: 1, output: 1}]\n";
    static const char wrong[] = "currency: USD\nmodels: {a: {inptu: 1}}\n";
    struct prices *prices;

    err_scope_set(NULL);
    for (uint64_t n = 1;; n++) {
        mem_fail_nth(n);
        err_t err = prices_read(STR("p"), str_from(text), &prices);
        bool over = mem_fail_count() < n;
        mem_fail_nth(0);
        assert_true(over ? !err : err_is(err, ERR_BUSY) && !prices);
        prices_unref(prices);
        assert_int_equal(mem_in_use(MEM_CONF), 0);
        if (over)
            break;
    }
    for (uint64_t n = 1; n < 100; n++) {
        mem_fail_nth(n);
        assert_non_null(prices_read(STR("p"), str_from(wrong), &prices));
        mem_fail_nth(0);
        assert_int_equal(mem_in_use(MEM_CONF), 0);
    }
#endif
}

static void test_litellm_without_memory(void **state)
{
#ifdef SLUICE_FAULTS
    static const char json[] = "{" GOOD_ENTRY ", \"wrong\": {\"input_cost_per_token\": -1}}";
    struct str yaml;
    bool over = false;

    for (uint64_t n = 1; !over; n++) {
        struct arena *own = arena_new(MEM_TOOL, 1024 * 1024);
        assert_non_null(own);
        mem_fail_nth(n);
        err_t err = price_import_litellm(str_from(json), own, &yaml);
        over = mem_fail_count() < n;
        mem_fail_nth(0);
        assert_true(over ? !err : err_is(err, ERR_BUSY) && yaml.len == 0);
        arena_free(own);
    }
#endif
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(decimals),
        TEST(defaults_of_a_price),
        TEST(which_key_wins),
        TEST(dates),
        TEST(files_that_are_refused),
        TEST(many_problems),
        TEST(load),
        TEST(references),
        TEST(cost),
        TEST(litellm),
        TEST(litellm_makes_nothing_free),
        TEST(litellm_leaves_out_what_has_no_price_of_output),
        TEST(litellm_tells_of_prices_in_tiers),
        TEST(litellm_leaves_out_what_has_a_wrong_price),
        TEST(litellm_names_the_first_wrong_prices),
        TEST(litellm_that_is_refused),
        TEST(no_memory),
        TEST(litellm_without_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
