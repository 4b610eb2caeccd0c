/* SPDX-License-Identifier: Apache-2.0 */
/* The key of a conversation or a user.
 *
 * Conversations are told by what clients send for their own sake: Claude Code's and Codex's session
 * headers, OpenAI's prompt_cache_key and conversation, Anthropic's metadata.user_id. The hard thing
 * is a client that sends nothing: a conversation then is how it began, its system prompt and first
 * user message, which each of its requests repeats. */
#include "model/route_sticky.h"

#include "base/text.h"

/* The value of a member if it says anything; texts and objects are as good as each other. */
static struct str told(struct str value)
{
    enum json_kind kind = value.ptr ? json_kind(value) : JSON_NONE;

    if ((kind != JSON_STRING && kind != JSON_OBJECT) || value.len <= 2)
        return (struct str){0};
    return value;
}

static struct str metadata_user(const struct chat_request *ask)
{
    struct str metadata = chat_value(ask, STR("metadata"));

    return metadata.ptr ? told(json_get(metadata, STR("user_id"))) : (struct str){0};
}

static struct str first_member(const struct chat_request *ask, const char *const *names)
{
    struct str value = {0};

    for (; *names && !value.len; names++)
        value = told(chat_value(ask, str_from(*names)));
    return value;
}

static struct str first_header(const struct http_head *head)
{
    static const char *const names[] = {"x-claude-code-session-id", "session-id", "session_id",
                                        "thread-id", NULL};
    struct str value = {0};

    for (size_t i = 0; head && names[i] && !value.len; i++)
        value = http_header_get(head, str_from(names[i]));
    return value;
}

static uint64_t hash_parts(const struct message *message, uint64_t key)
{
    for (size_t i = 0; i < message->part_count; i++) {
        key = text_hash(message->parts[i].text, key);
        key = text_hash(message->parts[i].data, key);
    }
    return key;
}

/* How the conversation begins: everything up to its first user message. */
static uint64_t hash_beginning(const struct prompt *prompt)
{
    uint64_t key = 0;

    for (size_t i = 0; i < prompt->message_count; i++) {
        key = hash_parts(&prompt->messages[i], key);
        if (prompt->messages[i].role == ROLE_USER)
            break;
    }
    return key;
}

uint64_t route_sticky_key(struct chat_request *ask, const struct route_caller *caller, bool by_user,
                          struct arena *arena)
{
    static const char *const users[] = {"safety_identifier", "user", NULL};
    static const char *const conversations[] = {"prompt_cache_key", "conversation", NULL};
    const struct prompt *prompt;
    struct str sign = {0};

    if (by_user)
        sign = first_member(ask, users);
    else if (!(sign = first_header(caller->head)).len)
        sign = first_member(ask, conversations);
    if (!sign.len)
        sign = metadata_user(ask);
    if (!sign.len && by_user)
        sign = caller->key;
    if (!sign.len && !ask->history.len)
        sign = told(chat_value(ask, STR("previous_response_id")));
    if (sign.len)
        return text_hash(sign, 0);
    if (!ask->expand || chat_prompt(ask, arena, &prompt))
        return text_hash(ask->body, 0);
    return hash_beginning(prompt);
}
