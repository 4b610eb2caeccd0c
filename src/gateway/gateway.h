/* SPDX-License-Identifier: Apache-2.0 */
/* One thread's gateway: what the requests of a listener share, and the state of the whole service.
 *
 * Each worker has one for the public API, the main thread one for the admin API. */
#ifndef GATEWAY_GATEWAY_H
#define GATEWAY_GATEWAY_H

#include <stdatomic.h>
#include <stdbool.h>

#include "base/list.h"
#include "conf/conf.h"
#include "net/http_client.h"
#include "net/http_server.h"

struct gateway;

enum gateway_listener { GATEWAY_PUBLIC = 1, GATEWAY_ADMIN = 2 };

/* What all gateways of the process share. Written by the main thread. */
struct gateway_service {
    atomic_bool is_ready; /* requests are welcome */
    atomic_bool is_draining;
    atomic_bool memory_is_short;
    _Atomic uint64_t resident_bytes, memory_limit_bytes; /* as last looked at */
    atomic_uint in_flight;                               /* model requests */
    uint64_t started_ms;

    /* Run fn(gateway, arg) in every thread that has one, one after the other; PARKS. Given by the
     * app, for views. */
    void (*each_gateway)(void (*fn)(struct gateway *gateway, void *arg), void *arg);
};

struct gateway {
    struct gateway_service *service;
    enum gateway_listener listener;
    struct http_server *server;
    struct http_pool *pool;
    struct list requests; /* in flight */
    unsigned thread;      /* 0: main, else the worker's number */
    unsigned questions;   /* that streams keep for a while (chat.c) */
};

/* The options of an HTTP server that hands its exchanges to `gateway`, as the current configuration
 * says. */
void gateway_server_options(struct gateway *gateway, const struct conf *conf,
                            struct http_server_options *out);

#endif
