/* SPDX-License-Identifier: Apache-2.0 */
/* Sockets that wait, and addresses: on a loop with two fibers that talk to each other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/sys.h"
#include "net/sock.h"

static struct loop *loop;
static void (*story)(void);
static int fibers_left;

/* ---- running a test inside a fiber ---- */

static void assert_no_memory(void)
{
    assert_int_equal(mem_in_use(MEM_CONNECTION), 0);
    assert_int_equal(mem_in_use(MEM_REQUEST), 0);
    assert_int_equal(mem_in_use(MEM_BODY), 0);
    assert_int_equal(mem_in_use(MEM_CONF), 0);
    assert_int_equal(mem_in_use(MEM_FIBER), 0);
}

static void fiber_done(void)
{
    if (--fibers_left == 0)
        loop_stop(loop);
}

static void run_story(void *arg)
{
    struct arena *arena = arena_new(MEM_REQUEST, 65536);

    fiber_set_arena(arena);
    story();
    fiber_set_arena(NULL);
    arena_free(arena);
    fiber_done();
}

static void spawn(void (*fn)(void *arg), void *arg)
{
    fibers_left++;
    assert_null(fiber_start_later("helper", fn, arg, NULL));
}

static void run(void (*fn)(void))
{
    story = fn;
    fibers_left = 1;
    assert_null(loop_open(&loop));
    assert_null(fiber_start_later("story", run_story, NULL, NULL));
    loop_run(loop);
    loop_close(loop);
    assert_no_memory();
}

