/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opens many chat streams at once, checks that every one arrives whole and in order, and says how
 * late it was.
 *
 * Works with the events of mock_provider: each carries its number and the time of its sending. A
 * stream is complete when status 200, every number from 0 on, the finish reason, [DONE] and the end
 * of the body came, and the usage chunk exactly if it was asked for. With --anthropic it asks in
 * that protocol, and waits for message_stop. Prints one line of JSON when all streams are open, one
 * when all have ended.
 *
 * The hard thing: a body may be cut anywhere, in chunk framing and in events. Both are read as
 * lines, each with its own small buffer, so that no byte is looked at twice.
 */
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
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    LINE_BYTES = 1024, /* of a header or an event; the rest of a longer line is dropped */
    OPENING_MAX = 64, /* streams on their way to the first event, unless --opening says otherwise */
    SAMPLES_MAX = 4 << 20,
    EPOLL_BATCH = 512,
};

enum reading {
    READING_HEAD,
    READING_BODY,
    READING_CHUNK_SIZE,
    READING_CHUNK,
    READING_TRAILER,
    READING_DONE
};

struct line {
    size_t len;
    char text[LINE_BYTES];
};

struct stream {
    int fd; /* -1 = not connected */
    enum reading reading;
    struct line http, sse;
    size_t chunk_left;
    unsigned status;
    bool chunked, close_after;
    bool opening; /* the first event has not come */
    bool finish, usage, done;
    unsigned long events;
    uint64_t sent_ns;
};

struct samples {
    uint32_t *ns; /* 4.29 s and more are kept as 4.29 s */
    size_t len;
};

static struct {
    unsigned long port, streams, total, events, rate, body_bytes, opening, timeout_s;
    bool usage, hold, anthropic;
} want = {.streams = 1,
          .events = 20,
          .rate = 50,
          .body_bytes = 1024,
          .opening = OPENING_MAX,
          .timeout_s = 30};

static struct {
    unsigned long begun, ended, complete, broken, opening, opened, events, events_after_open,
        merged;
    uint64_t begun_ns, open_ns;
    const char *first_fault;
} tally;

static struct samples first_token, delay;
static char *request;
static size_t request_len;
static int epoll_fd;
static struct stream *streams;

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

/* ---- samples ---- */

static void samples_init(struct samples *s)
{
    s->ns = malloc(SAMPLES_MAX * sizeof *s->ns); /* untouched pages cost nothing */
    if (!s->ns)
        die("sse_client: memory");
}

static void samples_add(struct samples *s, uint64_t ns)
{
    if (s->len < SAMPLES_MAX)
        s->ns[s->len++] = ns < UINT32_MAX ? (uint32_t)ns : UINT32_MAX;
}

