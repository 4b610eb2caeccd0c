/* SPDX-License-Identifier: Apache-2.0 */
/* Conditions and capabilities. */
#include "model/route_match.h"

#include "model/prompt_tokens.h"

/* ---- what the request is like ---- */

static bool has_image(const struct part *parts, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (parts[i].kind == PART_IMAGE || has_image(parts[i].parts, parts[i].part_count))
            return true;
    return false;
}

/* A list of prompts has no meaning here, but there are those who take it as it stands. */
bool route_match_is_unread(const struct chat_request *ask, err_t err)
{
    return err_is(err, ERR_BAD_REQUEST) && ask->protocol == PROTOCOL_COMPLETIONS;
}

static err_t look(struct route_match *match)
{
    struct chat_request *ask = match->ask;
    const struct prompt *prompt;
    err_t err;

    if (match->has_looked || !ask->expand)
        return NULL;
    match->has_looked = true;
    err = chat_prompt(ask, match->arena, &prompt);
    if (route_match_is_unread(ask, err))
        return NULL;
    TRY(err);
    match->has_tools = prompt->tool_count > 0;
    match->has_schema = prompt->format == FORMAT_SCHEMA;
    for (size_t i = 0; i < prompt->message_count; i++)
        match->has_images |= has_image(prompt->messages[i].parts, prompt->messages[i].part_count);
    (void)json_u64(prompt->settings[SETTING_MAX_TOKENS], &match->answer_tokens);
    return NULL;
}

static err_t count_tokens(struct route_match *match)
{
    if (match->has_counted)
        return NULL;
    TRY(prompt_tokens_of(match->ask, match->ask->model, match->arena, &match->prompt_tokens));
    match->has_counted = true;
    return NULL;
}

/* ---- conditions ---- */

static bool contains(const struct conf_strings *list, struct str text)
{
    for (size_t i = 0; i < list->count; i++)
        if (str_eq(list->items[i], text))
            return true;
    return false;
}

/* Whether one of the request's tags ("a, b" in x-sluice-tags) is in the list. */
static bool has_tag(const struct http_head *head, const struct conf_strings *list)
{
    for (size_t i = 0; head && i < head->header_count; i++) {
        struct str rest = head->headers[i].value, tag;
        if (!str_eq_nocase(head->headers[i].name, STR("x-sluice-tags")))
            continue;
        while (rest.ptr && str_split(&rest, ',', &tag))
            if (contains(list, str_trim(tag)))
                return true;
    }
    return false;
}

static bool has_headers(const struct http_head *head, const struct conf_pairs *wanted)
{
    for (size_t i = 0; i < wanted->count; i++) {
        struct str value = head ? http_header_get(head, wanted->items[i].name) : (struct str){0};
        if (!value.ptr || !str_eq(value, wanted->items[i].value))
            return false;
    }
    return true;
}

err_t route_match_when(struct route_match *match, const struct conf_when *when, bool *holds)
{
    const struct route_caller *caller = match->caller;

    *holds = (!when->keys.count || contains(&when->keys, caller->key)) &&
             (!when->tags.count || has_tag(caller->head, &when->tags)) &&
             has_headers(caller->head, &when->headers);
    if (!*holds || (!when->min_prompt_tokens && !when->max_prompt_tokens))
        return NULL;
    TRY(count_tokens(match));
    *holds = match->prompt_tokens >= when->min_prompt_tokens &&
             (!when->max_prompt_tokens || match->prompt_tokens <= when->max_prompt_tokens);
    return NULL;
}

/* ---- targets ---- */

/* Whether prompt and answer are too long for it. */
static err_t check_context(struct route_match *match, const struct conf_target *target,
                           enum route_lack *lack)
{
    if (!target->context_tokens)
        return NULL;
    TRY(count_tokens(match));
    if (match->prompt_tokens + match->answer_tokens > target->context_tokens)
        *lack = ROUTE_CONTEXT;
    return NULL;
}

err_t route_match_target(struct route_match *match, const struct conf_target *target,
                         enum route_lack *lack)
{
    bool holds;

    TRY(route_match_when(match, &target->when, &holds));
    *lack = holds ? ROUTE_FITS : ROUTE_WHEN;
    if (!holds || (target->takes_tools && target->takes_images && target->takes_schemas &&
                   !target->context_tokens))
        return NULL;
    TRY(look(match));
    if (match->has_tools && !target->takes_tools)
        *lack = ROUTE_TOOLS;
    else if (match->has_images && !target->takes_images)
        *lack = ROUTE_IMAGES;
    else if (match->has_schema && !target->takes_schemas)
        *lack = ROUTE_SCHEMA;
    else
        return check_context(match, target, lack);
    return NULL;
}