/* Two connected sockets. */
static void pair(struct sock *a, struct sock *b)
{
    int fds[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    assert_null(sock_open(a, fds[0]));
    assert_null(sock_open(b, fds[1]));
}

/* ---- reading and writing ---- */

static void write_later(void *arg)
{
    struct sock *sock = arg;
    struct iovec iov[3] = {{(void *)(uintptr_t)"ab", 2}, {NULL, 0}, {(void *)(uintptr_t)"cde", 3}};

    assert_null(fiber_sleep(20));
    assert_null(sock_write(sock, iov, 3, 1000));
    assert_null(fiber_sleep(20));
    sock_close(sock);
    fiber_done();
}

static void read_exactly(struct sock *sock, char *ptr, size_t size)
{
    while (size > 0) {
        size_t n;
        assert_null(sock_read(sock, ptr, size, FIBER_FOREVER, &n));
        assert_in_range(n, 1, size);
        ptr += n;
        size -= n;
    }
}

static void read_story(void)
{
    struct sock a, b;
    char text[64];
    size_t n;

    pair(&a, &b);
    assert_ptr_equal(sock_read(&a, text, sizeof text, loop_now_ms() + 10, &n), &fiber_wait_over);
    spawn(write_later, &b);
    read_exactly(&a, text, 3);
    read_exactly(&a, text + 3, 2);
    assert_memory_equal(text, "abcde", 5);
    assert_null(sock_read(&a, text, sizeof text, FIBER_FOREVER, &n));
    assert_int_equal(n, 0);
    assert_null(sock_read(&a, text, sizeof text, FIBER_FOREVER, &n));
    assert_int_equal(n, 0);
    sock_close(&a);
    sock_close(&a);
    assert_false(sock_is_open(&a));
}

static void test_read(void **state)
{
    (void)state;
    run(read_story);
    sys_short_io(true);
    run(read_story);
    sys_short_io(false);
}

#define BULK_BYTES (3 * 1024 * 1024)

static void read_bulk(void *arg)
{
    struct sock *sock = arg;
    size_t total = 0, n = 1;

    while (n > 0) {
        assert_null(sock_read(sock, loop_scratch(), LOOP_SCRATCH_BYTES, FIBER_FOREVER, &n));
        for (size_t i = 0; i < n; i++)
            assert_int_equal((unsigned char)loop_scratch()[i], (total + i) % 251);
        total += n;
    }
    assert_int_equal(total, BULK_BYTES);
    sock_close(sock);
    fiber_done();
}

static void write_story(void)
{
    static unsigned char bulk[BULK_BYTES];
    static struct sock b; /* outlives this fiber */
    struct sock a;
    struct iovec iov[2] = {{bulk, 1000}, {bulk + 1000, BULK_BYTES - 1000}};

    for (size_t i = 0; i < BULK_BYTES; i++)
        bulk[i] = (unsigned char)(i % 251);
    pair(&a, &b);
    spawn(read_bulk, &b);
    assert_null(sock_write(&a, iov, 2, 1000));
    sock_close(&a);
}

static void test_write(void **state)
{
    (void)state;
    run(write_story);
}

#define MOST_BYTES (40 * 1024)

static char sent[MOST_BYTES], received[MOST_BYTES];
static size_t first_bytes, all_bytes;

static void read_pieces(void *arg)
{
    struct sock *sock = arg;

    read_exactly(sock, received, all_bytes);
    sock_close(sock);
    fiber_done();
}

static void pieces_story(void)
{
    static struct sock b; /* outlives this fiber */
    struct sock a;
    struct iovec iov[4] = {
        {NULL, 0}, {sent, first_bytes}, {NULL, 0}, {sent + first_bytes, all_bytes - first_bytes}};

    memset(received, 0, sizeof received);
    pair(&a, &b);
    spawn(read_pieces, &b);
    assert_null(sock_write(&a, iov, 4, 1000));
    sock_close(&a);
}

/* Around the sizes from which pieces are no longer joined. */
static void test_write_pieces(void **state)
{
    static const size_t sizes[] = {2, 300, 4095, 4096, 4097, 16384, 16385, MOST_BYTES};
    static const size_t firsts[] = {1, 299, 4095, 4096, 16384};

    (void)state;
    for (size_t i = 0; i < MOST_BYTES; i++)
        sent[i] = (char)(i % 251);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t k = 0; k < sizeof firsts / sizeof *firsts && firsts[k] < sizes[i]; k++) {
            all_bytes = sizes[i];
            first_bytes = firsts[k];
            run(pieces_story);
            assert_memory_equal(received, sent, all_bytes);
        }
    sys_short_io(true);
    all_bytes = 300;
    first_bytes = 100;
    run(pieces_story);
    sys_short_io(false);
    assert_memory_equal(received, sent, all_bytes);
}

static void stall_story(void)
{
    static char bulk[BULK_BYTES];
    struct sock a, b;
    struct iovec iov = {bulk, BULK_BYTES};

    pair(&a, &b);
    assert_ptr_equal(sock_write(&a, &iov, 1, 30), &fiber_wait_over);
    sock_abort(&a);
    /* A reader that is gone. */
    sock_close(&b);
    pair(&a, &b);
    sock_close(&b);
    iov = (struct iovec){bulk, 10};
    err_t err = sock_write(&a, &iov, 1, 30);
    assert_true(err_is(err, ERR_UPSTREAM));
    sock_close(&a);
}

static void test_write_stalls(void **state)
{
    (void)state;
    run(stall_story);
}

static const struct err enough = {.kind = ERR_CANCELLED, .text = "enough"};
static struct fiber *victim;

static void cancel_later(void *arg)
{
    assert_null(fiber_sleep(10));
    fiber_cancel(victim, &enough);
    fiber_done();
}

static void cancel_story(void)
{
    struct sock a, b;
    char text[8];
    size_t n;

    pair(&a, &b);
    victim = fiber_self();
    spawn(cancel_later, NULL);
    assert_ptr_equal(sock_read(&a, text, sizeof text, FIBER_FOREVER, &n), &enough);
    sock_close(&a);
    sock_close(&b);
}

static void test_cancel(void **state)
{
    (void)state;
    run(cancel_story);
}