static int samples_order(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void samples_print(const char *name, struct samples *s)
{
    if (!s->len)
        return;
    qsort(s->ns, s->len, sizeof *s->ns, samples_order);
    printf(",\"%s_us\":{\"p50\":%.1f,\"p99\":%.1f,\"max\":%.1f}", name, s->ns[s->len / 2] / 1e3,
           s->ns[s->len * 99 / 100] / 1e3, s->ns[s->len - 1] / 1e3);
}

/* ---- one stream: what its events say ---- */

static void stream_begin(struct stream *s);

static void stream_disconnect(struct stream *s)
{
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
}

/* Counts the stream and begins the next one in its place, on the same connection where that may be.
 * */
static void stream_end(struct stream *s, const char *fault)
{
    tally.ended++;
    if (s->opening)
        tally.opening--;
    s->opening = false;
    if (fault) {
        tally.broken++;
        if (!tally.first_fault)
            tally.first_fault = fault;
    } else {
        tally.complete++;
    }
    if (fault || s->close_after)
        stream_disconnect(s);
    s->reading = READING_DONE;
    if (tally.begun < want.total)
        stream_begin(s);
    else
        stream_disconnect(s);
}

static const char *stream_fault(const struct stream *s)
{
    if (s->status != 200)
        return "status is not 200";
    if (s->events != want.events)
        return "events are missing, doubled or out of order";
    if (!s->finish)
        return "no finish reason";
    if (!s->done)
        return "no [DONE]";
    if (s->usage != want.usage)
        return want.usage ? "no usage" : "usage that nobody asked for";
    return NULL;
}

static void stream_opened(struct stream *s, uint64_t now_ns)
{
    s->opening = false;
    tally.opening--;
    samples_add(&first_token, now_ns - s->sent_ns);
    if (++tally.opened == want.streams) {
        tally.open_ns = now_ns;
        printf("{\"open\":%lu,\"seconds\":%.3f}\n", want.streams,
               (double)(now_ns - tally.begun_ns) / 1e9);
        fflush(stdout);
    }
}

/* What else an event may say. */
static void stream_take_sign(struct stream *s, const char *data)
{
    if (want.anthropic) { /* usage is always told */
        s->finish = s->finish || strstr(data, "\"stop_reason\":\"end_turn\"");
        s->done = s->done || strstr(data, "\"type\":\"message_stop\"");
        return;
    }
    s->finish = s->finish || strstr(data, "\"finish_reason\":\"stop\"");
    s->usage = s->usage || strstr(data, "\"usage\":{");
    s->done = s->done || !strcmp(data, "data: [DONE]");
}

/* One line of the event stream. Returns how many content events it was: 0 or 1. */
static unsigned stream_take_line(struct stream *s, uint64_t now_ns)
{
    s->sse.text[s->sse.len] = 0;
    const char *data = s->sse.text;
    if (strncmp(data, "data: ", 6))
        return 0;
    const char *key = want.anthropic ? "\"text\":\"" : "\"content\":\"";
    const char *content = strstr(data, key);
    char *end = NULL;
    unsigned long number = content ? strtoul(content + strlen(key), &end, 10) : 0;
    if (!content || end == content + strlen(key)) {
        stream_take_sign(s, data);
        return 0;
    }
    if (number != s->events || s->finish || s->done)
        s->events = want.events; /* one too many at the end of this stream: stream_fault says so */
    s->events++;
    tally.events++;
    tally.events_after_open += tally.open_ns != 0;
    if (tally.open_ns) /* not in the rush of opening */
        samples_add(&delay, now_ns - strtoull(end, NULL, 10));
    if (s->opening)
        stream_opened(s, now_ns);
    return 1;
}

/* ---- one stream: its bytes ---- */

/* Moves bytes into the line up to its end. True when the line is complete, without CR and LF. */
static bool line_take(struct line *l, const char **bytes, size_t *len)
{
    const char *eol = memchr(*bytes, '\n', *len);
    size_t n = eol ? (size_t)(eol - *bytes) : *len;
    size_t room = LINE_BYTES - 1 - l->len;
    memcpy(l->text + l->len, *bytes, n < room ? n : room);
    l->len += n < room ? n : room;
    n += eol != NULL;
    *bytes += n;
    *len -= n;
    if (!eol)
        return false;
    if (l->len && l->text[l->len - 1] == '\r')
        l->len--;
    l->text[l->len] = 0;
    return true;
}

static unsigned stream_take_body(struct stream *s, const char *bytes, size_t len, uint64_t now_ns)
{
    unsigned content_events = 0;
    while (len && line_take(&s->sse, &bytes, &len)) {
        content_events += stream_take_line(s, now_ns);
        s->sse.len = 0;
    }
    return content_events;
}

static void stream_take_head_line(struct stream *s)
{
    const char *text = s->http.text;
    if (!strncmp(text, "HTTP/1.1 ", 9))
        s->status = (unsigned)strtoul(text + 9, NULL, 10);
    else if (!strncasecmp(text, "transfer-encoding:", 18))
        s->chunked = true;
    else if (!strncasecmp(text, "connection:", 11) && strcasestr(text, "close"))
        s->close_after = true;
    else if (!*text && s->status != 100)
        s->reading = s->chunked ? READING_CHUNK_SIZE : READING_BODY;
}

/* A complete line of the head or of the chunk framing. */
static void stream_take_http_line(struct stream *s)
{
    if (s->reading == READING_HEAD) {
        stream_take_head_line(s);
    } else if (s->reading == READING_CHUNK_SIZE &&
               s->http.len) { /* empty: the end of the chunk before */
        s->chunk_left = strtoul(s->http.text, NULL, 16);
        s->reading = s->chunk_left ? READING_CHUNK : READING_TRAILER;
    } else if (s->reading == READING_TRAILER && !s->http.len) {
        s->reading = READING_DONE;
    }
    s->http.len = 0;
}

static void stream_take_bytes(struct stream *s, const char *bytes, size_t len, uint64_t now_ns)
{
    unsigned content_events = 0;
    while (len && s->reading != READING_DONE) {
        if (s->reading == READING_BODY) {
            content_events += stream_take_body(s, bytes, len, now_ns);
            break;
        }
        if (s->reading == READING_CHUNK) {
            size_t n = len < s->chunk_left ? len : s->chunk_left;
            content_events += stream_take_body(s, bytes, n, now_ns);
            bytes += n;
            len -= n;
            s->chunk_left -= n;
            if (!s->chunk_left)
                s->reading = READING_CHUNK_SIZE;
        } else if (line_take(&s->http, &bytes, &len)) {
            stream_take_http_line(s);
        }
    }
    if (content_events > 1)
        tally.merged += content_events - 1;
    if (s->reading == READING_DONE)
        stream_end(s, stream_fault(s));
}

static void stream_read(struct stream *s)
{
    static char bytes[64 * 1024];
    ssize_t n = recv(s->fd, bytes, sizeof bytes, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n > 0)
        stream_take_bytes(s, bytes, (size_t)n, clock_now_ns());
    else if (n == 0 && s->reading == READING_BODY)
        stream_end(s, stream_fault(s));
    else
        stream_end(s, n ? "connection failed" : "connection closed early");
}

/* ---- connecting and sending ---- */

static void stream_send(struct stream *s)
{
    s->sent_ns = clock_now_ns();
    ssize_t n = send(s->fd, request, request_len, MSG_NOSIGNAL);
    if (n != (ssize_t)request_len) /* a fresh socket's buffer holds a request of bench sizes */
        stream_end(s, "request could not be sent at once");
}

static void stream_connect(struct stream *s)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)want.port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (s->fd < 0)
        die("sse_client: socket");
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    if (connect(s->fd, (struct sockaddr *)&address, sizeof address))
        die("sse_client: connect");
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = s};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, s->fd, &e))
        die("sse_client: epoll_ctl");
    stream_send(s);
}

