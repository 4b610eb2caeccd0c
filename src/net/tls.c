/* SPDX-License-Identifier: Apache-2.0 */
/* TLS 1.2 and 1.3 by OpenSSL over our own sockets.
 *
 * OpenSSL reads and writes through a BIO of ours that calls the same system calls as plain
 * sockets and keeps the watch's flags, so that sock.c need not know the difference. Buffers are
 * given back between records, because most connections are idle most of the time.
 *
 * The hard thing is that one read from the kernel may decrypt to more than was asked for: no
 * edge announces what waits inside the session, so readers ask tls_has_pending as well. */
#include "net/tls.h"

#include <errno.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdatomic.h>

#include "base/mem.h"
#include "base/sys.h"

#define MAX_PATH_BYTES 1024
#define MAX_HOST_BYTES 256

struct tls_context {
    SSL_CTX *ssl;
    bool uses_system_cas;
    _Atomic unsigned refs;
};

struct tls_session {
    SSL *ssl;
    bool is_broken; /* no close_notify may be tried any more */
    bool has_ended; /* reading came to the end or an error, which the next read will tell */
};

/* ---- the BIO ---- */

/* Made with the first context that needs them, in the main thread, and shared by all sessions. */
static BIO_METHOD *bio_method;
static X509_STORE *system_cas;

static int bio_write(BIO *bio, const char *ptr, int size)
{
    struct sock *sock = BIO_get_data(bio);
    ssize_t sent = sys_send(sock->watch.fd, ptr, (size_t)size);

    BIO_clear_retry_flags(bio);
    if (sent < 0 && (errno == EAGAIN)) {
        sock->watch.writable = false;
        BIO_set_retry_write(bio);
    }
    return (int)sent;
}

static int bio_read(BIO *bio, char *ptr, int size)
{
    struct sock *sock = BIO_get_data(bio);
    ssize_t got = -1;

    BIO_clear_retry_flags(bio);
    if (sock->watch.readable) {
        got = sys_recv(sock->watch.fd, ptr, (size_t)size, 0);
        if (got < 0 && errno != EAGAIN)
            return -1;
        /* As in sock_try_read: a short read means that nothing is left, unless the end has come. */
        if (got < 0 || (got > 0 && (size_t)got < sys_cut((size_t)size) && !sock->watch.hung_up))
            sock->watch.readable = false;
    }
    if (got < 0)
        BIO_set_retry_read(bio);
    return (int)got;
}

static long bio_ctrl(BIO *bio, int command, long number, void *ptr)
{
    return command == BIO_CTRL_FLUSH;
}

static err_t make_bio_method(void)
{
    if (bio_method)
        return NULL;
    bio_method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "sluice socket");
    if (!bio_method)
        return err_no_memory();
    BIO_meth_set_write(bio_method, bio_write);
    BIO_meth_set_read(bio_method, bio_read);
    BIO_meth_set_ctrl(bio_method, bio_ctrl);
    return NULL;
}

static err_t load_system_cas(void)
{
    if (system_cas)
        return NULL;
    system_cas = X509_STORE_new();
    if (!system_cas)
        return err_no_memory();
    if (X509_STORE_set_default_paths(system_cas) != 1) {
        X509_STORE_free(system_cas);
        system_cas = NULL;
        return err_no_memory();
    }
    ERR_clear_error();
    return NULL;
}

/* ---- contexts ---- */

/* What OpenSSL last complained about, in its words. Empties its queue. */
static const char *ssl_reason(void)
{
    unsigned long code = ERR_peek_last_error();
    const char *reason = ERR_SYSTEM_ERROR(code) ? NULL : ERR_reason_error_string(code);

    ERR_clear_error();
    return reason ? reason : "cannot be read";
}

static err_t file_error(const char *what, struct str path)
{
    return err_new(ERR_CONFIG, "%s %.*s: %s", what, STR_ARG(path), ssl_reason());
}

/* A path as OpenSSL wants it. False when it is too long. */
static bool copy_text(struct str text, char *out, size_t size)
{
    if (text.len >= size)
        return false;
    if (text.len > 0)
        memcpy(out, text.ptr, text.len);
    out[text.len] = '\0';
    return true;
}

/* Nobody sits at a terminal to unlock a key. */
static int no_password(char *out, int size, int is_writing, void *arg)
{
    return -1;
}

