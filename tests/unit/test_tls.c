/* SPDX-License-Identifier: Apache-2.0 */
/* TLS beneath sockets: both ends are ours, on one loop, with certificates made on the spot. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/sys.h"
#include "certificate.h"
#include "net/http_server.h"
#include "net/tls.h"

static char folder[] = "/tmp/sluice-tls-XXXXXX";
static char good_path[64], expired_path[64], key_path[64], junk_path[64];

/* ---- certificates ---- */

/* A self-signed certificate for example.org and 127.0.0.1, valid from now until `until_s` from
 * now. */
static void make_certificate(const char *path, EVP_PKEY *key, long from_s, long until_s)
{
    X509 *certificate =
        certificate_make("test", key,
                         &(struct certificate_plan){.names = "DNS:example.org,IP:127.0.0.1",
                                                    .is_authority = true,
                                                    .from_s = from_s,
                                                    .until_s = until_s});

    certificate_write(path, certificate);
    X509_free(certificate);
}

static int set_up_files(void **state)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    FILE *file;

    (void)state;
    if (!mkdtemp(folder))
        return -1;
    snprintf(good_path, sizeof good_path, "%s/good.pem", folder);
    snprintf(expired_path, sizeof expired_path, "%s/expired.pem", folder);
    snprintf(key_path, sizeof key_path, "%s/key.pem", folder);
    snprintf(junk_path, sizeof junk_path, "%s/junk.pem", folder);
    make_certificate(good_path, key, 0, 3600);
    make_certificate(expired_path, key, -7200, -3600);
    certificate_write_key(key_path, key);
    file = fopen(junk_path, "w");
    fputs("junk\n", file);
    fclose(file);
    EVP_PKEY_free(key);
    return 0;
}

static int tear_down_files(void **state)
{
    (void)state;
    unlink(good_path);
    unlink(expired_path);
    unlink(key_path);
    unlink(junk_path);
    return rmdir(folder);
}

/* ---- two ends on one loop ---- */

static struct {
    struct loop *loop;
    const char *server_certificate, *client_ca, *host;
    void (*client)(struct sock *sock), (*server)(struct sock *sock);
    char client_text[160], server_text[160]; /* the errors of the handshakes */
    int fds[2], left;
} both;

static void assert_no_memory(void)
{
    assert_int_equal(mem_in_use(MEM_CONNECTION), 0);
    assert_int_equal(mem_in_use(MEM_REQUEST), 0);
    assert_int_equal(mem_in_use(MEM_BODY), 0);
    assert_int_equal(mem_in_use(MEM_CONF), 0);
    assert_int_equal(mem_in_use(MEM_FIBER), 0);
}

static void note(err_t err, char *text)
{
    snprintf(text, 160, "%s", err ? err->text : "");
}

static void end_side(struct sock *sock, struct tls_context *context, struct arena *arena)
{
    sock_close(sock);
    tls_context_unref(context);
    fiber_set_arena(NULL);
    arena_free(arena);
    if (--both.left == 0)
        loop_stop(both.loop);
}

static void run_client(void *arg)
{
    struct arena *arena = arena_new(MEM_REQUEST, 65536);
    struct tls_context *context;
    struct sock sock;

    fiber_set_arena(arena);
    assert_null(sock_open(&sock, both.fds[0]));
    assert_null(tls_client_context(str_from(both.client_ca), STR(""), STR(""), &context));
    err_t err = tls_connect(&sock, context, str_from(both.host), loop_now_ms() + 2000);
    note(err, both.client_text);
    if (!err && both.client)
        both.client(&sock);
    end_side(&sock, context, arena);
}

static void run_server(void *arg)
{
    struct arena *arena = arena_new(MEM_REQUEST, 65536);
    struct tls_context *context;
    struct sock sock;

    fiber_set_arena(arena);
    assert_null(sock_open(&sock, both.fds[1]));
    assert_null(
        tls_server_context(str_from(both.server_certificate), str_from(key_path), &context));
    err_t err = tls_accept(&sock, context, loop_now_ms() + 2000);
    note(err, both.server_text);
    if (!err && both.server)
        both.server(&sock);
    end_side(&sock, context, arena);
}

