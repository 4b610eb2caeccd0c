/* SPDX-License-Identifier: Apache-2.0 */
/* Makes a price file of LiteLLM's model_prices_and_context_window.json.
 *
 * That file maps names to objects with costs per token, in US dollars, and many other things. A name
 * may begin with the provider's or not; here it always does, with the name that a provider has with
 * us. Kept are models with a cost of tokens, images or requests; costs that rise with the length of
 * the prompt or depend on other things have no place in a price file and are left out: its head says
 * of how many models.
 *
 * The hard thing is that nothing may become free that is not: a model of which nothing but zeros would be left, whose
 * words have no price in the list, or of whose prices one is none, is left out as a whole. Then its price is not known, and
 * budgets refuse it. The list is long and others write it: a mistake in it stops nobody, but is told. */
#include <stdlib.h>

#include "base/buf.h"
#include "base/check.h"
#include "base/json_members.h"
#include "govern/price_decimal.h"
#include "govern/price_table.h"

#define OUTPUT_MAX_BYTES ((size_t)16 * 1024 * 1024)
#define MOST_WRONG_NAMES 3

struct entry {
    struct str name;   /* "openai/gpt-4o" */
    struct str object; /* as JSON */
    size_t position;   /* in the document: of two of one name the first counts */
};

struct import {
    struct arena *arena;
    struct entry *entries;
    size_t count, room;
    size_t tiered, partial;                   /* models that are kept: see print_head */
    size_t unknown, only_tiers, wrong;        /* models that are not */
    struct str wrong_names[MOST_WRONG_NAMES]; /* the first of these */
};

/* LiteLLM's provider → ours, where the names differ. */
static struct str provider_name(struct str theirs)
{
    static const char *const names[][2] = {
        {"text-completion-openai", "openai"},
        {"azure_ai", "azure"},
        {"azure_text", "azure"},
        {"together_ai", "together"},
        {"text-completion-codestral", "mistral"},
        {"codestral", "mistral"},
        {"hosted_vllm", "vllm"},
        {"bedrock_converse", "bedrock"},
        {"cohere_chat", "cohere"},
    };

    if (str_starts(theirs, STR("vertex_ai-"))) /* one for each maker of models there */
        return STR("vertex_ai");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (str_eq(theirs, str_from(names[i][0])))
            return str_from(names[i][1]);
    return theirs;
}

/* Members and what they are in a price file: from units per token to units per million tokens. */
static const struct cost {
    struct str theirs, ours;
    int power; /* from units to pico-units */
} costs[] = {
#define COST(theirs, ours, power) {{theirs, sizeof(theirs) - 1}, {ours, sizeof(ours) - 1}, power}
    COST("input_cost_per_token", "input", 6),
    COST("output_cost_per_token", "output", 6),
    COST("cache_read_input_token_cost", "cached", 6),
    COST("cache_creation_input_token_cost", "cache_written", 6),
    COST("output_cost_per_reasoning_token", "reasoning", 6),
    COST("input_cost_per_image", "image", 12),
    COST("input_cost_per_request", "request", 12),
    COST("input_cost_per_query", "request", 12), /* of rerankers */
#undef COST
};

#define COST_COUNT (sizeof costs / sizeof *costs)

static bool is_cost(struct str key)
{
    return str_find(key, STR("_cost_per_")) < key.len ||
           str_find(key, STR("_token_cost")) < key.len;
}

/* Costs that only some calls have: "input_cost_per_token_above_200k_tokens", or a list of them all. */
static bool is_tier(struct str key)
{
    return str_find(key, STR("_cost_per_token_above_")) < key.len ||
           str_eq(key, STR("tiered_pricing"));
}

/* Costs that callers choose by asking for another service, which is not what a price file is about. */
static bool is_service(struct str key)
{
    return str_ends(key, STR("_batches")) || str_ends(key, STR("_priority")) ||
           str_ends(key, STR("_flex"));
}

