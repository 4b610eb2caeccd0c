/* SPDX-License-Identifier: Apache-2.0 */
/* Dialling Redis.
 *
 * Sentinels (Redis' documentation, "Sentinel client spec") are asked one after the other for the master, which must call
 * itself one: after a failover a sentinel may be behind. They are asked again while all seems well: a master that an
 * administrator has replaced goes on for ten seconds as if nothing had happened.
 * Trying a write at the end finds in advance what every call would run into: a replica, a server that is loading, out of
 * memory, or busy with a script. */
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "fiber/fiber.h"
#include "net/resolve.h"
#include "net/tls.h"
#include "store/redis_dial.h"

#define MAX_ARGS    96
#define SHARE_MS    100 /* least time for one of several hosts */
#define MAX_COMMAND ((size_t)64 * 1024)

err_t redis_format(struct buf *out, const struct str *args, size_t count)
{
    const char *texts[MAX_ARGS];
    size_t lens[MAX_ARGS];
    char *command;
    int len;
    err_t err;

    if (count > MAX_ARGS)
        return err_new(ERR_BUG, "a command of %zu parts", count);
    for (size_t i = 0; i < count; i++) {
        texts[i] = args[i].ptr;
        lens[i] = args[i].len;
    }
    len = redisFormatCommandArgv(&command, (int)count, texts, lens);
    if (len < 0)
        return err_no_memory();
    err = buf_add(out, (struct str){command, (size_t)len});
    redisFreeCommand(command);
    return err;
}

/* When an attempt with `left` hosts left, this one included, has to be over. */
static uint64_t attempt_end(uint64_t at_ms, size_t left)
{
    uint64_t now_ms = loop_now_ms(), share_ms = at_ms > now_ms ? (at_ms - now_ms) / left : 0;

    if (share_ms < SHARE_MS)
        share_ms = SHARE_MS;
    return now_ms + share_ms < at_ms ? now_ms + share_ms : at_ms;
}

/* PARKS: look a host up and connect to one of its addresses, by TLS where the target has it. */
static err_t connect_host(struct sock *sock, const struct redis_target *target,
                          const struct redis_host *host, uint64_t at_ms)
{
    struct address addresses[RESOLVE_MAX_ADDRESSES];
    size_t count;
    err_t err = NULL;

    TRY(resolve_name(host->name, host->port, at_ms, addresses, &count));
    for (size_t i = 0; i < count; i++) {
        err = sock_connect(sock, &addresses[i], attempt_end(at_ms, count - i));
        if (err != &fiber_wait_over && !err_is(err, ERR_UPSTREAM))
            break;
    }
    if (!err && target->tls)
        err = tls_connect(sock, target->tls, host->name, at_ms);
    return err;
}

/* PARKS: send a command, await its answer. */
static err_t converse(struct sock *sock, struct redis_reader *reader, const struct str *args,
                      size_t count, uint64_t at_ms, struct redis_reply **out)
{
    struct buf command = buf_make(MEM_UPSTREAM, MAX_COMMAND);
    err_t err = redis_format(&command, args, count);
    struct iovec iov = {command.ptr, command.len};
    uint64_t now_ms = loop_now_ms();
    size_t n;

    if (!err)
        err = sock_write(sock, &iov, 1, at_ms > now_ms ? at_ms - now_ms : 0);
    buf_fini(&command);
    TRY(err);
    for (;;) {
        TRY(redis_reader_next(reader, out));
        if (*out)
            return NULL;
        TRY(sock_read(sock, loop_scratch(), LOOP_SCRATCH_BYTES, at_ms, &n));
        if (n == 0)
            return err_new(ERR_STORE, "redis hung up");
        TRY(redis_reader_feed(reader, (struct str){loop_scratch(), n}));
    }
}

static err_t refusal(struct str command, const struct redis_reply *reply)
{
    return err_new(ERR_STORE, "redis refuses %.*s: %.*s", STR_ARG(command), STR_ARG(reply->text));
}

/* PARKS: the same, where anything but an error will do. */
static err_t demand(struct sock *sock, struct redis_reader *reader, const struct str *args,
                    size_t count, uint64_t at_ms)
{
    struct redis_reply *reply;

    TRY(converse(sock, reader, args, count, at_ms, &reply));
    return reply->kind == REDIS_ERROR ? refusal(args[0], reply) : NULL;
}

/* PARKS: try a write. A node of a cluster may say whose the key is: it serves, and is expected to be one. */
static err_t probe(struct sock *sock, struct redis_reader *reader,
                   const struct redis_target *target, uint64_t at_ms)
{
    const struct str args[] = {STR("SET"), STR("sluice:probe"), STR("1"), STR("PX"), STR("1000")};
    struct redis_reply *reply;

    TRY(converse(sock, reader, args, 5, at_ms, &reply));
    if (redis_reply_is_error(reply, STR("MOVED")) || redis_reply_is_error(reply, STR("ASK")))
        return target->is_cluster ? NULL : err_new(ERR_STORE, "redis: " REDIS_CLUSTER_HINT);
    return reply->kind == REDIS_ERROR ? refusal(args[0], reply) : NULL;
}

/* PARKS: with user and password, the default user's password, or not at all, as the address has it. */
static err_t log_in(struct sock *sock, struct redis_reader *reader,
                    const struct redis_target *target, uint64_t at_ms)
{
    const struct str login[] = {STR("AUTH"), target->user, target->password};
    const struct str simple[] = {STR("AUTH"), target->password};

    if (target->user.len > 0)
        return demand(sock, reader, login, 3, at_ms);
    return target->password.len > 0 ? demand(sock, reader, simple, 2, at_ms) : NULL;
}

