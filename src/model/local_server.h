/* SPDX-License-Identifier: Apache-2.0 */
/* A llama-server as a supervised child: started on demand or at once, watched, restarted, stopped
 * with us.
 *
 * The child listens on a private unix socket in a directory that only we can enter. It is started
 * in the main thread; workers ask for it and wait until it is healthy. When it dies it is started
 * again with growing pauses (1 s to 60 s); its output lines become log lines; the kernel ends it
 * when we are killed (parent-death signal).
 *
 * Servers outlive configuration snapshots: a reload that leaves a provider's settings as they
 * were keeps its child. */
#ifndef MODEL_LOCAL_SERVER_H
#define MODEL_LOCAL_SERVER_H

#include "base/err.h"
#include "conf/conf.h"

struct local_server;

/* The server for a provider of kind local: an existing one with the same settings, or a new one
 * (not yet started unless the provider says at once). Counted: give it back with
 * local_server_unref. Main thread; the loop that it has then is the one that children are
 * watched in (without a loop, none can be started). Errors: BUSY, CONFIG (no folder for
 * sockets). */
err_t local_server_get(const struct conf *conf, const struct conf_provider *provider,
                       struct local_server **out) ERR_MUST_CHECK;
void local_server_unref(struct local_server *server); /* any thread; the last one stops the child */

/* Path of the unix socket; lives as long as the server. */
const char *local_server_socket(const struct local_server *server);

/* PARKS until the child is healthy or `at_ms`; starts it if it is not running. Any thread with a
 * loop. Errors: UPSTREAM (code local_model_unavailable) with what is missing and how to supply
 * it (no llama-server, no model file, broken model file, too little memory, keeps dying),
 * TIMED_OUT, KILLED after local_server_stop_all, cancellation. */
err_t local_server_await(struct local_server *server, uint64_t at_ms) ERR_MUST_CHECK;

struct local_server_view {
    const char *model, *state; /* "stopped", "starting", "ready", "waiting to restart", "failed" */
    int pid;
    uint64_t starts, restarts, memory_bytes;
    const char *last_error; /* or "" */
};

/* One call per server, for views. Main thread. */
void local_server_each(void (*visit)(const struct local_server_view *view, void *arg), void *arg);

/* Stop all children and wait for them at most `timeout_ms`, then kill them; PARKS (a fiber of
 * the main thread). At exit: nothing can be started afterwards. */
void local_server_stop_all(uint64_t timeout_ms);

#endif