static void drain_story(void)
{
    struct sock a, b;
    struct iovec iov = {(void *)(uintptr_t)"rest", 4};
    uint64_t began_ms = loop_now_ms();

    pair(&a, &b);
    assert_null(sock_write(&b, &iov, 1, 100));
    sock_drain(&a, 2, FIBER_FOREVER);
    sock_drain(&a, 1000, loop_now_ms() + 20);
    assert_true(loop_now_ms() >= began_ms + 20);
    sock_close(&b);
    sock_drain(&a, 1000, FIBER_FOREVER);
    sock_close(&a);
}

static void test_drain(void **state)
{
    (void)state;
    run(drain_story);
}

/* ---- connecting ---- */

static void accept_and_greet(void *arg)
{
    int listener = *(int *)arg, fd = -1;
    struct sockaddr_storage peer;
    struct sock sock;
    struct iovec iov = {(void *)(uintptr_t)"hi", 2};

    while (fd < 0) {
        socklen_t len = sizeof peer;
        assert_null(fiber_sleep(5));
        fd = sys_accept(listener, &peer, &len);
    }
    assert_null(sock_open(&sock, fd));
    assert_null(sock_write(&sock, &iov, 1, 1000));
    sock_close(&sock);
    fiber_done();
}

static void greet(const char *where)
{
    struct address address;
    struct sock sock;
    char text[8];
    size_t n;
    int listener;

    assert_null(address_parse(str_from(where), &address));
    assert_null(address_listen(&address, 16, &listener));
    address.len = sizeof address.u;
    getsockname(listener, &address.u.any, &address.len);
    spawn(accept_and_greet, &listener);
    assert_null(sock_connect(&sock, &address, loop_now_ms() + 1000));
    assert_null(sock_read(&sock, text, sizeof text, loop_now_ms() + 1000, &n));
    assert_int_equal(n, 2);
    sock_close(&sock);
    close(listener);
    err_t err = sock_connect(&sock, &address, loop_now_ms() + 1000);
    assert_true(err_is(err, ERR_UPSTREAM));
    assert_string_equal(err->text, "connection refused");
    assert_false(sock_is_open(&sock));
}

static void connect_story(void)
{
    greet("127.0.0.1:0");
    greet("unix:/tmp/sluice-test-sock");
    greet("unix:/tmp/sluice-test-sock"); /* over the stale file */
    unlink("/tmp/sluice-test-sock");
}

static void test_connect(void **state)
{
    (void)state;
    run(connect_story);
}

/* A listener whose backlog is full lets nobody in. */
static void black_hole_story(void)
{
    struct address address;
    struct sock socks[8];
    int listener, opened = 0;
    err_t err = NULL;

    assert_null(address_parse(STR("127.0.0.1:0"), &address));
    assert_null(address_listen(&address, 0, &listener));
    address.len = sizeof address.u;
    getsockname(listener, &address.u.any, &address.len);
    while (!err && opened < 8)
        if (!(err = sock_connect(&socks[opened], &address, loop_now_ms() + 50)))
            opened++;
    assert_ptr_equal(err, &fiber_wait_over);
    while (opened > 0)
        sock_close(&socks[--opened]);
    close(listener);
}

static void test_connect_times_out(void **state)
{
    (void)state;
    run(black_hole_story);
}

/* ---- addresses ---- */

