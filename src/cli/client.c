/* SPDX-License-Identifier: Apache-2.0 */
/* Calls of a running server. */
#include "cli/client.h"

#include <stdlib.h>
#include <string.h>

#include "base/json_members.h"
#include "fiber/fiber.h"
#include "fiber/loop.h"
#include "net/tls.h"

#define DEFAULT_URL      "http://127.0.0.1:8080"
#define DEFAULT_ADMIN    "http://127.0.0.1:8081"
#define CONNECT_MS       3000
#define MAX_ANSWER_BYTES ((size_t)64 * 1024 * 1024)

/* People copy the address from an SDK's settings, where it ends in /v1. */
static struct str without_version(struct str url)
{
    while (str_ends(url, STR("/")))
        url.len--;
    if (str_ends(url, STR("/v1")))
        url.len -= 3;
    return url;
}

static err_t open_at(const char *url, const char *variable, const char *otherwise,
                     struct client *client)
{
    const char *key = getenv("SLUICE_KEY"), *named = getenv(variable);

    *client = (struct client){.arena = fiber_arena()};
    if (!url)
        url = named && *named ? named : otherwise;
    TRY(http_origin_make(without_version(str_from(url)), STR(""), client->arena, &client->origin));
    if (client->origin.is_tls)
        TRY(tls_client_context(STR(""), STR(""), STR(""), &client->origin.tls));
    client->headers[client->header_count++] =
        (struct http_header){STR("Content-Type"), STR("application/json")};
    if (key && *key) {
        char *value = arena_printf(client->arena, "Bearer %s", key);
        if (!value)
            return arena_err(client->arena);
        client->headers[client->header_count++] =
            (struct http_header){STR("Authorization"), str_from(value)};
    }
    return http_pool_open(&client->pool);
}

err_t client_open(const char *url, struct client *client)
{
    return open_at(url, "SLUICE_URL", DEFAULT_URL, client);
}

err_t client_open_admin(const char *url, struct client *client)
{
    return open_at(url, "SLUICE_ADMIN_URL", DEFAULT_ADMIN, client);
}

void client_close(struct client *client)
{
    if (client->pool)
        http_pool_close(client->pool);
    tls_context_unref(client->origin.tls);
}

static enum http_method method_of(const char *name)
{
    static const struct {
        const char *name;
        enum http_method method;
    } methods[] = {{"GET", HTTP_GET_}, {"PATCH", HTTP_PATCH_}, {"DELETE", HTTP_DELETE_}};

    for (size_t i = 0; i < sizeof(methods) / sizeof(*methods); i++)
        if (strcmp(methods[i].name, name) == 0)
            return methods[i].method;
    return HTTP_POST_;
}

err_t client_call(struct client *client, const char *method, const char *target, struct str body,
                  uint64_t at_ms, struct http_call *call)
{
    struct http_ask ask = {
        .origin = &client->origin,
        .method = method_of(method),
        .method_text = method,
        .target = str_from(target),
        .headers = client->headers,
        .header_count = client->header_count,
        .body = &body,
        .body_count = body.len > 0,
        .connect_ms = CONNECT_MS,
        .head_at_ms = at_ms,
    };
    err_t err = http_call_open(client->pool, &ask, client->arena, call);

    return err_wrap(
        err, "asking the server at %.*s",
        STR_ARG(client->origin.host_header.len ? client->origin.host_header : client->origin.host));
}

err_t client_send(struct client *client, const char *method, const char *target, struct str sent,
                  uint64_t at_ms, int *status, struct str *body)
{
    struct http_call call;
    err_t err;

    TRY(client_call(client, method, target, sent, at_ms, &call));
    *status = call.status;
    err = http_call_read_all(&call, MAX_ANSWER_BYTES, at_ms, client->arena, body);
    if (!err) {
        *body = arena_copy(client->arena, *body); /* a short one lies in the connection's memory */
        err = body->ptr ? NULL : arena_err(client->arena);
    }
    http_call_close(&call);
    return err;
}

err_t client_get(struct client *client, const char *target, uint64_t at_ms, int *status,
                 struct str *body)
{
    return client_send(client, "GET", target, STR(""), at_ms, status, body);
}

err_t client_refusal(int status, struct str body)
{
    struct str message = {0};

    if (!json_check(body) &&
        json_text(json_get(json_get(body, STR("error")), STR("message")), fiber_arena(), &message))
        return err_new(ERR_UPSTREAM, "%.*s", STR_ARG(message));
    return err_new(ERR_UPSTREAM, "the server answers %d", status);
}
