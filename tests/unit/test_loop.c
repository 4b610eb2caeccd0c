/* SPDX-License-Identifier: Apache-2.0 */
/* The loop: watches, messages from threads, timers, libuv inside, and stopping. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "base/mem.h"
#include "base/sys.h"
#include "fiber/loop.h"

static struct loop *loop;

static int set_up(void **state)
{
    return loop_open(&loop) == NULL ? 0 : -1;
}

static int tear_down(void **state)
{
    loop_close(loop);
    assert_null(loop_self());
    assert_int_equal(mem_in_use(MEM_FIBER), 0);
    assert_int_equal(mem_in_use(MEM_PROCESS), 0);
    return 0;
}

/* ---- watches ---- */

struct end {
    struct watch watch;
    struct end *other;
    int calls;
};

static void socket_pair(int fds[2])
{
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
}

static void on_end_ready(struct watch *watch)
{
    struct end *end = container_of(watch, struct end, watch);

    end->calls++;
    if (watch->hung_up)
        loop_stop(loop);
}

static void edges_set_flags_once(void **state)
{
    struct end ends[2] = {0};
    int fds[2];

    socket_pair(fds);
    for (int i = 0; i < 2; i++) {
        assert_null(watch_open(&ends[i].watch, fds[i], on_end_ready));
        assert_true(ends[i].watch.readable && ends[i].watch.writable && !ends[i].watch.hung_up);
        ends[i].watch.readable = false;
    }
    assert_int_equal(write(fds[1], "x", 1), 1);
    assert_int_equal(shutdown(fds[1], SHUT_WR), 0);
    loop_run(loop);
    assert_true(ends[0].watch.readable && ends[0].watch.hung_up);
    assert_false(ends[1].watch.readable);
    assert_int_equal(ends[0].calls, 1);
    watch_close(&ends[0].watch);
    watch_close(&ends[1].watch);
    watch_close(&ends[1].watch);
    assert_int_equal(ends[1].watch.fd, -1);
    assert_int_equal(fcntl(fds[0], F_GETFD), -1);
}

static void on_end_closes_other(struct watch *watch)
{
    struct end *end = container_of(watch, struct end, watch);

    end->calls++;
    if (end->other->watch.fd >= 0)
        watch_close(&end->other->watch);
    loop_stop(loop);
}

static void watch_closed_in_same_round_hears_nothing(void **state)
{
    struct end a = {0}, b = {.other = &a};
    int fds[2];

    a.other = &b;
    socket_pair(fds);
    assert_null(watch_open(&a.watch, fds[0], on_end_closes_other));
    assert_null(watch_open(&b.watch, fds[1], on_end_closes_other)); /* both are writable at once */
    loop_run(loop);
    assert_int_equal(a.calls + b.calls, 1);
    watch_close(&a.watch);
    watch_close(&b.watch);
}

static void released_descriptor_stays_open(void **state)
{
    struct end a = {0};
    int fds[2];

    socket_pair(fds);
    assert_null(watch_open(&a.watch, fds[0], on_end_ready));
    assert_int_equal(watch_release(&a.watch), fds[0]);
    assert_int_equal(a.watch.fd, -1);
    assert_null(watch_open(&a.watch, fds[0], on_end_ready)); /* really forgotten: no EEXIST */
    watch_close(&a.watch);
    close(fds[1]);
}

static void opening_a_bad_descriptor_fails(void **state)
{
    struct end a = {0};

    err_t err = watch_open(&a.watch, 9999, on_end_ready);
    assert_true(err_is(err, ERR_SYSTEM));
    assert_int_equal(a.watch.fd, -1);
    watch_close(&a.watch);
}

/* ---- listeners ---- */

struct listening {
    struct watch watch;
    struct timer timer;
    int calls, accepted, fd;
};

static int listen_on_loopback(struct sockaddr_in *address)
{
    socklen_t len = sizeof *address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    assert_int_equal(bind(fd, (struct sockaddr *)address, sizeof *address), 0);
    assert_int_equal(listen(fd, 16), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)address, &len), 0);
    return fd;
}

static void resume_listening(struct timer *timer)
{
    struct listening *l = container_of(timer, struct listening, timer);

    assert_int_equal(l->calls, 1); /* level-triggered, yet silent while paused */
    watch_pause(&l->watch, false);
}

