/* SPDX-License-Identifier: Apache-2.0 */
/* Bodies of chat and completions requests: read, worked out, and put into the words of every kind of
 * provider. The first byte of an input says which dialect and how; the rest is the body.
 *
 * Whatever goes out is valid JSON. What passes through differs in the model only. What is
 * translated is a body that we would accept ourselves, and translating that changes nothing more. */
#include <stdint.h>
#include <string.h>

#include "base/check.h"
#include "dialect/body.h"
#include "dialect/dialect.h"
#include "model/provider_openai.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#define ARENA_BYTES ((size_t)256 * 1024 * 1024)

static struct str join(const struct encoding *encoding)
{
    struct str all = {0};
    char *at;

    check(encoding->body_count <= PROVIDER_MAX_PIECES);
    for (size_t i = 0; i < encoding->body_count; i++)
        all.len += encoding->body[i].len;
    all.ptr = at = arena_alloc(encoding->arena, all.len);
    check(at);
    for (size_t i = 0; i < encoding->body_count; i++) {
        memcpy(at, encoding->body[i].ptr, encoding->body[i].len);
        at += encoding->body[i].len;
    }
    check(!json_check(all));
    return all;
}

/* Every kind of provider, with and without what a switch changes. */
static void check_providers(struct arena *arena, const struct chat_request *ask, uint8_t how)
{
    for (int kind = CONF_PROVIDER_OPENAI; kind <= CONF_PROVIDER_LOCAL; kind++) {
        struct conf_provider provider = {
            .kind = (enum conf_provider_kind)kind,
            .max_tokens = 4096,
            .extra_body = STR("{\"zz\":1}"),
            .stream_usage = how & 2,
            .takes_extensions = how & 4,
            .reasoning_back = how & 4 ? CONF_REASONING_CALLS : CONF_REASONING_NEVER,
            .schema_is_tool = how & 4,
            .effort_is_budget = how & 4,
            .has_old_max_tokens = how & 8,
            .seed_field = how & 8 ? STR("random_seed") : STR("seed"),
            .reasoning_field = STR("reasoning_content"),
        };
        struct chat_request copy = *ask;
        struct encoding encoding = {
            .provider = &provider,
            .ask = &copy,
            .model = how & 64 ? STR("gemini-2.0-flash") : STR("gemini-2.5-flash"),
            .arena = arena,
            .unsupported = how & 16 ? CONF_UNSUPPORTED_DROP : CONF_UNSUPPORTED_AUTO,
            .prefill = how & 32 ? STR("said so far") : STR(""),
        };
        const struct provider_ops *ops = provider_ops_get(provider.kind);
        err_t err = ops->encode(&encoding);
        check(!err || err->kind == ERR_BAD_REQUEST || err->kind == ERR_TOO_BIG);
        if (!err)
            join(&encoding);
    }
}

static void check_passed(struct arena *arena, struct chat_request *ask,
                         const struct dialect *dialect)
{
    struct conf_provider provider = {.stream_usage = true};
    struct encoding encoding = {
        .provider = &provider, .ask = ask, .model = STR("other"), .arena = arena};
    struct chat_request again;

    check(!provider_openai->encode(&encoding));
    check(!dialect->parse(join(&encoding), arena, &again));
    check(str_eq(again.model, STR("other")));
    check(str_eq(body_get(&again, STR("messages")), body_get(ask, STR("messages"))));
    check(str_eq(body_get(&again, STR("prompt")), body_get(ask, STR("prompt"))));
}

/* By way of the prompt, as callers of other protocols are. */
static err_t translate(struct arena *arena, const struct dialect *dialect, struct str body,
                       struct str *out)
{
    struct conf_provider provider = {.takes_extensions = true,
                                     .stream_usage = true,
                                     .reasoning_field = STR("reasoning_content")};
    struct chat_request ask;
    struct encoding encoding = {
        .provider = &provider, .ask = &ask, .model = STR("other"), .arena = arena};
    const struct prompt *prompt;

    TRY(dialect->parse(body, arena, &ask));
    TRY(chat_prompt(&ask, arena, &prompt));
    TRY(provider_openai_encode_prompt(&encoding, prompt));
    *out = join(&encoding);
    return NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct arena *arena = arena_new(MEM_TOOL, ARENA_BYTES);
    struct str body = {(const char *)data + 1, len - 1}, once, twice;
    const struct dialect *dialect = len && data[0] & 1 ? dialect_completions : dialect_chat;
    struct chat_request ask;

    check(arena);
    err_scope_set(arena);
    if (len > 0 && !dialect->parse(body, arena, &ask)) {
        check_passed(arena, &ask, dialect);
        check_providers(arena, &ask, data[0]);
        if (!translate(arena, dialect, body, &once) &&
            !dialect_chat->parse(once, arena, &ask)) { /* thoughts alone make no message */
            check(!translate(arena, dialect_chat, once, &twice));
            check(str_eq(once, twice));
        }
    }
    err_scope_set(NULL);
    arena_free(arena);
    return 0;
}
