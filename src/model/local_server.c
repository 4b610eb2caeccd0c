/* SPDX-License-Identifier: Apache-2.0 */
/* Supervising llama-server.
 *
 * While a server has anything to do, one fiber of the main thread, its keeper, tells its life in
 * order: start, wait until healthy, tell those who wait, wait for the end, pause, again. Without
 * work there is no keeper; being asked makes one.
 *
 * A worker that needs a server puts a record from its stack into the server's list of waiters and
 * posts a message to the main loop. The answer is a message back.
 *
 * The hard thing is a worker that gives up waiting. Under the lock it takes its record out of
 * the list; if it is no longer there, the answer is already on its way, and the worker stays for
 * it. */
#include "model/local_server.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/list.h"
#include "base/sys.h"
#include "fiber/fiber.h"
#include "fiber/loop.h"
#include "model/child.h"
#include "model/local_command.h"
#include "model/socket_folder.h"
#include "net/http_client.h"
#include "observe/log.h"

#define SOCKET_BYTES    (SOCKET_FOLDER_BYTES + 16)
#define HEALTH_POLL_MS  50
#define START_LIMIT_MS  ((uint64_t)10 * 60 * 1000)
#define PAUSE_MS        1000
#define PAUSE_MAX_MS    60000
#define GOOD_LIFE_MS    60000 /* a child that was ready so long has not died of its start */
#define STOP_GRACE_MS   5000
#define KEPT_LINES      20
#define KEPT_LINE_BYTES 256
#define REASON_BYTES    512

enum state { STATE_STOPPED, STATE_STARTING, STATE_READY, STATE_PAUSING, STATE_FAILED };

static const char *const state_names[] = {
    [STATE_STOPPED] = "stopped", [STATE_STARTING] = "starting",
    [STATE_READY] = "ready",     [STATE_PAUSING] = "waiting to restart",
    [STATE_FAILED] = "failed",
};

static const struct err is_stopping = {
    .kind = ERR_KILLED, .where = ERR_HERE, .text = "the server is shutting down"};
static const struct err not_in_time = {.kind = ERR_TIMED_OUT,
                                       .code = "timeout",
                                       .where = ERR_HERE,
                                       .text = "the local model did not become ready in time"};

struct local_server {
    struct local_settings settings; /* in the arena */
    struct arena *arena;
    char socket[SOCKET_BYTES];
    struct loop *home; /* the main thread's; NULL: made outside any loop */
    atomic_uint users;
    atomic_bool is_ready;

    pthread_mutex_t lock; /* over these two */
    struct list waiters;
    bool is_asked; /* ask_message is on its way */
    struct loop_message ask_message, stop_message;

    /* The main thread's. */
    struct list link; /* among all servers */
    struct fiber *keeper;
    struct child child;
    enum state state;
    bool starts_at_once, is_dismissed;
    unsigned deaths; /* in a row */
    uint64_t starts, restarts, ready_since_ms, stop_grace_ms;
    char last_error[REASON_BYTES];
    char lines[KEPT_LINES][KEPT_LINE_BYTES]; /* what the child said last, as a ring */
    unsigned line_count;
};

enum answer { ANSWER_READY, ANSWER_REFUSED, ANSWER_STOPPING };

/* A fiber of any thread that waits for a server. On its stack. */
struct waiter {
    struct list link;
    struct loop_message message;
    struct loop *home;
    struct fiber *fiber;
    bool is_answered;
    enum answer answer;
    char reason[REASON_BYTES]; /* of a refusal */
};

/* All servers; the main thread's. */
static struct {
    struct list servers;
    unsigned keepers; /* fibers that run, perhaps of servers no longer listed */
    bool is_closing;
} all = {.servers = {&all.servers, &all.servers}};

/* ---- telling those who wait ---- */

static void come_home(struct loop_message *message)
{
    struct waiter *w = container_of(message, struct waiter, message);

    w->is_answered = true;
    fiber_wake(w->fiber);
}

/* `reason` is for refusals. */
static void answer_waiters(struct local_server *s, enum answer answer, const char *reason)
{
    pthread_mutex_lock(&s->lock);
    list_each (link, &s->waiters) {
        struct waiter *w = container_of(link, struct waiter, link);
        list_remove(link);
        w->answer = answer;
        snprintf(w->reason, sizeof(w->reason), "%s", reason);
        loop_post(w->home, &w->message); /* from here on the record may be gone */
    }
    pthread_mutex_unlock(&s->lock);
}

