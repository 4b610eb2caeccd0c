/* SPDX-License-Identifier: Apache-2.0 */
/* Limits when Redis is ill: slow, cut off, loading, a replica, out of memory, talking nonsense, frozen,
 * killed, failed over. Calls go on with this process's share, and Redis is used again when it is well. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/sys.h"
#include "limit_server.h"
#include "observe/log.h"
#include "observe/metrics.h"
#include "peer.h"
#include "store/redis.h"

#define TIMEOUT_MS 50

/* ---- a scripted Redis ---- */

static struct peer peer;
static const char *_Atomic fault; /* instead of the script's answer; NULL: one that lets pass */
static _Atomic unsigned master_port;

/* Read one command; its words joined by spaces into `text`. */
static bool read_command(int fd, char *text, size_t size)
{
    char line[64];
    size_t len = 0, words = 0, left;

    text[0] = '\0';
    for (size_t i = 0; i == 0 || i <= words; i++) {
        for (len = 0; len < sizeof(line) - 1 && (len < 2 || line[len - 1] != '\n'); len++)
            if (recv(fd, line + len, 1, 0) != 1)
                return false;
        line[len] = '\0';
        left = strtoul(line + 1, NULL, 10);
        if (i == 0) {
            words = left;
            continue;
        }
        for (left += 2; left > 0; left--) {
            char c;
            if (recv(fd, &c, 1, 0) != 1)
                return false;
            len = strlen(text);
            if (left > 2 && len < size - 2)
                memcpy(text + len, (char[]){c, '\0'}, 2);
        }
        strncat(text, " ", size - strlen(text) - 1);
    }
    return true;
}

static bool answer(int fd, const char *text)
{
    return peer_send(fd, text, strlen(text));
}

static void serve(struct peer *p, int fd)
{
    char text[4096], master[128];
    struct linger at_once = {.l_onoff = 1};

    (void)p;
    while (read_command(fd, text, sizeof(text))) {
        const char *now = fault;

        if (strncmp(text, "SENTINEL", 8) == 0) {
            snprintf(master, sizeof(master), "*2\r\n$9\r\n127.0.0.1\r\n$5\r\n%05u\r\n",
                     master_port);
            answer(fd, master);
        } else if (strncmp(text, "EVAL", 4) != 0 || !now) {
            answer(fd,
                   strncmp(text, "EVAL", 4) == 0 ? "*4\r\n:0\r\n:0\r\n:1000\r\n:0\r\n" : "+OK\r\n");
        } else if (strcmp(now, "slow") == 0) {
            usleep(500000);
            answer(fd, "*4\r\n:0\r\n:0\r\n:1000\r\n:0\r\n");
        } else if (strncmp(now, "cut ", 4) == 0) {
            answer(fd, now + 4);
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
            return;
        } else {
            answer(fd, now);
        }
    }
}

/* ---- calls ---- */

static struct conf conf;
static char user[24];

static void configure(const char *url)
{
    conf = (struct conf){.redis = {.url = str_from(url), .timeout_ms = TIMEOUT_MS},
                         .limits = {.per_user = {.requests = {9, 600000}}, .replicas = 3}};
    assert_null(limit_configure(&conf));
    text_random_id("", user);
}

/* One call of the user's: whether it passes, and who said so. */
static bool passes(bool *is_shared)
{
    struct subject subject = {
        .project = STR("p"), .key = STR("k"), .user = str_from(user), .user_is_limited = true};
    struct limit_ticket ticket;
    uint64_t retry_ms, began_ms = sys_now_ms();
    err_t err;

    assert_null(limit_find(&ticket, &conf, &subject, STR(""), arena));
    err = limit_take(&ticket, 0, &retry_ms);
    assert_true(!err || err_is(err, ERR_LIMITED));
    assert_true(sys_now_ms() - began_ms < 100 * TIMEOUT_MS); /* a hang, not a measurement */
    *is_shared = ticket.is_shared;
    return !err;
}

static int64_t fallbacks(void)
{
    return metric_value(metric_series_get(METRIC_REDIS_FALLBACK, NULL));
}

