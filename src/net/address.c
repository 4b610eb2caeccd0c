/* SPDX-License-Identifier: Apache-2.0 */
/* Socket addresses as text and back, ranges of them, and listening on them.
 *
 * Only numeric addresses and "localhost" are understood here; names are looked up in resolve.c.
 * IPv4 addresses that arrive mapped into IPv6 (::ffff:a.b.c.d) are treated as the IPv4 addresses
 * they are. */
#include <arpa/inet.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/sys.h"
#include "net/sock.h"

static const uint8_t mapped_prefix[12] = {[10] = 0xff, [11] = 0xff};

/* An IP address as its bytes in network order: 4 of them, or 16. */
struct ip {
    const uint8_t *bytes;
    unsigned bits;
};

/* The IP in an address; bits is 0 for unix sockets. */
static struct ip address_ip(const struct address *address)
{
    const uint8_t *v6 = address->u.v6.sin6_addr.s6_addr;

    if (address->u.any.sa_family == AF_INET)
        return (struct ip){(const uint8_t *)&address->u.v4.sin_addr, 32};
    if (address->u.any.sa_family != AF_INET6)
        return (struct ip){NULL, 0};
    if (memcmp(v6, mapped_prefix, sizeof mapped_prefix) == 0)
        return (struct ip){v6 + 12, 32};
    return (struct ip){v6, 128};
}

bool address_set_ip(struct address *address, struct str text, uint16_t port)
{
    char copy[INET6_ADDRSTRLEN];

    *address = (struct address){0};
    if (text.len == 0 || text.len >= sizeof copy)
        return false;
    memcpy(copy, text.ptr, text.len);
    copy[text.len] = '\0';
    if (inet_pton(AF_INET, copy, &address->u.v4.sin_addr) == 1) {
        address->len = sizeof address->u.v4;
        address->u.v4.sin_family = AF_INET;
        address->u.v4.sin_port = htons(port);
        return true;
    }
    if (inet_pton(AF_INET6, copy, &address->u.v6.sin6_addr) == 1) {
        address->len = sizeof address->u.v6;
        address->u.v6.sin6_family = AF_INET6;
        address->u.v6.sin6_port = htons(port);
        return true;
    }
    return false;
}

static err_t parse_unix(struct str path, struct address *out)
{
    *out = (struct address){0};
    if (path.len == 0 || path.len >= sizeof out->u.un.sun_path || memchr(path.ptr, '\0', path.len))
        return err_new(ERR_CONFIG, "a unix socket's path must have 1 to %zu bytes",
                       sizeof out->u.un.sun_path - 1);
    out->u.un.sun_family = AF_UNIX;
    memcpy(out->u.un.sun_path, path.ptr, path.len);
    out->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + path.len + 1);
    return NULL;
}

err_t address_parse(struct str text, struct address *out)
{
    struct str host = text, port;
    uint64_t number;
    size_t colon = text.len;

    if (str_starts(text, STR("unix:")))
        return parse_unix(str_after(text, 5), out);
    while (colon > 0 && text.ptr[colon - 1] != ':')
        colon--;
    if (colon == 0)
        return err_new(ERR_CONFIG, "\"%.*s\" has no port", STR_ARG(text));
    host.len = colon - 1;
    port = str_after(text, colon);
    if (port.len > 5 || !str_to_u64(port, &number) || number > 65535)
        return err_new(ERR_CONFIG, "\"%.*s\" has no valid port", STR_ARG(text));
    if (host.len >= 2 && host.ptr[0] == '[' && host.ptr[host.len - 1] == ']')
        host = (struct str){host.ptr + 1, host.len - 2};
    else if (str_index(host, ':') < host.len)
        return err_new(ERR_CONFIG, "\"%.*s\": write IPv6 addresses as [::1]:8080", STR_ARG(text));
    if (str_eq(host, STR("localhost")))
        host = STR("127.0.0.1");
    if (!address_set_ip(out, host, (uint16_t)number))
        return err_new(ERR_CONFIG, "\"%.*s\" is not an address: give an IP address or localhost",
                       STR_ARG(text));
    return NULL;
}

/* By hand, as every request wants it: inet_ntop goes through printf. */
static void format_ip4(const uint8_t bytes[4], char *at)
{
    for (int i = 0; i < 4; i++) {
        if (bytes[i] >= 100)
            *at++ = (char)('0' + bytes[i] / 100);
        if (bytes[i] >= 10)
            *at++ = (char)('0' + bytes[i] / 10 % 10);
        *at++ = (char)('0' + bytes[i] % 10);
        *at++ = i < 3 ? '.' : '\0';
    }
}

