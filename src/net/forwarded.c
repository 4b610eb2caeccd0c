/* SPDX-License-Identifier: Apache-2.0 */
/* Who the client is when a proxy stands between: X-Forwarded-For and X-Forwarded-Proto, from
 * trusted proxies only.
 *
 * Every proxy appends the address it saw, so the list is read from the right: addresses of
 * trusted proxies are passed over, and the first other one is the client. What stands left of it
 * was written by the client and proves nothing. */
#include "conf/conf.h"
#include "net/http_connection.h"

static bool is_trusted(const struct http_server *server, const struct address *address)
{
    const struct conf_strings *ranges = server->options.trusted_proxies;

    for (size_t i = 0; ranges && i < ranges->count; i++)
        if (address_in_range(address, ranges->items[i]))
            return true;
    return false;
}

/* An address as proxies write it: bare, in brackets, or with a port. */
static bool read_address(struct str text, struct address *out)
{
    size_t end;

    text = str_trim(text);
    if (text.len > 0 && text.ptr[0] == '[') {
        end = str_index(text, ']');
        return address_set_ip(out, (struct str){text.ptr + 1, end - 1}, 0);
    }
    end = str_index(text, ':');
    if (address_set_ip(out, text, 0))
        return true;
    return address_set_ip(out, (struct str){text.ptr, end}, 0);
}

/* Take the text after the last comma off *rest. */
static struct str take_last(struct str *rest)
{
    size_t start = rest->len;
    struct str last;

    while (start > 0 && rest->ptr[start - 1] != ',')
        start--;
    last = str_after(*rest, start);
    rest->len = start > 0 ? start - 1 : 0;
    return last;
}

/* Follow one X-Forwarded-For header to the left while its addresses are trusted. False: the
 * search is over. */
static bool follow(const struct http_server *server, struct str list, struct address *client)
{
    struct address next;

    while (list.len > 0) {
        if (!read_address(take_last(&list), &next))
            return false;
        *client = next;
        if (!is_trusted(server, &next))
            return false;
    }
    return true;
}

static struct address peer_address(const struct http_connection *connection)
{
    struct address address = {.len = sizeof(sa_family_t),
                              .u.any.sa_family = connection->peer.family};

    if (connection->peer.family == AF_INET) {
        address.len = sizeof address.u.v4;
        address.u.v4 = connection->peer.v4;
    } else if (connection->peer.family == AF_INET6) {
        address.len = sizeof address.u.v6;
        address.u.v6 = connection->peer.v6;
    }
    return address;
}

void exchange_identify_peer(struct exchange *exchange)
{
    struct address client = peer_address(exchange->connection);
    const struct http_head *head = &exchange->head;
    const char *copy;
    struct str scheme;
    char ip[64];

    exchange->peer_is_loopback = address_is_loopback(&client);
    exchange->is_tls = exchange->connection->sock.tls != NULL;
    if (exchange->server->options.trusted_proxies && is_trusted(exchange->server, &client)) {
        bool goes_on = true;
        scheme = http_header_get(head, STR("x-forwarded-proto"));
        if (scheme.ptr)
            exchange->is_tls = str_eq_nocase(scheme, STR("https"));
        for (size_t i = head->header_count; i-- > 0 && goes_on;)
            if (str_eq_nocase(head->headers[i].name, STR("x-forwarded-for")))
                goes_on = follow(exchange->server, head->headers[i].value, &client);
    }
    address_format_ip(&client, ip);
    copy = arena_cstr(exchange->arena, str_from(ip));
    exchange->peer_ip = copy ? copy : "";
}
