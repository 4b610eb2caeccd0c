/* SPDX-License-Identifier: Apache-2.0 */
/* The life of a server connection: handshake, head, exchange, and again.
 *
 * Without a request a connection is driven by its socket's on_ready. A complete head starts a
 * fiber that runs one exchange; at its end the connection is handed back here, still on that
 * fiber's stack, so a pipelined request that is already complete starts its fiber later instead
 * of deeper.
 *
 * The hard thing is closing well. Closing with unread bytes makes the kernel send a reset that
 * may overtake our last answer; so whoever may still be sending is drained first, within limits. */
#include "net/http_connection.h"

#include <stdalign.h>
#include <stddef.h>
#include <stdio.h>

#include "base/sys.h"
#include "base/text.h"
#include "net/http_target.h"

#define TLS_RECORD_HANDSHAKE 0x16
#define DRAIN_BYTES          (64 * 1024 * 1024)
#define DRAIN_MS             10000
#define MAX_DROPPED_READS    16
#define LAST_WORDS_MS        1000
#define MAX_ID_BYTES         128
#define ROOM_BYTES           512

static void connection_read(struct http_connection *connection);
static bool connection_parse(struct http_connection *connection, struct str bytes);

/* ---- states ---- */

static void enter_state(struct http_connection *connection, enum connection_state state)
{
    struct http_server *server = connection->server;

    list_remove(&connection->item);
    list_push(&server->connections[state], &connection->item);
    connection->state = state;
    connection->since_ms = loop_now_ms();
    server_watch_time(server, state, connection->since_ms);
}

void connection_close(struct http_connection *connection)
{
    struct http_server *server = connection->server;

    list_remove(&connection->item);
    sock_close(&connection->sock);
    buf_fini(&connection->unread);
    tls_context_unref(connection->tls);
    server->open--;
    if (connection->state == CONNECTION_LEAVING)
        server->leaving--;
    mem_free(MEM_CONNECTION, connection, sizeof *connection);
    server_resume(server);
}

/* A client hung up while its request is being worked on. */
static void on_hang_up(struct http_connection *connection)
{
    struct exchange *exchange = connection->exchange;

    if (!exchange || exchange->outlives_client)
        return;
    if (sock_is_broken(&connection->sock) ||
        (exchange->cancel_on_half_close && !connection->server->options.serve_half_closed))
        fiber_cancel(connection->fiber, &http_client_gone);
}

/* Drop what a client sends that was turned away, until it has read why and closes, or sends too
 * much. */
static void drop_input(struct http_connection *connection)
{
    size_t n = 1;
    bool again = false;

    for (int i = 0; i < MAX_DROPPED_READS && n > 0 && !again; i++)
        if (sock_try_read(&connection->sock, loop_scratch(), LOOP_SCRATCH_BYTES, &n, &again))
            n = 0;
    if (!again)
        connection_close(connection);
}

static void on_sock_ready(struct sock *sock)
{
    struct http_connection *connection = container_of(sock, struct http_connection, sock);

    switch (connection->state) {
    case CONNECTION_READING:
    case CONNECTION_IDLE:
        connection_read(connection);
        break;
    case CONNECTION_BUSY:
        if (sock->watch.hung_up)
            on_hang_up(connection);
        break;
    case CONNECTION_LEAVING:
        drop_input(connection);
        break;
    default:
        break; /* SHAKING: its fiber is woken */
    }
}

/* Make a connection of a descriptor, in no state yet. NULL when that fails. */
static struct http_connection *connection_new(struct http_server *server, int fd)
{
    struct http_connection *connection = mem_alloc_zero(MEM_CONNECTION, sizeof *connection);

    if (!connection) {
        sys_close(fd);
        return NULL;
    }
    if (sock_open(&connection->sock, fd)) {
        mem_free(MEM_CONNECTION, connection, sizeof *connection);
        return NULL;
    }
    connection->sock.on_ready = on_sock_ready;
    connection->server = server;
    connection->unread = buf_make(MEM_CONNECTION, CONNECTION_MAX_HELD_BYTES);
    list_init(&connection->item);
    server->open++;
    return connection;
}

/* ---- exchanges ---- */

