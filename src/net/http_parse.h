/* SPDX-License-Identifier: Apache-2.0 */
/* HTTP/1.1 bytes to messages (RFC 9110, 9112), read strictly: a message with a known body rule,
 * or an error. Pure.
 *
 * llhttp does the grammar. What it leaves to its users is checked here: Host (one, well-formed),
 * the target's forms, an empty Transfer-Encoding beside a length, versions, unknown methods,
 * limits on lines and headers, chunk extensions.
 *
 * A head is parsed in one go from contiguous bytes, anew when more bytes with a line end have
 * come, so that the verdict cannot depend on where the network cut. A body is parsed as it
 * comes. */
#ifndef NET_HTTP_PARSE_H
#define NET_HTTP_PARSE_H

#include <llhttp.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/str.h"

#define HTTP_MAX_HEAD_BYTES   (32 * 1024)
#define HTTP_MAX_HEADERS      100
#define HTTP_MAX_VALUE_BYTES  (8 * 1024)
#define HTTP_MAX_TARGET_BYTES (8 * 1024)
/* Chunk framing between two pieces of data; behind the last one with the trailers. */
#define HTTP_MAX_CHUNK_OVERHEAD_BYTES (8 * 1024)

enum http_method {
    HTTP_GET_,
    HTTP_HEAD_,
    HTTP_POST_,
    HTTP_PUT_,
    HTTP_PATCH_,
    HTTP_DELETE_,
    HTTP_OPTIONS_,
    HTTP_OTHER_
};

struct http_header {
    struct str name, value;
};

/* All lengths from 63 on share a bit. */
#define HTTP_NAME_BIT(len) (UINT64_C(1) << ((len) < 63 ? (len) : 63))

struct http_head {
    enum http_method method; /* requests */
    int minor;               /* HTTP/1.minor, 0 or 1 */
    struct str method_text;
    struct str target;      /* as sent */
    struct str path, query; /* the target's, as sent (see http_decode); "*" for OPTIONS * */
    struct str host;        /* Host, or the target's authority; without port: host_name */
    struct str host_name;
    struct str reason; /* answers */
    struct http_header *headers;
    size_t header_count;
    uint64_t
        name_lengths; /* a bit for each that a header's name has (HTTP_NAME_BIT), or 0: nobody has looked */
    uint64_t length; /* when has_length */
    int status;      /* answers */
    bool chunked, has_length, keep_alive;
    bool expects_continue;
};

enum http_body { HTTP_BODY_NONE, HTTP_BODY_LENGTH, HTTP_BODY_CHUNKED, HTTP_BODY_TO_END };

/* Between a head and the end of its body. May be copied. */
struct http_parser {
    enum http_body body : 8; /* how the body ends */
    bool is_done;            /* the message has ended (at once when it has no body) */
    bool is_response;
    /* Private: */
    uint32_t chunk_overhead; /* bytes of chunk framing since the last data */
    uint64_t left;           /* bytes to come of a body with a length */
    struct str piece;
    llhttp_t raw; /* state of a chunked body */
};

enum http_progress { HTTP_MORE, HTTP_READY };

/* Parse a request's head at the start of `bytes`. HTTP_MORE: not complete yet (call again with
 * more, from the start; worth it once a line feed came or HTTP_MAX_HEAD_BYTES are there, which
 * never gives HTTP_MORE). HTTP_READY: *head's strs point into `bytes`, its headers into
 * thread-local storage (http_head_keep copies both), `parser` is set for the body and *used is
 * the head's length. One empty line before the request is skipped. Errors are static, carry the
 * status to answer with (400, 405, 414, 417, 431, 501, 505) and a text; the connection must be
 * closed after it. The verdict depends on the bytes alone, not on how often it was asked for
 * before. */
err_t http_parse_request(struct http_parser *parser, struct str bytes, struct http_head *head,
                         size_t *used, enum http_progress *progress) ERR_MUST_CHECK;

/* The same for an answer to a request of `method`. 1xx answers other than 101 are returned like
 * others (skip them). Errors: UPSTREAM. */
err_t http_parse_response(struct http_parser *parser, struct str bytes, enum http_method method,
                          struct http_head *head, size_t *used,
                          enum http_progress *progress) ERR_MUST_CHECK;

/* Copy a head just parsed into the arena; `bytes` are the first *used of those parsed. Errors:
 * those of the arena. */
err_t http_head_keep(struct http_head *head, struct str bytes, struct arena *arena) ERR_MUST_CHECK;

/* Take the next piece of body data out of `bytes`: *piece points into them (empty when more
 * bytes are needed), *used bytes are consumed, *done when the message has ended (then bytes
 * after *used belong to the next message). Call until done or *used = bytes.len. For answers
 * that end with the connection call with `at_end` and no bytes. Errors: BAD_REQUEST for
 * requests, UPSTREAM for answers. */
err_t http_parse_body(struct http_parser *parser, struct str bytes, bool at_end, size_t *used,
                      struct str *piece, bool *done) ERR_MUST_CHECK;

/* First header of that name (ASCII case ignored), or ptr NULL. */
struct str http_header_get(const struct http_head *head, struct str name);

/* Headers of that name. */
size_t http_header_count(const struct http_head *head, struct str name);

/* Whether a comma-separated header contains a token (ASCII case ignored). */
bool http_header_has_token(struct str value, struct str token);

/* Percent-decode a path segment or query value into the arena. Errors: BAD_REQUEST for a bad escape,
 * NUL, or invalid UTF-8; those of the arena. */
err_t http_decode(struct str text, bool plus_is_space, struct arena *arena,
                  struct str *out) ERR_MUST_CHECK;

/* Value of a query parameter, decoded; ptr NULL when missing or bad. */
struct str http_query_get(struct str query, struct str name, struct arena *arena);

/* "OK" for 200 and so on; "Status" for codes we do not know. */
const char *http_reason(int status);

/* Whether a value may stand in a header line (no CR, LF, NUL or other control bytes but tab). */
bool http_value_is_clean(struct str value);

#endif
