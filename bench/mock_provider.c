/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A model provider that costs next to nothing, so that what `make bench` measures is the proxy in
 * front of it.
 *
 * One thread, one edge-triggered epoll, HTTP/1.1 with keep-alive and pipelining. Any POST is
 * answered as a chat completion: whole, or as server-sent events when the body says "stream":true.
 * How long, how fast and how broken the answer is stands in the body's "metadata" member, because a
 * gateway relays that unchanged (names: struct ask). Each streamed event carries its number and the
 * CLOCK_MONOTONIC time of its sending, for sse_client to compare.
 *
 * The hard thing: many thousands of streams, each on its own beat, from one thread. A heap orders
 * the connections by the time of their next event; the loop sleeps until the earliest and is woken
 * without timer slack.
 */
#include "mock_request.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    READ_BYTES = 256 * 1024, /* one shared buffer; what is left over is copied to the connection */
    ANSWER_MIN_BYTES = 512,
    ANSWER_MAX_BYTES = 16 * 1024 * 1024,
    ANSWER_SIZES_MAX = 32, /* different answer sizes in one run */
    EPOLL_BATCH = 512,
};

#define CHUNK_JSON(choices)                                                                        \
    "data: "                                                                                       \
    "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"      \
    "\"model\":\"bench\",\"system_fingerprint\":\"fp_bench\",\"choices\":[" choices "]"
#define CHOICE(delta, finish)                                                                      \
    "{\"index\":0,\"delta\":{" delta "},\"logprobs\":null,\"finish_reason\":" finish "}"
#define USAGE_JSON "\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":12,\"total_tokens\":21}"

struct conn {
    int fd;
    bool dead;      /* closed where it is next held in hand (conn_settle) */
    bool reset;     /* close with RST instead of FIN */
    bool answering; /* an answer is due or under way: later requests wait in `in` */
    bool last;      /* the request said Connection: close */
    char *in;       /* bytes of a request not yet complete */
    size_t in_len, in_cap;
    size_t in_need; /* no use in looking again before so many bytes are there */
    char *out;      /* what the socket did not take */
    size_t out_len, out_sent;
    struct ask ask;
    unsigned long events_sent;
    uint64_t due_ns;
    size_t heap_at; /* place in the heap + 1; 0 = not waiting */
};

static struct ask defaults = {.answer_bytes = 1024, .events = 20, .rate = 50, .cut_after = ~0UL};
static int epoll_fd;
static unsigned long streams_begun;
static char read_buffer[READ_BYTES];

static uint64_t clock_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void *grown(void *bytes, size_t size)
{
    bytes = realloc(bytes, size);
    if (!bytes)
        die("mock_provider: memory");
    return bytes;
}

/* ---- connections in the order of their next event ---- */

static struct conn **heap;
static size_t heap_len, heap_cap;

static void heap_set(size_t at, struct conn *c)
{
    heap[at] = c;
    c->heap_at = at + 1;
}