static bool is_good_id(struct str id)
{
    for (size_t i = 0; i < id.len; i++) {
        char c = id.ptr[i];
        if (!((c | 0x20) >= 'a' && (c | 0x20) <= 'z') && !(c >= '0' && c <= '9') && c != '.' &&
            c != '_' && c != '-')
            return false;
    }
    return id.len > 0 && id.len <= MAX_ID_BYTES;
}

/* Give the exchange the client's id if that is well-formed, else a new one. */
static err_t choose_id(struct exchange *exchange)
{
    struct str given = http_header_get(&exchange->head, STR("x-request-id"));
    char *id;

    if (given.ptr && is_good_id(given)) {
        exchange->id = arena_cstr(exchange->arena, given);
        return exchange->id ? NULL : arena_err(exchange->arena);
    }
    id = arena_alloc(exchange->arena, sizeof "req_" + 22);
    if (!id)
        return arena_err(exchange->arena);
    text_random_id("req_", id);
    exchange->id = id;
    return NULL;
}

/* The exchange is over: go on with the connection, or end it. On its fiber's stack. */
static void finish_exchange(struct http_connection *connection, bool is_cut, bool ends,
                            bool may_be_sending)
{
    connection->exchange = NULL;
    if (!is_cut && ends && may_be_sending)
        sock_drain(&connection->sock, DRAIN_BYTES, loop_now_ms() + DRAIN_MS);
    connection->fiber = NULL;
    connection->server->active--;
    if (is_cut || ends) {
        connection_close(connection);
        return;
    }
    enter_state(connection, CONNECTION_IDLE);
    if (connection->unread.len > 0 && !connection_parse(connection, buf_str(&connection->unread)))
        return;
    if (connection->unread.len == 0)
        buf_fini(&connection->unread);
    if (sock_may_read(&connection->sock))
        connection_read(connection);
}

/* Let the handler answer, and see to it that there is an answer. */
static void run_handler(struct exchange *exchange)
{
    static const struct err no_answer = {
        .kind = ERR_BUG, .where = ERR_HERE, .text = "the request was not answered"};
    struct http_server *server = exchange->server;
    err_t cancelled;

    if (exchange->refusal)
        exchange_refuse(exchange, exchange->refusal);
    else
        server->options.handle(exchange, server->options.context);
    cancelled = fiber_cancelled(fiber_self());
    fiber_set_deadline(FIBER_FOREVER, NULL);
    if (exchange->head_sent || exchange->is_cut)
        return;
    if (cancelled == &http_client_gone) {
        exchange->is_cut = true;
        return;
    }
    fiber_shield(loop_now_ms() + LAST_WORDS_MS);
    exchange->is_stream = false;
    exchange_refuse(exchange, cancelled ? cancelled : &no_answer);
    fiber_unshield();
}

/* The fiber of one exchange. Its stack has a page at least, of which a stream that waits uses about two thirds: some of
 * the rest is lent to the arena. */
static void run_exchange(void *arg)
{
    struct exchange *exchange = arg;
    struct http_connection *connection = exchange->connection;
    struct arena *arena = exchange->arena;
    bool is_cut, ends, may_be_sending;
    alignas(max_align_t) char room[ROOM_BYTES];

    arena_lend(arena, room, sizeof room);
    fiber_set_arena(arena);
    run_handler(exchange);
    if (exchange->is_stream && !exchange->is_ended)
        exchange->ends_connection = true;
    is_cut = exchange->is_cut;
    ends = exchange->ends_connection;
    may_be_sending = exchange->refusal || !exchange->parser.is_done || connection->unread.len > 0 ||
                     sock_may_read(&connection->sock);
    buf_fini(&exchange->body);
    exchange_drop_head(exchange);
    fiber_set_arena(NULL);
    server_give_arena(connection->server, arena);
    finish_exchange(connection, is_cut, ends, may_be_sending);
}

/* Make the exchange's record in an arena of its own. The head's strs point into `bytes`. */
static err_t exchange_new(struct http_connection *connection, struct http_head *head,
                          struct str bytes, struct exchange **out)
{
    struct http_server *server = connection->server;
    struct arena *arena = server_take_arena(server);
    struct exchange *exchange = arena ? arena_new_struct(arena, struct exchange) : NULL;
    err_t err = exchange ? NULL : err_no_memory();