static void on_connection(struct watch *watch)
{
    struct listening *l = container_of(watch, struct listening, watch);

    if (++l->calls == 1) {
        watch_pause(watch, true);
        assert_null(timer_set(&l->timer, loop_now_ms() + 20, resume_listening));
        return;
    }
    l->fd = accept(watch->fd, NULL, NULL);
    assert_true(l->fd >= 0);
    loop_stop(loop);
}

static void paused_listener_is_silent_until_resumed(void **state)
{
    struct listening l = {0};
    struct sockaddr_in address;
    int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_null(watch_open_listener(&l.watch, listen_on_loopback(&address), on_connection));
    assert_int_equal(connect(client, (struct sockaddr *)&address, sizeof address), 0);
    loop_run(loop);
    assert_int_equal(l.calls, 2);
    timer_clear(&l.timer);
    watch_close(&l.watch);
    close(l.fd);
    close(client);
}

/* ---- messages ---- */

#define THREADS  4
#define MESSAGES 1000

static int last_seen[THREADS], seen;

struct numbered {
    struct loop_message message;
    int thread, number;
};

static void on_numbered(struct loop_message *message)
{
    struct numbered *numbered = container_of(message, struct numbered, message);

    assert_ptr_equal(loop_self(), loop);
    assert_int_equal(numbered->number, ++last_seen[numbered->thread]);
    if (++seen == THREADS * MESSAGES)
        loop_stop(loop);
    mem_free(MEM_TOOL, numbered, sizeof *numbered);
}

static void *post_many(void *arg)
{
    for (int i = 1; i <= MESSAGES; i++) {
        struct numbered *numbered = mem_alloc_zero(MEM_TOOL, sizeof *numbered);
        numbered->message.fn = on_numbered;
        numbered->thread = (int)(intptr_t)arg;
        numbered->number = i;
        loop_post(loop, &numbered->message);
    }
    return NULL;
}

static void messages_of_each_thread_keep_their_order(void **state)
{
    pthread_t threads[THREADS];
    struct loop_stats stats;

    for (intptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, post_many, (void *)i), 0);
    loop_run(loop);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(seen, THREADS * MESSAGES);
    loop_stats(loop, &stats);
    assert_int_equal(stats.messages, THREADS * MESSAGES);
    assert_int_equal(mem_in_use(MEM_TOOL), 0);
}

static int order[3], order_len;

static void on_first(struct loop_message *message)
{
    order[order_len++] = 1;
}

static void on_second(struct loop_message *message)
{
    order[order_len++] = 2;
}

static void queued_messages_are_delivered_at_close(void **state)
{
    struct loop_message first = {.fn = on_first}, second = {.fn = on_second};

    assert_null(loop_open(&loop));
    loop_post(loop, &first);
    loop_post(loop, &second);
    loop_close(loop);
    assert_int_equal(order_len, 2);
    assert_int_equal(order[0], 1);
    assert_int_equal(order[1], 2);
}

/* ---- timers ---- */

struct alarm {
    struct timer timer;
    uint64_t rang_ms;
};

static void on_alarm(struct timer *timer)
{
    container_of(timer, struct alarm, timer)->rang_ms = loop_now_ms();
}

static void on_last_alarm(struct timer *timer)
{
    on_alarm(timer);
    loop_stop(loop);
}

static void timers_ring_once_and_not_early(void **state)
{
    struct alarm soon = {0}, moved_later = {0}, moved_sooner = {0}, cleared = {0}, last = {0};
    uint64_t now_ms = loop_now_ms();

    assert_null(timer_set(&soon.timer, now_ms + 5, on_alarm));
    assert_null(timer_set(&moved_later.timer, now_ms + 5, on_alarm));
    assert_null(timer_set(&moved_later.timer, now_ms + 20, on_alarm));
    assert_null(timer_set(&moved_sooner.timer, now_ms + 100000, on_alarm));
    assert_null(timer_set(&moved_sooner.timer, now_ms + 10, on_alarm));
    assert_null(timer_set(&cleared.timer, now_ms + 5, on_alarm));
    timer_clear(&cleared.timer);
    assert_null(timer_set(&last.timer, now_ms + 40, on_last_alarm));
    loop_run(loop);
    assert_true(soon.rang_ms >= now_ms + 5);
    assert_true(moved_later.rang_ms >= now_ms + 20);
    assert_true(moved_sooner.rang_ms >= now_ms + 10 && moved_sooner.rang_ms < now_ms + 50000);
    assert_int_equal(cleared.rang_ms, 0);
    assert_true(last.rang_ms >= now_ms + 40);
    timer_clear(&soon.timer);
    timer_clear(&moved_later.timer);
    timer_clear(&moved_sooner.timer);
    timer_clear(&last.timer);
    timer_clear(&last.timer);
}