static int64_t is_up(void)
{
    return metric_value(metric_series_get(METRIC_REDIS_UP, NULL));
}

/* While Redis is ill: a share of 9, a third of it, and no more. */
static void check_share(void)
{
    int64_t before = fallbacks();
    unsigned passed = 0;
    bool is_shared;

    text_random_id("", user);
    for (int i = 0; i < 8; i++) {
        passed += passes(&is_shared);
        assert_false(is_shared);
    }
    assert_int_equal(passed, 3);
    assert_int_equal(fallbacks() - before, 8);
}

/* From now on Redis is well: it is used again within 2 s (a good deal more on a busy machine). */
static void await_recovery(void)
{
    uint64_t until_ms = sys_now_ms() + 10000;
    bool is_shared = false;

    while (!is_shared && sys_now_ms() < until_ms) {
        text_random_id("", user);
        passes(&is_shared);
        assert_null(fiber_sleep(20));
    }
    assert_true(is_shared);
    assert_int_equal(is_up(), 1);
}

static void every_fault_falls_back(void)
{
    static const char *const faults[] = {
        "slow",
        "cut *4\r\n:0\r\n:0",
        "-LOADING Redis is loading the dataset in memory\r\n",
        "-READONLY You can't write against a read only replica.\r\n",
        "-OOM command not allowed when used memory > 'maxmemory'.\r\n",
        "-BUSY Redis is busy running a script.\r\n",
        "-NOSCRIPT No matching script.\r\n",
        "-ERR unknown command\r\n",
        "HTTP/1.1 400 Bad Request\r\n\r\n",
        "+OK\r\n",
        "$-1\r\n",
        ":1\r\n",
        "*-1\r\n",
        "*2147483647\r\n",
        "*3\r\n:0\r\n:0\r\n:1000\r\n",
        "*4\r\n:5\r\n:0\r\n:1000\r\n:0\r\n",
        "*4\r\n:0\r\n:-1\r\n:1000\r\n:0\r\n",
        "*4\r\n:0\r\n:0\r\n$1\r\n1\r\n:0\r\n",
        "*4\r\n:0\r\n:0\r\n:9223372036854775807\r\n:0\r\n",
        "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n",
        ":99999999999999999999999\r\n",
    };
    bool is_shared;

    configure(arena_printf(arena, "redis://127.0.0.1:%u", peer.port));
    fault = NULL;
    await_recovery();
    for (size_t i = 0; i < sizeof(faults) / sizeof(*faults); i++) {
        fault = faults[i];
        check_share();
        fault = NULL;
        await_recovery();
    }
    /* What nobody asked for means that answers are out of step. */
    fault = "*4\r\n:0\r\n:0\r\n:1000\r\n:0\r\n+OK\r\n";
    for (int i = 0; i < 3; i++)
        passes(&is_shared);
    fault = NULL;
    await_recovery();
}

static void sentinels_are_asked_again(void)
{
    if (!server_url() || !server_is_ours())
        return;
    fault = NULL;
    master_port = peer.port; /* calls itself no master: ROLE answers OK */
    configure(arena_printf(arena, "redis+sentinel://127.0.0.1:%u/mymaster", peer.port));
    check_share();
    master_port = server.port;
    await_recovery();
}

static void a_server_that_freezes_or_dies(void)
{
    if (!server_url() || !server_is_ours())
        return;
    configure(server_url());
    await_recovery();
    kill(server.pid, SIGSTOP);
    check_share();
    assert_int_equal(is_up(), 0);
    kill(server.pid, SIGCONT);
    await_recovery();
    child_end(&server, SIGKILL);
    check_share();
    assert_true(server_start());
    await_recovery();
}

static void nobody_listens(void)
{
    configure(arena_printf(arena, "redis://127.0.0.1:%u", child_free_port()));
    check_share();
    assert_int_equal(is_up(), 0);
    configure(arena_printf(arena, "redis://127.0.0.1:%u", peer.port));
    await_recovery();
}

static bool has_called;

