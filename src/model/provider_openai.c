/* SPDX-License-Identifier: Apache-2.0 */
/* OpenAI's API as a provider (platform.openai.com/docs/api-reference), and everyone who speaks it:
 * vLLM, Ollama, Groq …
 *
 * What is asked in a protocol that the provider speaks goes out as the caller's own bytes
 * (provider_openai_splice.c). The rest is translated into chat completions
 * (provider_openai_encode.c), which all of them speak. Answers are read in
 * provider_openai_decode.c. */
#include "model/provider_openai.h"

static enum protocol choose(const struct conf_provider *provider, enum protocol asked)
{
    switch (asked) {
    case PROTOCOL_RESPONSES:
        return provider->speaks_responses ? PROTOCOL_RESPONSES : PROTOCOL_CHAT;
    case PROTOCOL_COMPACT:
        return provider->speaks_responses ? PROTOCOL_COMPACT : PROTOCOL_COUNT;
    case PROTOCOL_MESSAGES:
        return PROTOCOL_CHAT;
    case PROTOCOL_GEMINI:
    case PROTOCOL_COUNT:
        return PROTOCOL_COUNT;
    default:
        return asked;
    }
}

struct str provider_openai_target(enum protocol protocol)
{
    switch (protocol) {
    case PROTOCOL_CHAT:
        return STR("/chat/completions");
    case PROTOCOL_COMPLETIONS:
        return STR("/completions");
    case PROTOCOL_RESPONSES:
        return STR("/responses");
    case PROTOCOL_EMBEDDINGS:
        return STR("/embeddings");
    case PROTOCOL_RERANK:
        return STR("/rerank");
    case PROTOCOL_MODERATIONS:
        return STR("/moderations");
    case PROTOCOL_COMPACT:
        return STR("/responses/compact");
    default:
        return (struct str){0};
    }
}

/* What is relayed without being read goes wherever the caller of encode wants it. */
static err_t encode(struct encoding *encoding)
{
    enum protocol asked = encoding->ask->protocol;
    const struct prompt *prompt;

    if (encoding->must_expand || choose(encoding->provider, asked) != asked) {
        TRY(chat_prompt(encoding->ask, encoding->arena, &prompt));
        return provider_openai_encode_prompt(encoding, prompt);
    }
    if (asked != PROTOCOL_OTHER)
        encoding->target = provider_openai_target(asked);
    return provider_openai_splice(encoding, NULL);
}

static const struct provider_ops openai_ops = {
    .name = "openai",
    .choose = choose,
    .encode = encode,
    .decode = provider_openai_decode,
    .decode_end = provider_openai_decode_end,
    .decode_whole = provider_openai_decode_whole,
};

const struct provider_ops *const provider_openai = &openai_ops;
