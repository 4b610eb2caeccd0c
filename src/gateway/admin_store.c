/* SPDX-License-Identifier: Apache-2.0 */
/* POST /admin/backup: a copy of the database while it is in use, into a file of this machine.
 *
 * The path is the administrator's, who rules over everything; it never replaces a file. */
#include "base/json_members.h"
#include "base/json_writer.h"
#include "base/sys.h"
#include "gateway/auth.h"
#include "gateway/handlers.h"
#include "gateway/request.h"
#include "govern/govern.h"
#include "observe/log.h"

#define BODY_MAX_BYTES ((size_t)64 * 1024)
#define TEXT_MAX_BYTES ((size_t)64 * 1024)

/* The body is {"path": "/…"} and nothing else. */
static err_t read_path(struct request *r, struct str *path)
{
    struct json_member member;
    struct str body;
    size_t count;
    bool is_object;

    TRY(exchange_read_body(r->exchange, BODY_MAX_BYTES, &body));
    TRY(request_check_json(r));
    TRY(json_members_read(body, &member, 1, &count, &is_object));
    if (!is_object || count != 1 || !json_key_is(&member, STR("path")) ||
        !json_text(member.value, r->arena, path))
        return err_new_detail(ERR_BAD_REQUEST, (.code = "invalid_value", .param = "path"),
                              "the body must be an object with a text `path` and nothing else");
    return NULL;
}

static err_t answer(struct request *r, struct str path, uint64_t ms)
{
    struct buf out = buf_make(MEM_REQUEST, TEXT_MAX_BYTES);
    struct json_writer w = json_writer_make(&out);
    err_t err;

    json_open_object(&w);
    json_put_text(&w, "object", STR("backup"));
    json_put_text(&w, "path", path);
    json_put_u64(&w, "ms", ms);
    json_close_object(&w);
    err = json_writer_err(&w);
    if (!err)
        err = reply_json(r, 200, buf_str(&out));
    buf_fini(&out);
    return err;
}

/* All that is kept has left the store: who had it copied, and where to, stays known. */
static err_t note(struct request *r, struct str path)
{
    struct identity_actor actor = auth_actor(r);

    return identity_audit_add(&actor, STR("store.backup"), path, STR("{}"));
}

err_t admin_backup(struct request *r)
{
    uint64_t began_ms = sys_now_ms();
    struct db *db = govern_db();
    struct str path;

    TRY(read_path(r, &path));
    if (!db)
        return err_new(ERR_STORE, "there is no store");
    exchange_cancel_on_half_close(r->exchange);
    request_step(r, "backup");
    TRY(db_backup(db, path));
    log_begin(LOG_INFO, "backup made");
    log_str("path", path);
    log_u64("ms", sys_now_ms() - began_ms);
    log_end();
    TRY(note(r, path));
    return answer(r, path, sys_now_ms() - began_ms);
}
