/* SPDX-License-Identifier: Apache-2.0 */
/* A local model behind a llama-server of ours: OpenAI's protocol, but only the members that are
 * listed here.
 *
 * llama-server takes many members of its own that reach into its slots, files and sampling
 * internals; a caller's body must not. Members outside the list are dropped. A request with tools
 * is put in another way (local_tools.h), and its answer must be translated back, whatever protocol
 * the caller speaks. */
#include "model/encode.h"
#include "model/local_reply.h"
#include "model/local_tools.h"
#include "model/provider_openai.h"

static bool is_forwarded(struct str key)
{
    static const char *const forwarded[] = {
        "model",
        "messages",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "frequency_penalty",
        "presence_penalty",
        "repeat_penalty",
        "seed",
        "stop",
        "n",
        "logprobs",
        "top_logprobs",
        "logit_bias",
        "response_format",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "reasoning_effort",
        "user",
    };

    for (size_t i = 0; i < sizeof(forwarded) / sizeof(*forwarded); i++)
        if (str_eq(key, str_from(forwarded[i])))
            return true;
    return false;
}

static bool is_forwarded_to_complete(struct str key)
{
    return str_eq(key, STR("prompt")) || is_forwarded(key);
}

static enum protocol choose(const struct conf_provider *provider, enum protocol asked)
{
    switch (asked) {
    case PROTOCOL_CHAT:
    case PROTOCOL_RESPONSES:
    case PROTOCOL_MESSAGES:
        return PROTOCOL_CHAT;
    case PROTOCOL_COMPLETIONS:
        return PROTOCOL_COMPLETIONS;
    default:
        return PROTOCOL_COUNT; /* the server was not started for anything else */
    }
}

/* Whether a chat request names tools, new or old; what they are is looked at only then. */
static bool names_tools(const struct chat_request *ask)
{
    for (size_t i = 0; i < ask->member_count; i++) {
        const struct json_member *m = &ask->members[i];
        if ((json_key_is(m, STR("tools")) || json_key_is(m, STR("functions"))) &&
            json_kind(m->value) == JSON_ARRAY && !json_is_empty(m->value))
            return true;
    }
    return false;
}

/* The same prompt with listed settings only. */
static err_t keep_settings(struct encoding *encoding, struct prompt *prompt)
{
    for (int i = 0; i < SETTING_COUNT; i++) {
        const struct setting_column *column = setting_in((enum setting)i, PROTOCOL_CHAT);
        struct str value = prompt->settings[i];
        bool is_said = value.ptr && column->rule != SETTING_LOCAL && column->name.len > 0;
        if (!is_said || is_forwarded(column->name) || setting_is_default((enum setting)i, value))
            continue;
        TRY(encode_drop(encoding, column->name));
        prompt->settings[i] = (struct str){0};
    }
    return NULL;
}

/* Only functions can be offered; what else a caller has for tools must not just vanish. */
static err_t refuse_others(struct encoding *encoding, const struct prompt *prompt)
{
    for (size_t i = 0; i < prompt->tool_count; i++)
        if (!prompt->tools[i].is_function)
            TRY(encode_refuse(encoding, prompt->tools[i].name));
    return NULL;
}

static err_t encode_prompt(struct encoding *encoding, const struct prompt *prompt)
{
    struct prompt *own = arena_new_struct(encoding->arena, struct prompt);

    if (!own)
        return arena_err(encoding->arena);
    *own = *prompt;
    encoding->must_translate = local_tools_are_offered(prompt);
    if (encoding->must_translate) {
        TRY(refuse_others(encoding, prompt));
        TRY(local_tools_offer(encoding->arena, prompt, own));
    }
    TRY(keep_settings(encoding, own));
    return provider_openai_encode_prompt(encoding, own);
}

static err_t encode(struct encoding *encoding)
{
    struct chat_request *ask = encoding->ask;
    const struct prompt *prompt = NULL;

    if (ask->protocol != PROTOCOL_COMPLETIONS &&
        (ask->protocol != PROTOCOL_CHAT || names_tools(ask)))
        TRY(chat_prompt(ask, encoding->arena, &prompt));
    if (prompt && (ask->protocol != PROTOCOL_CHAT || local_tools_are_offered(prompt)))
        return encode_prompt(encoding, prompt);
    encoding->target = provider_openai_target(ask->protocol);
    return provider_openai_splice(
        encoding, ask->protocol == PROTOCOL_COMPLETIONS ? is_forwarded_to_complete : is_forwarded);
}

static err_t decode(struct decoder *decoder, const struct sse_event *in, struct event *out)
{
    TRY(provider_openai_decode(decoder, in, out));
    return decoder->must_translate ? local_reply_read(decoder, out) : NULL;
}

static err_t decode_whole(struct decoder *decoder, struct str body, struct event *out)
{
    TRY(provider_openai_decode_whole(decoder, body, out));
    return decoder->must_translate ? local_reply_read(decoder, out) : NULL;
}

static const struct provider_ops local_ops = {
    .name = "local",
    .choose = choose,
    .encode = encode,
    .decode = decode,
    .decode_end = provider_openai_decode_end,
    .decode_whole = decode_whole,
};

const struct provider_ops *const provider_local = &local_ops;
