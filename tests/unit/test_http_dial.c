/* SPDX-License-Identifier: Apache-2.0 */
/* Dialling and pooling: addresses that lead nowhere, unix sockets, TLS with certificates made
 * here, proxies, and the bounds of what is kept idle. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <openssl/ssl.h>
#include <signal.h>
#include <sys/resource.h>

#include "base/mem.h"
#include "certificate.h"
#include "fiber/fiber.h"
#include "fiber/offload.h"
#include "net/http_client.h"
#include "net/resolve.h"
#include "net/tls.h"
#include "peer.h"

static struct loop *loop;
static struct http_pool *pool;
static struct arena *arena;
static struct peer peer;
static struct http_origin origin;
static const char *const only_here[] = {"127.0.0.1", NULL};
static const char *const *fake_addresses = only_here; /* what every name resolves to */
static char folder[] = "/tmp/test_http_dial_XXXXXX";

static void run_body(void *arg)
{
    void (**body)(void) = arg;

    arena = arena_new(MEM_REQUEST, 64 * 1024 * 1024);
    fiber_set_arena(arena);
    (*body)();
    fiber_set_arena(NULL);
    arena_free(arena);
    loop_stop(loop);
}

static void run(void (*body)(void))
{
    struct fiber *fiber;

    assert_null(loop_open(&loop));
    assert_null(http_pool_open(&pool));
    assert_null(fiber_start_later("test", run_body, &body, &fiber));
    loop_run(loop);
    http_pool_close(pool);
    resolve_close();
    loop_close(loop);
    fake_addresses = only_here;
    assert_int_equal(mem_in_use(MEM_UPSTREAM), 0);
}

static void set_origin(const char *proxy, const char *format, ...)
{
    va_list args;
    const char *url;

    va_start(args, format);
    url = arena_vprintf(arena, format, args);
    va_end(args);
    assert_null(http_origin_make(str_from(url), str_from(proxy), arena, &origin));
}

static err_t fetch_within(uint64_t connect_ms, struct http_call *call, struct str *body)
{
    struct http_ask ask = {.origin = &origin,
                           .method = HTTP_GET_,
                           .method_text = "GET",
                           .target = STR("/x"),
                           .connect_ms = connect_ms,
                           .head_at_ms = loop_now_ms() + 5000,
                           .retry_dead = true};
    err_t err;

    TRY(http_call_open(pool, &ask, arena, call));
    err = http_call_read_all(call, 1 << 20, loop_now_ms() + 3000, arena, body);
    if (!err)
        *body = arena_copy(arena, *body); /* it goes with the call */
    http_call_close(call);
    return !err && !body->ptr ? arena_err(arena) : err;
}

static err_t fetch(struct http_call *call, struct str *body)
{
    return fetch_within(3000, call, body);
}

/* The call works and says "hi". */
static void assert_hi(struct http_call *call)
{
    struct str body;
    err_t err = fetch(call, &body);

    if (err)
        fail_msg("%s", err->text);
    assert_true(str_eq(body, STR("hi")));
}

static const char small_answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

static void answer_always(struct peer *it, int fd)
{
    while (peer_read_request(it, fd) && peer_send(fd, small_answer, strlen(small_answer)))
        ;
}

static void run_with(void (*serve)(struct peer *it, int fd), void (*body)(void))
{
    peer_start(&peer, serve);
    run(body);
    peer_stop(&peer);
}

/* ---- addresses ---- */

static err_t fake_lookup(const char *host, struct address *out, size_t *count)
{
    *count = 0;
    for (const char *const *ip = fake_addresses; *ip; ip++)
        if (!address_set_ip(&out[(*count)++], str_from(*ip), 0))
            abort();
    return NULL;
}

/* A listener that does not answer SYNs any more, because its queue is full: a black hole. */
struct hole {
    struct peer peer;
    int clients[8];
};