static void run_both(const char *certificate, const char *ca, const char *host)
{
    both.server_certificate = certificate;
    both.client_ca = ca;
    both.host = host;
    both.left = 2;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, both.fds),
                     0);
    assert_null(loop_open(&both.loop));
    assert_null(fiber_start_later("server", run_server, NULL, NULL));
    assert_null(fiber_start_later("client", run_client, NULL, NULL));
    loop_run(both.loop);
    loop_close(both.loop);
    assert_no_memory();
}

/* ---- stories ---- */

#define BULK_BYTES (600 * 1000)

static void send_bulk(struct sock *sock)
{
    static unsigned char bulk[BULK_BYTES];
    struct iovec iov[3] = {{bulk, 10}, {bulk + 10, 30000}, {bulk + 30010, BULK_BYTES - 30010}};

    for (size_t i = 0; i < BULK_BYTES; i++)
        bulk[i] = (unsigned char)(i % 251);
    assert_null(sock_write(sock, iov, 3, 2000));
}

static void receive_bulk(struct sock *sock)
{
    static unsigned char bulk[BULK_BYTES];
    size_t total = 0, n;

    /* Odd sizes leave decrypted bytes behind in the session. */
    while (total < BULK_BYTES) {
        size_t size = BULK_BYTES - total < 1009 ? BULK_BYTES - total : 1009;
        assert_null(sock_read(sock, bulk + total, size, loop_now_ms() + 2000, &n));
        assert_int_not_equal(n, 0);
        total += n;
    }
    for (size_t i = 0; i < BULK_BYTES; i++)
        assert_int_equal(bulk[i], i % 251);
}

static void bulk_client(struct sock *sock)
{
    char byte;
    size_t n;

    send_bulk(sock);
    receive_bulk(sock);
    assert_ptr_equal(sock_read(sock, &byte, 1, loop_now_ms() + 20, &n), &fiber_wait_over);
    assert_null(sock_read(sock, &byte, 1, loop_now_ms() + 2000, &n));
    assert_int_equal(n, 0);
}

static void bulk_server(struct sock *sock)
{
    receive_bulk(sock);
    send_bulk(sock);
    assert_null(fiber_sleep(50));
}

static void test_both_ways(void **state)
{
    (void)state;
    both.client = bulk_client;
    both.server = bulk_server;
    run_both(good_path, good_path, "example.org");
    assert_string_equal(both.client_text, "");
    assert_string_equal(both.server_text, "");
    both.client = both.server = NULL;
}

static void test_names(void **state)
{
    (void)state;
    run_both(good_path, good_path, "127.0.0.1");
    assert_string_equal(both.client_text, "");
    run_both(good_path, good_path, "example.com");
    assert_string_equal(both.client_text, "TLS: hostname mismatch");
    run_both(good_path, good_path, "127.0.0.2");
    assert_string_equal(both.client_text, "TLS: IP address mismatch");
}

static void test_distrust(void **state)
{
    (void)state;
    run_both(expired_path, expired_path, "example.org");
    assert_string_equal(both.client_text, "TLS: certificate has expired");
    /* The system's CAs do not know it. */
    run_both(good_path, "", "example.org");
    assert_non_null(strstr(both.client_text, "TLS: self"));
    assert_non_null(strstr(both.server_text, "TLS: "));
}

static void echo_byte(struct sock *sock)
{
    char byte;
    size_t n;

    assert_null(sock_read(sock, &byte, 1, loop_now_ms() + 2000, &n));
    assert_int_equal(byte, 'x');
}

static void send_byte(struct sock *sock)
{
    struct iovec iov = {(void *)(uintptr_t)"x", 1};

    assert_null(sock_write(sock, &iov, 1, 2000));
}

static void test_short_io(void **state)
{
    (void)state;
    both.client = send_byte;
    both.server = echo_byte;
    sys_short_io(true);
    run_both(good_path, good_path, "example.org");
    sys_short_io(false);
    assert_string_equal(both.client_text, "");
    both.client = both.server = NULL;
}