static err_t context_new(const SSL_METHOD *method, struct tls_context **out)
{
    struct tls_context *context;

    *out = NULL;
    TRY(make_bio_method());
    context = mem_alloc_zero(MEM_CONF, sizeof *context);
    if (!context)
        return err_no_memory();
    context->ssl = SSL_CTX_new(method);
    if (!context->ssl) {
        mem_free(MEM_CONF, context, sizeof *context);
        return err_no_memory();
    }
    context->refs = 1;
    SSL_CTX_set_min_proto_version(context->ssl, TLS1_2_VERSION);
    SSL_CTX_set_options(context->ssl, SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_mode(context->ssl, SSL_MODE_ENABLE_PARTIAL_WRITE |
                                       SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                       SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_session_cache_mode(context->ssl, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_read_ahead(context->ssl, 1);
    SSL_CTX_set_default_passwd_cb(context->ssl, no_password);
    *out = context;
    return NULL;
}

/* Load a certificate chain and its key. */
static err_t use_certificate(SSL_CTX *ssl, struct str certificate, struct str key)
{
    char path[MAX_PATH_BYTES];

    ERR_clear_error();
    if (!copy_text(certificate, path, sizeof path) ||
        SSL_CTX_use_certificate_chain_file(ssl, path) != 1)
        return file_error("certificate", certificate);
    if (!copy_text(key, path, sizeof path) ||
        SSL_CTX_use_PrivateKey_file(ssl, path, SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_check_private_key(ssl) != 1)
        return file_error("key", key);
    return NULL;
}

/* Choose http/1.1 if the client offers it; a client that offers only other protocols gets none
 * chosen. */
static int choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *out_len,
                           const unsigned char *in, unsigned in_len, void *arg)
{
    static const unsigned char ours[] = "\x08http/1.1";
    unsigned char *chosen;

    if (SSL_select_next_proto(&chosen, out_len, ours, sizeof ours - 1, in, in_len) !=
        OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_NOACK;
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

err_t tls_server_context(struct str certificate, struct str key, struct tls_context **out)
{
    struct tls_context *context;
    err_t err;

    *out = NULL;
    TRY(context_new(TLS_server_method(), &context));
    SSL_CTX_set_num_tickets(context->ssl, 1);
    SSL_CTX_set_alpn_select_cb(context->ssl, choose_protocol, NULL);
    err = use_certificate(context->ssl, certificate, key);
    if (err)
        tls_context_unref(context);
    else
        *out = context;
    return err;
}

/* OpenSSL keeps a certificate that it could decode only in part, be it for want of memory: nothing could be verified with
 * it, and nobody would know why. */
static bool is_sound(X509 *certificate)
{
    return X509_get0_pubkey(certificate) &&
           !(X509_get_extension_flags(certificate) & (EXFLAG_INVALID | EXFLAG_NO_FINGERPRINT));
}

static bool has_sound_certificates(SSL_CTX *ssl)
{
    STACK_OF(X509_OBJECT) *objects = X509_STORE_get0_objects(SSL_CTX_get_cert_store(ssl));
    int found = 0;

    for (int i = 0; i < sk_X509_OBJECT_num(objects); i++) {
        X509 *certificate = X509_OBJECT_get0_X509(sk_X509_OBJECT_value(objects, i));
        if (certificate && !is_sound(certificate))
            return false;
        found += certificate != NULL;
    }
    return found > 0;
}

err_t tls_client_context(struct str ca, struct str certificate, struct str key,
                         struct tls_context **out)
{
    struct tls_context *context;
    char path[MAX_PATH_BYTES];
    err_t err = NULL;

    *out = NULL;
    TRY(context_new(TLS_client_method(), &context));
    SSL_CTX_set_verify(context->ssl, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_alpn_protos(context->ssl, (const unsigned char *)"\x08http/1.1", 9);
    context->uses_system_cas = ca.len == 0;
    ERR_clear_error();
    if (ca.len == 0)
        err = load_system_cas();
    else if (!copy_text(ca, path, sizeof path) ||
             SSL_CTX_load_verify_file(context->ssl, path) != 1 ||
             !has_sound_certificates(context->ssl))
        err = file_error("CA", ca);
    if (!err && certificate.len > 0)
        err = use_certificate(context->ssl, certificate, key);
    if (err)
        tls_context_unref(context);
    else
        *out = context;
    return err;
}

struct tls_context *tls_context_ref(struct tls_context *context)
{
    if (context)
        context->refs++;
    return context;
}

void tls_context_unref(struct tls_context *context)
{
    if (!context || --context->refs > 0)
        return;
    SSL_CTX_free(context->ssl);
    mem_free(MEM_CONF, context, sizeof *context);
}

/* ---- sessions ---- */

static err_t session_open(struct sock *sock, struct tls_context *context)
{
    struct tls_session *session = mem_alloc_zero(MEM_CONNECTION, sizeof *session);
    BIO *bio = NULL;

    if (!session)
        return err_no_memory();
    ERR_clear_error();
    session->is_broken = true;
    session->ssl = SSL_new(context->ssl);
    if (session->ssl)
        bio = BIO_new(bio_method);
    if (!bio) {
        SSL_free(session->ssl);
        mem_free(MEM_CONNECTION, session, sizeof *session);
        return err_no_memory();
    }
    BIO_set_data(bio, sock);
    BIO_set_init(bio, 1);
    SSL_set_bio(session->ssl, bio, bio);
    sock->tls = session;
    return NULL;
}

/* Why the last call on the session failed. The session is not usable any more. */
static err_t session_error(struct tls_session *session)
{
    long verdict = SSL_get_verify_result(session->ssl);
    unsigned long code = ERR_peek_last_error();

    session->is_broken = true;
    if (verdict != X509_V_OK && !SSL_is_server(session->ssl)) {
        ERR_clear_error();
        return err_new(ERR_UPSTREAM, "TLS: %s", X509_verify_cert_error_string(verdict));
    }
    if (code == 0 || ERR_SYSTEM_ERROR(code) ||
        ERR_GET_REASON(code) == SSL_R_UNEXPECTED_EOF_WHILE_READING) {
        ERR_clear_error();
        return err_new(ERR_UPSTREAM, "connection reset");
    }
    return err_new(ERR_UPSTREAM, "TLS: %s", ssl_reason());
}

/* PARKS until the handshake is over. */
static err_t shake_hands(struct sock *sock, uint64_t at_ms)
{
    struct tls_session *session = sock->tls;

    for (;;) {
        int done, why;
        ERR_clear_error();
        done = SSL_do_handshake(session->ssl);
        if (done == 1)
            break;
        why = SSL_get_error(session->ssl, done);
        if (why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE)
            return session_error(session);
        TRY(sock_wait(sock, at_ms));
    }
    session->is_broken = false;
    return NULL;
}

/* Whom the certificate must name: an IP address, or a name, which is also sent as SNI. */
static bool expect_host(SSL *ssl, const char *host)
{
    if (X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host) == 1)
        return true;
    ERR_clear_error();
    SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return SSL_set1_host(ssl, host) == 1 && SSL_set_tlsext_host_name(ssl, host) == 1;
}

err_t tls_connect(struct sock *sock, struct tls_context *context, struct str host, uint64_t at_ms)
{
    char name[MAX_HOST_BYTES];
    SSL *ssl;

    TRY(session_open(sock, context));
    ssl = sock->tls->ssl;
    if (context->uses_system_cas && SSL_set1_verify_cert_store(ssl, system_cas) != 1)
        return err_no_memory();
    if (host.len == 0 || !copy_text(host, name, sizeof name) || !expect_host(ssl, name))
        return err_new(ERR_UPSTREAM, "TLS: the host's name is not valid");
    SSL_set_connect_state(ssl);
    return shake_hands(sock, at_ms);
}

err_t tls_accept(struct sock *sock, struct tls_context *context, uint64_t at_ms)
{
    TRY(session_open(sock, context));
    SSL_set_accept_state(sock->tls->ssl);
    return shake_hands(sock, at_ms);
}

bool tls_has_pending(const struct sock *sock)
{
    return sock->tls && (sock->tls->has_ended || SSL_has_pending(sock->tls->ssl));
}

err_t tls_try_read(struct sock *sock, void *ptr, size_t size, size_t *n, bool *again)
{
    SSL *ssl = sock->tls->ssl;
    size_t total = 0, got;
    int why = SSL_ERROR_NONE;

    *n = 0;
    *again = false;
    ERR_clear_error();
    /* A record holds at most 16 KiB: go on until the buffer is full or the session has no more. */
    while (total < size && SSL_read_ex(ssl, (char *)ptr + total, size - total, &got) == 1)
        total += got;
    if (total < size)
        why = SSL_get_error(ssl, 0);
    sock->tls->has_ended =
        total < size && why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE;
    *n = total;
    if (total > 0)
        return NULL;
    if (!sock->tls->has_ended) {
        *again = true;
        return NULL;
    }
    return why == SSL_ERROR_ZERO_RETURN ? NULL : session_error(sock->tls);
}

err_t tls_try_write(struct sock *sock, const void *ptr, size_t size, size_t *n)
{
    SSL *ssl = sock->tls->ssl;

    ERR_clear_error();
    if (SSL_write_ex(ssl, ptr, size, n) == 1)
        return NULL;
    *n = 0;
    switch (SSL_get_error(ssl, 0)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        return NULL;
    default:
        return session_error(sock->tls);
    }
}

void tls_finish(struct sock *sock)
{
    struct tls_session *session = sock->tls;

    if (session->is_broken)
        return;
    session->is_broken = true;
    ERR_clear_error();
    SSL_shutdown(session->ssl);
    ERR_clear_error();
}

void tls_end(struct sock *sock)
{
    tls_finish(sock);
    SSL_free(sock->tls->ssl);
    mem_free(MEM_CONNECTION, sock->tls, sizeof *sock->tls);
    sock->tls = NULL;
}