static bool dig_hole(struct hole *hole, const char *ip, unsigned port)
{
    struct address address;

    memset(hole, 0, sizeof(*hole));
    assert_true(address_set_ip(&address, str_from(ip), (uint16_t)port));
    if (!peer_listen(&hole->peer, &address.u.any, address.len, 0))
        return false;
    if (port == 0)
        assert_true(address_set_ip(&address, str_from(ip), (uint16_t)hole->peer.port));
    for (size_t i = 0; i < 8; i++) {
        hole->clients[i] = socket(address.u.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
        connect(hole->clients[i], &address.u.any, address.len);
    }
    usleep(20000);
    return true;
}

static void fill_hole(struct hole *hole)
{
    for (size_t i = 0; i < 8; i++)
        close(hole->clients[i]);
    close(hole->peer.listener);
}

static void call_past_hole(void)
{
    uint64_t start_ms = loop_now_ms();
    struct http_call call;
    struct str body;

    set_origin("off", "http://some.test:%u", peer.port);
    assert_null(fetch_within(1600, &call, &body));
    assert_true(loop_now_ms() - start_ms >= 790); /* half of the time went into the hole */
}

static void falls_back_from_a_black_hole(const char *ip)
{
    const char *const addresses[] = {ip, "127.0.0.1", NULL};
    static struct hole hole;

    fake_addresses = addresses;
    peer_start(&peer, answer_always);
    if (dig_hole(&hole, ip, peer.port)) {
        run(call_past_hole);
        fill_hole(&hole);
    } else {
        print_message("%s is not available here\n", ip);
    }
    peer_stop(&peer);
}

static void falls_back_when_an_address_leads_nowhere(void **state)
{
    falls_back_from_a_black_hole("::1");
    falls_back_from_a_black_hole("127.0.0.2");
}

static void call_refused(void)
{
    struct http_call call;
    struct str body;
    uint64_t start_ms = loop_now_ms();
    err_t err;

    set_origin("off", "http://some.test:%u", peer.port);
    assert_hi(&call);
    set_origin("off", "http://some.test:1");
    err = fetch(&call, &body);
    assert_true(err_is(err, ERR_UPSTREAM));
    assert_non_null(strstr(err->text, "refused"));
    assert_true(loop_now_ms() - start_ms < 1500);
}

static void tries_the_next_address_at_once_when_refused(void **state)
{
    const char *const addresses[] = {"127.0.0.3", "127.0.0.1", NULL};

    fake_addresses = addresses;
    run_with(answer_always, call_refused);
}

static struct hole only_hole;

static void call_into_hole(void)
{
    struct http_call call;
    struct str body;
    err_t err;

    set_origin("off", "http://some.test:%u", only_hole.peer.port);
    err = fetch_within(100, &call, &body);
    assert_true(err_is(err, ERR_TIMED_OUT));
    assert_non_null(strstr(err->text, "no connection"));
}

static void gives_up_connecting_in_time(void **state)
{
    assert_true(dig_hole(&only_hole, "127.0.0.1", 0));
    run(call_into_hole);
    fill_hole(&only_hole);
}

static void call_last_good(void)
{
    struct http_call call;
    struct str body;
    uint64_t start_ms;

    set_origin("off", "http://some.test:%u", peer.port);
    http_pool_set_idle(pool, 0);
    assert_null(fetch_within(1600, &call, &body));
    assert_null(fiber_sleep(30)); /* the idle connection goes */
    start_ms = loop_now_ms();
    assert_hi(&call);
    assert_false(call.was_reused);
    assert_true(loop_now_ms() - start_ms < 1500); /* no half of the time in the hole */
}

static void tries_the_address_that_answered_last_first(void **state)
{
    const char *const addresses[] = {"127.0.0.2", "127.0.0.1", NULL};
    static struct hole hole;

    fake_addresses = addresses;
    peer_start(&peer, answer_always);
    assert_true(dig_hole(&hole, "127.0.0.2", peer.port));
    run(call_last_good);
    fill_hole(&hole);
    peer_stop(&peer);
}

static void call_unix(void)
{
    struct http_call call;
    struct str body;

    set_origin("http://proxy.test", "unix:%s/socket:/v1", folder);
    assert_hi(&call);
    assert_hi(&call);
    assert_true(call.was_reused);
    set_origin("", "unix:%s/missing", folder);
    assert_true(err_is(fetch(&call, &body), ERR_UPSTREAM));
}

static void calls_over_a_unix_socket(void **state)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    memset(&peer, 0, sizeof(peer));
    peer.serve = answer_always;
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/socket", folder);
    assert_true(peer_listen(&peer, (struct sockaddr *)&address, sizeof(address), 8));
    peer_serve(&peer);
    run(call_unix);
    peer_stop(&peer);
    assert_memory_equal(peer.seen, "GET /v1/x HTTP/1.1\r\nHost: localhost\r\n", 37);
}