static void heap_sift(size_t at)
{
    struct conn *c = heap[at];
    while (at && heap[(at - 1) / 2]->due_ns > c->due_ns) {
        heap_set(at, heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (;;) {
        size_t child = 2 * at + 1;
        if (child + 1 < heap_len && heap[child + 1]->due_ns < heap[child]->due_ns)
            child++;
        if (child >= heap_len || heap[child]->due_ns >= c->due_ns)
            break;
        heap_set(at, heap[child]);
        at = child;
    }
    heap_set(at, c);
}

static void heap_put(struct conn *c, uint64_t due_ns)
{
    c->due_ns = due_ns;
    if (!c->heap_at) {
        if (heap_len == heap_cap) {
            heap_cap = heap_cap ? heap_cap * 2 : 1024;
            heap = grown(heap, heap_cap * sizeof(struct conn *));
        }
        heap_set(heap_len++, c);
    }
    heap_sift(c->heap_at - 1);
}

static void heap_drop(struct conn *c)
{
    if (!c->heap_at)
        return;
    size_t at = c->heap_at - 1;
    c->heap_at = 0;
    struct conn *last = heap[--heap_len];
    if (last == c)
        return;
    heap_set(at, last);
    heap_sift(at);
}

/* ---- sending ---- */

static void conn_keep_unsent(struct conn *c, const char *bytes, size_t len)
{
    c->out = grown(c->out, c->out_len + len);
    memcpy(c->out + c->out_len, bytes, len);
    c->out_len += len;
}

static size_t conn_try_send(struct conn *c, const char *bytes, size_t len)
{
    ssize_t n = send(c->fd, bytes, len, MSG_NOSIGNAL);
    if (n >= 0)
        return (size_t)n;
    if (errno != EAGAIN && errno != EINTR)
        c->dead = true;
    return 0;
}

static void conn_send(struct conn *c, const char *bytes, size_t len)
{
    size_t sent = c->out_len ? 0 : conn_try_send(c, bytes, len);
    if (sent < len && !c->dead)
        conn_keep_unsent(c, bytes + sent, len - sent);
}

static void conn_flush(struct conn *c)
{
    if (!c->out_len)
        return;
    c->out_sent += conn_try_send(c, c->out + c->out_sent, c->out_len - c->out_sent);
    if (c->out_sent < c->out_len)
        return;
    free(c->out);
    c->out = NULL;
    c->out_len = c->out_sent = 0;
}

/* ---- whole answers, each size composed once ---- */

struct answer {
    size_t body_bytes;
    char *bytes;
    size_t len;
};

static void answer_compose(struct answer *a, size_t body_bytes)
{
    static const char words[] =
        "All the world is a stage and all the men and women merely players.\\n";
    static const char front[] =
        "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion\",\"created\":1700000000,"
        "\"model\":\"bench\","
        "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"";
    static const char back[] =
        "\",\"refusal\":null},\"logprobs\":null,\"finish_reason\":\"stop\"}]," USAGE_JSON "}";
    size_t text = body_bytes - (sizeof front - 1) - (sizeof back - 1);
    a->body_bytes = body_bytes;
    a->bytes = grown(NULL, body_bytes + 256);
    a->len = (size_t)snprintf(a->bytes, 256,
                              "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                              "x-request-id: req_bench\r\nContent-Length: %zu\r\n\r\n",
                              body_bytes);
    memcpy(a->bytes + a->len, front, sizeof front - 1);
    a->len += sizeof front - 1;
    /* Whole sentences, then dots: a cut "\n" would not be JSON. */
    for (; text >= sizeof words - 1; text -= sizeof words - 1, a->len += sizeof words - 1)
        memcpy(a->bytes + a->len, words, sizeof words - 1);
    memset(a->bytes + a->len, '.', text);
    memcpy(a->bytes + a->len + text, back, sizeof back - 1);
    a->len += text + sizeof back - 1;
}

static const struct answer *answer_get(size_t body_bytes)
{
    static struct answer answers[ANSWER_SIZES_MAX];
    if (body_bytes < ANSWER_MIN_BYTES)
        body_bytes = ANSWER_MIN_BYTES;
    if (body_bytes > ANSWER_MAX_BYTES)
        body_bytes = ANSWER_MAX_BYTES;
    size_t i = 0;
    while (i < ANSWER_SIZES_MAX - 1 && answers[i].bytes && answers[i].body_bytes != body_bytes)
        i++;
    if (answers[i].body_bytes != body_bytes) {
        free(answers[i].bytes);
        answer_compose(&answers[i], body_bytes);
    }
    return &answers[i];
}

static void conn_send_small(struct conn *c, unsigned long status, const char *json)
{
    char text[1024];
    int len = snprintf(
        text, sizeof text,
        "HTTP/1.1 %lu Bench\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
        status, strlen(json), json);
    conn_send(c, text, (size_t)len);
}

/* ---- streams ---- */

/* One content event inside its HTTP chunk, with the places of its number and its time of sending.
 * */
static char event_bytes[512];
static size_t event_len, event_number_at, event_time_at;

static size_t chunk_append(char *to, size_t room, const char *data)
{
    return (size_t)snprintf(to, room, "%zx\r\n%s\r\n", strlen(data), data);
}

static void event_compose(void)
{
    event_len = chunk_append(
        event_bytes, sizeof event_bytes,
        CHUNK_JSON(CHOICE("\"content\":\"NNNNNNNN TTTTTTTTTTTTTTTTTTTT \"", "null")) "}\n\n");
    event_number_at = (size_t)(strstr(event_bytes, "NNNN") - event_bytes);
    event_time_at = (size_t)(strstr(event_bytes, "TTTT") - event_bytes);
}

static void digits_write(char *at, size_t width, uint64_t value)
{
    for (; width; width--, value /= 10)
        at[width - 1] = (char)('0' + value % 10);
}

/* The head and the role go with the first event, in one send, as most providers do it. */
static void stream_send_event(struct conn *c)
{
    static const char head[] =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
        "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"
        "x-request-id: req_bench\r\nTransfer-Encoding: chunked\r\n\r\n";
    char bytes[1536];
    size_t len = 0;
    if (!c->events_sent) {
        memcpy(bytes, head, sizeof head - 1);
        len = sizeof head - 1;
        len += chunk_append(
            bytes + len, sizeof bytes - len,
            CHUNK_JSON(CHOICE("\"role\":\"assistant\",\"content\":\"\"", "null")) "}\n\n");
    }
    memcpy(bytes + len, event_bytes, event_len);
    digits_write(bytes + len + event_number_at, 8, c->events_sent);
    digits_write(bytes + len + event_time_at, 20, clock_now_ns());
    conn_send(c, bytes, len + event_len);
    c->events_sent++;
}

static void stream_send_end(struct conn *c)
{
    char bytes[1536];
    size_t len = chunk_append(bytes, sizeof bytes, CHUNK_JSON(CHOICE("", "\"stop\"")) "}\n\n");
    if (c->ask.usage)
        len += chunk_append(bytes + len, sizeof bytes - len, CHUNK_JSON("") "," USAGE_JSON "}\n\n");
    len += chunk_append(bytes + len, sizeof bytes - len, "data: [DONE]\n\n");
    memcpy(bytes + len, "0\r\n\r\n", 5);
    conn_send(c, bytes, len + 5);
}

/* When the next event is due. The golden ratio spreads the beats of streams that begin together
 * over one period. */
static uint64_t stream_next_ns(const struct conn *c, uint64_t now_ns)
{
    uint64_t period_ns = 1000000000u / c->ask.rate;
    if (c->events_sent > 1)
        return c->due_ns + period_ns > now_ns ? c->due_ns + period_ns : now_ns + 1;
    uint64_t spread =
        (uint64_t)((double)period_ns * ((double)(streams_begun % 10007) * 0.6180339887));
    return now_ns + period_ns + spread % (period_ns + 1);
}

/* ---- connections ---- */

static void conn_finish_answer(struct conn *c)
{
    c->answering = false;
    if (c->last && !c->out_len)
        c->dead = true;
}

static void conn_answer_whole(struct conn *c)
{
    if (c->ask.status && c->ask.status != 200) {
        conn_send_small(
            c, c->ask.status,
            "{\"error\":{\"message\":\"as asked for\",\"type\":\"server_error\",\"param\":null,"
            "\"code\":null}}");
    } else {
        const struct answer *a = answer_get(c->ask.answer_bytes);
        conn_send(c, a->bytes, a->len);
    }
    conn_finish_answer(c);
}

/* The time of a connection has come: its answer, or the next event of it, is due. */
static void conn_tick(struct conn *c, uint64_t now_ns)
{
    if (c->events_sent == c->ask.cut_after) {
        c->dead = c->reset = true;
    } else if (!c->ask.stream || c->ask.status) {
        conn_answer_whole(c);
    } else if (c->out_len) {
        heap_put(c, now_ns + 1000000); /* the reader is slow: look again in a millisecond */
    } else if (c->events_sent < c->ask.events) {
        stream_send_event(c);
        heap_put(c, stream_next_ns(c, now_ns));
    } else {
        stream_send_end(c);
        conn_finish_answer(c);
    }
}

/* Models that fail in turns, so that callers' breakers stay closed. */
static void ask_fail_in_turns(struct ask *ask)
{
    static unsigned long statuses, resets;
    if (ask->flaky_status && statuses++ % 2 == 0)
        ask->status = 503;
    if (ask->flaky_reset && resets++ % 3 < 2)
        ask->cut_after = 0;
}

static void conn_take_request(struct conn *c, const struct request *r)
{
    const char *connection = request_header(r, "connection");
    c->last = connection && !strncasecmp(connection, "close", 5);
    c->answering = true;
    c->events_sent = 0;
    if (!strncmp(r->head, "POST ", 5)) {
        request_ask(r, &defaults, &c->ask);
        ask_fail_in_turns(&c->ask);
        streams_begun += c->ask.stream;
        uint64_t now_ns = clock_now_ns();
        if (c->ask.delay_ms)
            heap_put(c, now_ns + c->ask.delay_ms * 1000000u);
        else
            conn_tick(c, now_ns);
        return;
    }
    if (!strncmp(r->head, "GET /health ", 12))
        conn_send_small(c, 200, "{\"status\":\"ok\"}");
    else
        conn_send_small(
            c, 404, "{\"error\":{\"message\":\"not here\",\"type\":\"invalid_request_error\"}}");
    conn_finish_answer(c);
}

/* Takes requests from `bytes` while it can; returns how many bytes they were. */
static size_t conn_take_requests(struct conn *c, const char *bytes, size_t len)
{
    size_t used = 0;
    while (!c->answering && !c->dead && !c->out_len && used < len && len - used >= c->in_need) {
        struct request r;
        size_t length = request_read(&r, bytes + used, len - used, &c->in_need);
        if (!length)
            break;
        if (length == SIZE_MAX) {
            c->dead = true;
            break;
        }
        c->in_need = 0;
        used += length;
        conn_take_request(c, &r);
    }
    return used;
}

static void conn_append(struct conn *c, const char *bytes, size_t len)
{
    size_t room = c->in_need > c->in_len + len ? c->in_need : c->in_len + len;
    if (room > c->in_cap) {
        c->in = grown(c->in, room);
        c->in_cap = room;
    }
    memcpy(c->in + c->in_len, bytes, len);
    c->in_len += len;
}

/* New bytes from the socket, or none of them but a chance for what waits in `in`. */
static void conn_feed(struct conn *c, const char *bytes, size_t len)
{
    if (!c->in_len) {
        size_t used = conn_take_requests(c, bytes, len);
        if (used < len)
            conn_append(c, bytes + used, len - used);
        return;
    }
    conn_append(c, bytes, len);
    size_t used = conn_take_requests(c, c->in, c->in_len);
    c->in_len -= used;
    memmove(c->in, c->in + used, c->in_len);
    if (c->in_len > REQUEST_MAX_BYTES)
        c->dead = true;
    if (!c->in_len) {
        free(c->in);
        c->in = NULL;
        c->in_cap = 0;
    }
}

/* Edge-triggered: a short read has emptied the socket, unless its end has come with it. */
static void conn_read(struct conn *c, bool ended)
{
    while (!c->dead) {
        ssize_t n = recv(c->fd, read_buffer, sizeof read_buffer, 0);
        if (n > 0)
            conn_feed(c, read_buffer, (size_t)n);
        else if (n == 0 || errno != EAGAIN)
            c->dead = true;
        if (n < 0 || (n < (ssize_t)sizeof read_buffer && !ended))
            return;
    }
}

/* The last thing done with a connection in every turn: goes on with waiting requests, or frees it.
 * */
static void conn_settle(struct conn *c)
{
    if (!c->dead && !c->answering && !c->out_len) {
        if (c->last)
            c->dead = true;
        else if (c->in_len)
            conn_feed(c, "", 0);
    }
    if (!c->dead)
        return;
    if (c->reset)
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &(struct linger){.l_onoff = 1},
                   sizeof(struct linger));
    close(c->fd);
    heap_drop(c);
    free(c->in);
    free(c->out);
    free(c);
}

static void conn_accept_all(int listen_fd)
{
    for (;;) {
        int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            return;
        struct conn *c = grown(NULL, sizeof *c);
        memset(c, 0, sizeof *c);
        c->fd = fd;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e))
            die("mock_provider: epoll_ctl");
    }
}

