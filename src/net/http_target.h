/* SPDX-License-Identifier: Apache-2.0 */
/* Request lines and Host: the part of an HTTP/1.1 head that we read ourselves (RFC 9112 §3).
 * Pure.
 *
 * For http_parse.c. It comes before the grammar proper, because an unknown method, an over-long
 * target and another version of HTTP each have an answer of their own. */
#ifndef NET_HTTP_TARGET_H
#define NET_HTTP_TARGET_H

#include "net/http_parse.h"

/* A static error that refuses a request with the given status. */
#define HTTP_REFUSAL(http_status, message)                                                         \
    __extension__({                                                                                \
        static const struct err refusal_ = {.kind = ERR_BAD_REQUEST,                               \
                                            .status = (http_status),                               \
                                            .where = ERR_HERE,                                     \
                                            .text = (message)};                                    \
        &refusal_;                                                                                 \
    })

/* Read the request line at the start of `bytes`: method, target with path and query, minor
 * version. *complete is false when its end has not come. Errors: refusals. */
err_t http_target_read_line(struct str bytes, struct http_head *head,
                            bool *complete) ERR_MUST_CHECK;

/* Whether `host` is a well-formed "name", "name:port", "a.b.c.d:port" or "[v6]:port"; *name is
 * it without the port. */
bool http_target_check_host(struct str host, struct str *name);

/* Percent-decode `text` to `out`, which has room for text.len bytes. False on a bad escape or
 * when the result is not UTF-8. */
bool http_target_unescape(struct str text, bool plus_is_space, char *out, size_t *len);

#endif
