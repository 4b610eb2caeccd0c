/* SPDX-License-Identifier: Apache-2.0 */
/* Bodies of messages requests: read, worked out, and sent on in both ways.
 *
 * What is accepted and passed through stays a valid body that differs in the model only. What is
 * translated is a body that we would accept ourselves, and translating that changes nothing more. */
#include <stdint.h>
#include <string.h>

#include "base/check.h"
#include "dialect/anthropic_messages.h"
#include "dialect/body.h"
#include "model/provider.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#define ARENA_BYTES ((size_t)256 * 1024 * 1024)

static struct str join(struct arena *arena, const struct encoding *encoding)
{
    struct str all = {0};
    char *at;

    for (size_t i = 0; i < encoding->body_count; i++)
        all.len += encoding->body[i].len;
    all.ptr = at = arena_alloc(arena, all.len);
    check(at);
    for (size_t i = 0; i < encoding->body_count; i++) {
        memcpy(at, encoding->body[i].ptr, encoding->body[i].len);
        at += encoding->body[i].len;
    }
    return all;
}

static err_t encode(struct arena *arena, struct chat_request *ask, struct str prefill,
                    struct str *body)
{
    struct conf_provider provider = {.max_tokens = 4096, .extra_body = STR("{\"zz\":1}")};
    struct encoding encoding = {.provider = &provider,
                                .ask = ask,
                                .model = STR("other/model"),
                                .arena = arena,
                                .prefill = prefill};

    TRY(provider_anthropic->encode(&encoding));
    check(encoding.body_count <= PROVIDER_MAX_PIECES);
    *body = join(arena, &encoding);
    return NULL;
}

static void check_passed(struct arena *arena, struct chat_request *ask)
{
    struct chat_request again;
    struct str body, messages;

    check(!encode(arena, ask, STR(""), &body));
    check(!dialect_messages->parse(body, arena, &again));
    check(str_eq(again.model, STR("other/model")));
    messages = body_get(ask, STR("messages"));
    check(str_eq(body_get(&again, STR("messages")), messages));
    check(!encode(arena, ask, STR("said so far \n"), &body));
    check(!dialect_messages->parse(body, arena, &again));
    messages.len--; /* the bracket */
    check(str_starts(body_get(&again, STR("messages")), messages));
}

static void check_prompt(const struct prompt *prompt)
{
    for (size_t i = 0; i < prompt->message_count; i++) {
        const struct message *message = &prompt->messages[i];
        for (size_t k = 0; k < message->part_count; k++) {
            const struct part *part = &message->parts[k];
            check((part->kind == PART_TOOL_RESULT) == (message->role == ROLE_TOOL) ||
                  message->role != ROLE_USER);
            check(part->kind != PART_TOOL_CALL || json_kind(part->arguments) == JSON_OBJECT);
            check(part->kind != PART_OTHER || !json_check(part->raw));
        }
    }
}

/* By way of the prompt, as callers of other protocols are. */
static err_t translate(struct arena *arena, struct str body, struct str *out)
{
    struct chat_request ask;
    const struct prompt *prompt;

    TRY(anthropic_parse_count(body, arena, &ask));
    TRY(chat_prompt(&ask, arena, &prompt));
    check_prompt(prompt);
    ask.protocol = PROTOCOL_CHAT;
    return encode(arena, &ask, STR(""), out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct arena *arena = arena_new(MEM_TOOL, ARENA_BYTES);
    struct str body = {(const char *)data, len}, once, twice;
    struct chat_request ask;

    check(arena);
    err_scope_set(arena);
    if (!dialect_messages->parse(body, arena, &ask)) {
        check(!anthropic_parse_count(body, arena, &ask));
        check_passed(arena, &ask);
        if (!translate(arena, body, &once)) {
            check(!dialect_messages->parse(once, arena, &ask));
            /* what looks like a rewritten name is rewritten each time */
            if (str_find(once, STR("_x")) == once.len) {
                check(!translate(arena, once, &twice));
                check(str_eq(once, twice));
            }
        }
    }
    err_scope_set(NULL);
    arena_free(arena);
    return 0;
}