void address_format_ip(const struct address *address, char out[64])
{
    struct ip ip = address_ip(address);

    if (ip.bits == 32)
        format_ip4(ip.bytes, out);
    else if (ip.bits == 0 || !inet_ntop(AF_INET6, ip.bytes, out, 64))
        memcpy(out, "unix", sizeof "unix");
}

void address_format(const struct address *address, char out[128])
{
    char ip[64];

    if (address->u.any.sa_family == AF_UNIX) {
        snprintf(out, 128, "unix:%s", address->u.un.sun_path);
        return;
    }
    address_format_ip(address, ip);
    snprintf(out, 128, strchr(ip, ':') ? "[%s]:%u" : "%s:%u", ip, address_port(address));
}

uint16_t address_port(const struct address *address)
{
    /* Both families keep the port at the same place, but only one of them may be read as itself. */
    if (address->u.any.sa_family == AF_INET6)
        return ntohs(address->u.v6.sin6_port);
    return address->u.any.sa_family == AF_INET ? ntohs(address->u.v4.sin_port) : 0;
}

bool address_is_loopback(const struct address *address)
{
    struct ip ip = address_ip(address);

    if (ip.bits == 32)
        return ip.bytes[0] == 127;
    return ip.bits == 0 || IN6_IS_ADDR_LOOPBACK(&address->u.v6.sin6_addr);
}

bool address_in_range(const struct address *address, struct str cidr)
{
    struct str base = cidr, length;
    size_t slash = str_index(cidr, '/');
    struct ip ip = address_ip(address), range;
    struct address first;
    uint64_t bits;

    base.len = slash;
    if (ip.bits == 0 || !address_set_ip(&first, base, 0))
        return false;
    range = address_ip(&first);
    bits = range.bits;
    if (slash < cidr.len) {
        length = str_after(cidr, slash + 1);
        if (!str_to_u64(length, &bits))
            return false;
        if (range.bits == 32 && first.u.any.sa_family == AF_INET6 && bits >= 96)
            bits -= 96; /* ::ffff:10.0.0.0/104 is 10.0.0.0/8 */
        if (bits > range.bits)
            return false;
    }
    if (range.bits != ip.bits || memcmp(range.bytes, ip.bytes, bits / 8) != 0)
        return false;
    return bits % 8 == 0 || (range.bytes[bits / 8] ^ ip.bytes[bits / 8]) >> (8 - bits % 8) == 0;
}

/* Remove the socket file that a server left behind; one that still answers stays, and bind will
 * say so. */
static void remove_stale(const struct address *address)
{
    int fd = sys_socket(AF_UNIX, SOCK_STREAM);

    if (fd < 0)
        return;
    if (sys_connect(fd, &address->u.any, address->len) != 0 && errno == ECONNREFUSED)
        unlink(address->u.un.sun_path);
    sys_close(fd);
}

static err_t listen_error(const struct address *address, int number)
{
    char text[128];

    address_format(address, text);
    return err_new(ERR_SYSTEM, "cannot listen on %s: %s", text, strerror(number));
}

err_t address_check_free(const struct address *address)
{
    int family = address->u.any.sa_family, on = 1, fd;
    err_t err = NULL;

    if (family == AF_UNIX)
        return NULL;
    fd = sys_socket(family, SOCK_STREAM);
    if (fd < 0)
        return listen_error(address, errno);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    if (bind(fd, &address->u.any, address->len) != 0)
        err = listen_error(address, errno);
    sys_close(fd);
    return err;
}

err_t address_listen(const struct address *address, int backlog, int *fd)
{
    int family = address->u.any.sa_family, on = 1;

    *fd = sys_socket(family, SOCK_STREAM);
    if (*fd < 0)
        return listen_error(address, errno);
    if (family == AF_UNIX) {
        remove_stale(address);
    } else {
        setsockopt(*fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        setsockopt(*fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    }
    /* So that [::]:80 and 0.0.0.0:80 can both be listed, whatever the system's default is. */
    if (family == AF_INET6)
        setsockopt(*fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    if (bind(*fd, &address->u.any, address->len) == 0 && listen(*fd, backlog) == 0)
        return NULL;
    err_t err = listen_error(address, errno);
    sys_close(*fd);
    *fd = -1;
    return err;
}