/* A number with a digit that is not 0, exponent aside. */
static bool is_positive(struct str number)
{
    for (size_t i = 0; i < number.len && (number.ptr[i] | 0x20) != 'e'; i++)
        if (number.ptr[i] >= '1' && number.ptr[i] <= '9')
            return true;
    return false;
}

static bool is_kept(struct str key)
{
    for (size_t i = 0; i < COST_COUNT; i++)
        if (str_eq(key, costs[i].theirs))
            return true;
    return false;
}

/* A number that can be a price. Nothing is none, which is no mistake. */
static bool is_price(struct str value)
{
    uint64_t pico;
    bool is_exact;

    return !value.ptr || json_kind(value) == JSON_NULL ||
           (json_kind(value) == JSON_NUMBER && price_decimal_parse(value, 12, &pico, &is_exact));
}

/* Whether anything is no price that should be one. What is not kept may have prices of its own. */
static bool has_mistake(struct str object)
{
    struct json_member m;
    size_t at = 0;

    for (size_t i = 0; i < COST_COUNT; i++)
        if (!is_price(json_get(object, costs[i].theirs)))
            return true;
    while (json_object_next(object, &at, &m))
        if (is_cost(m.key) && json_kind(m.value) != JSON_OBJECT &&
            json_kind(m.value) != JSON_ARRAY && !is_price(m.value))
            return true;
    return false;
}

/* What is kept of an entry's costs, and what is not. */
struct worth {
    bool has_cost, has_tiers; /* of any size */
    bool has_kept, has_other; /* above 0 */
};

static struct worth worth_of(struct str object)
{
    struct worth worth = {0};
    struct json_member m;
    size_t at = 0;

    while (json_object_next(object, &at, &m)) {
        worth.has_tiers |= is_tier(m.key);
        worth.has_cost |= is_cost(m.key);
        if (json_kind(m.value) != JSON_NUMBER || !is_positive(m.value))
            continue;
        if (is_kept(m.key))
            worth.has_kept = true;
        else if (str_find(m.key, STR("_cost_per_")) < m.key.len && !is_tier(m.key) &&
                 !is_service(m.key))
            worth.has_other = true;
    }
    return worth;
}

static bool has_mode(struct str object, const char *const *modes, size_t count)
{
    struct str mode = json_get(object, STR("mode"));

    for (size_t i = 0; i < count; i++)
        if (str_eq(mode, str_from(modes[i])))
            return true;
    return false;
}

/* Whether it answers without words, which then cost nothing. */
static bool is_silent(struct str object)
{
    static const char *const modes[] = {"\"embedding\"", "\"moderation\"", "\"rerank\"",
                                        "\"search\"", "\"vector_store\""};

    return has_mode(object, modes, sizeof modes / sizeof *modes);
}

/* Whether words are all that it writes, or nobody says what it does. */
static bool is_writer(struct str object)
{
    static const char *const modes[] = {"\"chat\"", "\"completion\"", "\"responses\""};

    return has_mode(object, modes, sizeof modes / sizeof *modes) ||
           json_kind(json_get(object, STR("mode"))) != JSON_STRING;
}

static bool has_number(struct str object, struct str key)
{
    return json_kind(json_get(object, key)) == JSON_NUMBER;
}

/* Whether a price made of this would be too low for a reason that nobody could see in it. */
static bool is_unknown(struct str object, const struct worth *worth)
{
    if (!worth->has_kept && worth->has_other)
        return true;
    if (is_silent(object))
        return !has_number(object, STR("input_cost_per_token")) &&
               !has_number(object, STR("input_cost_per_request")) &&
               !has_number(object, STR("input_cost_per_query"));
    for (size_t i = 0; i < 2; i++) {
        struct str number = json_get(object, costs[i].theirs);
        if (json_kind(number) != JSON_NUMBER)
            return true;
        if (is_writer(object) && worth->has_other && !is_positive(number))
            return true; /* its words may cost by the letter or the second */
    }
    return false;
}

