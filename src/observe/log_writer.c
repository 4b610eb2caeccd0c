/* SPDX-License-Identifier: Apache-2.0 */
/* Takes log lines from every thread and writes them to one descriptor.
 *
 * Each thread that logs owns a ring: it appends whole lines, the writer takes whole lines out
 * into a batch and writes that. While lines come, the writer looks every few milliseconds, so
 * that a line costs its thread a copy and no system call; only when nothing came for a while
 * does it sleep until it is posted.
 *
 * The hard thing is a device that blocks. The writer must never hang in a write, or the program
 * could not end: it writes to pipes and terminals only after poll, and no more than PIPE_BUF,
 * which POLLOUT promises to fit. */
#include "observe/log_writer.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/mem.h"
#include "base/sys.h"
#include "observe/log.h"

#define RING_BYTES     ((size_t)256 * 1024)
#define BATCH_BYTES    ((size_t)64 * 1024)
#define LOOK_MS        5  /* how long a line may lie in a ring */
#define LOOKS_TO_SLEEP 20 /* this many looks in vain, and the writer sleeps */
#define SLEEP_MS       60000
#define RETRY_MS       250 /* how often a broken device is tried */
#define CLOSE_MS       1000

/* One producer (its thread), one consumer (the writer). Positions only grow; modulo RING_BYTES
 * they are offsets. */
struct ring {
    struct ring *next;
    bool owned; /* by a living thread; under rings.lock */
    _Atomic size_t head __attribute__((aligned(64)));
    size_t tail_seen; /* the producer's last look at tail */
    _Atomic size_t tail __attribute__((aligned(64)));
    char bytes[RING_BYTES];
};

static struct {
    pthread_mutex_t lock;
    struct ring *first;
    pthread_key_t exit_key; /* its destructor lets go of a thread's ring */
    bool has_exit_key;
} rings = {.lock = PTHREAD_MUTEX_INITIALIZER};

static struct {
    pthread_t thread;
    sem_t posted;
    atomic_bool is_open, is_asleep, has_crashed;
    _Atomic uint64_t stop_at_ms; /* 0: not yet */
    atomic_int fd, next_fd;      /* next_fd is -1 when there is nothing to switch to */
    bool fd_is_file, fd_works;
    char *batch; /* batch[at … len) is still to be written */
    size_t at, len;
    uint64_t reported; /* dropped lines that a line has told of */
    size_t (*compose_dropped)(uint64_t count, char out[512]);
} writer = {.fd = -1, .next_fd = -1};

static _Atomic uint64_t dropped;
static _Thread_local struct ring *own_ring;

/* ---- rings ---- */

/* A thread ends: while the writer runs, its ring is kept for the next thread. */
static void ring_disown(void *arg)
{
    struct ring *ring = arg;

    pthread_mutex_lock(&rings.lock);
    ring->owned = false;
    if (!atomic_load(&writer.is_open)) {
        struct ring **link = &rings.first;
        while (*link != ring)
            link = &(*link)->next;
        *link = ring->next;
        mem_free(MEM_LOG, ring, sizeof *ring);
    }
    pthread_mutex_unlock(&rings.lock);
    own_ring = NULL;
}

static struct ring *ring_new(void)
{
    struct ring *ring = mem_alloc(MEM_LOG, sizeof *ring);

    if (!ring)
        return NULL;
    atomic_init(&ring->head, 0);
    atomic_init(&ring->tail, 0);
    ring->tail_seen = 0;
    ring->next = rings.first;
    rings.first = ring;
    return ring;
}

/* The calling thread's ring, made or adopted on first use; NULL without memory. */
static struct ring *ring_own(void)
{
    struct ring *ring;

    if (own_ring)
        return own_ring;
    pthread_mutex_lock(&rings.lock);
    for (ring = rings.first; ring && ring->owned;)
        ring = ring->next;
    if (!ring)
        ring = ring_new();
    if (ring)
        ring->owned = true;
    pthread_mutex_unlock(&rings.lock);
    if (ring)
        pthread_setspecific(rings.exit_key, ring);
    own_ring = ring;
    return ring;
}

static bool ring_put(struct ring *ring, const char *line, size_t len)
{
    size_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    size_t at = head % RING_BYTES;
    size_t first = len < RING_BYTES - at ? len : RING_BYTES - at;

    if (RING_BYTES - (head - ring->tail_seen) < len) {
        ring->tail_seen = atomic_load_explicit(&ring->tail, memory_order_acquire);
        if (RING_BYTES - (head - ring->tail_seen) < len)
            return false;
    }
    memcpy(ring->bytes + at, line, first);
    memcpy(ring->bytes, line + first, len - first);
    /* Sequentially consistent, as is_asleep: the writer sees this line, or we see it asleep. */
    atomic_store(&ring->head, head + len);
    return true;
}

