/* SPDX-License-Identifier: Apache-2.0 */
/* What providers that speak OpenAI's protocols say that an answer used.
 *
 * The hard thing is that they all say it a little differently: under the names of chat completions or of responses,
 * thoughts among the words of an answer or beside them, and in places of their own. What cannot be true is treated as
 * not told; of two counts one alone may be true. */
#include "model/provider_openai.h"
#include "model/usage_count.h"

/* Token counts beyond any context are not believed. */
#define ABSURD_TOKENS ((uint64_t)1000 * 1000 * 1000)

/* A count that is there replaces what was told before. */
static void read_count(struct str object, struct str key, uint64_t *count)
{
    uint64_t n;

    if (json_u64(json_get(object, key), &n))
        *count = n;
}

/* xAI counts thoughts apart from the words of an answer, everybody else among them: the total tells. */
static void add_thoughts(struct usage *usage, uint64_t total)
{
    if (usage->reasoning > 0 && usage->reasoning <= ABSURD_TOKENS &&
        total == usage->input + usage->output + usage->reasoning)
        usage->output += usage->reasoning;
}

/* Of counts of which one is missing or cannot be true the other one: it is more than can be counted here. */
static void keep_half(struct usage *usage, const struct usage *told, bool has_input,
                      bool has_output)
{
    if (usage->is_known)
        return;
    if (has_input)
        usage->input = told->input;
    if (has_output)
        usage->output = told->output;
    usage->cached = told->cached;
    usage->cache_written = told->cache_written;
    usage->reasoning = told->reasoning;
    usage_count_fit(usage);
}

/* The second name of each is that of responses. */
bool provider_openai_read_usage(struct str value, struct usage *usage)
{
    struct usage told = *usage;
    struct json_member m;
    uint64_t total = 0;
    bool has_input = false, has_output = false;

    for (size_t at = 0; json_object_next(value, &at, &m);) {
        if (json_key_is(&m, STR("prompt_tokens")) || json_key_is(&m, STR("input_tokens"))) {
            has_input = json_u64(m.value, &told.input);
        } else if (json_key_is(&m, STR("completion_tokens")) ||
                   json_key_is(&m, STR("output_tokens"))) {
            has_output = json_u64(m.value, &told.output);
        } else if (json_key_is(&m, STR("prompt_tokens_details")) ||
                   json_key_is(&m, STR("input_tokens_details"))) {
            read_count(m.value, STR("cached_tokens"), &told.cached);
            read_count(m.value, STR("cache_write_tokens"), &told.cache_written);
        } else if (json_key_is(&m, STR("completion_tokens_details")) ||
                   json_key_is(&m, STR("output_tokens_details"))) {
            read_count(m.value, STR("reasoning_tokens"), &told.reasoning);
        } else if (json_key_is(&m, STR("prompt_cache_hit_tokens"))) {
            read_count(value, STR("prompt_cache_hit_tokens"), &told.cached); /* DeepSeek */
        } else if (json_key_is(&m, STR("total_tokens")) && !json_u64(m.value, &total)) {
            total = 0;
        }
    }
    has_input = has_input && told.input > 0 && told.input <= ABSURD_TOKENS;
    has_output = has_output && told.output <= ABSURD_TOKENS;
    told.is_known = has_input && has_output;
    if (!told.is_known) {
        keep_half(usage, &told, has_input, has_output);
        return false;
    }
    add_thoughts(&told, total);
    usage_count_fit(&told);
    *usage = told;
    return true;
}

static void take_input(struct usage *usage, uint64_t input)
{
    if (input == 0 || input > ABSURD_TOKENS)
        return;
    usage->input = input;
    usage->is_known = true;
}

/* Cohere's rerankers, and those like them, tell what they bill, and may tell what they read. Where they bill by the search
 * neither is there (docs.cohere.com, v2/rerank; SiliconFlow's API, rerank). */
static void read_meta(struct str meta, struct usage *usage)
{
    uint64_t input = 0;

    read_count(json_get(meta, STR("billed_units")), STR("input_tokens"), &input);
    if (input == 0)
        read_count(json_get(meta, STR("tokens")), STR("input_tokens"), &input);
    take_input(usage, input);
}

void provider_openai_read_input_usage(const struct json_member *m, struct usage *usage)
{
    uint64_t input = 0;

    if (json_key_is(m, STR("meta")) && !usage->is_known) {
        read_meta(m->value, usage);
    } else if (json_key_is(m, STR("usage"))) {
        read_count(m->value, STR("prompt_tokens"), &input);
        if (input == 0)
            read_count(m->value, STR("total_tokens"), &input);
        take_input(usage, input);
    }
}