/* A name that can be a key of a price file: short, in ASCII, and without "*". */
static bool is_key(struct str name)
{
    for (size_t i = 0; i < name.len; i++)
        if (name.ptr[i] < ' ' || name.ptr[i] > '~' || name.ptr[i] == '*')
            return false;
    return name.len > 0 && name.len <= PRICE_MAX_KEY;
}

/* "groq/llama" of provider groq and "llama" of provider groq are both "groq/llama". */
static err_t make_name(struct import *m, struct str key, struct str theirs, struct str *name)
{
    struct str ours = provider_name(theirs);
    const char *text;

    if (theirs.len && str_starts(key, theirs) && key.len > theirs.len + 1 &&
        key.ptr[theirs.len] == '/')
        key = str_after(key, theirs.len + 1);
    else if (ours.len && str_starts(key, ours) && key.len > ours.len + 1 &&
             key.ptr[ours.len] == '/')
        key = str_after(key, ours.len + 1);
    text = theirs.len ? arena_printf(m->arena, "%.*s/%.*s", STR_ARG(ours), STR_ARG(key))
                      : arena_cstr(m->arena, key);
    *name = str_from(text);
    return text ? NULL : arena_err(m->arena);
}

/* Count an entry that cannot be kept. */
static bool is_left_out(struct import *m, struct str key, struct str object)
{
    struct worth worth = worth_of(object);

    if (has_mistake(object)) {
        if (m->wrong++ < MOST_WRONG_NAMES)
            m->wrong_names[m->wrong - 1] = key;
    } else if (worth.has_tiers && !worth.has_cost) {
        m->only_tiers++;
    } else if (is_unknown(object, &worth)) {
        m->unknown += worth.has_cost;
    } else {
        return false;
    }
    return true;
}

static err_t take_entry(struct import *m, const struct json_member *member)
{
    struct str quoted = {member->key.ptr - 1, member->key.len + 2}, key, theirs = {0};
    struct entry *entry = &m->entries[m->count];

    if (!json_text(quoted, m->arena, &key))
        return arena_err(m->arena);
    if (json_kind(member->value) != JSON_OBJECT || str_eq(key, STR("sample_spec")) ||
        !is_key(key) || is_left_out(m, key, member->value))
        return NULL;
    struct str provider = json_get(member->value, STR("litellm_provider"));
    if (json_kind(provider) == JSON_STRING && !json_text(provider, m->arena, &theirs))
        return arena_err(m->arena);
    if (theirs.len && !is_key(theirs))
        return NULL;
    TRY(make_name(m, key, theirs, &entry->name));
    if (entry->name.len > PRICE_MAX_KEY)
        return NULL;
    entry->object = member->value;
    entry->position = m->count++;
    return NULL;
}

static int by_name(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    int order = price_table_compare(x->name, y->name);

    return order ? order : (x->position > y->position) - (x->position < y->position);
}

/* All entries with a cost, sorted, each name once. */
static err_t take_entries(struct import *m, struct str json)
{
    struct json_member member;
    size_t at = 0, kept = 0;

    while (json_object_next(json, &at, &member))
        m->room++;
    m->entries = arena_alloc_array(m->arena, m->room, sizeof(*m->entries));
    if (!m->entries)
        return arena_err(m->arena);
    for (at = 0; json_object_next(json, &at, &member);)
        TRY(take_entry(m, &member));
    if (m->count)
        qsort(m->entries, m->count, sizeof(*m->entries), by_name);
    for (size_t i = 0; i < m->count; i++)
        if (kept == 0 || !str_eq(m->entries[kept - 1].name, m->entries[i].name))
            m->entries[kept++] = m->entries[i];
    m->count = kept;
    for (size_t i = 0; i < m->count; i++) {
        struct worth worth = worth_of(m->entries[i].object);
        m->tiered += worth.has_tiers;
        m->partial += worth.has_other;
    }
    return NULL;
}

