/* SPDX-License-Identifier: Apache-2.0 */
/* GET /v1/models and /v1/models/{id}: aliases and local models. Never calls out. */
#include "base/buf.h"
#include "gateway/handlers.h"
#include "gateway/request.h"

#define LIST_MAX_BYTES (4 * 1024 * 1024)

static err_t print_model(struct buf *out, struct str name, struct str owner, uint64_t created)
{
    TRY(buf_add(out, STR("{\"id\":")));
    TRY(buf_add_json(out, name));
    TRY(buf_printf(
        out, ",\"object\":\"model\",\"created\":%llu,\"owned_by\":", (unsigned long long)created));
    TRY(buf_add_json(out, owner));
    return buf_add_byte(out, '}');
}

static err_t print_list(struct request *r, struct buf *out)
{
    struct str name, owner;
    bool first = true;

    TRY(buf_add(out, STR("{\"object\":\"list\",\"data\":[")));
    for (size_t at = 0; providers_next_name(r->providers, &at, &name, &owner); first = false) {
        if (!first)
            TRY(buf_add_byte(out, ','));
        TRY(print_model(out, name, owner, r->gateway->service->started_ms / 1000));
    }
    return buf_add(out, STR("]}"));
}

static err_t print_one(struct request *r, struct buf *out)
{
    struct str name, owner;

    for (size_t at = 0; providers_next_name(r->providers, &at, &name, &owner);)
        if (str_eq(name, r->path_rest))
            return print_model(out, name, owner, r->gateway->service->started_ms / 1000);
    return err_new_detail(ERR_NOT_FOUND, (.code = "model_not_found", .param = "model"),
                          "The model '%.*s' does not exist.", STR_ARG(r->path_rest));
}

static err_t answer(struct request *r, err_t (*print)(struct request *, struct buf *))
{
    struct buf text = buf_make(MEM_REQUEST, LIST_MAX_BYTES);
    err_t err = print(r, &text);

    if (!err)
        err = reply_json(r, 200, buf_str(&text));
    buf_fini(&text);
    return err;
}

err_t models_list(struct request *r)
{
    return answer(r, print_list);
}

err_t models_get(struct request *r)
{
    return answer(r, print_one);
}