static void on_handed_over(struct timer *timer)
{
    fail_msg("a cleared timer rang");
}

static void handle_of_a_cleared_timer_serves_the_next(void **state)
{
    struct alarm first = {0}, second = {0};

    assert_null(timer_set(&first.timer, loop_now_ms() + 5, on_handed_over));
    timer_clear(&first.timer);
    uint64_t at_ms = loop_now_ms() + 20;
    mem_fail_nth(1); /* no allocation, as the handle is reused */
    assert_null(timer_set(&second.timer, at_ms, on_last_alarm));
    mem_fail_nth(0);
    loop_run(loop);
    assert_true(second.rang_ms >= at_ms);
    timer_clear(&second.timer);
}

static void post_again(struct loop_message *message)
{
    loop_post(loop, message); /* keeps epoll from ever waiting */
}

static void timers_ring_in_a_busy_loop(void **state)
{
    static struct loop_message busy = {.fn = post_again};
    struct alarm alarm = {0};

    loop_post(loop, &busy);
    assert_null(timer_set(&alarm.timer, loop_now_ms() + 20, on_last_alarm));
    loop_run(loop);
    assert_true(alarm.rang_ms > 0);
    timer_clear(&alarm.timer);
    busy.fn = on_first;
}

/* ---- libuv inside ---- */

static int exit_code;

static void on_exit_of_child(uv_process_t *process, int64_t status, int signal)
{
    exit_code = (int)status;
    uv_close((uv_handle_t *)process, NULL);
    loop_stop(loop);
}

static void spawn_child(struct timer *timer)
{
    static uv_process_t process;
    char *args[] = {(char *)"/bin/sh", (char *)"-c", (char *)"exit 7", NULL};
    uv_process_options_t options = {.file = args[0], .args = args, .exit_cb = on_exit_of_child};

    assert_int_equal(uv_spawn(loop_uv(loop), &process, &options), 0);
}

static void child_started_in_a_round_is_waited_for(void **state)
{
    struct timer timer = {0};

    exit_code = -1;
    assert_null(timer_set(&timer, loop_now_ms() + 1, spawn_child));
    loop_run(loop);
    assert_int_equal(exit_code, 7);
    timer_clear(&timer);
}

/* ---- the whole ---- */

/* Of ours: libuv aborts when its table of descriptors cannot grow, so its allocator stays its
 * own here. */
static void opening_reports_every_failing_allocation(void **state)
{
    for (uint64_t n = 1;; n++) {
        mem_fail_nth(n);
        err_t err = loop_open(&loop);
        mem_fail_nth(0);
        if (!err)
            break;
        assert_true(err_is(err, ERR_BUSY) || err_is(err, ERR_SYSTEM));
        assert_null(loop_self());
        assert_int_equal(mem_in_use(MEM_PROCESS), 0);
    }
    loop_close(loop);
    assert_int_equal(mem_in_use(MEM_PROCESS), 0);
}

static void stop_before_run_ends_it_at_once(void **state)
{
    loop_stop(loop);
    loop_run(loop);
    assert_non_null(loop_scratch());
}

static void idle_loop_sleeps(void **state)
{
    struct alarm alarm = {0};
    struct loop_stats stats;

    assert_null(timer_set(&alarm.timer, loop_now_ms() + 50, on_last_alarm));
    loop_run(loop);
    loop_stats(loop, &stats);
    assert_in_range(stats.rounds, 1, 10);
    timer_clear(&alarm.timer);
}

#define WITH_LOOP(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_LOOP(edges_set_flags_once),
        WITH_LOOP(watch_closed_in_same_round_hears_nothing),
        WITH_LOOP(released_descriptor_stays_open),
        WITH_LOOP(opening_a_bad_descriptor_fails),
        WITH_LOOP(paused_listener_is_silent_until_resumed),
        WITH_LOOP(messages_of_each_thread_keep_their_order),
        cmocka_unit_test(queued_messages_are_delivered_at_close),
        WITH_LOOP(timers_ring_once_and_not_early),
        WITH_LOOP(handle_of_a_cleared_timer_serves_the_next),
        WITH_LOOP(timers_ring_in_a_busy_loop),
        WITH_LOOP(child_started_in_a_round_is_waited_for),
        cmocka_unit_test(opening_reports_every_failing_allocation),
        WITH_LOOP(stop_before_run_ends_it_at_once),
        WITH_LOOP(idle_loop_sleeps),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
