/* SPDX-License-Identifier: Apache-2.0 */
/* /admin/orgs, projects, keys, users and audit: who may use what, as REST.
 *
 * The paths differ in their type alone: a list answers GET and POST, an object GET, PATCH and DELETE, a key
 * POST …/rotate as well. What they mean is in govern/identity_store.h. */
#include "gateway/auth.h"
#include "gateway/auth_brake.h"
#include "gateway/handlers.h"
#include "gateway/request.h"
#include "govern/identity_store.h"

#define BODY_MAX_BYTES ((size_t)1024 * 1024)
#define PAGE_MAX_BYTES ((size_t)64 * 1024 * 1024)
#define DEFAULT_PAGE   100

/* ---- what every call needs ---- */

static err_t read_body(struct request *r, struct str *body)
{
    enum http_method method = r->route->method;

    *body = STR("");
    if (method != HTTP_POST_ && method != HTTP_PATCH_)
        return NULL;
    TRY(exchange_read_body(r->exchange, BODY_MAX_BYTES, body));
    return body->len > 0 ? request_check_json(r) : NULL;
}

/* A filter that was mistyped would show too much. */
static err_t check_parameters(struct str query, struct arena *arena)
{
    static const struct str names[] = {{"limit", 5}, {"cursor", 6}, {"org", 3}, {"project", 7}};
    struct str part, name;

    while (query.len > 0 && query.ptr && str_split(&query, '&', &part)) {
        bool is_known = part.len == 0;
        TRY(http_decode((struct str){part.ptr, str_index(part, '=')}, true, arena, &name));
        for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
            is_known |= str_eq(name, names[i]);
        if (!is_known)
            return err_new_detail(
                ERR_BAD_REQUEST, (.code = "unknown_parameter"),
                "there is no parameter '%.*s'; there are: limit cursor org project",
                (int)(name.len < 60 ? name.len : 60), name.ptr);
    }
    return NULL;
}

static err_t read_page(const struct request *r, struct identity_page *page)
{
    struct str query = r->exchange->head.query;
    struct str limit = http_query_get(query, STR("limit"), r->arena);

    TRY(check_parameters(query, r->arena));
    *page = (struct identity_page){.org = http_query_get(query, STR("org"), r->arena),
                                   .project = http_query_get(query, STR("project"), r->arena),
                                   .cursor = http_query_get(query, STR("cursor"), r->arena),
                                   .limit = DEFAULT_PAGE};
    if (limit.ptr &&
        (!str_to_u64(limit, &page->limit) || page->limit < 1 || page->limit > IDENTITY_MAX_PAGE))
        return err_new_detail(ERR_BAD_REQUEST, (.code = "invalid_value", .param = "limit"),
                              "limit must be 1 to %d", IDENTITY_MAX_PAGE);
    return NULL;
}

/* ---- which call it is ---- */

static err_t list_or_audit(const struct request *r, const struct identity_call *call,
                           err_t (*fn)(const struct identity_call *, const struct identity_page *))
{
    struct identity_page page;

    TRY(read_page(r, &page));
    return fn(call, &page);
}

static err_t no_such_path(const struct request *r)
{
    return err_new_detail(ERR_NOT_FOUND, (.code = "unknown_url"), "Invalid URL (POST %.*s)",
                          STR_ARG(r->exchange->head.path));
}

/* POST /admin/keys/ID/rotate. */
static err_t rotate(const struct request *r, struct identity_call *call)
{
    if (!str_ends(call->id, STR("/rotate")))
        return no_such_path(r);
    call->id.len -= sizeof("/rotate") - 1;
    return identity_rotate(call);
}

static err_t run(const struct request *r, struct identity_call *call)
{
    if (!str_ends(str_from(r->route->path), STR("*")))
        return r->route->method == HTTP_POST_ ? identity_create(call)
                                              : list_or_audit(r, call, identity_list);
    switch (r->route->method) {
    case HTTP_PATCH_:
        return identity_update(call);
    case HTTP_DELETE_:
        return identity_remove(call);
    case HTTP_POST_:
        return rotate(r, call);
    default:
        return identity_show(call);
    }
}

/* Whoever rules over all may look at every list, and so has nothing to guess. */
static err_t check_guess(const struct request *r, const struct identity_actor *actor, err_t err)
{
    if (err_is(err, ERR_NOT_FOUND) && (actor->org.len || actor->project.len))
        TRY(auth_brake_count(BRAKE_IDS, r->exchange->peer_ip));
    return err;
}

static err_t answer(struct request *r, enum identity_type type,
                    err_t (*fn)(const struct request *, struct identity_call *))
{
    struct buf out = buf_make(MEM_REQUEST, PAGE_MAX_BYTES);
    struct identity_actor actor = auth_actor(r);
    struct identity_call call = {
        .actor = &actor, .type = type, .id = r->path_rest, .arena = r->arena, .out = &out};
    bool is_new = r->route->method == HTTP_POST_ && r->path_rest.len == 0;
    uint64_t wait_ms;
    err_t err;

    if (!identity_has_store())
        return err_new(ERR_BUSY, "there is no store");
    if (actor.org.len || actor.project.len)
        TRY(auth_brake_check(BRAKE_IDS, r->exchange->peer_ip, &wait_ms));
    TRY(read_body(r, &call.body));
    err = check_guess(r, &actor, fn(r, &call));
    if (!err)
        err = reply_json(r, is_new ? 201 : 200, buf_str(&out));
    buf_fini(&out);
    return err;
}

/* ---- the routes ---- */

err_t admin_orgs(struct request *r)
{
    return answer(r, IDENTITY_ORGS, run);
}

err_t admin_projects(struct request *r)
{
    return answer(r, IDENTITY_PROJECTS, run);
}

err_t admin_keys(struct request *r)
{
    return answer(r, IDENTITY_KEYS, run);
}

err_t admin_users(struct request *r)
{
    return answer(r, IDENTITY_USERS, run);
}

static err_t run_audit(const struct request *r, struct identity_call *call)
{
    return list_or_audit(r, call, identity_audit);
}

err_t admin_audit(struct request *r)
{
    return answer(r, IDENTITY_KEYS, run_audit);
}
