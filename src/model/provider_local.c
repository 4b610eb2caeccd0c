/* SPDX-License-Identifier: Apache-2.0 */
/* A local model behind a llama-server of ours: OpenAI's protocol, but only the members that are
 * listed here.
 *
 * llama-server takes many members of its own that reach into its slots, files and sampling
 * internals; a caller's body must not. Members outside the list are dropped. */
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

static err_t encode(const struct conf_provider *provider, const struct chat_request *ask,
                    struct str model, struct arena *arena, struct provider_request *out)
{
    return provider_openai_encode_kept(provider, ask, model, is_forwarded, arena, out);
}

static const struct provider_ops local_ops = {
    .name = "local",
    .encode = encode,
    .decode = provider_openai_decode,
    .decode_end = provider_openai_decode_end,
    .decode_whole = provider_openai_decode_whole,
};

const struct provider_ops *const provider_local = &local_ops;