static bool has_heard;

/* Say that nothing more comes, and leave the connection open. */
static void say_goodbye(struct sock *sock)
{
    send_byte(sock);
    tls_finish(sock);
    for (int i = 0; i < 2000 && !has_heard; i++)
        assert_null(fiber_sleep(5));
}

static void hear_goodbye(struct sock *sock)
{
    char bytes[10];
    size_t n;

    assert_null(sock_read(sock, bytes, sizeof bytes, loop_now_ms() + 5000, &n));
    assert_int_equal(n, 1);
    assert_null(sock_read(sock, bytes, sizeof bytes, loop_now_ms() + 5000, &n));
    assert_int_equal(n, 0);
    has_heard = true;
}

/* The end that came in one read with the last bytes is announced by no edge of its own. */
static void test_end_behind_data(void **state)
{
    (void)state;
    both.client = say_goodbye;
    both.server = hear_goodbye;
    run_both(good_path, good_path, "example.org");
    both.client = both.server = NULL;
}

static void test_files(void **state)
{
    struct arena *arena = arena_new(MEM_TOOL, 65536);
    struct tls_context *context;
    err_t err;

    (void)state;
    err_scope_set(arena);
    err = tls_server_context(str_from(junk_path), str_from(key_path), &context);
    assert_true(err_is(err, ERR_CONFIG));
    assert_non_null(strstr(err->text, junk_path));
    err = tls_server_context(str_from(good_path), str_from(junk_path), &context);
    assert_non_null(strstr(err->text, junk_path));
    err = tls_server_context(STR("/nowhere/c.pem"), str_from(key_path), &context);
    assert_non_null(strstr(err->text, "/nowhere/c.pem"));
    err = tls_client_context(STR("/nowhere/ca.pem"), STR(""), STR(""), &context);
    assert_non_null(strstr(err->text, "/nowhere/ca.pem"));
    err_scope_set(NULL);
    arena_free(arena);
}

/* ---- the server behind TLS ---- */

static struct http_server *server;
static struct address server_address;

static void hello(struct exchange *exchange, void *context)
{
    struct str body;

    if (exchange_read_body(exchange, 1 << 20, &body))
        return;
    if (exchange_reply(exchange, 200, STR("text/plain"), NULL,
                       exchange->is_tls ? body : STR("plain")))
        return;
}

static void await_text(struct sock *sock, const char *text)
{
    static char got[200000];
    size_t len = 0, n;

    got[0] = '\0';
    while (!strstr(got, text)) {
        assert_null(sock_read(sock, got + len, sizeof got - 1 - len, loop_now_ms() + 2000, &n));
        assert_int_not_equal(n, 0);
        len += n;
        got[len] = '\0';
    }
}

/* Two pipelined requests, and one whose body needs several records. */
static void talk(struct sock *sock)
{
    static char big[100000];
    struct iovec iov[2];
    struct str text = STR("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nfirst"
                          "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\nsecond");

    iov[0] = (struct iovec){(void *)(uintptr_t)text.ptr, text.len};
    assert_null(sock_write(sock, iov, 1, 2000));
    await_text(sock, "second");
    memset(big, 'x', sizeof big);
    memcpy(big + sizeof big - 4, "END.", 4);
    text = STR("POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 100000\r\n\r\n");
    iov[0] = (struct iovec){(void *)(uintptr_t)text.ptr, text.len};
    iov[1] = (struct iovec){big, sizeof big};
    assert_null(sock_write(sock, iov, 2, 2000));
    await_text(sock, "END.");
}

#define NOTES 4000

/* Write short pieces whether there is room or not, each longer than the last one, and then the end. */
static void note_much(struct exchange *exchange, void *context)
{
    static char note[NOTES];
    struct str end = STR("END.");

    memset(note, 'x', sizeof note);
    assert_null(exchange_stream(exchange, 200, STR("text/plain"), NULL));
    for (size_t len = 1; len <= NOTES; len++)
        exchange_write_now(exchange, (struct str){note, len});
    if (exchange_finish(exchange, &end, 1))
        return;
}

static struct tls_context *client_context;