static bool has_waiters(struct local_server *s)
{
    bool any;

    pthread_mutex_lock(&s->lock);
    any = !list_is_empty(&s->waiters);
    pthread_mutex_unlock(&s->lock);
    return any;
}

/* ---- waiting, in any thread ---- */

/* Make sure that the main thread looks at the waiters. With the lock held. */
static void ask(struct local_server *s)
{
    if (s->is_asked)
        return;
    s->is_asked = true;
    loop_post(s->home, &s->ask_message);
}

static bool withdraw(struct local_server *s, struct waiter *w)
{
    bool was_listed;

    pthread_mutex_lock(&s->lock);
    was_listed = !list_is_empty(&w->link);
    list_remove(&w->link);
    pthread_mutex_unlock(&s->lock);
    return was_listed;
}

/* What the answer means; the text must outlive the record, so an error is made of it here. */
static err_t read_answer(const struct waiter *w)
{
    switch (w->answer) {
    case ANSWER_READY:
        return NULL;
    case ANSWER_STOPPING:
        return &is_stopping;
    case ANSWER_REFUSED:
        break;
    }
    return err_new_detail(ERR_UPSTREAM, (.code = "local_model_unavailable"), "%s", w->reason);
}

err_t local_server_await(struct local_server *s, uint64_t at_ms)
{
    struct waiter w = {.message.fn = come_home, .home = loop_self(), .fiber = fiber_self()};
    err_t err = NULL;

    if (atomic_load(&s->is_ready))
        return NULL;
    check(w.fiber != NULL && s->home != NULL);
    list_init(&w.link);
    pthread_mutex_lock(&s->lock);
    list_push(&s->waiters, &w.link);
    ask(s);
    pthread_mutex_unlock(&s->lock);
    while (!w.is_answered && !err)
        err = fiber_park(at_ms);
    if (!w.is_answered && withdraw(s, &w))
        return err == &fiber_wait_over ? &not_in_time : err;
    fiber_shield(FIBER_FOREVER);
    while (!w.is_answered)
        if (fiber_park(FIBER_FOREVER))
            break;
    fiber_unshield();
    return read_answer(&w);
}

/* ---- the child ---- */

static void set_state(struct local_server *s, enum state state)
{
    s->state = state;
    atomic_store(&s->is_ready, state == STATE_READY);
}

static void on_line(struct child *child, struct str line)
{
    struct local_server *s = container_of(child, struct local_server, child);

    snprintf(s->lines[s->line_count++ % KEPT_LINES], KEPT_LINE_BYTES, "%.*s", STR_ARG(line));
    if (!log_enabled(LOG_DEBUG))
        return;
    log_begin(LOG_DEBUG, "model server says");
    log_str("model", s->settings.model);
    log_str("line", line);
    log_end();
}

/* The line that explains a death best: the first that llama-server marks as an error ("… E …"),
 * else the last. */
static const char *telling_line(const struct local_server *s)
{
    unsigned first = s->line_count > KEPT_LINES ? s->line_count - KEPT_LINES : 0;

    for (unsigned i = first; i < s->line_count; i++) {
        const char *mark = strstr(s->lines[i % KEPT_LINES], " E ");
        if (mark)
            return mark + 3;
    }
    return s->line_count ? s->lines[(s->line_count - 1) % KEPT_LINES] : "it said nothing";
}

static err_t died(const struct local_server *s, int status)
{
    char how[64];

    child_describe(status, how);
    return err_new_detail(ERR_UPSTREAM, (.code = "local_model_unavailable"),
                          "the server of the local model %.*s %s: %s", STR_ARG(s->settings.model),
                          how, telling_line(s));
}

static err_t start_child(struct local_server *s, struct arena *arena)
{
    struct local_command command;

    fiber_set_step("start");
    set_state(s, STATE_STARTING);
    s->line_count = 0;
    TRY(local_command_make(&s->settings, s->socket, arena, &command));
    TRY(socket_folder_open());
    unlink(s->socket); /* its predecessor's: llama-server would refuse to bind */
    TRY(child_start(&s->child, command.argv, command.envp, on_line));
    s->starts++;
    log_begin(LOG_INFO, "model server started");
    log_str("model", s->settings.model);
    log_u64("pid", (uint64_t)s->child.pid);
    log_end();
    return NULL;
}