/* Length of the whole lines within `len` bytes from position `tail` on. */
static size_t ring_whole_lines(const struct ring *ring, size_t tail, size_t len)
{
    while (len && ring->bytes[(tail + len - 1) % RING_BYTES] != '\n')
        len--;
    return len;
}

/* Move whole lines from the ring into the batch. */
static void ring_take(struct ring *ring)
{
    size_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    size_t len = atomic_load(&ring->head) - tail;
    size_t at = tail % RING_BYTES;

    if (len > BATCH_BYTES - writer.len)
        len = ring_whole_lines(ring, tail, BATCH_BYTES - writer.len);
    size_t first = len < RING_BYTES - at ? len : RING_BYTES - at;
    memcpy(writer.batch + writer.len, ring->bytes + at, first);
    memcpy(writer.batch + writer.len + first, ring->bytes, len - first);
    writer.len += len;
    atomic_store_explicit(&ring->tail, tail + len, memory_order_release);
}

/* ---- the writer's thread ---- */

/* Wait to be posted, at most `ms`. */
static void writer_wait(uint64_t ms)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)(ms / 1000);
    until.tv_nsec += (long)(ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    while (sem_clockwait(&writer.posted, CLOCK_MONOTONIC, &until) != 0 && errno == EINTR)
        ;
}

static bool writer_must_stop(void)
{
    uint64_t at_ms = atomic_load(&writer.stop_at_ms);

    return atomic_load(&writer.has_crashed) || (at_ms && sys_now_ms() >= at_ms);
}

static void writer_use(int fd)
{
    struct stat info;

    atomic_store(&writer.fd, fd);
    writer.fd_is_file = fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
    writer.fd_works = true;
}

/* Take over the descriptor of a reopened log. What is left of a half-written line stays behind. */
static void writer_switch_now(void)
{
    int old = atomic_load(&writer.fd);
    int next = atomic_exchange(&writer.next_fd, -1);

    if (next < 0)
        return;
    if (writer.at > 0 && writer.at < writer.len && writer.batch[writer.at - 1] != '\n') {
        const char *end = memchr(writer.batch + writer.at, '\n', writer.len - writer.at);
        writer.at = (size_t)(end + 1 - writer.batch);
        atomic_fetch_add(&dropped, 1);
    }
    writer_use(next);
    if (old != STDERR_FILENO)
        sys_close(old);
}

/* Write as much of the batch as the device takes now. False when it takes nothing. */
static bool writer_write(void)
{
    struct pollfd ready = {.fd = atomic_load(&writer.fd), .events = POLLOUT};
    size_t len = writer.len - writer.at;

    if (!writer.fd_is_file) {
        if (poll(&ready, 1, RETRY_MS) == 0)
            return false;
        if (len > PIPE_BUF)
            len = PIPE_BUF;
    }
    ssize_t n = sys_write(ready.fd, writer.batch + writer.at, len);
    if (n <= 0) {
        writer_wait(RETRY_MS);
        return false;
    }
    writer.at += (size_t)n;
    return true;
}

/* Write the whole batch, waiting for the device as long as it takes, but not beyond a crash or
 * the end. */
static void writer_flush(void)
{
    while (writer.at < writer.len && !writer_must_stop()) {
        writer_switch_now();
        writer.fd_works = writer_write();
    }
}

/* Once the device works, tell how many lines are missing. */
static void writer_report_dropped(void)
{
    uint64_t count = atomic_load(&dropped) - writer.reported;

    if (count == 0 || !writer.fd_works || BATCH_BYTES - writer.len < 512)
        return;
    writer.len += writer.compose_dropped(count, writer.batch + writer.len);
    writer.reported += count;
}

/* Gather lines and write them. Returns how many bytes that were. */
static size_t writer_round(void)
{
    writer.at = writer.len = 0;
    pthread_mutex_lock(&rings.lock);
    for (struct ring *ring = rings.first; ring; ring = ring->next)
        ring_take(ring);
    pthread_mutex_unlock(&rings.lock);
    writer_report_dropped();
    writer_switch_now();
    writer_flush();
    return writer.len;
}

/* Sleep until a line comes. The second look is for a line that came before is_asleep was seen. */
static void writer_sleep(void)
{
    atomic_store(&writer.is_asleep, true);
    if (writer_round() == 0)
        writer_wait(SLEEP_MS);
    atomic_store(&writer.is_asleep, false);
}

static void *writer_run(void *arg)
{
    unsigned looks = 0;

    while (!writer_must_stop()) {
        size_t len = writer_round();
        if (len == 0 && atomic_load(&writer.stop_at_ms))
            break;
        looks = len ? 0 : looks + 1;
        if (looks > LOOKS_TO_SLEEP)
            writer_sleep();
        else if (len < BATCH_BYTES / 2) /* else more is probably waiting */
            writer_wait(LOOK_MS);
    }
    return NULL;
}

