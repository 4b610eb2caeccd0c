/* SPDX-License-Identifier: Apache-2.0 */
/* Calls of a running server, for commands: `ask`, `healthcheck`, `key` and the like. */
#ifndef CLI_CLIENT_H
#define CLI_CLIENT_H

#include "net/http_client.h"

struct client {
    struct arena *arena;
    struct http_origin origin;
    struct http_pool *pool;
    struct http_header headers[2];
    size_t header_count;
};

/* A client of the server at `url` (NULL: $SLUICE_URL, else http://127.0.0.1:8080; unix:/path,
 * too), with the key $SLUICE_KEY if there is one. Everything is in the fiber's arena. Close it.
 * Errors: CONFIG for a URL that is none. */
err_t client_open(const char *url, struct client *client) ERR_MUST_CHECK;
void client_close(struct client *client);

/* The same for the admin API: $SLUICE_ADMIN_URL, else http://127.0.0.1:8081. */
err_t client_open_admin(const char *url, struct client *client) ERR_MUST_CHECK;

/* PARKS: send a request (`body` empty: none) and wait for the answer's head until `at_ms`. Then
 * http_call_read and http_call_close. Errors: UPSTREAM saying where it was sent. */
err_t client_call(struct client *client, const char *method, const char *target, struct str body,
                  uint64_t at_ms, struct http_call *call) ERR_MUST_CHECK;

/* PARKS: the same with the answer's body read; it is in the client's arena. */
err_t client_send(struct client *client, const char *method, const char *target, struct str sent,
                  uint64_t at_ms, int *status, struct str *body) ERR_MUST_CHECK;

/* PARKS: the same for GET. */
err_t client_get(struct client *client, const char *target, uint64_t at_ms, int *status,
                 struct str *body) ERR_MUST_CHECK;

/* What an answer that is no success says: the message of its error object, else its status. In
 * the fiber's arena. */
err_t client_refusal(int status, struct str body);

#endif
