/* SPDX-License-Identifier: Apache-2.0 */
/* Looking things up in parsed messages: headers, tokens, query parameters, escapes, reason
 * phrases. */
#include "base/word.h"
#include "net/http_parse.h"
#include "net/http_target.h"

/* Whether a header may have that name. Most that are asked for are not there. */
static bool may_have(const struct http_head *head, struct str name)
{
    return head->name_lengths == 0 || (head->name_lengths & HTTP_NAME_BIT(name.len));
}

struct str http_header_get(const struct http_head *head, struct str name)
{
    if (!may_have(head, name))
        return (struct str){NULL, 0};
    for (size_t i = 0; i < head->header_count; i++)
        if (str_eq_nocase(head->headers[i].name, name))
            return head->headers[i].value;
    return (struct str){NULL, 0};
}

size_t http_header_count(const struct http_head *head, struct str name)
{
    size_t count = 0;

    if (!may_have(head, name))
        return 0;
    for (size_t i = 0; i < head->header_count; i++)
        count += str_eq_nocase(head->headers[i].name, name);
    return count;
}

bool http_header_has_token(struct str value, struct str token)
{
    struct str part;

    if (!value.ptr)
        return false;
    while (str_split(&value, ',', &part))
        if (str_eq_nocase(str_trim(part), token))
            return true;
    return false;
}

err_t http_decode(struct str text, bool plus_is_space, struct arena *arena, struct str *out)
{
    static const struct err broken = {
        .kind = ERR_BAD_REQUEST, .where = ERR_HERE, .text = "a broken escape"};
    char *copy = arena_alloc(arena, text.len + 1);
    size_t len;

    if (!copy)
        return arena_err(arena);
    if (!http_target_unescape(text, plus_is_space, copy, &len) || memchr(copy, '\0', len))
        return &broken;
    copy[len] = '\0';
    *out = (struct str){copy, len};
    return NULL;
}

struct str http_query_get(struct str query, struct str name, struct arena *arena)
{
    struct str part, key, value = {NULL, 0};

    while (query.ptr && str_split(&query, '&', &part)) {
        size_t equals = str_index(part, '=');
        if (http_decode((struct str){part.ptr, equals}, true, arena, &key) || !str_eq(key, name))
            continue;
        part = str_after(part, equals < part.len ? equals + 1 : equals);
        return http_decode(part, true, arena, &value) ? (struct str){NULL, 0} : value;
    }
    return value;
}

const char *http_reason(int status)
{
    static const struct {
        int status;
        const char *reason;
    } reasons[] = {
        {100, "Continue"},
        {200, "OK"},
        {201, "Created"},
        {202, "Accepted"},
        {204, "No Content"},
        {206, "Partial Content"},
        {301, "Moved Permanently"},
        {302, "Found"},
        {303, "See Other"},
        {304, "Not Modified"},
        {307, "Temporary Redirect"},
        {308, "Permanent Redirect"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {402, "Payment Required"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {406, "Not Acceptable"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {410, "Gone"},
        {411, "Length Required"},
        {412, "Precondition Failed"},
        {413, "Content Too Large"},
        {414, "URI Too Long"},
        {415, "Unsupported Media Type"},
        {416, "Range Not Satisfiable"},
        {417, "Expectation Failed"},
        {421, "Misdirected Request"},
        {422, "Unprocessable Content"},
        {424, "Failed Dependency"},
        {425, "Too Early"},
        {428, "Precondition Required"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {451, "Unavailable For Legal Reasons"},
        {499, "Client Closed Request"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {502, "Bad Gateway"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
        {505, "HTTP Version Not Supported"},
        {507, "Insufficient Storage"},
        {529, "Overloaded"},
    };

    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++)
        if (reasons[i].status == status)
            return reasons[i].reason;
    return "Status";
}

static bool is_clean(unsigned char c)
{
    return (c >= ' ' || c == '\t') && c != 0x7f;
}

/* Also marks tabs. */
static uint64_t maybe_unclean(uint64_t word)
{
    return word_below(word, ' ') | word_equal(word, 0x7f);
}

bool http_value_is_clean(struct str value)
{
    uint64_t marks = 0;
    size_t i = 0;

    for (; value.len - i >= WORD_BYTES && !marks; i += WORD_BYTES)
        marks = maybe_unclean(word_load(value.ptr + i));
    if (value.len >= WORD_BYTES && !marks) { /* the last word overlaps the one before */
        marks = maybe_unclean(word_load(value.ptr + value.len - WORD_BYTES));
        i = value.len;
    }
    if (marks)
        i = 0;
    while (i < value.len && is_clean((unsigned char)value.ptr[i]))
        i++;
    return i == value.len;
}
