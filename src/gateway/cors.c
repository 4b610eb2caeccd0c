/* SPDX-License-Identifier: Apache-2.0 */
/* OPTIONS requests. A web page may call us only if its origin is listed; no list, no header. */
#include "gateway/cors.h"

#include "gateway/request.h"

bool cors_lists(const struct conf *conf, struct str origin)
{
    for (size_t i = 0; i < conf->cors_origins.count; i++)
        if (str_eq_nocase(conf->cors_origins.items[i], origin))
            return true;
    return false;
}

err_t cors_answer(struct request *r)
{
    const struct http_head *head = &r->exchange->head;
    struct str origin = http_header_get(head, STR("origin"));
    struct str wanted = http_header_get(head, STR("access-control-request-headers"));
    struct http_pen lines = exchange_lines();

    http_pen_line(&lines, HTTP_LINE("Allow"), STR("GET, HEAD, POST, OPTIONS"));
    if (origin.len && cors_lists(r->conf, origin)) {
        http_pen_line_of(&lines, HTTP_LINE("Access-Control-Allow-Origin"), origin);
        http_pen_line(&lines, HTTP_LINE("Access-Control-Allow-Methods"), STR("GET, POST, OPTIONS"));
        http_pen_line(&lines, HTTP_LINE("Access-Control-Max-Age"), STR("600"));
        http_pen_line(&lines, HTTP_LINE("Vary"), STR("Origin"));
        if (wanted.len)
            http_pen_line_of(&lines, HTTP_LINE("Access-Control-Allow-Headers"), wanted);
    }
    return exchange_reply(r->exchange, 204, STR(""), &lines, STR(""));
}