/* ---- the pool's bounds ---- */

static void leave_many_idle(void)
{
    enum { COUNT = HTTP_POOL_MAX_IDLE + 4 };
    struct http_call *calls = arena_alloc_array(arena, COUNT, sizeof(*calls));
    struct http_group *group;
    struct http_ask ask = {.method = HTTP_GET_, .method_text = "GET", .connect_ms = 3000};

    set_origin("off", "http://127.0.0.1:%u", peer.port);
    ask.origin = &origin;
    ask.head_at_ms = loop_now_ms() + 5000;
    assert_non_null(calls);
    for (int i = 0; i < COUNT; i++)
        assert_null(http_call_open(pool, &ask, arena, &calls[i]));
    for (int i = 0; i < COUNT; i++) {
        struct str body;
        assert_null(http_call_read_all(&calls[i], 10, FIBER_FOREVER, arena, &body));
        http_call_close(&calls[i]);
    }
    assert_null(http_pool_group(pool, &origin, &group));
    assert_int_equal(group->view.idle, HTTP_POOL_MAX_IDLE);
    assert_true(mem_in_use(MEM_UPSTREAM) <
                (size_t)HTTP_POOL_MAX_IDLE * 200 + HTTP_BLOCK_BYTES + 2048);
}

static void keeps_a_bounded_number_idle(void **state)
{
    run_with(answer_always, leave_many_idle);
}

static void outwait_idle(void)
{
    struct http_group *group;
    struct http_call call;

    http_pool_set_idle(pool, 600);
    set_origin("off", "http://127.0.0.1:%u", peer.port);
    assert_hi(&call);
    assert_null(http_pool_group(pool, &origin, &group));
    assert_int_equal(group->view.idle, 1);
    assert_null(fiber_sleep(300));
    assert_hi(&call);
    assert_true(call.was_reused);
    assert_null(fiber_sleep(310)); /* the timer has fired and found it too young */
    assert_int_equal(group->view.idle, 1);
    for (int i = 0; i < 1000 && group->view.idle > 0; i++)
        assert_null(fiber_sleep(10));
    assert_int_equal(group->view.idle, 0);
}

static void closes_what_is_idle_too_long(void **state)
{
    run_with(answer_always, outwait_idle);
}

/* ---- TLS ---- */

static SSL_CTX *server_tls;
static char ca_path[64];

static void make_certificates(void)
{
    EVP_PKEY *ca_key = EVP_EC_gen("P-256"), *key = EVP_EC_gen("P-256");
    X509 *ca = certificate_make(
        "Test CA", ca_key,
        &(struct certificate_plan){.is_authority = true, .from_s = -60, .until_s = 3600});
    X509 *leaf = certificate_make("good.test", key,
                                  &(struct certificate_plan){.names = "DNS:good.test",
                                                             .from_s = -60,
                                                             .until_s = 3600,
                                                             .issuer = ca,
                                                             .issuer_key = ca_key});

    snprintf(ca_path, sizeof(ca_path), "%s/ca.pem", folder);
    certificate_write(ca_path, ca);
    server_tls = SSL_CTX_new(TLS_server_method());
    SSL_CTX_use_certificate(server_tls, leaf);
    SSL_CTX_use_PrivateKey(server_tls, key);
    X509_free(ca);
    X509_free(leaf);
    EVP_PKEY_free(ca_key);
    EVP_PKEY_free(key);
}