static void stream_begin(struct stream *s)
{
    int fd = s->fd;
    memset(s, 0, sizeof *s);
    s->fd = fd;
    s->opening = true;
    tally.opening++;
    tally.begun++;
    if (fd < 0)
        stream_connect(s);
    else
        stream_send(s);
}

static void request_compose(void)
{
    char front[512];
    const char *path = want.anthropic ? "/v1/messages" : "/v1/chat/completions";
    int front_len = snprintf(
        front, sizeof front,
        want.anthropic
            ? "{\"model\":\"bench\",\"stream\":true,\"max_tokens\":9999,%s"
              "\"messages\":[{\"role\":\"user\",\"content\":\"wishes: events:%lu rate:%lu } "
            : "{\"model\":\"bench\",\"stream\":true,%s"
              "\"metadata\":{\"events\":\"%lu\",\"rate\":\"%lu\"},"
              "\"messages\":[{\"role\":\"user\",\"content\":\"",
        want.usage ? "\"stream_options\":{\"include_usage\":true}," : "", want.events, want.rate);
    size_t body_len = (size_t)front_len + 4;
    body_len = body_len < want.body_bytes ? want.body_bytes : body_len;
    request = malloc(body_len + 512);
    if (!request)
        die("sse_client: memory");
    request_len = (size_t)snprintf(request, 512,
                                   "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%lu\r\n"
                                   "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
                                   path, want.port, body_len);
    memcpy(request + request_len, front, (size_t)front_len);
    memset(request + request_len + front_len, 'x', body_len - (size_t)front_len - 4);
    request_len += body_len;
    memcpy(request + request_len - 4, "\"}]}", 4);
}

/* ---- the loop ---- */