/* PARKS: log in and see whether it works. */
static err_t greet(struct sock *sock, struct redis_reader *reader,
                   const struct redis_target *target, uint64_t at_ms)
{
    const struct str database[] = {STR("SELECT"), target->database};

    TRY(log_in(sock, reader, target, at_ms));
    if (target->database.len > 0)
        TRY(demand(sock, reader, database, 2, at_ms));
    return probe(sock, reader, target, at_ms);
}

/* ---- sentinels ---- */

/* PARKS: ask one sentinel for the master, whose name is put into `name`. */
static err_t ask_sentinel(struct sock *sock, struct redis_reader *reader,
                          const struct redis_target *target, const struct redis_host *sentinel,
                          uint64_t at_ms, char name[256], struct redis_host *master)
{
    const struct str args[] = {STR("SENTINEL"), STR("get-master-addr-by-name"), target->master};
    struct redis_reply *reply;
    uint64_t port;

    TRY(connect_host(sock, target, sentinel, at_ms));
    TRY(converse(sock, reader, args, 3, at_ms, &reply));
    if (redis_reply_is_error(reply, STR("NOAUTH"))) { /* most need no login, and refuse one */
        TRY(log_in(sock, reader, target, at_ms));
        TRY(converse(sock, reader, args, 3, at_ms, &reply));
    }
    if (reply->kind == REDIS_ERROR)
        return refusal(args[0], reply);
    if (reply->kind != REDIS_ARRAY || reply->count != 2 || reply->items[0]->kind != REDIS_TEXT ||
        reply->items[0]->text.len > 255 || reply->items[1]->kind != REDIS_TEXT ||
        !str_to_u64(reply->items[1]->text, &port) || port == 0 || port > UINT16_MAX)
        return err_new(ERR_STORE, "a sentinel does not know %.*s", STR_ARG(target->master));
    memcpy(name, reply->items[0]->text.ptr, reply->items[0]->text.len);
    *master = (struct redis_host){{name, reply->items[0]->text.len}, (uint16_t)port};
    return NULL;
}

static void print_host(const struct redis_host *host, char text[REDIS_ADDRESS])
{
    snprintf(text, REDIS_ADDRESS, "%.*s:%u", STR_ARG(host->name), host->port);
}

err_t redis_dial_look(const struct redis_target *target, uint64_t at_ms, char text[REDIS_ADDRESS])
{
    struct redis_reader reader = {0};
    struct redis_host master;
    struct sock sock;
    char name[256];
    err_t err = NULL;

    sock_init(&sock);
    for (size_t i = 0; i < target->host_count; i++) {
        uint64_t end_ms = attempt_end(at_ms, target->host_count - i);

        TRY(redis_reader_init(&reader));
        err = ask_sentinel(&sock, &reader, target, &target->hosts[i], end_ms, name, &master);
        if (!err)
            print_host(&master, text);
        sock_close(&sock);
        redis_reader_fini(&reader);
        if (!err || err_is(err, ERR_CANCELLED))
            break;
    }
    return err;
}

static err_t check_role(struct sock *sock, struct redis_reader *reader, uint64_t at_ms)
{
    const struct str args[] = {STR("ROLE")};
    struct redis_reply *reply;

    TRY(converse(sock, reader, args, 1, at_ms, &reply));
    if (reply->kind == REDIS_ERROR)
        return refusal(args[0], reply);
    if (reply->kind == REDIS_ARRAY && reply->count > 0 && reply->items[0]->kind == REDIS_TEXT &&
        str_eq(reply->items[0]->text, STR("master")))
        return NULL;
    return err_new(ERR_STORE, "the server that a sentinel names is no master (yet)");
}

/* PARKS: to the master, by what one sentinel says. */
static err_t dial_by(struct sock *sock, struct redis_reader *reader,
                     const struct redis_target *target, const struct redis_host *sentinel,
                     uint64_t at_ms, char text[REDIS_ADDRESS])
{
    struct redis_host master;
    char name[256];
    err_t err = ask_sentinel(sock, reader, target, sentinel, at_ms, name, &master);

    sock_close(sock);
    TRY(err);
    print_host(&master, text);
    TRY(connect_host(sock, target, &master, at_ms));
    TRY(greet(sock, reader, target, at_ms));
    return check_role(sock, reader, at_ms);
}

/* ---- all ---- */

static err_t dial_direct(struct sock *sock, struct redis_reader *reader,
                         const struct redis_target *target, const struct redis_host *host,
                         uint64_t at_ms)
{
    TRY(connect_host(sock, target, host, at_ms));
    return greet(sock, reader, target, at_ms);
}

err_t redis_dial(struct sock *sock, struct redis_reader *reader, const struct redis_target *target,
                 const struct redis_host *host, uint64_t at_ms, char master[REDIS_ADDRESS])
{
    size_t count = host ? 1 : target->host_count;
    err_t err = NULL;

    for (size_t i = 0; i < count; i++) {
        const struct redis_host *one = host ? host : &target->hosts[i];
        uint64_t end_ms = attempt_end(at_ms, count - i);

        redis_reader_fini(reader);
        TRY(redis_reader_init(reader));
        err = target->master.len ? dial_by(sock, reader, target, one, end_ms, master)
                                 : dial_direct(sock, reader, target, one, end_ms);
        if (!err)
            return NULL;
        sock_close(sock);
        if (loop_now_ms() >= at_ms || err_is(err, ERR_CANCELLED))
            break;
    }
    if (err == &fiber_wait_over)
        return err_new(ERR_TIMED_OUT, "no connection to redis in time");
    return err;
}