/* GET /health answers 503 while the model is being loaded. */
static bool is_healthy(struct http_pool *pool, const struct http_origin *origin)
{
    struct arena *before = fiber_arena(), *arena = arena_new(MEM_PROCESS, 256 * 1024);
    struct http_ask get = {.origin = origin,
                           .method = HTTP_GET_,
                           .method_text = "GET",
                           .target = STR("/health"),
                           .connect_ms = 1000,
                           .head_at_ms = loop_now_ms() + 5000};
    struct http_call call;
    bool is_ok = false;

    if (!arena)
        return false;
    fiber_set_arena(arena);
    if (!http_call_open(pool, &get, arena, &call)) {
        is_ok = call.status == 200;
        http_call_close(&call);
    }
    fiber_set_arena(before);
    arena_free(arena);
    return is_ok;
}

static err_t await_health(struct local_server *s, struct http_pool *pool,
                          const struct http_origin *origin)
{
    uint64_t until_ms = loop_now_ms() + START_LIMIT_MS;
    int status;
    err_t err;

    fiber_set_step("await health");
    while ((err = child_wait(&s->child, loop_now_ms() + HEALTH_POLL_MS, &status)) ==
           &fiber_wait_over) {
        if (is_healthy(pool, origin))
            return NULL;
        if (loop_now_ms() >= until_ms)
            return err_new(ERR_UPSTREAM, "the local model %.*s was not ready after 10 minutes",
                           STR_ARG(s->settings.model));
    }
    return err ? err : died(s, status);
}

static err_t become_ready(struct local_server *s, struct arena *arena)
{
    uint64_t began_ms = loop_now_ms();
    char *url = arena_printf(arena, "unix:%s", s->socket);
    struct http_origin origin;
    struct http_pool *pool;
    err_t err;

    if (!url)
        return arena_err(arena);
    TRY(http_origin_make(str_from(url), STR("off"), arena, &origin));
    TRY(http_pool_open(&pool));
    err = await_health(s, pool, &origin);
    http_pool_close(pool);
    TRY(err);
    set_state(s, STATE_READY);
    s->ready_since_ms = loop_now_ms();
    s->last_error[0] = 0;
    answer_waiters(s, ANSWER_READY, "");
    log_begin(LOG_INFO, "model server ready");
    log_str("model", s->settings.model);
    log_u64("pid", (uint64_t)s->child.pid);
    log_u64("ms", loop_now_ms() - began_ms);
    log_end();
    return NULL;
}

static err_t await_end(struct local_server *s)
{
    int status;

    fiber_set_step("watch");
    TRY(child_wait(&s->child, FIBER_FOREVER, &status));
    return died(s, status);
}

/* ---- a server's life ---- */

/* Say once why it does not work; what it said itself is for the operator. */
static void note_failure(struct local_server *s, err_t err)
{
    char output[KEPT_LINES * KEPT_LINE_BYTES / 4];
    unsigned first = s->line_count > KEPT_LINES ? s->line_count - KEPT_LINES : 0;
    size_t len = 0;

    if (strncmp(s->last_error, err->text, sizeof(s->last_error) - 1) == 0)
        return;
    snprintf(s->last_error, sizeof(s->last_error), "%s", err->text);
    output[0] = 0;
    for (unsigned i = first; i < s->line_count && len < sizeof(output); i++)
        len += (size_t)snprintf(output + len, sizeof(output) - len, "%.100s\n",
                                s->lines[i % KEPT_LINES]);
    log_begin(LOG_ERROR, "local model does not work");
    log_str("model", s->settings.model);
    log_err(err);
    if (output[0])
        log_cstr("output", output);
    log_end();
}

/* Wait before another start; after several deaths in a row those who ask meanwhile are refused
 * at once. */
static bool pause_after_death(struct local_server *s, bool was_ready)
{
    uint64_t pause_ms = PAUSE_MAX_MS, until_ms;
    err_t err = NULL;

    if (s->deaths < 7)
        pause_ms = (uint64_t)PAUSE_MS << (s->deaths - 1);
    until_ms = loop_now_ms() + (pause_ms < PAUSE_MAX_MS ? pause_ms : PAUSE_MAX_MS);
    fiber_set_step("pause");
    set_state(s, STATE_PAUSING);
    while (!err)
        err = fiber_park(until_ms);
    if (err != &fiber_wait_over)
        return false;
    if (!was_ready && !s->starts_at_once && !has_waiters(s)) {
        set_state(s, STATE_FAILED);
        return false;
    }
    return true;
}