/* ---- the loop ---- */

static void loop_run_due(void)
{
    uint64_t now_ns = clock_now_ns();
    while (heap_len && heap[0]->due_ns <= now_ns) {
        struct conn *c = heap[0];
        heap_drop(c);
        conn_tick(c, now_ns);
        conn_settle(c);
    }
}

static int loop_wait(struct epoll_event *events)
{
    struct timespec left, *timeout = NULL;
    if (heap_len) {
        uint64_t now_ns = clock_now_ns();
        uint64_t left_ns = heap[0]->due_ns > now_ns ? heap[0]->due_ns - now_ns : 0;
        left.tv_sec = (time_t)(left_ns / 1000000000u);
        left.tv_nsec = (long)(left_ns % 1000000000u);
        timeout = &left;
    }
    return epoll_pwait2(epoll_fd, events, EPOLL_BATCH, timeout, NULL);
}

static void loop_run(int listen_fd)
{
    static struct epoll_event events[EPOLL_BATCH];
    for (;;) {
        int n = loop_wait(events);
        if (n < 0 && errno != EINTR)
            die("mock_provider: epoll_pwait2");
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if (!c) {
                conn_accept_all(listen_fd);
                continue;
            }
            conn_flush(c);
            if (events[i].events & ~(uint32_t)EPOLLOUT)
                conn_read(c, events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR));
            conn_settle(c);
        }
        loop_run_due();
    }
}

