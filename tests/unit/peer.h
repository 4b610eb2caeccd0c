/* SPDX-License-Identifier: Apache-2.0 */
/* A scripted server for tests of clients: threads with blocking sockets, which do with each
 * connection what the test's function says. It uses the system directly, so that injected faults
 * hit the code under test alone. */
#ifndef TESTS_UNIT_PEER_H
#define TESTS_UNIT_PEER_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define PEER_MAX_CONNECTIONS 2048

struct peer {
    int listener;
    unsigned port;
    pthread_t acceptor, threads[PEER_MAX_CONNECTIONS];
    atomic_int connections; /* accepted so far */
    atomic_int requests;    /* read so far */
    atomic_int hung_up;     /* connections that the client has closed */
    /* Runs in a thread of its own per connection, which is closed when it returns. */
    void (*serve)(struct peer *peer, int fd);
    const char *answer; /* for the script */
    size_t answer_len, cut;
    void *owner;          /* for the script */
    pthread_mutex_t lock; /* of what follows */
    char seen[4096];      /* the last request's head */
};

struct peer_connection {
    struct peer *peer;
    int fd;
};

/* Send everything; false when the client is gone. */
static inline bool peer_send(int fd, const char *text, size_t len)
{
    while (len > 0) {
        ssize_t n = send(fd, text, len, MSG_NOSIGNAL);
        if (n <= 0)
            return false;
        text += n;
        len -= (size_t)n;
    }
    return true;
}

/* The head that this connection's thread read last. */
static _Thread_local char peer_head[4096];

/* Read one request, its head into peer_head and peer->seen. False when the client hung up. */
static inline bool peer_read_request(struct peer *peer, int fd)
{
    char *head = peer_head, block[1024];
    size_t len = 0, left;
    char *length;

    do {
        ssize_t n = recv(fd, block, 1, 0);
        if (n <= 0 || len == sizeof(peer_head) - 1)
            return false;
        head[len++] = block[0];
        head[len] = '\0';
    } while (!strstr(len > 4 ? head + len - 4 : head, "\r\n\r\n"));
    length = strstr(head, "Content-Length: ");
    left = length ? strtoul(length + 16, NULL, 10) : 0;
    while (left > 0) {
        ssize_t n = recv(fd, block, left < sizeof(block) ? left : sizeof(block), 0);
        if (n <= 0)
            return false;
        left -= (size_t)n;
    }
    pthread_mutex_lock(&peer->lock);
    memcpy(peer->seen, peer_head, len + 1);
    pthread_mutex_unlock(&peer->lock);
    peer->requests++;
    return true;
}

/* Wait (5 s) until the client hangs up; says whether it did. */
static inline bool peer_await_end(struct peer *peer, int fd)
{
    char block[1024];
    ssize_t n;

    while ((n = recv(fd, block, sizeof(block), 0)) > 0)
        ;
    if (n == 0)
        peer->hung_up++;
    return n == 0;
}

static inline void *peer_run_connection(void *arg)
{
    struct peer_connection *connection = arg;
    struct timeval limit = {.tv_sec = 5};
    int on = 1;

    setsockopt(connection->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    connection->peer->serve(connection->peer, connection->fd);
    close(connection->fd);
    free(connection);
    return NULL;
}

static inline void *peer_accept(void *arg)
{
    struct peer *peer = arg;
    int fd;

    while ((fd = accept(peer->listener, NULL, NULL)) >= 0) {
        struct peer_connection *connection = malloc(sizeof(*connection));

        if (!connection || peer->connections == PEER_MAX_CONNECTIONS)
            abort();
        *connection = (struct peer_connection){peer, fd};
        if (pthread_create(&peer->threads[peer->connections], NULL, peer_run_connection,
                           connection))
            abort();
        peer->connections++;
    }
    return NULL;
}

/* Listen on an address with an ephemeral port, or on peer's port if it is set. False if that is
 * impossible here. */
static inline bool peer_listen(struct peer *peer, const struct sockaddr *address, socklen_t len,
                               int backlog)
{
    struct sockaddr_in bound;
    socklen_t bound_len = sizeof(bound);
    int on = 1;

    peer->listener = socket(address->sa_family, SOCK_STREAM, 0);
    setsockopt(peer->listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(peer->listener, address, len) != 0 || listen(peer->listener, backlog) != 0) {
        close(peer->listener);
        return false;
    }
    if (address->sa_family == AF_INET &&
        getsockname(peer->listener, (struct sockaddr *)&bound, &bound_len) == 0)
        peer->port = ntohs(bound.sin_port);
    return true;
}

/* Serve on a listener made by peer_listen. */
static inline void peer_serve(struct peer *peer)
{
    if (pthread_create(&peer->acceptor, NULL, peer_accept, peer))
        abort();
}

/* Listen on 127.0.0.1 and serve. */
static inline void peer_start(struct peer *peer, void (*serve)(struct peer *peer, int fd))
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};

    memset(peer, 0, sizeof(*peer)); /* the mutex too: its initial value */
    peer->serve = serve;
    if (!peer_listen(peer, (struct sockaddr *)&address, sizeof(address), 64))
        abort();
    peer_serve(peer);
}

/* Stop accepting and wait for the connections' threads. */
static inline void peer_stop(struct peer *peer)
{
    shutdown(peer->listener, SHUT_RDWR);
    pthread_join(peer->acceptor, NULL);
    close(peer->listener);
    for (int i = 0; i < peer->connections; i++)
        pthread_join(peer->threads[i], NULL);
}

#endif
