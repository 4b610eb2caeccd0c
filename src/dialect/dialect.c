/* SPDX-License-Identifier: Apache-2.0 */
/* Whom an answer without a route is for. */
#include "dialect/dialect.h"

static bool has_header(const struct http_head *head, struct str name)
{
    return http_header_get(head, name).len > 0;
}

static bool is_below(struct str path, struct str prefix)
{
    return str_starts(path, prefix) && (path.len == prefix.len || path.ptr[prefix.len] == '/');
}

const struct dialect *dialect_guess(const struct http_head *head)
{
    if (is_below(head->path, STR("/v1/messages")))
        return dialect_messages;
    if (is_below(head->path, STR("/v1/responses")))
        return dialect_responses;
    if (is_below(head->path, STR("/v1/completions")))
        return dialect_completions;
    if (is_below(head->path, STR("/v1/chat")) || is_below(head->path, STR("/v1/embeddings")))
        return dialect_chat;
    /* paths that both APIs have, and wrong ones */
    return has_header(head, STR("anthropic-version")) || has_header(head, STR("x-api-key"))
               ? dialect_messages
               : dialect_chat;
}
