/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the service share: app.c (life), app_signals.c (signals, notices, watching
 * memory). */
#ifndef APP_PRIVATE_H
#define APP_PRIVATE_H

#include <uv.h>

#include <pthread.h>

#include "app.h"
#include "model/providers.h"
#include "worker.h"

struct app {
    const struct app_options *options;
    struct arena *arena;
    struct str conf_path;
    const struct conf *conf; /* in force; one reference */
    struct tls_context *tls;
    struct db *db; /* the store */
    struct loop *loop;
    struct gateway_service service;
    struct gateway admin;
    struct worker *workers;
    unsigned worker_count;
    char hint_address[128]; /* the first one */

    uv_signal_t signals[3];
    uv_timer_t memory_timer;
    unsigned handles; /* of the two above that are open */
    unsigned stop_signals;
    bool is_reloading, reload_again, is_draining;
    pthread_t loader; /* of token ranks, at start */
    bool is_loading;
};

/* SIGTERM and SIGINT drain, SIGHUP reloads; memory is looked at every 200 ms. Errors: SYSTEM. */
err_t app_watch_signals(struct app *app) ERR_MUST_CHECK;

/* Close what app_watch_signals opened. */
void app_unwatch(struct app *app);

/* Fiber bodies: take a new configuration; end the service. PARK. */
void app_reload(void *app);
void app_drain(void *app);

/* Tell systemd (sd_notify(3) protocol: a datagram to $NOTIFY_SOCKET); nothing happens without
 * it. */
void app_notify(const char *state);

/* Print every fiber of the crashing thread with its step and request id. Async-signal-safe. */
void app_crash_report(int fd);

#endif
