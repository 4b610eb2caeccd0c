/* SPDX-License-Identifier: Apache-2.0 */
/* Showing, following, cancelling and forgetting a response, and listing what was asked. Of one that its provider has only the
 * whereabouts are known, so whoever asks for it is answered from there.
 *
 * The hard thing is cancelling: the request to be cancelled may run in another thread or process, so it is told by a
 * message, and the one who cancels waits until it has ended and its remains can be shown. */
#include "gateway/responses.h"

#include "base/json_writer.h"
#include "dialect/body.h"
#include "fiber/fiber.h"
#include "gateway/handlers.h"
#include "gateway/request.h"
#include "gateway/response_background.h"
#include "gateway/response_store.h"

#define OBJECT_MAX_BYTES ((size_t)64 * 1024 * 1024)

/* How long whoever cancels waits for the end of what was cancelled, and how often he looks. */
#define CANCEL_WAIT_MS      5000
#define CANCEL_LOOK_MS      5
#define CANCEL_LOOK_MOST_MS 80

/* What is told of a response whose process was killed. */
#define KILLED_ERROR                                                                               \
    "{\"code\":\"server_error\",\"message\":\"killed: the server ended before the response did\"}"

#define PAGE_DEFAULT 20
#define PAGE_MOST    100

/* ---- requests about a response ---- */

/* "ID" or "ID/what" behind /v1/responses/. */
static struct str path_id(const struct request *r, struct str *what)
{
    size_t slash = str_index(r->path_rest, '/');

    *what = slash < r->path_rest.len ? str_after(r->path_rest, slash + 1) : (struct str){0};
    return (struct str){r->path_rest.ptr, slash};
}

static err_t unknown_path(const struct request *r)
{
    const struct http_head *head = &r->exchange->head;

    return err_new_detail(ERR_NOT_FOUND, (.code = "unknown_url"), "Invalid URL (%.*s %.*s)",
                          STR_ARG(head->method_text),
                          (int)(head->path.len < 200 ? head->path.len : 200), head->path.ptr);
}

struct str responses_query(const struct request *r, const char *name)
{
    struct str rest = r->exchange->head.query, part;

    while (rest.ptr && str_split(&rest, '&', &part)) {
        size_t equals = str_index(part, '=');
        if (str_eq((struct str){part.ptr, equals}, str_from(name)))
            return str_after(part, equals < part.len ? equals + 1 : equals);
    }
    return (struct str){0};
}

/* A response of which nothing is known but that it is being made, or was when its process ended. */
static err_t reply_bare(struct request *r, const struct response *response)
{
    struct buf text = buf_make(MEM_REQUEST, OBJECT_MAX_BYTES);
    struct json_writer w = json_writer_make(&text);
    bool is_running = response->state == RESPONSE_STATE_RUNNING;
    err_t err;

    json_open_object(&w);
    json_put_text(&w, "id", response->id);
    json_put_text(&w, "object", STR("response"));
    json_put_u64(&w, "created_at", response->created_s);
    json_put_text(&w, "status", is_running ? STR("in_progress") : STR("failed"));
    json_put_text(&w, "model", response->model);
    json_put_raw(&w, "error", is_running ? STR("null") : STR(KILLED_ERROR));
    json_put_null(&w, "incomplete_details");
    json_put_null(&w, "instructions");
    json_put_raw(&w, "metadata", STR("{}"));
    json_put_raw(&w, "output", STR("[]"));
    json_put_bool(&w, "parallel_tool_calls", true);
    json_put_null(&w, "temperature");
    json_put_null(&w, "top_p");
    json_put_text(&w, "tool_choice", STR("auto"));
    json_put_raw(&w, "tools", STR("[]"));
    json_close_object(&w);
    err = json_writer_err(&w);
    if (!err)
        err = reply_json(r, 200, buf_str(&text));
    buf_fini(&text);
    return err;
}

static err_t show(struct request *r, const struct response *response)
{
    bool is_known = response->object.len > 0 && response->state != RESPONSE_STATE_KILLED;

    return is_known ? reply_json(r, 200, response->object) : reply_bare(r, response);
}

/* A response that lives at its provider cannot be fetched from there. */
static err_t relay(struct request *r, const struct response *response)
{
    return passthrough_to(r, response->home);
}

/* ---- the list of input items ---- */

struct page {
    uint64_t limit;
    struct str after; /* an item's id; empty: from the beginning */
    bool is_ascending;
};

static err_t read_page(const struct request *r, struct page *page)
{
    struct str limit = responses_query(r, "limit"), order = responses_query(r, "order");

    *page = (struct page){.limit = PAGE_DEFAULT, .after = responses_query(r, "after")};
    if (limit.ptr &&
        (!str_to_u64(limit, &page->limit) || page->limit < 1 || page->limit > PAGE_MOST))
        return body_bad("invalid_value", "limit",
                        "Invalid 'limit': expected an integer from 1 to %d.", PAGE_MOST);
    page->is_ascending = str_eq(order, STR("asc"));
    if (order.ptr && !page->is_ascending && !str_eq(order, STR("desc")))
        return body_bad("invalid_value", "order", "Invalid 'order': expected 'asc' or 'desc'.");
    return NULL;
}