static void test_addresses(void **state)
{
    static const struct {
        const char *text, *ip; /* ip NULL: not valid */
        const char *formatted;
        bool loopback;
    } cases[] = {
        {"127.0.0.1:8080", "127.0.0.1", "127.0.0.1:8080", true},
        {"localhost:1", "127.0.0.1", "127.0.0.1:1", true},
        {"0.0.0.0:0", "0.0.0.0", "0.0.0.0:0", false},
        {"[::1]:8080", "::1", "[::1]:8080", true},
        {"[::ffff:10.1.2.3]:80", "10.1.2.3", "10.1.2.3:80", false},
        {"[2001:db8::1]:443", "2001:db8::1", "[2001:db8::1]:443", false},
        {"unix:/run/x.sock", "unix", "unix:/run/x.sock", true},
        {"::1:80", NULL, NULL, false},
        {"127.0.0.1", NULL, NULL, false},
        {"127.0.0.1:65536", NULL, NULL, false},
        {"127.0.0.1:", NULL, NULL, false},
        {"127.0.0.1:+1", NULL, NULL, false},
        {"example.org:80", NULL, NULL, false},
        {":80", NULL, NULL, false},
        {"unix:", NULL, NULL, false},
        {"", NULL, NULL, false},
    };
    char text[128];

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct address address;
        err_t err = address_parse(str_from(cases[i].text), &address);
        if (!cases[i].ip) {
            assert_true(err_is(err, ERR_CONFIG));
            continue;
        }
        assert_null(err);
        address_format_ip(&address, text);
        assert_string_equal(text, cases[i].ip);
        address_format(&address, text);
        assert_string_equal(text, cases[i].formatted);
        assert_int_equal(address_is_loopback(&address), cases[i].loopback);
    }
}

static void test_ranges(void **state)
{
    static const struct {
        const char *ip, *range;
        bool is_in;
    } cases[] = {
        {"10.1.2.3", "10.0.0.0/8", true},
        {"11.1.2.3", "10.0.0.0/8", false},
        {"10.1.2.3", "10.1.2.3", true},
        {"10.1.2.4", "10.1.2.3", false},
        {"10.1.2.3", "0.0.0.0/0", true},
        {"172.31.255.255", "172.16.0.0/12", true},
        {"172.32.0.0", "172.16.0.0/12", false},
        {"::ffff:10.1.2.3", "10.0.0.0/8", true},
        {"10.1.2.3", "::ffff:10.0.0.0/104", true},
        {"11.1.2.3", "::ffff:10.0.0.0/104", false},
        {"10.1.2.3", "::ffff:0:0/96", true},
        {"2001:db8::1", "::ffff:0:0/96", false},
        {"10.1.2.3", "::ffff:10.0.0.0/95", false},
        {"2001:db8::1", "2001:db8::/32", true},
        {"2001:db9::1", "2001:db8::/32", false},
        {"10.1.2.3", "::/0", false},
        {"10.1.2.3", "10.0.0.0/33", false},
        {"10.1.2.3", "10.0.0.0/", false},
        {"10.1.2.3", "nonsense", false},
        {"10.1.2.3", "", false},
        {"10.1.2.3", "10.0.0.0/8x", false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct address address;
        assert_true(address_set_ip(&address, str_from(cases[i].ip), 0));
        if (address_in_range(&address, str_from(cases[i].range)) != cases[i].is_in)
            fail_msg("%s in %s", cases[i].ip, cases[i].range);
    }
}

static void test_listen_twice(void **state)
{
    struct address address;
    int one, two;

    (void)state;
    assert_null(address_parse(STR("unix:/tmp/sluice-test-sock2"), &address));
    assert_null(address_listen(&address, 16, &one));
    err_t err = address_listen(&address, 16, &two);
    assert_true(err_is(err, ERR_SYSTEM));
    assert_int_equal(two, -1);
    close(one);
    unlink("/tmp/sluice-test-sock2");
    assert_null(address_parse(STR("192.0.2.1:80"), &address));
    assert_true(err_is(address_listen(&address, 16, &two), ERR_SYSTEM));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read),         cmocka_unit_test(test_write),
        cmocka_unit_test(test_write_pieces), cmocka_unit_test(test_write_stalls),
        cmocka_unit_test(test_cancel),       cmocka_unit_test(test_drain),
        cmocka_unit_test(test_connect),      cmocka_unit_test(test_connect_times_out),
        cmocka_unit_test(test_addresses),    cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_listen_twice),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