    if (!err)
        err = http_head_keep(head, bytes, arena);
    if (!err) {
        exchange->head = *head;
        exchange->arena = arena;
        exchange->connection = connection;
        exchange->server = server;
        exchange->started_ns = loop_recent_ns();
        exchange->body = buf_make(MEM_BODY, 0);
        exchange_identify_peer(exchange);
        err = choose_id(exchange);
    }
    if (!err)
        *out = exchange;
    else if (arena)
        server_give_arena(server, arena);
    return err;
}

/* Start the fiber. Neither connection nor exchange may be touched afterwards: both may be gone. */
static err_t start_exchange(struct exchange *exchange)
{
    struct http_connection *connection = exchange->connection;

    if (connection->server->is_killed) {
        server_give_arena(connection->server, exchange->arena);
        return &http_server_stops;
    }
    enter_state(connection, CONNECTION_BUSY);
    connection->server->active++;
    connection->exchange = exchange;
    err_t err = fiber_self()
                    ? fiber_start_later("exchange", run_exchange, exchange, &connection->fiber)
                    : fiber_start("exchange", run_exchange, exchange, &connection->fiber);
    if (err) {
        connection->server->active--;
        connection->exchange = NULL;
        server_give_arena(connection->server, exchange->arena);
    }
    return err;
}

/* "503" in the fewest bytes, for when there is no memory or room for more. */
static void write_busy(struct http_connection *connection)
{
    static const char text[] = "too many requests at once\n";
    char answer[256];
    int len =
        snprintf(answer, sizeof answer,
                 "HTTP/1.1 503 Service Unavailable\r\nDate: %.*s\r\nContent-Type: text/plain\r\n"
                 "Content-Length: %zu\r\nRetry-After: 1\r\nConnection: close\r\n\r\n%s",
                 STR_ARG(exchange_date()), sizeof text - 1, text);
    struct iovec iov = {.iov_base = answer, .iov_len = (size_t)len};
    size_t n;

    /* Whether it can be written or not, the connection is closed next. */
    if (sock_try_write(&connection->sock, &iov, 1, &n))
        return;
}

static void give_up(struct http_connection *connection)
{
    write_busy(connection);
    connection_close(connection);
}

/* Answer `err` instead of letting a handler run. */
static void refuse(struct http_connection *connection, err_t err)
{
    struct http_head head = {.method = HTTP_OTHER_, .minor = 1};
    struct exchange *exchange;

    metric_add(connection->server->counts.refused, 1);
    buf_fini(&connection->unread);
    if (exchange_new(connection, &head, STR(""), &exchange)) {
        give_up(connection);
        return;
    }
    exchange->refusal = err;
    exchange->parser.is_done = true;
    if (start_exchange(exchange))
        give_up(connection);
}

/* A head is complete: keep it and what came behind it, and start. */
static void begin(struct http_connection *connection, struct http_head *head,
                  const struct http_parser *parser, struct str bytes, size_t used)
{
    struct exchange *exchange;
    err_t err = exchange_new(connection, head, (struct str){bytes.ptr, used}, &exchange);

    if (err) {
        give_up(connection);
        return;
    }
    exchange->parser = *parser;
    if (connection->unread.len > 0) {
        buf_drop(&connection->unread, used);
    } else if (bytes.len > used) {
        buf_fini(&connection->unread);
        connection->unread.use = MEM_BODY;
        err = buf_add(&connection->unread, str_after(bytes, used));
    }
    if (err)
        server_give_arena(connection->server, exchange->arena);
    else
        err = start_exchange(exchange);
    if (err)
        give_up(connection);
}

/* ---- heads ---- */

/* Try to make a request of `bytes`, which are in scratch or connection->unread. True: more are
 * needed. False: an exchange has begun or the connection is gone; do not touch it. */
static bool connection_parse(struct http_connection *connection, struct str bytes)
{
    struct http_parser parser;
    struct http_head head;
    enum http_progress progress;
    size_t used;
    err_t err;

    /* Somebody speaks TLS to a plain port: it would not understand an answer. */
    if ((unsigned char)bytes.ptr[0] == TLS_RECORD_HANDSHAKE) {
        connection_close(connection);
        return false;
    }
    err = http_parse_request(&parser, bytes, &head, &used, &progress);
    if (err) {
        refuse(connection, err);
        return false;
    }
    if (progress == HTTP_READY) {
        begin(connection, &head, &parser, bytes, used);
        return false;
    }
    if (connection->unread.len == 0 && buf_add(&connection->unread, bytes)) {
        give_up(connection);
        return false;
    }
    if (connection->state == CONNECTION_IDLE)
        enter_state(connection, CONNECTION_READING);
    return true;
}