/* One life of the child, from its start to its end and the pause after it. Returns whether to
 * start another. Between a change of state and the next park nobody can ask: on_ask runs in this
 * thread. */
static bool live_once(struct local_server *s)
{
    struct arena *arena = arena_new(MEM_PROCESS, 1024 * 1024);
    bool was_started, was_ready = false, is_cancelled;
    err_t err = arena ? NULL : err_no_memory();

    fiber_set_arena(arena);
    if (!err)
        err = start_child(s, arena);
    was_started = !err;
    if (!err)
        err = become_ready(s, arena);
    if (!err) {
        was_ready = true;
        err = await_end(s);
    }
    set_state(s, STATE_STOPPED);
    child_stop(&s->child, s->stop_grace_ms);
    is_cancelled = fiber_cancelled(fiber_self()) != NULL;
    /* Before it is told, so that whoever hears of it and asks waits for the next child. */
    answer_waiters(s, is_cancelled ? ANSWER_STOPPING : ANSWER_REFUSED, err->text);
    if (!is_cancelled)
        note_failure(s, err);
    fiber_set_arena(NULL);
    arena_free(arena);
    unlink(s->socket);
    if (is_cancelled)
        return false;
    if (!was_started) {
        set_state(s, STATE_FAILED);
        return false;
    }
    if (was_ready && loop_now_ms() - s->ready_since_ms > GOOD_LIFE_MS)
        s->deaths = 0;
    s->deaths++;
    return pause_after_death(s, was_ready);
}

static void destroy(struct local_server *s)
{
    check(list_is_empty(&s->waiters) && s->child.pid == 0);
    list_remove(&s->link);
    pthread_mutex_destroy(&s->lock);
    arena_free(s->arena);
    mem_free(MEM_PROCESS, s, sizeof(*s));
    if (list_is_empty(&all.servers))
        all.is_closing = false; /* whoever serves again in this process begins anew */
}

static void keep(void *arg)
{
    struct local_server *s = arg;

    while (live_once(s))
        s->restarts++;
    if (fiber_cancelled(fiber_self())) {
        set_state(s, STATE_STOPPED);
        answer_waiters(s, ANSWER_STOPPING, ""); /* who asked during the pause */
    }
    s->keeper = NULL;
    all.keepers--;
    if (s->is_dismissed)
        destroy(s);
}

/* ---- messages to the main thread ---- */

static void on_ask(struct loop_message *message)
{
    struct local_server *s = container_of(message, struct local_server, ask_message);
    err_t err;

    pthread_mutex_lock(&s->lock);
    s->is_asked = false;
    pthread_mutex_unlock(&s->lock);
    if (all.is_closing || atomic_load(&s->users) == 0)
        answer_waiters(s, ANSWER_STOPPING, "");
    else if (s->state == STATE_READY)
        answer_waiters(s, ANSWER_READY, "");
    else if (s->state == STATE_PAUSING && s->deaths > 1)
        answer_waiters(s, ANSWER_REFUSED, s->last_error);
    else if (!s->keeper) {
        all.keepers++;
        err = fiber_start_later("model server", keep, s, &s->keeper);
        if (!err)
            return;
        all.keepers--;
        answer_waiters(s, ANSWER_REFUSED, err->text);
    }
}

static void on_stop(struct loop_message *message)
{
    struct local_server *s = container_of(message, struct local_server, stop_message);

    if (!s->keeper)
        destroy(s);
    else {
        s->is_dismissed = true; /* its keeper destroys it */
        list_remove(&s->link);
        fiber_cancel(s->keeper, &is_stopping);
    }
}

/* ---- getting and giving back ---- */

static bool is_same(const struct local_settings *a, const struct local_settings *b)
{
    return str_eq(a->data_dir, b->data_dir) && str_eq(a->model, b->model) &&
           str_eq(a->server, b->server) && a->threads == b->threads && a->slots == b->slots &&
           a->context_tokens == b->context_tokens;
}

/* One more user, unless the last one has left and its message is on its way. */
static bool take(struct local_server *s)
{
    unsigned users = atomic_load(&s->users);

    while (users > 0 && !atomic_compare_exchange_weak(&s->users, &users, users + 1))
        continue;
    return users > 0;
}

static struct local_server *find(const struct local_settings *settings)
{
    list_each (link, &all.servers) {
        struct local_server *s = container_of(link, struct local_server, link);
        if (is_same(&s->settings, settings) && s->home == loop_self() && take(s))
            return s;
    }
    return NULL;
}

