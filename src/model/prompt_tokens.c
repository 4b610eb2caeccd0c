/* SPDX-License-Identifier: Apache-2.0 */
/* Counting a prompt.
 *
 * What providers wrap around messages is theirs; OpenAI's cookbook ("How to count tokens with
 * tiktoken") gives three tokens a message and three that open the answer, which is near enough for
 * the others too. */
#include "model/prompt_tokens.h"

#include "base/json_members.h"
#include "model/usage_count.h"

#define PER_MESSAGE 3
#define PER_ANSWER  3
#define PER_TOOL    8

/* An image of 1024 × 1024 in high detail (OpenAI's guide "Images and vision"); three pages of a
 * document, about. */
#define PER_IMAGE 765
#define PER_FILE  1500

static uint64_t count_parts(enum token_family family, const struct part *parts, size_t count)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < count; i++) {
        const struct part *part = &parts[i];
        sum += tokens_count(family, part->text) + tokens_count(family, part->name) +
               tokens_count(family, part->arguments);
        if (part->kind == PART_IMAGE)
            sum += PER_IMAGE;
        if (part->kind == PART_FILE && part->text.len == 0)
            sum += PER_FILE;
        sum += count_parts(family, part->parts, part->part_count);
    }
    return sum;
}

static uint64_t count_tool(enum token_family family, const struct tool *tool)
{
    if (!tool->is_function)
        return tokens_count(family, tool->raw);
    return PER_TOOL + tokens_count(family, tool->name) + tokens_count(family, tool->description) +
           tokens_count(family, tool->parameters);
}

uint64_t prompt_tokens(const struct prompt *prompt, struct str model)
{
    enum token_family family = tokens_family(model);
    uint64_t sum = PER_ANSWER + tokens_count(family, prompt->schema);

    for (size_t i = 0; i < prompt->message_count; i++) {
        const struct message *message = &prompt->messages[i];
        sum += PER_MESSAGE + tokens_count(family, message->name) +
               count_parts(family, message->parts, message->part_count);
    }
    for (size_t i = 0; i < prompt->tool_count; i++)
        sum += count_tool(family, &prompt->tools[i]);
    return sum;
}

/* A string of JSON, or one token by its number. */
static uint64_t count_value(enum token_family family, struct str value)
{
    struct tokens_tally tally = {.family = family};
    uint64_t count;

    if (json_kind(value) == JSON_NUMBER)
        return 1;
    usage_count_json(&tally, value);
    count = tokens_tally_count(&tally);
    tokens_tally_fini(&tally);
    return count;
}

/* A bare prompt as it stands: text, tokens, or a list of either. */
static uint64_t count_bare(enum token_family family, struct str prompt)
{
    uint64_t sum = count_value(family, prompt);
    struct str one, token;

    for (size_t at = 0; json_array_next(prompt, &at, &one);) {
        sum += count_value(family, one);
        for (size_t in = 0; json_array_next(one, &in, &token);)
            sum += count_value(family, token);
    }
    return sum;
}

uint64_t prompt_tokens_written(const struct chat_request *ask, struct str model)
{
    enum token_family family = tokens_family(model);

    return tokens_count(family, ask->body) + tokens_count(family, ask->history) +
           tokens_count(family, ask->referenced);
}

err_t prompt_tokens_of(struct chat_request *ask, struct str model, struct arena *arena,
                       uint64_t *out)
{
    const struct prompt *prompt;
    err_t err;

    if (!ask->expand) {
        *out = prompt_tokens_written(ask, model);
        return NULL;
    }
    err = chat_prompt(ask, arena, &prompt);
    if (err_is(err, ERR_BAD_REQUEST) &&
        ask->protocol == PROTOCOL_COMPLETIONS) { /* there may be several */
        *out = count_bare(tokens_family(model), chat_value(ask, STR("prompt")));
        return NULL;
    }
    TRY(err);
    *out = prompt_tokens(prompt, model);
    return NULL;
}