/* The items of a JSON array, in the arena. */
static err_t split_items(struct str items, struct arena *arena, struct str **out, size_t *count)
{
    struct str item;

    *count = 0;
    for (size_t at = 0; json_array_next(items, &at, &item);)
        (*count)++;
    *out = arena_alloc_array(arena, *count, sizeof(**out));
    if (!*out)
        return arena_err(arena);
    *count = 0;
    for (size_t at = 0; json_array_next(items, &at, &item);)
        (*out)[(*count)++] = item;
    return NULL;
}

static bool has_id(struct str item, struct str id)
{
    struct str value = json_get(item, STR("id"));

    return value.len == id.len + 2 && memcmp(value.ptr + 1, id.ptr, id.len) == 0;
}

/* {"object":"list","data":[…],"first_id","last_id","has_more"} */
static void put_page(struct json_writer *w, const struct page *page, const struct str *items,
                     size_t count)
{
    struct str first = STR("\"\""), last = first;
    size_t i = 0, shown = 0;
#define ITEM(i) items[page->is_ascending ? (i) : count - 1 - (i)]

    if (page->after.len > 0) {
        while (i < count && !has_id(ITEM(i), page->after))
            i++;
        i += i < count;
    }
    json_open_object(w);
    json_put_text(w, "object", STR("list"));
    json_put_array(w, "data");
    for (; i < count && shown < page->limit; i++, shown++) {
        last = json_get(ITEM(i), STR("id"));
        first = shown == 0 ? last : first;
        json_add_raw(w, ITEM(i));
    }
    json_close_array(w);
    json_put_raw(w, "first_id", first);
    json_put_raw(w, "last_id", last);
    json_put_bool(w, "has_more", i < count);
    json_close_object(w);
#undef ITEM
}

static err_t reply_items(struct request *r, const struct response *response)
{
    struct buf text = buf_make(MEM_REQUEST, OBJECT_MAX_BYTES);
    struct json_writer w = json_writer_make(&text);
    struct page page;
    struct str input, *items;
    size_t count;
    err_t err;

    TRY(read_page(r, &page));
    TRY(response_store_get_input(response->owner, response->id, r->arena, &input));
    TRY(split_items(input, r->arena, &items, &count));
    put_page(&w, &page, items, count);
    err = json_writer_err(&w);
    if (!err)
        err = reply_json(r, 200, buf_str(&text));
    buf_fini(&text);
    return err;
}

/* ---- the handlers ---- */

/* The caller's response that the path names, with *what he wants of it. */
static err_t find(struct request *r, struct str *what, struct response *response)
{
    struct str owner;

    TRY(request_owner(r, &owner));
    return response_store_get(owner, path_id(r, what), r->arena, response);
}

err_t responses_get(struct request *r)
{
    struct response response;
    struct str what;
    bool is_list;

    r->dialect = dialect_responses;
    path_id(r, &what);
    is_list = str_eq(what, STR("input_items"));
    if (what.ptr && !is_list)
        return unknown_path(r);
    TRY(find(r, &what, &response));
    if (response.home.len)
        return relay(r, &response);
    if (is_list)
        return reply_items(r, &response);
    if (str_eq(responses_query(r, "stream"), STR("true")))
        return response_background_stream(r, &response);
    return show(r, &response);
}

err_t responses_delete(struct request *r)
{
    struct response response;
    struct str what;
    bool found;
    char *body;

    r->dialect = dialect_responses;
    path_id(r, &what);
    if (what.ptr)
        return unknown_path(r);
    TRY(find(r, &what, &response));
    if (response.home.len)
        TRY(relay(r, &response));
    TRY(response_store_delete(response.owner, response.id, &found));
    if (response.home.len)
        return NULL;
    if (response.state == RESPONSE_STATE_RUNNING && response.object.len > 0)
        response_running_cancel(response.owner, response.id); /* nobody waits for it any more */
    body = arena_printf(r->arena, "{\"id\":\"%.*s\",\"object\":\"response\",\"deleted\":true}",
                        STR_ARG(response.id));
    return body ? reply_json(r, 200, str_from(body)) : arena_err(r->arena);
}

/* PARKS until a response that was cancelled has ended, then shows what is left of it. */
static err_t await_end(struct request *r)
{
    uint64_t until_ms = loop_now_ms() + CANCEL_WAIT_MS, pause_ms = CANCEL_LOOK_MS;
    struct response response;
    struct str what;

    while (loop_now_ms() < until_ms) {
        TRY(find(r, &what, &response));
        if (response.state != RESPONSE_STATE_RUNNING)
            return show(r, &response);
        TRY(fiber_sleep(pause_ms));
        pause_ms = pause_ms < CANCEL_LOOK_MOST_MS ? pause_ms * 2 : pause_ms;
    }
    return err_new(ERR_BUSY, "the response has not ended yet: try again shortly");
}

err_t responses_cancel(struct request *r)
{
    struct response response;
    struct str what;
    bool found;

    r->dialect = dialect_responses;
    path_id(r, &what);
    if (!str_eq(what, STR("cancel")))
        return unknown_path(r);
    TRY(find(r, &what, &response));
    if (response.home.len)
        return relay(r, &response);
    if (response.state == RESPONSE_STATE_CANCELLED)
        return show(r, &response);
    TRY(response_store_cancel(response.owner, response.id, &found));
    if (!found)
        return err_new_detail(ERR_BAD_REQUEST, (.code = "invalid_value", .param = "id"),
                              "Cannot cancel a response that has ended.");
    request_step(r, "cancel");
    return await_end(r);
}