/* Whether the last `fresh` of the bytes can change the verdict on a head: a line may have ended there, or something else than LF
 * follows a CR. */
static bool may_decide(struct str bytes, size_t fresh)
{
    size_t from = bytes.len - fresh;
    struct str tail = str_after(bytes, from > 0 && bytes.ptr[from - 1] == '\r' ? from - 1 : from);
    size_t cr = str_index(tail, '\r');

    return str_index(tail, '\n') < tail.len || cr + 1 < tail.len;
}

/* Bytes have come. Returns as connection_parse. */
static bool connection_take(struct http_connection *connection, struct str fresh)
{
    struct buf *unread = &connection->unread;

    if (unread->len == 0)
        return connection_parse(connection, fresh);
    if (buf_add(unread, fresh)) {
        give_up(connection);
        return false;
    }
    if (!may_decide(buf_str(unread), fresh.len) && unread->len < HTTP_MAX_HEAD_BYTES)
        return true;
    return connection_parse(connection, buf_str(unread));
}

/* Read what is there until a head is complete. The connection may be gone afterwards. */
static void connection_read(struct http_connection *connection)
{
    bool goes_on = true;

    while (goes_on) {
        size_t size = LOOP_SCRATCH_BYTES, n;
        bool again;
        if (connection->unread.len > 0)
            size = HTTP_MAX_HEAD_BYTES - connection->unread.len;
        err_t err = sock_try_read(&connection->sock, loop_scratch(), size, &n, &again);
        if (again)
            return;
        if (err || n == 0) {
            connection_close(connection);
            return;
        }
        goes_on = connection_take(connection, (struct str){loop_scratch(), n}) &&
                  sock_may_read(&connection->sock);
    }
}

void connection_expire(struct http_connection *connection)
{
    if (connection->state == CONNECTION_READING && connection->unread.len > 0)
        refuse(connection, HTTP_REFUSAL(408, "the request's head comes too slowly"));
    else
        connection_close(connection);
}

/* ---- beginning ---- */

/* The fiber of a TLS handshake. */
static void run_handshake(void *arg)
{
    struct http_connection *connection = arg;
    err_t err = tls_accept(&connection->sock, connection->tls,
                           connection->since_ms + connection->server->options.head_timeout_ms);

    connection->fiber = NULL;
    connection->server->active--;
    tls_context_unref(connection->tls);
    connection->tls = NULL;
    if (err) {
        connection_close(connection);
        return;
    }
    enter_state(connection, CONNECTION_READING);
    if (sock_may_read(&connection->sock))
        connection_read(connection);
}

static void note_peer(struct http_connection *connection, const struct sockaddr_storage *peer)
{
    if (peer->ss_family == AF_INET)
        memcpy(&connection->peer.v4, peer, sizeof connection->peer.v4);
    else if (peer->ss_family == AF_INET6)
        memcpy(&connection->peer.v6, peer, sizeof connection->peer.v6);
    else
        connection->peer.family = AF_UNIX;
}

void connection_open(struct http_server *server, int fd, const struct sockaddr_storage *peer,
                     struct tls_context *tls)
{
    struct http_connection *connection = connection_new(server, fd);

    if (!connection)
        return;
    note_peer(connection, peer);
    if (!tls) {
        enter_state(connection, CONNECTION_READING);
        connection_read(connection);
        return;
    }
    enter_state(connection, CONNECTION_SHAKING);
    connection->tls = tls_context_ref(tls);
    server->active++;
    if (fiber_start("handshake", run_handshake, connection, &connection->fiber)) {
        server->active--;
        connection_close(connection);
    }
}

void connection_turn_away(struct http_server *server, int fd, bool is_tls)
{
    struct http_connection *connection = connection_new(server, fd);

    if (!connection)
        return;
    server->leaving++;
    enter_state(connection, CONNECTION_LEAVING);
    if (!is_tls)
        write_busy(connection);
    shutdown(fd, SHUT_WR);
    drop_input(connection);
}
