/* SPDX-License-Identifier: Apache-2.0 */
/* Request lines and Host.
 *
 * A line is read from left to right and refused at the first byte that is wrong, so that the
 * verdict is the same however much of it has come. The target is kept as sent; it is decoded
 * here only to be judged: what would decode to control characters, broken UTF-8 or dot segments
 * is nothing an honest client sends. */
#include "net/http_target.h"

#include <arpa/inet.h>

#include "base/text.h"

#define MAX_METHOD_BYTES 24
#define VERSION_BYTES    10 /* "HTTP/1.1" CR LF */

static const struct {
    struct str text;
    enum http_method method;
} methods[] = {
    {{"GET", 3}, HTTP_GET_},     {{"POST", 4}, HTTP_POST_},     {{"HEAD", 4}, HTTP_HEAD_},
    {{"PUT", 3}, HTTP_PUT_},     {{"DELETE", 6}, HTTP_DELETE_}, {{"OPTIONS", 7}, HTTP_OPTIONS_},
    {{"PATCH", 5}, HTTP_PATCH_},
};

/* tchar of RFC 9110 §5.6.2. */
static bool is_token_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c != '\0' && strchr("!#$%&'*+-.^_`|~", c));
}

static err_t find_method(struct str text, enum http_method *method)
{
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        *method = methods[i].method;
        if (str_eq(methods[i].text, text))
            return NULL;
    }
    if (str_eq(text, STR("CONNECT")) || str_eq(text, STR("TRACE")))
        return HTTP_REFUSAL(405, "this method is not allowed here");
    if (str_eq(text, STR("PRI")))
        return HTTP_REFUSAL(505, "this port speaks HTTP/1.1");
    return HTTP_REFUSAL(501, "the method is not known");
}

/* Take the method and the space after it. */
static err_t read_method(struct str *rest, struct http_head *head, bool *complete)
{
    size_t len = 0;

    while (len < rest->len && is_token_char(rest->ptr[len]))
        len++;
    if (len > MAX_METHOD_BYTES || (len < rest->len && (len == 0 || rest->ptr[len] != ' ')))
        return HTTP_REFUSAL(400, "the request does not begin with a method and a space");
    if (len == rest->len)
        return NULL;
    head->method_text = (struct str){rest->ptr, len};
    *rest = str_after(*rest, len + 1);
    *complete = true;
    return find_method(head->method_text, &head->method);
}

/* Take the target and the space after it; what it says is judged later. */
static err_t read_target(struct str *rest, struct http_head *head, bool *complete)
{
    size_t len = 0;

    while (len < rest->len && (unsigned char)rest->ptr[len] > ' ')
        len++;
    if (len > HTTP_MAX_TARGET_BYTES)
        return HTTP_REFUSAL(414, "the request's target is too long");
    if (len == rest->len)
        return NULL;
    if (len == 0 || rest->ptr[len] != ' ')
        return HTTP_REFUSAL(400, "the request line is not \"method target version\"");
    head->target = (struct str){rest->ptr, len};
    *rest = str_after(*rest, len + 1);
    *complete = true;
    return NULL;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Take the version and the line's end. A higher minor version is served as 1.1 (RFC 9110 §2.5). */
static err_t read_version(struct str rest, struct http_head *head, bool *complete)
{
    const char *p = rest.ptr;

    if (rest.len < VERSION_BYTES && str_index(rest, '\n') == rest.len)
        return NULL;
    if (rest.len < VERSION_BYTES || !str_starts(rest, STR("HTTP/")) || !is_digit(p[5]) ||
        p[6] != '.' || !is_digit(p[7]) || p[8] != '\r' || p[9] != '\n')
        return HTTP_REFUSAL(400, "the request line does not end with an HTTP version and CRLF");
    if (p[5] != '1')
        return HTTP_REFUSAL(505, "this version of HTTP is not spoken here");
    head->minor = p[7] == '0' ? 0 : 1;
    *complete = true;
    return NULL;
}

/* Whether a decoded path has a "." or ".." segment, also for readers to whom a backslash
 * separates. */
static bool has_dot_segment(struct str path)
{
    size_t start = 0;

    for (size_t i = 0; i <= path.len; i++) {
        if (i < path.len && path.ptr[i] != '/' && path.ptr[i] != '\\')
            continue;
        struct str segment = {path.ptr + start, i - start};
        if (str_eq(segment, STR(".")) || str_eq(segment, STR("..")))
            return true;
        start = i + 1;
    }
    return false;
}

/* Value of a hexadecimal digit, or -1. */
static int hex_value(char c)
{
    if (is_digit(c))
        return c - '0';
    if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
        return (c | 0x20) - 'a' + 10;
    return -1;
}

bool http_target_unescape(struct str text, bool plus_is_space, char *out, size_t *len)
{
    size_t n = 0;

    for (size_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];
        if (c == '+' && plus_is_space)
            c = ' ';
        if (c == '%') {
            int high = i + 2 < text.len ? hex_value(text.ptr[i + 1]) : -1;
            int low = i + 2 < text.len ? hex_value(text.ptr[i + 2]) : -1;
            if (high < 0 || low < 0)
                return false;
            c = (char)(high << 4 | low);
            i += 2;
        }
        out[n++] = c;
    }
    *len = n;
    return text_is_utf8((struct str){out, n});
}