/* Serve requests over TLS on a connected socket; peer->answer if it is set. */
static void answer_tls(struct peer *it, int fd)
{
    SSL *ssl = SSL_new(server_tls);
    const char *answer = it->answer ? it->answer : small_answer;
    char *head = peer_head;
    size_t len = 0, n;

    SSL_set_fd(ssl, fd);
    if (SSL_accept(ssl) == 1) {
        while (SSL_read_ex(ssl, head + len, sizeof(peer_head) - 1 - len, &n) == 1) {
            len += n;
            head[len] = '\0';
            if (!strstr(head, "\r\n\r\n"))
                continue;
            memcpy(it->seen, head, len + 1);
            it->requests++;
            len = 0;
            SSL_write_ex(ssl, answer, strlen(answer), &n);
            if (it->answer)
                break;
        }
        if (it->owner) /* says good-bye */
            SSL_shutdown(ssl);
    }
    SSL_free(ssl);
}

static void set_tls_origin(const char *host, const char *proxy)
{
    set_origin(proxy, "https://%s:%u", host, peer.port);
    assert_null(tls_client_context(str_from(ca_path), STR(""), STR(""), &origin.tls));
}

static void call_tls(void)
{
    struct http_call call;

    set_tls_origin("good.test", "off");
    assert_hi(&call);
    assert_hi(&call);
    assert_true(call.was_reused);
    assert_null(fiber_sleep(20)); /* session tickets do not end an idle connection */
    assert_hi(&call);
    assert_true(call.was_reused);
    tls_context_unref(origin.tls);
}

static void calls_over_tls(void **state)
{
    run_with(answer_tls, call_tls);
    assert_int_equal(peer.connections, 1);
}

static void call_wrong_name(void)
{
    struct http_call call;
    struct str body;
    err_t err;

    set_tls_origin("bad.test", "off");
    err = fetch(&call, &body);
    assert_true(err_is(err, ERR_UPSTREAM));
    tls_context_unref(origin.tls);
    set_origin("off", "https://good.test:%u", peer.port);
    assert_null(tls_client_context(STR(""), STR(""), STR(""), &origin.tls));
    err = fetch(&call, &body);
    assert_true(err_is(err, ERR_UPSTREAM));
    tls_context_unref(origin.tls);
}

static void verifies_the_certificate(void **state)
{
    run_with(answer_tls, call_wrong_name);
    assert_int_equal(peer.requests, 0);
}

static void call_to_end(void)
{
    struct http_call call;
    struct str body;
    err_t err;

    set_tls_origin("good.test", "off");
    err = fetch(&call, &body);
    if (peer.owner)
        assert_true(!err && str_eq(body, STR("hello")));
    else
        assert_true(err_is(err, ERR_UPSTREAM));
    tls_context_unref(origin.tls);
}

static void a_body_to_the_end_needs_the_end_of_tls(void **state)
{
    for (int i = 0; i < 2; i++) {
        peer_start(&peer, answer_tls);
        peer.answer = "HTTP/1.1 200 OK\r\n\r\nhello";
        peer.owner = i ? &peer : NULL;
        run(call_to_end);
        peer_stop(&peer);
    }
}

static void never_shake_hands(struct peer *it, int fd)
{
    peer_await_end(it, fd);
}

static void call_stalled_handshake(void)
{
    struct http_call call;
    struct str body;

    set_tls_origin("good.test", "off");
    assert_true(err_is(fetch_within(100, &call, &body), ERR_TIMED_OUT));
    tls_context_unref(origin.tls);
}

static void gives_up_a_handshake_that_stalls(void **state)
{
    run_with(never_shake_hands, call_stalled_handshake);
    assert_int_equal(peer.hung_up, 1);
}

/* ---- proxies ---- */

static char connect_head[4096];

/* A proxy that is also the origin behind the tunnel. */
static void tunnel(struct peer *it, int fd)
{
    if (!peer_read_request(it, fd))
        return;
    memcpy(connect_head, it->seen, sizeof(connect_head));
    if (it->cut) { /* a proxy that refuses or talks too much */
        peer_send(fd, it->answer, strlen(it->answer));
        peer_await_end(it, fd);
        return;
    }
    peer_send(fd, "HTTP/1.1 200 Connection established\r\n\r\n", 39);
    answer_tls(it, fd);
}

