/* SPDX-License-Identifier: Apache-2.0 */
/* HTTP/1.1 heads and bodies, with llhttp beneath.
 *
 * llhttp walks over the head and tells where names and values are; they are noted as spans of
 * the caller's bytes. It is paused where the head ends, so that nothing behind it can spoil the
 * verdict. Then the rules that decide where the message ends (RFC 9112 §6) are checked here:
 * each is a way to smuggle a request past somebody who reads it differently.
 *
 * Bodies with a length are only counted; llhttp is resumed for chunked ones, a chunk at a time. */
#include "net/http_parse.h"

#include "base/check.h"
#include "net/http_target.h"

static _Thread_local struct http_header header_table[HTTP_MAX_HEADERS];

/* A head while llhttp walks over it. */
struct walk {
    struct http_head *head;
    struct str name, value, reason;
    err_t err;
};

/* What the header fields say about framing. */
struct framing {
    struct str host, length, coding, expect;
    unsigned hosts, lengths, codings;
    bool says_close, says_keep_alive;
};

/* ---- llhttp's callbacks for heads ---- */

/* Note a span. llhttp may give one text in parts; they always adjoin, unless a line was folded. */
static int span_add(struct walk *walk, struct str *span, const char *at, size_t len)
{
    if (span->len == 0) {
        *span = (struct str){at, len};
        return HPE_OK;
    }
    if (span->ptr + span->len != at) {
        walk->err = HTTP_REFUSAL(400, "a header is folded over lines");
        return HPE_USER;
    }
    span->len += len;
    return HPE_OK;
}

static int on_status(llhttp_t *raw, const char *at, size_t len)
{
    struct walk *walk = raw->data;

    return span_add(walk, &walk->reason, at, len);
}

static int on_header_field(llhttp_t *raw, const char *at, size_t len)
{
    struct walk *walk = raw->data;

    return span_add(walk, &walk->name, at, len);
}

static int on_header_value(llhttp_t *raw, const char *at, size_t len)
{
    struct walk *walk = raw->data;

    return span_add(walk, &walk->value, at, len);
}

static int on_header_value_complete(llhttp_t *raw)
{
    struct walk *walk = raw->data;
    struct http_head *head = walk->head;

    if (head->header_count == HTTP_MAX_HEADERS)
        walk->err = HTTP_REFUSAL(431, "too many headers");
    else if (walk->value.len > HTTP_MAX_VALUE_BYTES)
        walk->err = HTTP_REFUSAL(431, "a header is too long");
    if (walk->err)
        return -1;
    head->headers[head->header_count].name = walk->name;
    head->headers[head->header_count].value = str_trim(walk->value);
    head->header_count++;
    head->name_lengths |= HTTP_NAME_BIT(walk->name.len);
    walk->name = walk->value = (struct str){NULL, 0};
    return HPE_OK;
}

static int on_headers_complete(llhttp_t *raw)
{
    return HPE_PAUSED;
}

static const llhttp_settings_t head_settings = {
    .on_status = on_status,
    .on_header_field = on_header_field,
    .on_header_value = on_header_value,
    .on_header_value_complete = on_header_value_complete,
    .on_headers_complete = on_headers_complete,
};

/* ---- llhttp's callbacks for chunked bodies ---- */

static int on_body(llhttp_t *raw, const char *at, size_t len)
{
    struct http_parser *parser = raw->data;

    parser->piece = (struct str){at, len};
    return HPE_OK;
}

static int on_chunk_header(llhttp_t *raw)
{
    /* A Content-Length among the trailers means nothing (RFC 9110 §6.5.1) and shall not disturb. */
    if (raw->content_length == 0)
        llhttp_set_lenient_chunked_length(raw, 1);
    return HPE_OK;
}

static int on_chunk_complete(llhttp_t *raw)
{
    struct http_parser *parser = raw->data;

    return parser->piece.len > 0 ? HPE_PAUSED : HPE_OK;
}

static int on_message_complete(llhttp_t *raw)
{
    struct http_parser *parser = raw->data;

    parser->is_done = true;
    return HPE_PAUSED;
}

static const llhttp_settings_t body_settings = {
    .on_body = on_body,
    .on_chunk_header = on_chunk_header,
    .on_chunk_complete = on_chunk_complete,
    .on_message_complete = on_message_complete,
};

/* ---- heads ---- */