/* One member of a price, which is one (is_price). Input and output are always there. */
static err_t print_cost(const struct entry *entry, const struct cost *cost, struct buf *out)
{
    struct str number = json_get(entry->object, cost->theirs);
    bool is_needed = cost < &costs[2], is_exact;
    uint64_t pico = 0;

    if (json_kind(number) == JSON_NUMBER)
        check(price_decimal_parse(number, 12, &pico, &is_exact));
    else if (!is_needed)
        return NULL;
    if (cost != costs)
        TRY(buf_add(out, STR(", ")));
    TRY(buf_printf(out, "%.*s: ", STR_ARG(cost->ours)));
    return price_decimal_print(pico, cost->power, out);
}

/* Whether the member before has the same name with us, and is there. */
static bool is_said(struct str object, size_t i)
{
    return i > 0 && str_eq(costs[i].ours, costs[i - 1].ours) &&
           json_kind(json_get(object, costs[i - 1].theirs)) == JSON_NUMBER;
}

static err_t print_entry(const struct entry *entry, struct buf *out)
{
    TRY(buf_add(out, STR("  ")));
    TRY(buf_add_json(out, entry->name));
    TRY(buf_add(out, STR(": {")));
    for (size_t i = 0; i < COST_COUNT; i++)
        if (!is_said(entry->object, i))
            TRY(print_cost(entry, &costs[i], out));
    return buf_add(out, STR("}\n"));
}

static err_t print_count(size_t count, const char *what, struct buf *out)
{
    return count ? buf_printf(out, "# %zu %s.\n", count, what) : NULL;
}

/* Names are those of the list, where somebody will look for them. */
static err_t print_wrong(const struct import *m, struct buf *out)
{
    if (m->wrong == 0)
        return NULL;
    TRY(buf_printf(
        out, "# %zu others are not in here, because what should be a price is none: ", m->wrong));
    for (size_t i = 0; i < m->wrong && i < MOST_WRONG_NAMES; i++)
        TRY(buf_printf(out, "%s%.*s", i ? ", " : "", STR_ARG(m->wrong_names[i])));
    return buf_add(out, m->wrong > MOST_WRONG_NAMES ? STR(", ...\n") : STR(".\n"));
}

static err_t print_head(const struct import *m, struct buf *out)
{
    TRY(buf_printf(
        out, "# %zu models, from LiteLLM's list. Per million tokens; image and request: each.\n",
        m->count));
    TRY(print_count(m->tiered, "of them cost more with long prompts; that is not in here", out));
    TRY(print_count(m->partial,
                    "of them cost by other things, too, like sound or pixels; that is not in here",
                    out));
    TRY(print_count(m->only_tiers, "others are not in here, because they have only tiers of prices",
                    out));
    TRY(print_count(m->unknown, "others are not in here, because this cannot say what they cost",
                    out));
    return print_wrong(m, out);
}

static err_t print_all(const struct import *m, struct buf *out)
{
    TRY(print_head(m, out));
    TRY(buf_printf(out, "currency: USD\nmodels:%s\n", m->count ? "" : " {}"));
    for (size_t i = 0; i < m->count; i++)
        TRY(print_entry(&m->entries[i], out));
    return NULL;
}

err_t price_import_litellm(struct str json, struct arena *arena, struct str *yaml)
{
    struct buf out = buf_make(MEM_TOOL, OUTPUT_MAX_BYTES);
    struct import import = {.arena = arena};
    err_t err = json_check(json);

    *yaml = (struct str){0};
    while (json.len && strchr(" \t\r\n", json.ptr[0]))
        json = str_after(json, 1);
    if (!err && json_kind(json) != JSON_OBJECT)
        err = err_new(ERR_BAD_REQUEST, "the file must be a JSON object of models");
    if (!err)
        err = take_entries(&import, json);
    if (!err)
        err = print_all(&import, &out);
    if (!err) {
        *yaml = arena_copy(arena, buf_str(&out));
        err = yaml->ptr ? NULL : arena_err(arena);
    }
    buf_fini(&out);
    return err;
}