static int listen_open(unsigned long port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t address_len = sizeof address;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096) ||
        getsockname(fd, (struct sockaddr *)&address, &address_len))
        die("mock_provider: listen");
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e))
        die("mock_provider: epoll");
    printf("listening on 127.0.0.1:%u\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

int main(int argc, char **argv)
{
    unsigned long port = 0;
    unsigned long max_seconds = 3600; /* nobody has to remember to stop it */
    for (int i = 1; i < argc; i += 2) {
        unsigned long value = i + 1 < argc ? strtoul(argv[i + 1], NULL, 10) : 0;
        if (i + 1 < argc && !strcmp(argv[i], "--port")) {
            port = value;
        } else if (i + 1 < argc && !strcmp(argv[i], "--answer-bytes")) {
            defaults.answer_bytes = value;
        } else if (i + 1 < argc && !strcmp(argv[i], "--events")) {
            defaults.events = value;
        } else if (i + 1 < argc && !strcmp(argv[i], "--rate")) {
            defaults.rate = value ? value : 1;
        } else if (i + 1 < argc && !strcmp(argv[i], "--max-seconds")) {
            max_seconds = value;
        } else {
            fprintf(stderr,
                    "usage: mock_provider [--port N, 0 = any] [--answer-bytes N] [--events N]\n"
                    "                     [--rate EVENTS_PER_SECOND] [--max-seconds N]\n");
            return 2;
        }
    }
    alarm((unsigned)max_seconds);
    prctl(PR_SET_TIMERSLACK, 1UL, 0, 0, 0);
    event_compose();
    loop_run(listen_open(port));
}