/* llhttp's reasons, in words for the client. */
static err_t grammar_error(llhttp_errno_t code)
{
    switch (code) {
    case HPE_INVALID_HEADER_TOKEN:
        return HTTP_REFUSAL(400, "a header is malformed");
    case HPE_INVALID_CONTENT_LENGTH:
    case HPE_UNEXPECTED_CONTENT_LENGTH:
        return HTTP_REFUSAL(400, "Content-Length is malformed or repeated");
    case HPE_INVALID_TRANSFER_ENCODING:
        return HTTP_REFUSAL(400, "Transfer-Encoding is malformed");
    case HPE_INVALID_CHUNK_SIZE:
        return HTTP_REFUSAL(400, "a chunk is malformed");
    case HPE_CR_EXPECTED:
    case HPE_LF_EXPECTED:
    case HPE_STRICT:
        return HTTP_REFUSAL(400, "a line does not end with CRLF");
    default:
        return HTTP_REFUSAL(400, "the message is not HTTP/1.1");
    }
}

/* Let llhttp walk over the head in `bytes`. *used is 0 when it is incomplete. */
static err_t walk_head(struct http_parser *parser, llhttp_type_t type, struct str bytes,
                       struct walk *walk, size_t *used)
{
    llhttp_errno_t code;

    *parser = (struct http_parser){.is_response = type == HTTP_RESPONSE};
    llhttp_init(&parser->raw, type, &head_settings);
    /* The version was looked at before, and 1.2 must pass. */
    llhttp_set_lenient_version(&parser->raw, type == HTTP_REQUEST);
    parser->raw.data = walk;
    walk->head->headers = header_table;
    walk->head->header_count = 0;
    walk->head->name_lengths = 0;
    code = llhttp_execute(&parser->raw, bytes.ptr, bytes.len);
    *used = 0;
    if (code == HPE_PAUSED)
        *used = (size_t)(llhttp_get_error_pos(&parser->raw) - bytes.ptr);
    else if (code != HPE_OK)
        return walk->err ? walk->err : grammar_error(code);
    return NULL;
}

static bool is_framing_with_underscore(struct str name)
{
    return str_eq_nocase(name, STR("transfer_encoding")) ||
           str_eq_nocase(name, STR("content_length"));
}

/* Collect what decides about framing. Errors: refusals. */
static err_t read_framing(const struct http_head *head, struct framing *framing)
{
    for (size_t i = 0; i < head->header_count; i++) {
        struct str name = head->headers[i].name, value = head->headers[i].value;
        if (str_eq_nocase(name, STR("host"))) {
            framing->host = value;
            framing->hosts++;
        } else if (str_eq_nocase(name, STR("content-length"))) {
            framing->length = value;
            framing->lengths++;
        } else if (str_eq_nocase(name, STR("transfer-encoding"))) {
            framing->coding = value;
            framing->codings++;
        } else if (str_eq_nocase(name, STR("connection"))) {
            framing->says_close |= http_header_has_token(value, STR("close"));
            framing->says_keep_alive |= http_header_has_token(value, STR("keep-alive"));
        } else if (str_eq_nocase(name, STR("expect"))) {
            framing->expect = value;
        } else if (is_framing_with_underscore(name)) {
            return HTTP_REFUSAL(400, "a framing header is written with an underscore");
        }
    }
    return NULL;
}

/* A list of transfer codings that must be just "chunked": malformed lists are 400, other codings
 * 501. */
static err_t check_coding(struct str codings)
{
    struct str rest = codings, part;
    bool was_chunked = false, has_other = false;

    for (size_t i = 0; i < codings.len; i++)
        if ((unsigned char)codings.ptr[i] >= 0x80 ||
            ((unsigned char)codings.ptr[i] < ' ' && codings.ptr[i] != '\t'))
            return HTTP_REFUSAL(400, "Transfer-Encoding is malformed");
    if (codings.len == 0)
        return HTTP_REFUSAL(400, "Transfer-Encoding is empty");
    while (str_split(&rest, ',', &part)) {
        part = str_trim(part);
        if (part.len == 0 || was_chunked)
            return HTTP_REFUSAL(400, "Transfer-Encoding is malformed");
        was_chunked = str_eq_nocase(part, STR("chunked"));
        has_other |= !was_chunked;
    }
    return has_other ? HTTP_REFUSAL(501, "the transfer coding is not known") : NULL;
}

/* Where the body ends, by RFC 9112 §6.3 without its leniency. */
static err_t decide_length(const struct framing *framing, struct http_head *head)
{
    struct str digits = framing->length;

    if (framing->codings > 1 || framing->lengths > 1)
        return HTTP_REFUSAL(400, "a framing header is repeated");
    if (framing->codings > 0 && framing->lengths > 0)
        return HTTP_REFUSAL(400, "both Content-Length and Transfer-Encoding are given");
    if (framing->codings > 0 && head->minor == 0)
        return HTTP_REFUSAL(400, "HTTP/1.0 has no Transfer-Encoding");
    if (framing->codings > 0) {
        TRY(check_coding(framing->coding));
        head->chunked = true;
    }
    if (framing->lengths > 0) {
        if (digits.len == 0 || (digits.len > 1 && digits.ptr[0] == '0') ||
            !str_to_u64(digits, &head->length) || head->length > INT64_MAX)
            return HTTP_REFUSAL(400, "Content-Length is malformed");
        head->has_length = true;
    }
    return NULL;
}