static void call_through_tunnel(void)
{
    struct http_call call;
    struct str body;
    err_t err;

    set_tls_origin("good.test", arena_printf(arena, "http://u:p@proxy.test:%u", peer.port));
    if (!peer.cut) {
        assert_hi(&call);
        assert_hi(&call);
        assert_true(call.was_reused);
    } else {
        err = fetch(&call, &body);
        assert_true(err_is(err, ERR_UPSTREAM));
        assert_non_null(strstr(err->text, "proxy"));
    }
    tls_context_unref(origin.tls);
}

static void tunnels_tls_through_a_proxy(void **state)
{
    char expected[256];

    run_with(tunnel, call_through_tunnel);
    snprintf(expected, sizeof(expected),
             "CONNECT good.test:%u HTTP/1.1\r\nHost: good.test:%u\r\nProxy-Authorization: Basic "
             "dTpw\r\n\r\n",
             peer.port, peer.port);
    assert_string_equal(connect_head, expected);
    snprintf(expected, sizeof(expected), "GET /x HTTP/1.1\r\nHost: good.test:%u\r\n", peer.port);
    assert_memory_equal(peer.seen, expected, strlen(expected));
    assert_null(strstr(peer.seen, "Proxy-"));
}

static void reports_a_proxy_that_refuses(void **state)
{
    static const char *const answers[] = {
        "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nmore"};

    for (int i = 0; i < 2; i++) {
        peer_start(&peer, tunnel);
        peer.cut = 1;
        peer.answer = answers[i];
        run(call_through_tunnel);
        peer_stop(&peer);
    }
}

static void call_through_plain_proxy(void)
{
    struct http_call call;

    set_origin(arena_printf(arena, "http://u:p@proxy.test:%u", peer.port), "http://some.test/v1");
    assert_hi(&call);
}

static void asks_a_proxy_in_absolute_form(void **state)
{
    run_with(answer_always, call_through_plain_proxy);
    assert_string_equal(peer.seen,
                        "GET http://some.test/v1/x HTTP/1.1\r\nHost: some.test\r\n"
                        "Accept-Encoding: identity\r\nProxy-Authorization: Basic dTpw\r\n\r\n");
}

static int set_up(void **state)
{
    struct rlimit files = {2048, 4096};

    setrlimit(RLIMIT_NOFILE, &files);
    signal(SIGPIPE, SIG_IGN); /* OpenSSL's own sockets in the peer */
    if (!mkdtemp(folder))
        return -1;
    make_certificates();
    resolve_set_lookup(fake_lookup);
    return 0;
}

static int tear_down(void **state)
{
    char path[128];

    offload_stop_all();
    resolve_set_lookup(NULL);
    SSL_CTX_free(server_tls);
    unlink(ca_path);
    snprintf(path, sizeof(path), "%s/socket", folder);
    unlink(path);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(falls_back_when_an_address_leads_nowhere),
        cmocka_unit_test(tries_the_next_address_at_once_when_refused),
        cmocka_unit_test(tries_the_address_that_answered_last_first),
        cmocka_unit_test(gives_up_connecting_in_time),
        cmocka_unit_test(calls_over_a_unix_socket),
        cmocka_unit_test(keeps_a_bounded_number_idle),
        cmocka_unit_test(closes_what_is_idle_too_long),
        cmocka_unit_test(calls_over_tls),
        cmocka_unit_test(verifies_the_certificate),
        cmocka_unit_test(a_body_to_the_end_needs_the_end_of_tls),
        cmocka_unit_test(gives_up_a_handshake_that_stalls),
        cmocka_unit_test(tunnels_tls_through_a_proxy),
        cmocka_unit_test(reports_a_proxy_that_refuses),
        cmocka_unit_test(asks_a_proxy_in_absolute_form),
    };

    return cmocka_run_group_tests_name("http_dial", tests, set_up, tear_down);
}
