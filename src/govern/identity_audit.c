/* SPDX-License-Identifier: Apache-2.0 */
/* The audit log as a list, and the key that a new store begins with. */
#include "base/sys.h"
#include "base/text.h"
#include "govern/identity_page.h"
#include "govern/identity_secret.h"
#include "govern/identity_store.h"

#include "govern/identity_part.h"

/* ---- the audit log ---- */

enum { AT_MS = 1, ACTOR, ACTOR_NAME, IP, ORG, PROJECT, ACTION, OBJECT, DETAIL };

static void write_row(const struct db_rows *rows, size_t i, struct json_writer *w)
{
    char at[25];

    text_iso_date((uint64_t)db_int(rows, i, AT_MS), at);
    json_open_object(w);
    json_put_text(w, "at", str_from(at));
    json_put_text(w, "actor", db_text(rows, i, ACTOR));
    json_put_text(w, "actor_name", db_text(rows, i, ACTOR_NAME));
    json_put_text(w, "ip", db_text(rows, i, IP));
    json_put_text_or_null(w, "org", db_text(rows, i, ORG));
    json_put_text_or_null(w, "project", db_text(rows, i, PROJECT));
    json_put_text(w, "action", db_text(rows, i, ACTION));
    json_put_text(w, "id", db_text(rows, i, OBJECT));
    json_put_raw(w, "detail", db_text(rows, i, DETAIL));
    json_close_object(w);
}

err_t identity_audit(const struct identity_call *call, const struct identity_page *page)
{
    const struct identity_actor *actor = call->actor;
    struct json_writer w = json_writer_make(call->out);
    struct identity_place before;
    struct db_rows rows;
    size_t count;

    TRY(identity_place_read("audit", page->cursor, call->arena, &before));
    TRY(db_run(
        identity_db(), DB_READ,
        DB_ASK("SELECT id, at_ms, actor, actor_name, ip, org_id, project_id, action, object, "
               "detail FROM audit WHERE ($1 = '' OR org_id = $1) AND ($2 = '' OR "
               "project_id = $2) AND ($3 = '' OR org_id = $3) AND ($4 = '' OR "
               "project_id = $4) AND id < $5 ORDER BY id DESC LIMIT $6",
               DB_OF_TEXT(actor->org), DB_OF_TEXT(actor->project), DB_OF_TEXT(page->org),
               DB_OF_TEXT(page->project), DB_OF_INT(before.number < 0 ? INT64_MAX : before.number),
               DB_OF_INT(page->limit + 1)),
        call->arena, &rows));
    count = rows.count > page->limit ? page->limit : rows.count;
    json_open_object(&w);
    json_put_text(&w, "object", STR("list"));
    json_put_array(&w, "data");
    for (size_t i = 0; i < count; i++)
        write_row(&rows, i, &w);
    json_close_array(&w);
    if (count < rows.count)
        before.number = db_int(&rows, count - 1, 0);
    identity_place_write("audit", count < rows.count ? &before : NULL, &w);
    json_close_object(&w);
    return json_writer_err(&w);
}

err_t identity_audit_add(const struct identity_actor *actor, struct str action, struct str object,
                         struct str detail)
{
    return db_run(identity_db(), DB_WRITE,
                  DB_ASK("INSERT INTO audit (at_ms, actor, actor_name, ip, org_id, project_id, "
                         "action, object, detail) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                         DB_OF_INT((int64_t)sys_wall_ms()), DB_OF_TEXT(actor->key),
                         DB_OF_TEXT(actor->name), DB_OF_TEXT(actor->ip), DB_OF_TEXT(actor->org),
                         DB_OF_TEXT(actor->project), DB_OF_TEXT(action), DB_OF_TEXT(object),
                         DB_OF_TEXT(detail)),
                  NULL, NULL);
}

/* ---- the first key ---- */

struct first_key {
    struct arena *arena;
    char text[IDENTITY_KEY_BYTES], id[IDENTITY_ID_BYTES];
    uint8_t hash[IDENTITY_HASH_BYTES];
    bool is_made;
};

static err_t make_first_key(struct db_tx *tx, void *arg)
{
    struct first_key *first = arg;
    struct str hash = {(const char *)first->hash, sizeof(first->hash)};
    struct str hint = {first->text + IDENTITY_KEY_BYTES - 5, 4};
    int64_t now_ms = (int64_t)sys_wall_ms();
    struct db_rows rows, version;

    first->is_made = false;
    /* Of two that start at once, one waits here for the other. */
    TRY(db_tx_run(tx,
                  DB_ASK_PLAIN("UPDATE identity_version SET version = version + 1 WHERE id = 1"),
                  NULL, NULL));
    TRY(db_tx_run(tx, DB_ASK_PLAIN("SELECT id FROM keys LIMIT 1"), first->arena, &rows));
    if (rows.count > 0)
        return NULL;
    TRY(db_tx_run(tx, DB_ASK_PLAIN("SELECT version FROM identity_version WHERE id = 1"),
                  first->arena, &version));
    TRY(db_tx_run(
        tx,
        DB_ASK("INSERT INTO keys (id, org_id, project_id, name, hint, scopes, models, ips, limits, "
               "budgets, expires_ms, disabled, created_ms, rotated_ms, old_expires_ms, revoked_ms, "
               "changed, hash) VALUES ($1, '', '', 'first admin key', $2, $3, '', '', '', '', 0, "
               "0, $4, 0, 0, 0, $5, $6)",
               DB_OF_TEXT(str_from(first->id)), DB_OF_TEXT(hint),
               DB_OF_INT(IDENTITY_MODELS | IDENTITY_ROUTE | IDENTITY_ADMIN), DB_OF_INT(now_ms),
               DB_OF_INT(version.count ? db_int(&version, 0, 0) : 0), DB_OF_BLOB(hash)),
        NULL, NULL));
    TRY(db_tx_run(tx,
                  DB_ASK("INSERT INTO audit (at_ms, actor, actor_name, ip, org_id, project_id, "
                         "action, object, detail) VALUES ($1, 'server', 'first start', '', '', '', "
                         "'key.create', $2, '{}')",
                         DB_OF_INT(now_ms), DB_OF_TEXT(str_from(first->id))),
                  NULL, NULL));
    first->is_made = true;
    return db_tx_notify(tx, "identity");
}

/* Whether the configuration leaves it to the store who may call. */
static bool is_wanted(const struct conf *conf)
{
    return conf->keys.required && conf->keys.fixed_count == 0 && conf->admin_key.len == 0;
}

err_t identity_first_key(const struct conf *conf, struct arena *arena, struct str *out)
{
    struct first_key *first = arena_new_struct(arena, struct first_key);

    *out = STR("");
    if (!identity_db() || !is_wanted(conf))
        return NULL;
    if (!first)
        return arena_err(arena);
    first->arena = arena;
    identity_mint_key(first->text);
    identity_mint_id("key_", first->id);
    TRY(identity_hash(str_from(first->text), first->hash));
    TRY(db_transact(identity_db(), DB_WRITE, make_first_key, first));
    if (!first->is_made)
        return NULL;
    *out = str_from(first->text);
    return identity_refresh();
}