/* False when the one who holds the streams open has closed our standard input. */
static bool loop_turn(void)
{
    static struct epoll_event events[EPOLL_BATCH];
    int n = epoll_wait(epoll_fd, events, EPOLL_BATCH, 100);
    for (int i = 0; i < n; i++) {
        struct stream *s = events[i].data.ptr;
        if (!s)
            return false;
        stream_read(s);
    }
    return true;
}

static void loop_run(void)
{
    uint64_t end_ns = tally.begun_ns + want.timeout_s * 1000000000u;
    unsigned long next = 0;
    while (tally.ended < want.total) {
        while (next < want.streams && tally.opening < want.opening)
            stream_begin(&streams[next++]);
        if (tally.ended < want.total && !loop_turn())
            return;
        if (clock_now_ns() > end_ns) {
            tally.broken += want.total - tally.ended;
            tally.first_fault = tally.first_fault ? tally.first_fault : "timed out";
            return;
        }
    }
}

static void result_print(void)
{
    uint64_t now_ns = clock_now_ns();
    printf("{\"complete\":%lu,\"broken\":%lu,\"fault\":\"%s\",\"events\":%lu,\"merged\":%lu,"
           "\"seconds\":%.3f,"
           "\"events_after_open\":%lu,\"seconds_after_open\":%.3f",
           tally.complete, tally.broken, tally.first_fault ? tally.first_fault : "", tally.events,
           tally.merged, (double)(now_ns - tally.begun_ns) / 1e9, tally.events_after_open,
           tally.open_ns ? (double)(now_ns - tally.open_ns) / 1e9 : 0.0);
    samples_print("first_token", &first_token);
    samples_print("delay", &delay);
    printf("}\n");
}

static bool options_read(int argc, char **argv)
{
    const struct {
        const char *name;
        unsigned long *value;
    } numbers[] = {
        {"--port", &want.port},       {"--streams", &want.streams},
        {"--total", &want.total},     {"--events", &want.events},
        {"--rate", &want.rate},       {"--body-bytes", &want.body_bytes},
        {"--opening", &want.opening}, {"--timeout", &want.timeout_s},
    };
    for (int i = 1; i < argc; i++) {
        size_t n = 0;
        if (!strcmp(argv[i], "--usage")) {
            want.usage = true;
            continue;
        }
        if (!strcmp(argv[i], "--anthropic")) {
            want.anthropic = true;
            continue;
        }
        if (!strcmp(argv[i], "--hold")) {
            want.hold = true;
            continue;
        }
        while (n < sizeof numbers / sizeof *numbers && strcmp(argv[i], numbers[n].name) != 0)
            n++;
        if (n == sizeof numbers / sizeof *numbers || i + 1 == argc)
            return false;
        *numbers[n].value = strtoul(argv[++i], NULL, 10);
    }
    want.total = want.total < want.streams ? want.streams : want.total;
    return want.port && want.streams && want.opening && want.events &&
           !(want.anthropic && want.usage);
}

int main(int argc, char **argv)
{
    if (!options_read(argc, argv)) {
        fprintf(
            stderr,
            "usage: sse_client --port N [--streams AT_ONCE] [--total N] [--events PER_STREAM]\n"
            "                  [--rate PER_SECOND] [--body-bytes N] [--opening AT_ONCE]\n"
            "                  [--usage | --anthropic]\n"
            "                  [--timeout SECONDS] [--hold: leave when standard input closes]\n");
        return 2;
    }
    alarm((unsigned)want.timeout_s + 5); /* should a connect hang */
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event e = {.events = EPOLLIN | EPOLLHUP, .data.ptr = NULL};
    if (epoll_fd < 0 || (want.hold && epoll_ctl(epoll_fd, EPOLL_CTL_ADD, STDIN_FILENO, &e)))
        die("sse_client: epoll");
    streams = malloc(want.streams * sizeof *streams);
    if (!streams)
        die("sse_client: memory");
    for (unsigned long i = 0; i < want.streams; i++)
        streams[i].fd = -1;
    samples_init(&first_token);
    samples_init(&delay);
    request_compose();
    tally.begun_ns = clock_now_ns();
    loop_run();
    result_print();
    return tally.broken ? 1 : 0;
}