static void sleepy_story(void *arg)
{
    static char got[16 * 1024 * 1024];
    struct iovec iov = {(void *)(uintptr_t)"GET / HTTP/1.1\r\nHost: h\r\n\r\n", 27};
    char *at = got;
    size_t len = 0, n = 1;
    struct sock sock;

    assert_null(sock_connect(&sock, &server_address, loop_now_ms() + 1000));
    assert_null(tls_connect(&sock, client_context, STR("127.0.0.1"), loop_now_ms() + 2000));
    assert_null(sock_write(&sock, &iov, 1, 2000));
    assert_null(fiber_sleep(200));
    while (len < 7 || memcmp(got + len - 5, "0\r\n\r\n", 5) != 0) {
        assert_null(sock_read(&sock, got + len, sizeof got - 1 - len, loop_now_ms() + 2000, &n));
        assert_int_not_equal(n, 0);
        len += n;
    }
    at = strstr(got, "\r\n\r\n") + 4;
    while ((n = strtoul(at, &at, 16)) > 0) { /* each chunk is whole */
        assert_memory_equal(at, "\r\n", 2);
        assert_memory_equal(at + 2 + n, "\r\n", 2);
        at += 2 + n + 2;
    }
    assert_ptr_equal(at, got + len - 4);
    sock_close(&sock);
    tls_context_unref(client_context);
    loop_stop(loop_self());
}

static void server_story(void *arg)
{
    struct arena *arena = arena_new(MEM_REQUEST, 65536);
    struct tls_context *context;
    struct sock sock, silent;
    char byte;
    size_t n;

    fiber_set_arena(arena);
    assert_null(tls_client_context(str_from(good_path), STR(""), STR(""), &context));
    assert_null(sock_connect(&silent, &server_address, loop_now_ms() + 1000));
    assert_null(sock_connect(&sock, &server_address, loop_now_ms() + 1000));
    assert_null(tls_connect(&sock, context, STR("127.0.0.1"), loop_now_ms() + 2000));
    talk(&sock);
    sock_close(&sock);
    /* Whoever does not shake hands is closed after the head's time. */
    assert_null(sock_read(&silent, &byte, 1, loop_now_ms() + 2000, &n));
    assert_int_equal(n, 0);
    sock_close(&silent);
    tls_context_unref(context);
    fiber_set_arena(NULL);
    arena_free(arena);
    loop_stop(loop_self());
}

static void run_story(void (*story)(void *arg),
                      void (*handle)(struct exchange *exchange, void *context))
{
    struct http_server_options options = {.handle = handle, .head_timeout_ms = 300};
    struct tls_context *context;
    struct loop *loop;
    int fd;

    assert_null(loop_open(&loop));
    assert_null(http_server_open(&options, &server));
    assert_null(tls_server_context(str_from(good_path), str_from(key_path), &context));
    assert_null(address_parse(STR("127.0.0.1:0"), &server_address));
    assert_null(address_listen(&server_address, 16, &fd));
    getsockname(fd, &server_address.u.any, &server_address.len);
    assert_null(http_server_listen(server, fd, context));
    assert_null(fiber_start_later("story", story, NULL, NULL));
    loop_run(loop);
    http_server_close(server);
    tls_context_unref(context);
    loop_close(loop);
    assert_no_memory();
}

static void test_server(void **state)
{
    (void)state;
    run_story(server_story, hello);
}

/* What is left out for want of room leaves nothing behind in the session that a later write would
 * take for its own. */
static void test_notes_without_room(void **state)
{
    (void)state;
    assert_null(tls_client_context(str_from(good_path), STR(""), STR(""), &client_context));
    run_story(sleepy_story, note_much);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_ways),       cmocka_unit_test(test_names),
        cmocka_unit_test(test_distrust),        cmocka_unit_test(test_short_io),
        cmocka_unit_test(test_files),           cmocka_unit_test(test_server),
        cmocka_unit_test(test_end_behind_data), cmocka_unit_test(test_notes_without_room),
    };

    return cmocka_run_group_tests(tests, set_up_files, tear_down_files);
}