static err_t decide_host(const struct framing *framing, struct http_head *head)
{
    struct str authority = head->host;

    if (framing->hosts > 1)
        return HTTP_REFUSAL(400, "Host is repeated");
    if (framing->hosts == 0)
        return head->minor == 0 ? NULL : HTTP_REFUSAL(400, "Host is missing");
    if (!http_target_check_host(framing->host, &head->host_name))
        return HTTP_REFUSAL(400, "Host is malformed");
    head->host = framing->host;
    if (authority.len > 0 && !str_eq_nocase(authority, head->host))
        return HTTP_REFUSAL(400, "the target names another host than Host does");
    return NULL;
}

/* What a request's headers mean for its framing and its connection. */
static err_t judge_request(struct http_parser *parser, struct http_head *head)
{
    struct framing framing = {0};

    TRY(read_framing(head, &framing));
    TRY(decide_length(&framing, head));
    TRY(decide_host(&framing, head));
    head->keep_alive = !framing.says_close && (head->minor > 0 || framing.says_keep_alive);
    if (framing.expect.ptr && head->minor > 0) {
        if (!str_eq_nocase(framing.expect, STR("100-continue")))
            return HTTP_REFUSAL(417, "this expectation cannot be met");
        head->expects_continue = true;
    }
    if (head->chunked)
        parser->body = HTTP_BODY_CHUNKED;
    else if (head->has_length && head->length > 0)
        parser->body = HTTP_BODY_LENGTH;
    return NULL;
}

/* Make the parser ready for the body that follows the head. */
static void begin_body(struct http_parser *parser, const struct http_head *head)
{
    parser->left = head->length;
    parser->is_done = parser->body == HTTP_BODY_NONE;
    parser->raw.settings = (void *)(uintptr_t)&body_settings;
    /* We never change protocols: an Upgrade header is ignored, as RFC 9110 §7.8 allows. */
    parser->raw.upgrade = 0;
}

err_t http_parse_request(struct http_parser *parser, struct str bytes, struct http_head *head,
                         size_t *used, enum http_progress *progress)
{
    struct walk walk = {.head = head};
    bool at_limit = bytes.len >= HTTP_MAX_HEAD_BYTES, has_line;
    size_t skipped = 0, len = 0;

    *used = 0;
    *progress = HTTP_MORE;
    *head = (struct http_head){0};
    if (at_limit)
        bytes.len = HTTP_MAX_HEAD_BYTES;
    if (bytes.len == 0 || str_eq(bytes, STR("\r")))
        return NULL;
    if (str_starts(bytes, STR("\r\n")))
        skipped = 2;
    bytes = str_after(bytes, skipped);
    TRY(http_target_read_line(bytes, head, &has_line));
    if (has_line)
        TRY(walk_head(parser, HTTP_REQUEST, bytes, &walk, &len));
    if (len == 0)
        return at_limit ? HTTP_REFUSAL(431, "the request's head is too long") : NULL;
    TRY(judge_request(parser, head));
    begin_body(parser, head);
    *used = skipped + len;
    *progress = HTTP_READY;
    return NULL;
}

/* An answer that breaks the rules: the same texts, but the upstream's fault. */
static err_t upstream_error(err_t err)
{
    return err_new(ERR_UPSTREAM, "malformed answer: %s", err->text);
}

/* What an answer's headers mean (RFC 9112 §6.3). */
static err_t judge_response(struct http_parser *parser, enum http_method method,
                            struct http_head *head)
{
    struct framing framing = {0};
    bool has_no_body =
        method == HTTP_HEAD_ || head->status < 200 || head->status == 204 || head->status == 304;

    TRY(read_framing(head, &framing));
    TRY(decide_length(&framing, head));
    head->keep_alive = !framing.says_close && (head->minor > 0 || framing.says_keep_alive);
    if (has_no_body)
        return NULL;
    if (head->chunked) {
        parser->body = HTTP_BODY_CHUNKED;
    } else if (!head->has_length) {
        parser->body = HTTP_BODY_TO_END;
        head->keep_alive = false;
    } else if (head->length > 0) {
        parser->body = HTTP_BODY_LENGTH;
    }
    return NULL;
}

err_t http_parse_response(struct http_parser *parser, struct str bytes, enum http_method method,
                          struct http_head *head, size_t *used, enum http_progress *progress)
{
    struct walk walk = {.head = head};
    bool at_limit = bytes.len >= HTTP_MAX_HEAD_BYTES;
    err_t err;