static err_t copy_settings(const struct local_settings *from, struct arena *arena,
                           struct local_settings *to)
{
    *to = *from;
    to->provider = arena_copy(arena, from->provider);
    to->data_dir = arena_copy(arena, from->data_dir);
    to->model = arena_copy(arena, from->model);
    to->server = arena_copy(arena, from->server);
    return to->provider.ptr && to->data_dir.ptr && to->model.ptr && to->server.ptr
               ? NULL
               : arena_err(arena);
}

static err_t make(const struct local_settings *settings, struct local_server **out)
{
    static unsigned last_number;
    struct local_server *s;
    const char *folder;
    err_t err;

    TRY(socket_folder_name(&folder));
    s = mem_alloc_zero(MEM_PROCESS, sizeof(*s));
    if (!s)
        return err_no_memory();
    s->arena = arena_new(MEM_PROCESS, 64 * 1024);
    err = s->arena ? copy_settings(settings, s->arena, &s->settings) : err_no_memory();
    if (err) {
        arena_free(s->arena);
        mem_free(MEM_PROCESS, s, sizeof(*s));
        return err;
    }
    snprintf(s->socket, sizeof(s->socket), "%s/%u.sock", folder, ++last_number);
    s->home = loop_self();
    atomic_init(&s->users, 1);
    atomic_init(&s->is_ready, false);
    pthread_mutex_init(&s->lock, NULL);
    list_init(&s->waiters);
    s->ask_message.fn = on_ask;
    s->stop_message.fn = on_stop;
    s->stop_grace_ms = STOP_GRACE_MS;
    list_push(&all.servers, &s->link);
    *out = s;
    return NULL;
}

err_t local_server_get(const struct conf *conf, const struct conf_provider *provider,
                       struct local_server **out)
{
    struct local_settings settings = {
        .provider = provider->name,
        .data_dir = conf->data_dir,
        .model = provider->model,
        .server = provider->server,
        .threads = provider->threads,
        .slots = provider->slots,
        .context_tokens = provider->context_tokens,
    };

    *out = find(&settings);
    if (!*out)
        TRY(make(&settings, out));
    (*out)->starts_at_once = provider->start_at_once;
    if (provider->start_at_once && (*out)->home) {
        pthread_mutex_lock(&(*out)->lock);
        ask(*out);
        pthread_mutex_unlock(&(*out)->lock);
    }
    return NULL;
}

void local_server_unref(struct local_server *server)
{
    if (!server || atomic_fetch_sub(&server->users, 1) != 1)
        return;
    if (server->home)
        loop_post(server->home, &server->stop_message);
    else
        destroy(server);
}

const char *local_server_socket(const struct local_server *server)
{
    return server->socket;
}

/* ---- all of them ---- */

static uint64_t resident_bytes(int pid)
{
    char path[64], text[64];
    char *second;
    ssize_t n;
    int fd;

    snprintf(path, sizeof(path), "/proc/%d/statm", pid);
    fd = pid ? sys_open(path, O_RDONLY, 0) : -1;
    if (fd < 0)
        return 0;
    n = sys_read(fd, text, sizeof(text) - 1);
    sys_close(fd);
    text[n > 0 ? n : 0] = 0;
    second = strchr(text, ' ');
    return second ? strtoull(second, NULL, 10) * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

void local_server_each(void (*visit)(const struct local_server_view *view, void *arg), void *arg)
{
    list_each (link, &all.servers) {
        const struct local_server *s = container_of(link, struct local_server, link);
        struct local_server_view view = {.model = s->settings.model.ptr,
                                         .state = state_names[s->state],
                                         .pid = s->child.pid,
                                         .starts = s->starts,
                                         .restarts = s->restarts,
                                         .memory_bytes = resident_bytes(s->child.pid),
                                         .last_error = s->last_error};
        visit(&view, arg);
    }
}

void local_server_stop_all(uint64_t timeout_ms)
{
    all.is_closing = true;
    list_each (link, &all.servers) {
        struct local_server *s = container_of(link, struct local_server, link);
        s->stop_grace_ms = timeout_ms;
        if (s->keeper)
            fiber_cancel(s->keeper, &is_stopping);
    }
    fiber_shield(FIBER_FOREVER);
    while (all.keepers > 0)
        if (fiber_sleep(5))
            break;
    fiber_unshield();
    socket_folder_close();
}