/* Whether a text is but letters, digits and what stands between them in most targets. */
static bool is_plain(struct str text)
{
    static const bool plain[256] = {['a' ... 'z'] = true,
                                    ['A' ... 'Z'] = true,
                                    ['0' ... '9'] = true,
                                    ['/'] = true,
                                    ['_'] = true};
    size_t i = 0;

    while (i < text.len && plain[(unsigned char)text.ptr[i]])
        i++;
    return i == text.len;
}

/* Whether the part of a target is visible ASCII that decodes to harmless text. */
static bool part_is_clean(struct str part, bool is_path)
{
    static _Thread_local char decoded[HTTP_MAX_TARGET_BYTES];
    struct str plain = part;

    if (is_plain(part))
        return true;
    for (size_t i = 0; i < part.len; i++) {
        unsigned char c = (unsigned char)part.ptr[i];
        if (c <= ' ' || c >= 0x7f || c == '#' || c == '\\')
            return false;
    }
    if (str_index(part, '%') < part.len) {
        plain.ptr = decoded;
        if (!http_target_unescape(part, false, decoded, &plain.len))
            return false;
        for (size_t i = 0; i < plain.len; i++)
            if ((unsigned char)decoded[i] < ' ' || decoded[i] == 0x7f)
                return false;
    }
    return !is_path || !has_dot_segment(plain);
}

/* Take "http://authority" off an absolute-form target, leaving path and query in *rest. */
static bool take_authority(struct str *rest, struct http_head *head)
{
    static const struct str schemes[] = {{"http://", 7}, {"https://", 8}};
    size_t end = 0;

    for (size_t i = 0; i < 2 && end == 0; i++) {
        struct str start = {rest->ptr, schemes[i].len};
        if (rest->len > start.len && str_eq_nocase(start, schemes[i]))
            end = start.len;
    }
    if (end == 0)
        return false;
    *rest = str_after(*rest, end);
    for (end = 0; end < rest->len && rest->ptr[end] != '/' && rest->ptr[end] != '?';)
        end++;
    head->host = (struct str){rest->ptr, end};
    *rest = str_after(*rest, end);
    return http_target_check_host(head->host, &head->host_name);
}

/* Judge a complete target: origin-form, absolute-form, or the asterisk of OPTIONS. */
static err_t check_target(struct http_head *head)
{
    struct str rest = head->target;

    if (str_eq(rest, STR("*"))) {
        if (head->method != HTTP_OPTIONS_)
            return HTTP_REFUSAL(400, "only OPTIONS may ask for *");
        head->path = rest;
        return NULL;
    }
    if (rest.ptr[0] != '/' && !take_authority(&rest, head))
        return HTTP_REFUSAL(400, "the request's target is neither a path nor an http URL");
    head->path = (struct str){rest.ptr, str_index(rest, '?')};
    head->query = (struct str){NULL, 0};
    if (head->path.len < rest.len)
        head->query = str_after(rest, head->path.len + 1);
    if (head->path.len == 0)
        head->path = STR("/");
    if (!part_is_clean(head->path, true) || !part_is_clean(head->query, false))
        return HTTP_REFUSAL(400, "the request's target holds characters that do not belong there");
    return NULL;
}

err_t http_target_read_line(struct str bytes, struct http_head *head, bool *complete)
{
    struct str rest = bytes;
    bool has_method = false, has_target = false;

    *complete = false;
    TRY(read_method(&rest, head, &has_method));
    if (has_method)
        TRY(read_target(&rest, head, &has_target));
    if (has_target)
        TRY(read_version(rest, head, complete));
    return *complete ? check_target(head) : NULL;
}

static bool is_address_v6(struct str text)
{
    char copy[INET6_ADDRSTRLEN];
    struct in6_addr address;

    if (text.len == 0 || text.len >= sizeof copy)
        return false;
    memcpy(copy, text.ptr, text.len);
    copy[text.len] = '\0';
    return inet_pton(AF_INET6, copy, &address) == 1;
}

static bool is_host_name(struct str name)
{
    for (size_t i = 0; i < name.len; i++) {
        char c = name.ptr[i];
        if (!is_digit(c) && !((c | 0x20) >= 'a' && (c | 0x20) <= 'z') &&
            (c == '\0' || !strchr("-._~", c)))
            return false;
    }
    return name.len > 0 && name.len <= 255;
}

bool http_target_check_host(struct str host, struct str *name)
{
    size_t end = str_index(host, ':');
    uint64_t port = 0;

    if (host.len > 0 && host.ptr[0] == '[') {
        end = str_index(host, ']');
        *name = (struct str){host.ptr + 1, end - 1};
        if (end == host.len || !is_address_v6(*name))
            return false;
        end++;
    } else {
        *name = (struct str){host.ptr, end};
        if (!is_host_name(*name))
            return false;
    }
    if (end == host.len)
        return true;
    struct str digits = str_after(host, end + 1);
    return host.ptr[end] == ':' &&
           (digits.len == 0 || (digits.len <= 5 && str_to_u64(digits, &port) && port <= 65535));
}
