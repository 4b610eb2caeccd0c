/* SPDX-License-Identifier: Apache-2.0 */
/* Dialling: addresses in turn, then the proxy's tunnel, then TLS.
 *
 * Attempts follow one another instead of racing (RFC 8305 §5 lets them overlap): what a race
 * would gain comes back by trying the address that answered last first. */
#include "net/http_dial.h"

#include "base/buf.h"
#include "net/http_parse.h"
#include "net/resolve.h"
#include "net/tls.h"

#define ATTEMPT_MIN_MS 250 /* RFC 8305 §8: the recommended delay before the next address */

static bool is_same_ip(const struct address *a, const struct address *b)
{
    char a_text[64], b_text[64];

    address_format_ip(a, a_text);
    address_format_ip(b, b_text);
    return strcmp(a_text, b_text) == 0;
}

/* Put the address that answered last in front, if it is still one of the host's. */
static void prefer_last_good(const struct http_group *group, struct address *addresses,
                             size_t count)
{
    if (group->last_good.len == 0)
        return;
    for (size_t i = 1; i < count; i++) {
        if (!is_same_ip(&addresses[i], &group->last_good))
            continue;
        struct address good = addresses[i];
        memmove(addresses + 1, addresses, i * sizeof(*addresses));
        addresses[0] = good;
        return;
    }
}

/* When an attempt with `left` addresses left, this one included, has to be over. */
static uint64_t attempt_end(uint64_t at_ms, size_t left)
{
    uint64_t now_ms = loop_now_ms(), share_ms;

    if (left == 1 || at_ms <= now_ms)
        return at_ms;
    share_ms = (at_ms - now_ms) / left;
    if (share_ms < ATTEMPT_MIN_MS)
        share_ms = ATTEMPT_MIN_MS;
    return share_ms < at_ms - now_ms ? now_ms + share_ms : at_ms;
}

/* PARKS: connect to one of the addresses. */
static err_t connect_any(struct upstream_connection *connection, const struct address *addresses,
                         size_t count, uint64_t at_ms)
{
    char ip[64];
    err_t err = NULL;

    for (size_t i = 0; i < count; i++) {
        address_format_ip(&addresses[i], ip);
        err = sock_connect(&connection->sock, &addresses[i], attempt_end(at_ms, count - i));
        if (!err)
            connection->group->last_good = addresses[i];
        if (err != &fiber_wait_over && !err_is(err, ERR_UPSTREAM))
            return err;
        if (loop_now_ms() >= at_ms)
            break;
    }
    return err == &fiber_wait_over ? err : err_wrap(err, "%s", ip);
}

/* PARKS: look a host up and connect to it. */
static err_t connect_host(struct upstream_connection *connection, struct str host, uint16_t port,
                          uint64_t at_ms)
{
    struct address addresses[RESOLVE_MAX_ADDRESSES];
    size_t count;

    TRY(resolve_name(host, port, at_ms, addresses, &count));
    prefer_last_good(connection->group, addresses, count);
    return connect_any(connection, addresses, count, at_ms);
}

/* PARKS: connect to a unix socket. */
static err_t connect_unix(struct upstream_connection *connection, struct str path, uint64_t at_ms)
{
    struct address address = {.u.un.sun_family = AF_UNIX};

    if (path.len >= sizeof(address.u.un.sun_path))
        return err_new(ERR_UPSTREAM, "the socket's path is too long");
    memcpy(address.u.un.sun_path, path.ptr, path.len);
    address.len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + path.len + 1);
    return connect_any(connection, &address, 1, at_ms);
}

/* PARKS: read a proxy's answer to CONNECT into `block`. */
static err_t await_tunnel(struct sock *sock, char *block, uint64_t at_ms)
{
    struct http_parser parser;
    struct http_head head;
    enum http_progress progress = HTTP_MORE;
    size_t len = 0, used = 0, n;

    while (progress == HTTP_MORE) {
        TRY(sock_read(sock, block + len, HTTP_BLOCK_BYTES - len, at_ms, &n));
        if (n == 0)
            return err_new(ERR_UPSTREAM, "the proxy hung up");
        len += n;
        TRY(http_parse_response(&parser, (struct str){block, len}, HTTP_OTHER_, &head, &used,
                                &progress));
    }
    if (head.status / 100 != 2)
        return err_new(ERR_UPSTREAM, "the proxy refused with %d", head.status);
    return used == len ? NULL : err_new(ERR_UPSTREAM, "the proxy sent more than its answer");
}

/* PARKS: have the proxy connect us to the origin (RFC 9110 §9.3.6). */
static err_t open_tunnel(struct upstream_connection *connection, const struct http_origin *origin,
                         uint64_t at_ms)
{
    bool is_ip6 = str_index(origin->host, ':') < origin->host.len;
    struct buf text = buf_make(MEM_UPSTREAM, HTTP_MAX_HEAD_BYTES);
    char *block = http_pool_take_block(connection->group->pool);
    err_t err = block ? NULL : err_no_memory();

    for (int i = 0; i < 2 && !err; i++)
        err = buf_printf(&text, is_ip6 ? "%s[%.*s]:%u%s" : "%s%.*s:%u%s", i ? "Host: " : "CONNECT ",
                         STR_ARG(origin->host), origin->port, i ? "\r\n" : " HTTP/1.1\r\n");
    if (!err && origin->proxy_authorization.len > 0)
        err = buf_printf(&text, "Proxy-Authorization: %.*s\r\n",
                         STR_ARG(origin->proxy_authorization));
    if (!err)
        err = buf_add(&text, STR("\r\n"));
    if (!err) {
        struct iovec iov = {text.ptr, text.len};
        uint64_t now_ms = loop_now_ms();
        err = sock_write(&connection->sock, &iov, 1, at_ms > now_ms ? at_ms - now_ms : 0);
    }
    if (!err)
        err = await_tunnel(&connection->sock, block, at_ms);
    buf_fini(&text);
    if (block)
        http_pool_give_block(connection->group->pool, block);
    return err;
}

/* PARKS: the steps in turn. */
static err_t dial(struct upstream_connection *connection, const struct http_origin *origin,
                  uint64_t at_ms)
{
    if (origin->is_unix)
        TRY(connect_unix(connection, origin->host, at_ms));
    else if (origin->proxy_host.len > 0)
        TRY(connect_host(connection, origin->proxy_host, origin->proxy_port, at_ms));
    else
        TRY(connect_host(connection, origin->host, origin->port, at_ms));
    if (!origin->is_tls)
        return NULL;
    if (origin->proxy_host.len > 0)
        TRY(open_tunnel(connection, origin, at_ms));
    return tls_connect(&connection->sock, origin->tls, origin->host, at_ms);
}

err_t http_dial(struct upstream_connection *connection, const struct http_origin *origin,
                uint64_t at_ms)
{
    err_t err = dial(connection, origin, at_ms);

    if (err == &fiber_wait_over)
        return err_new(ERR_TIMED_OUT, "no connection to %.*s in time", STR_ARG(origin->host));
    return err;
}
