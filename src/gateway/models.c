/* SPDX-License-Identifier: Apache-2.0 */
/* GET /v1/models and /v1/models/{id}: aliases and local models. Never calls out.
 *
 * Entries and list have the members of both OpenAI's and Anthropic's APIs, so that one answer serves
 * the readers of either. */
#include <time.h>

#include "base/json_writer.h"
#include "gateway/auth.h"
#include "gateway/handlers.h"
#include "gateway/request.h"

#define LIST_MAX_BYTES (4 * 1024 * 1024)

static void put_model(struct json_writer *w, struct str name, struct str owner, uint64_t created_s)
{
    time_t at = (time_t)created_s;
    struct tm utc;
    char text[32] = "1970-01-01T00:00:00Z";

    if (gmtime_r(&at, &utc))
        strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &utc);
    json_open_object(w);
    json_put_text(w, "id", name);
    json_put_text(w, "object", STR("model"));
    json_put_u64(w, "created", created_s);
    json_put_text(w, "owned_by", owner);
    json_put_text(w, "type", STR("model"));
    json_put_text(w, "display_name", name);
    json_put_text(w, "created_at", str_from(text));
    json_close_object(w);
}

static err_t put_list(struct request *r, struct json_writer *w)
{
    struct str name, owner, first = {0}, last = {0};

    json_open_object(w);
    json_put_text(w, "object", STR("list"));
    json_put_array(w, "data");
    for (size_t at = 0; providers_next_name(r->providers, &at, &name, &owner);) {
        if (!auth_names_model(r, name))
            continue;
        last = name;
        if (!first.ptr)
            first = name;
        put_model(w, name, owner, r->gateway->service->started_ms / 1000);
    }
    json_close_array(w);
    json_put_bool(w, "has_more", false);
    json_put_text_or_null(w, "first_id", first);
    json_put_text_or_null(w, "last_id", last);
    json_close_object(w);
    return NULL;
}

static err_t put_one(struct request *r, struct json_writer *w)
{
    struct str name, owner;

    for (size_t at = 0; providers_next_name(r->providers, &at, &name, &owner);) {
        if (!str_eq(name, r->path_rest) || !auth_names_model(r, name))
            continue;
        put_model(w, name, owner, r->gateway->service->started_ms / 1000);
        return NULL;
    }
    return err_new_detail(ERR_NOT_FOUND, (.code = "model_not_found", .param = "model"),
                          "The model '%.*s' does not exist.", STR_ARG(r->path_rest));
}

static err_t answer(struct request *r, err_t (*put)(struct request *, struct json_writer *))
{
    struct buf text = buf_make(MEM_REQUEST, LIST_MAX_BYTES);
    struct json_writer w = json_writer_make(&text);
    err_t err = put(r, &w);

    if (!err)
        err = json_writer_err(&w);
    if (!err)
        err = reply_json(r, 200, buf_str(&text));
    buf_fini(&text);
    return err;
}

err_t models_list(struct request *r)
{
    return answer(r, put_list);
}

err_t models_get(struct request *r)
{
    return answer(r, put_one);
}
