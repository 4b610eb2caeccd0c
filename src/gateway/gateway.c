/* SPDX-License-Identifier: Apache-2.0 */
/* One thread's gateway: how its HTTP server is set up. */
#include "gateway/gateway.h"

#include "dialect/dialect.h"
#include "gateway/request.h"
#include "observe/log.h"

#define ADMIN_MAX_CONNECTIONS 256

/* What the server itself refuses, before there is a request (malformed heads, limits), gets an error
 * object and a line of its own. */
static void print_error(struct exchange *exchange, err_t err, struct str *content_type,
                        struct str *body, void *gateway)
{
    (void)gateway;
    log_begin(LOG_INFO, "refused");
    log_cstr("id", exchange->id);
    log_cstr("peer", exchange->peer_ip);
    log_u64("status", (uint64_t)err_status(err));
    log_cstr("text", err->text);
    log_end();
    *content_type = STR("application/json");
    *body =
        dialect_guess(&exchange->head)->print_error(err, str_from(exchange->id), exchange->arena);
}

void gateway_server_options(struct gateway *gateway, const struct conf *conf,
                            struct http_server_options *out)
{
    *out = (struct http_server_options){
        .handle = request_run,
        .print_error = print_error,
        .context = gateway,
        .head_timeout_ms = conf->http.head_timeout_ms,
        .body_grace_ms = conf->http.body_grace_ms,
        .body_min_bytes_per_s = conf->http.body_min_bytes_per_s,
        .idle_timeout_ms = conf->http.idle_timeout_ms,
        .write_timeout_ms = conf->http.write_timeout_ms,
        .max_connections =
            gateway->listener == GATEWAY_ADMIN ? ADMIN_MAX_CONNECTIONS : conf->http.max_connections,
        .arena_limit_bytes = 64 * 1024 * 1024,
        .trusted_proxies = &conf->trusted_proxies,
        .serve_half_closed = conf->http.serve_half_closed,
    };
}