static void call_once(void *unused)
{
    struct arena *own = arena_new(MEM_TOOL, 64 * 1024);
    bool is_shared;

    (void)unused;
    fiber_set_arena(own);
    passes(&is_shared);
    fiber_set_arena(NULL);
    arena_free(own);
    has_called = true;
}

/* A connection was wanted, and nobody has begun to dial, when a reload takes Redis away. */
static void a_reload_before_dialling(void)
{
    fault = NULL;
    has_called = false;
    configure(arena_printf(arena, "redis://127.0.0.1:%u/7", peer.port));
    assert_null(fiber_start("caller", call_once, NULL, NULL));
    assert_false(has_called);
    configure("");
    assert_true(err_is(redis_check(), ERR_STORE));
    while (!has_called)
        assert_null(fiber_sleep(1));
    configure(arena_printf(arena, "redis://127.0.0.1:%u", peer.port));
    await_recovery();
}

/* What does not fit into the queue is Redis' fault, too: nobody's request fails for it. */
static void too_much_waits_to_be_sent(void)
{
    size_t len = (size_t)5 * 1024 * 1024;
    struct str args[] = {STR("SET"), STR("k"), {arena_alloc(arena, len), len}};
    struct redis_reply *reply;

    configure(arena_printf(arena, "redis://127.0.0.1:%u", peer.port));
    assert_true(err_is(redis_call(args, 3, arena, &reply), ERR_STORE));
    await_recovery();
}

/* Every allocation of a call and of connecting fails once, then every system call: nothing is lost. */
static void nothing_breaks_when_calls_fail(void)
{
    struct subject subject = {.project = STR("p"), .key = STR("k")};
    struct limit_ticket ticket;
    uint64_t retry_ms;

    fault = NULL;
    for (uint64_t n = 1; n <= 60; n++) {
        configure(arena_printf(arena, "redis://127.0.0.1:%u/%u", peer.port, (unsigned)n));
        conf.limits.per_key =
            (struct conf_limits){.requests = {9, 1000}, .streams = n % 3 ? 0 : 100};
        (n % 2 ? mem_fail_nth : sys_fail_nth)((n + 1) / 2);
        err_t err = limit_find(&ticket, &conf, &subject, STR(""), arena);
        if (!err)
            err = limit_take(&ticket, 0, &retry_ms);
        assert_true(!err || err_is(err, ERR_LIMITED) || err_is(err, ERR_BUSY));
        limit_settle(&ticket, 0, true);
        mem_fail_nth(0);
        sys_fail_nth(0);
    }
    configure(arena_printf(arena, "redis://127.0.0.1:%u", peer.port));
    await_recovery();
}

#define TEST(name)                                                                                 \
    static void test_##name(void **state)                                                          \
    {                                                                                              \
        (void)state;                                                                               \
        run_in_fiber(name, limit_leave);                                                           \
    }

TEST(every_fault_falls_back)
TEST(sentinels_are_asked_again)
TEST(a_server_that_freezes_or_dies)
TEST(nobody_listens)
TEST(a_reload_before_dialling)
TEST(too_much_waits_to_be_sent)
TEST(nothing_breaks_when_calls_fail)

static int start(void **state)
{
    (void)state;
    peer_start(&peer, serve);
    server_url(); /* here, as a child ends with its thread, and a fiber's may be its own */
    return 0;
}

static int stop(void **state)
{
    (void)state;
    child_close(&server, SIGKILL);
    limit_close();
    peer_stop(&peer);
    assert_int_equal(mem_in_use(MEM_UPSTREAM), 0);
    assert_int_equal(mem_in_use(MEM_CONF), 0);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_fault_falls_back),
        cmocka_unit_test(test_sentinels_are_asked_again),
        cmocka_unit_test(test_a_server_that_freezes_or_dies),
        cmocka_unit_test(test_nobody_listens),
        cmocka_unit_test(test_a_reload_before_dialling),
        cmocka_unit_test(test_too_much_waits_to_be_sent),
        cmocka_unit_test(test_nothing_breaks_when_calls_fail),
    };

    return cmocka_run_group_tests(tests, start, stop);
}