/* ---- for log.c ---- */

static err_t writer_start(void)
{
    sigset_t all, old;

    /* Signals are for the main thread; a SIGPIPE of ours must stay pending here. */
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    int error = pthread_create(&writer.thread, NULL, writer_run, NULL);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return error ? err_system(error, "starting the log writer") : NULL;
}

err_t log_writer_open(int fd, size_t (*compose_dropped)(uint64_t count, char out[512]))
{
    check(!atomic_load(&writer.is_open));
    if (!rings.has_exit_key && pthread_key_create(&rings.exit_key, ring_disown) != 0)
        return err_system(EAGAIN, "starting the log writer");
    rings.has_exit_key = true;
    writer.batch = mem_alloc(MEM_LOG, BATCH_BYTES);
    if (!writer.batch)
        return err_no_memory();
    writer.at = writer.len = 0;
    writer.compose_dropped = compose_dropped;
    atomic_store(&writer.stop_at_ms, 0);
    atomic_store(&writer.is_asleep, false);
    sem_init(&writer.posted, 0, 0);
    writer_use(fd);
    err_t err = writer_start();
    if (err) {
        atomic_store(&writer.fd, -1);
        mem_free(MEM_LOG, writer.batch, BATCH_BYTES);
        return err;
    }
    atomic_store(&writer.is_open, true);
    return NULL;
}

void log_writer_switch(int fd)
{
    int unused = atomic_exchange(&writer.next_fd, fd);

    if (unused >= 0 && unused != STDERR_FILENO)
        sys_close(unused);
    sem_post(&writer.posted);
}

/* Free the rings of threads that are gone, and the caller's. Others are freed when their thread
 * ends. */
static void rings_free(void)
{
    if (own_ring) {
        own_ring->owned = false;
        pthread_setspecific(rings.exit_key, NULL);
        own_ring = NULL;
    }
    for (struct ring **link = &rings.first; *link;) {
        struct ring *ring = *link;
        if (ring->owned) {
            link = &ring->next;
            continue;
        }
        *link = ring->next;
        mem_free(MEM_LOG, ring, sizeof *ring);
    }
}

void log_writer_close(void)
{
    if (!writer.batch)
        return;
    atomic_store(&writer.is_open, false);
    atomic_store(&writer.stop_at_ms, sys_now_ms() + CLOSE_MS);
    sem_post(&writer.posted);
    pthread_join(writer.thread, NULL);
    writer_switch_now();
    int fd = atomic_exchange(&writer.fd, -1);
    if (fd != STDERR_FILENO)
        sys_close(fd);
    mem_free(MEM_LOG, writer.batch, BATCH_BYTES);
    writer.batch = NULL;
    pthread_mutex_lock(&rings.lock);
    rings_free();
    pthread_mutex_unlock(&rings.lock);
}

static void write_all(int fd, const char *bytes, size_t len)
{
    while (len) {
        ssize_t n = sys_write(fd, bytes, len);
        if (n <= 0)
            return;
        bytes += n;
        len -= (size_t)n;
    }
}

void log_writer_put(const char *line, size_t len)
{
    if (!atomic_load_explicit(&writer.is_open, memory_order_acquire)) {
        write_all(STDERR_FILENO, line, len);
        return;
    }
    struct ring *ring = ring_own();
    if (!ring || !ring_put(ring, line, len))
        atomic_fetch_add_explicit(&dropped, 1, memory_order_relaxed);
    else if (atomic_load(&writer.is_asleep) && atomic_exchange(&writer.is_asleep, false))
        sem_post(&writer.posted);
}

uint64_t log_dropped(void)
{
    return atomic_load_explicit(&dropped, memory_order_relaxed);
}

/* No lock is taken: the thread that crashed may hold it. */
void log_flush_crash(int fd)
{
    int own = atomic_load(&writer.fd);

    if (atomic_exchange(&writer.has_crashed, true))
        return;
    atomic_store(&writer.is_open, false);
    if (own >= 0)
        fd = own;
    if (writer.batch)
        write_all(fd, writer.batch + writer.at, writer.len - writer.at);
    for (struct ring *ring = rings.first; ring; ring = ring->next) {
        size_t tail = atomic_load(&ring->tail);
        size_t len = atomic_load(&ring->head) - tail;
        size_t at = tail % RING_BYTES;
        size_t first = len < RING_BYTES - at ? len : RING_BYTES - at;
        write_all(fd, ring->bytes + at, first);
        write_all(fd, ring->bytes, len - first);
    }
}
