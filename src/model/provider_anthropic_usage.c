/* SPDX-License-Identifier: Apache-2.0 */
/* What Anthropic says that an answer used.
 *
 * Token counts are running totals, told twice and never completely: what an event tells replaces
 * what was told before, what it leaves out stays.
 *
 * The hard thing is what stands in no sum: summaries that were made on the way are told in a list of
 * their own, and told again. So they are kept apart, taken out before the sum is read anew, and added
 * again. */
#include "model/provider_anthropic.h"
#include "model/usage_count.h"

/* Token counts beyond any context are not believed. */
#define ABSURD_TOKENS ((uint64_t)1000 * 1000 * 1000)

static bool overwrite(uint64_t *count, struct str value)
{
    uint64_t told;

    if (!json_u64(value, &told) || told > ABSURD_TOKENS)
        return false;
    *count = told;
    return true;
}

/* Anthropic counts what was read from and written to its cache apart from the rest of the prompt. Whether the output is told. */
static bool read_counts(struct usage *usage, struct str told)
{
    uint64_t plain = usage->input - usage->cached - usage->cache_written;
    bool has_output = false;
    struct json_member m;

    for (size_t at = 0; json_object_next(told, &at, &m);) {
        if (json_key_is(&m, STR("input_tokens")))
            overwrite(&plain, m.value);
        else if (json_key_is(&m, STR("cache_read_input_tokens")))
            overwrite(&usage->cached, m.value);
        else if (json_key_is(&m, STR("cache_creation_input_tokens")))
            overwrite(&usage->cache_written, m.value);
        else if (json_key_is(&m, STR("output_tokens")))
            has_output = overwrite(&usage->output, m.value);
        else if (json_key_is(&m, STR("output_tokens_details")))
            overwrite(&usage->reasoning, json_get(m.value, STR("thinking_tokens")));
    }
    usage->input = plain + usage->cached + usage->cache_written;
    usage_count_fit(usage);
    return has_output;
}

static void add(struct usage *usage, const struct usage *part)
{
    usage->input += part->input;
    usage->output += part->output;
    usage->cached += part->cached;
    usage->cache_written += part->cache_written;
}

static void take_out(struct usage *usage, const struct usage *part)
{
    usage->input -= part->input;
    usage->output -= part->output;
    usage->cached -= part->cached;
    usage->cache_written -= part->cache_written;
}

/* Summaries that were made of the conversation on the way are charged for and stand in no sum
 * (platform.claude.com, compaction: "Understanding usage"). */
static void read_compactions(struct usage *apart, struct str iterations)
{
    struct str iteration;

    if (json_kind(iterations) != JSON_ARRAY)
        return;
    *apart = (struct usage){0};
    for (size_t at = 0; json_array_next(iterations, &at, &iteration);) {
        struct usage part = {0};
        if (!str_eq(json_get(iteration, STR("type")), STR("\"compaction\"")))
            continue;
        (void)read_counts(&part, iteration);
        if (apart->input + part.input <= ABSURD_TOKENS &&
            apart->output + part.output <= ABSURD_TOKENS)
            add(apart, &part);
    }
}

void provider_anthropic_usage_read(struct decoder *decoder, struct str told, bool is_last)
{
    struct usage *usage = &decoder->usage;
    bool has_output;

    take_out(usage, &decoder->apart);
    has_output = read_counts(usage, told);
    read_compactions(&decoder->apart, json_get(told, STR("iterations")));
    add(usage, &decoder->apart);
    usage->is_known |= is_last && has_output && usage->input > 0;
}