    *used = 0;
    *progress = HTTP_MORE;
    *head = (struct http_head){.method = method};
    if (at_limit)
        bytes.len = HTTP_MAX_HEAD_BYTES;
    if (bytes.len == 0)
        return NULL;
    err = walk_head(parser, HTTP_RESPONSE, bytes, &walk, used);
    if (!err && *used == 0)
        return at_limit ? err_new(ERR_UPSTREAM, "the answer's head is too long") : NULL;
    head->status = parser->raw.status_code;
    head->minor = parser->raw.http_minor;
    head->reason = walk.reason;
    if (!err && head->status == 101)
        err = HTTP_REFUSAL(400, "it changes the protocol without being asked");
    if (!err)
        err = judge_response(parser, method, head);
    if (err)
        return upstream_error(err);
    begin_body(parser, head);
    *progress = HTTP_READY;
    return NULL;
}

/* Let *s point into the copy if it pointed into `from`. */
static void move_str(struct str *s, struct str from, const char *to)
{
    if (s->ptr >= from.ptr && s->ptr <= from.ptr + from.len)
        s->ptr = to + (s->ptr - from.ptr);
}

err_t http_head_keep(struct http_head *head, struct str bytes, struct arena *arena)
{
    struct str copy = arena_copy(arena, bytes);
    struct http_header *headers = arena_alloc(arena, head->header_count * sizeof *headers);
    struct str *const parts[] = {&head->method_text, &head->target,    &head->path,  &head->query,
                                 &head->host,        &head->host_name, &head->reason};

    if (!copy.ptr || !headers)
        return arena_err(arena);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        move_str(parts[i], bytes, copy.ptr);
    for (size_t i = 0; i < head->header_count; i++) {
        headers[i] = head->headers[i];
        move_str(&headers[i].name, bytes, copy.ptr);
        move_str(&headers[i].value, bytes, copy.ptr);
    }
    head->headers = headers;
    return NULL;
}

/* ---- bodies ---- */

/* Count framing between data, and refuse what only keeps us busy. `before` and `after` are the
 * bytes before and after the piece that a step gave. The sum does not depend on the steps. */
static bool overhead_is_bounded(struct http_parser *parser, size_t before, size_t after)
{
    size_t total = parser->chunk_overhead + before;

    parser->chunk_overhead = (uint32_t)(parser->piece.len > 0 ? after : total);
    return total <= HTTP_MAX_CHUNK_OVERHEAD_BYTES && after <= HTTP_MAX_CHUNK_OVERHEAD_BYTES;
}

/* One step through a chunked body: to the end of a chunk, of the bytes, or of the message. */
static err_t read_chunk(struct http_parser *parser, struct str bytes, size_t *used)
{
    llhttp_errno_t code;
    size_t before, after;

    parser->piece = (struct str){NULL, 0};
    parser->raw.data = parser;
    if (llhttp_get_errno(&parser->raw) == HPE_PAUSED)
        llhttp_resume(&parser->raw);
    code = llhttp_execute(&parser->raw, bytes.ptr, bytes.len);
    if (code != HPE_OK && code != HPE_PAUSED)
        return grammar_error(code);
    *used = bytes.len;
    if (code == HPE_PAUSED)
        *used = (size_t)(llhttp_get_error_pos(&parser->raw) - bytes.ptr);
    before = parser->piece.len > 0 ? (size_t)(parser->piece.ptr - bytes.ptr) : *used;
    after = *used - before - parser->piece.len;
    if (!overhead_is_bounded(parser, before, after))
        return HTTP_REFUSAL(400, "chunk extensions or trailers are too long");
    return NULL;
}

err_t http_parse_body(struct http_parser *parser, struct str bytes, bool at_end, size_t *used,
                      struct str *piece, bool *done)
{
    err_t err = NULL;

    *used = 0;
    *piece = (struct str){NULL, 0};
    if (parser->body == HTTP_BODY_CHUNKED && !parser->is_done && bytes.len > 0) {
        err = read_chunk(parser, bytes, used);
        *piece = parser->piece;
    } else if (parser->body == HTTP_BODY_LENGTH) {
        *used = bytes.len < parser->left ? bytes.len : (size_t)parser->left;
        *piece = (struct str){bytes.ptr, *used};
        parser->left -= *used;
        parser->is_done = parser->left == 0;
    } else if (parser->body == HTTP_BODY_TO_END) {
        *used = bytes.len;
        *piece = bytes;
        parser->is_done = at_end;
    }
    *done = parser->is_done;
    if (!err && at_end && *used == bytes.len && !parser->is_done)
        err = HTTP_REFUSAL(400, "the body ends early");
    return err && parser->is_response ? upstream_error(err) : err;
}
