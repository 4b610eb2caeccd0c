/* SPDX-License-Identifier: Apache-2.0 */
/* Reading a snapshot's parts from the store.
 *
 * One transaction reads the number of the last change first and then what has changed since the numbers that the
 * parts were read at. Rows come in pages, so that many keys need no second copy of themselves.
 *
 * The hard thing is that the transaction may run again from its start: what it read is kept aside until it is
 * over. */
#include <stdlib.h>

#include "base/json_members.h"
#include "base/mem.h"
#include "govern/allowance.h"
#include "govern/identity_part.h"
#include "observe/log.h"

#define PAGE_ROWS       "2000"
#define PAGE_COUNT      2000
#define PAGE_MAX_BYTES  ((size_t)1024 * 1024 * 1024)
#define LIST_MAX_BYTES  ((size_t)4 * 1024 * 1024 * 1024)
#define RECENT_AT_LEAST 500

/* Columns of both statements about keys. */
#define KEY_COLUMNS                                                                                \
    "id, org_id, project_id, name, scopes, models, ips, limits, budgets, expires_ms, disabled, "   \
    "revoked_ms, hash, old_hash, old_expires_ms"

enum {
    KEY_ID,
    KEY_ORG,
    KEY_PROJECT,
    KEY_NAME,
    KEY_SCOPES,
    KEY_MODELS,
    KEY_IPS,
    KEY_LIMITS,
    KEY_BUDGETS,
    KEY_EXPIRES,
    KEY_DISABLED,
    KEY_REVOKED,
    KEY_HASH,
    KEY_OLD_HASH,
    KEY_OLD_EXPIRES
};

struct reading {
    const struct identity_parts *before;
    struct identity_parts fresh; /* what was read; NULL: as before */
    struct db_tx *tx;
};

/* ---- pages ---- */

/* Run a statement that takes an id and gives the rows after it, until there are no more; `take` gets each page.
 * Its first column is the id. */
static err_t each_page(struct db_tx *tx, const char *sql,
                       err_t (*take)(const struct db_rows *rows, void *arg), void *arg)
{
    struct arena *arena = arena_new(MEM_PROCESS, PAGE_MAX_BYTES), *next;
    struct str last = STR("");
    struct db_rows rows;
    err_t err = arena ? NULL : err_no_memory();

    while (!err) {
        next = arena_new(MEM_PROCESS, PAGE_MAX_BYTES);
        err = next ? db_tx_run(tx, DB_ASK(sql, DB_OF_TEXT(last)), next, &rows) : err_no_memory();
        arena_free(arena);
        arena = next;
        if (err || rows.count == 0)
            break;
        err = take(&rows, arg);
        last = db_text(&rows, rows.count - 1, 0);
        if (rows.count < PAGE_COUNT)
            break;
    }
    arena_free(arena);
    return err;
}

/* ---- tenants ---- */

struct list {
    struct identity_part *part, *tenants;
    struct buf rows; /* of structs */
};

static err_t copy_text(struct arena *arena, struct str from, struct str *to)
{
    *to = from.len ? arena_copy(arena, from) : STR("");
    return to->ptr ? NULL : arena_err(arena);
}

static err_t add(struct buf *rows, const void *row, size_t size)
{
    return buf_add(rows, (struct str){row, size});
}

static err_t take_orgs(const struct db_rows *rows, void *arg)
{
    struct list *list = arg;

    for (size_t i = 0; i < rows->count; i++) {
        struct identity_project org = {.is_disabled = db_int(rows, i, 1) != 0};
        TRY(copy_text(list->part->arena, db_text(rows, i, 0), &org.id));
        TRY(add(&list->rows, &org, sizeof(org)));
    }
    return NULL;
}

/* A row that cannot be read gives nothing rather than everything. */
static err_t load_allowance(struct str id, struct str limits, struct str budgets,
                            struct arena *arena, struct allowance **out, bool *is_disabled)
{
    struct str own_limits, own_budgets;
    err_t err;

    TRY(copy_text(arena, limits, &own_limits));
    TRY(copy_text(arena, budgets, &own_budgets));
    err = allowance_load(own_limits, own_budgets, arena, out);
    if (!err || !err_is(err, ERR_BAD_REQUEST))
        return err;
    *is_disabled = true;
    log_begin(LOG_WARN, "limits or budgets that cannot be read");
    log_str("owner", id);
    log_err(err);
    log_end();
    return NULL;
}

static err_t take_projects(const struct db_rows *rows, void *arg)
{
    struct list *list = arg;
    struct arena *arena = list->part->arena;

    for (size_t i = 0; i < rows->count; i++) {
        struct identity_project project = {0};
        TRY(copy_text(arena, db_text(rows, i, 0), &project.id));
        TRY(copy_text(arena, db_text(rows, i, 1), &project.org));
        TRY(copy_text(arena, db_text(rows, i, 2), &project.tier));
        project.is_disabled =
            db_int(rows, i, 5) != 0 || !identity_part_has_org(list->part, project.org);
        TRY(load_allowance(project.id, db_text(rows, i, 3), db_text(rows, i, 4), arena,
                           &project.allowance, &project.is_disabled));
        TRY(add(&list->rows, &project, sizeof(project)));
    }
    return NULL;
}

/* Move gathered structs into the part. */
static err_t keep(struct list *list, void **items)
{
    struct str copy =
        list->rows.len ? arena_copy(list->part->arena, buf_str(&list->rows)) : STR("");

    *items = (void *)(uintptr_t)copy.ptr;
    return copy.ptr ? NULL : arena_err(list->part->arena);
}

static err_t read_orgs(struct reading *r, struct identity_part *part)
{
    struct list list = {.part = part, .rows = buf_make(MEM_PROCESS, LIST_MAX_BYTES)};
    err_t err = each_page(r->tx,
                          "SELECT id, disabled FROM orgs WHERE id > $1 AND deleted_ms = 0 "
                          "ORDER BY id LIMIT " PAGE_ROWS,
                          take_orgs, &list);

    if (!err)
        err = keep(&list, (void **)&part->orgs);
    part->org_count = list.rows.len / sizeof(*part->orgs);
    buf_fini(&list.rows);
    if (!err)
        identity_part_sort(part->orgs, part->org_count);
    return err;
}

static err_t read_tenants(struct reading *r, int64_t version)
{
    struct identity_part *part = r->fresh.tenants = identity_part_new();
    struct list list = {.part = part, .rows = buf_make(MEM_PROCESS, LIST_MAX_BYTES)};
    err_t err;

    if (!part)
        return err_no_memory();
    part->version = version;
    TRY(read_orgs(r, part));
    err = each_page(r->tx,
                    "SELECT id, org_id, tier, limits, budgets, disabled FROM projects "
                    "WHERE id > $1 AND deleted_ms = 0 ORDER BY id LIMIT " PAGE_ROWS,
                    take_projects, &list);
    if (!err)
        err = keep(&list, (void **)&part->projects);
    part->project_count = list.rows.len / sizeof(*part->projects);
    buf_fini(&list.rows);
    if (!err)
        identity_part_sort(part->projects, part->project_count);
    return err;
}

/* ---- keys ---- */

/* A JSON list of texts. */
static err_t load_list(struct str json, struct arena *arena, struct conf_strings *out)
{
    struct str own, element;
    size_t count = 0;

    *out = (struct conf_strings){0};
    if (json.len == 0)
        return NULL;
    TRY(copy_text(arena, json, &own));
    TRY(json_check(own));
    for (size_t at = 0; json_array_next(own, &at, &element);)
        count++;
    out->items = arena_alloc_array(arena, count, sizeof(*out->items));
    if (!out->items)
        return arena_err(arena);
    for (size_t at = 0; json_array_next(own, &at, &element);)
        if (!json_text(element, arena, &out->items[out->count++]))
            return err_new(ERR_BAD_REQUEST, "a list in the store holds something else than text");
    return NULL;
}

static enum identity_realm realm_of(unsigned scopes, struct str org, struct str project)
{
    if (!(scopes & IDENTITY_ADMIN))
        return REALM_NONE;
    return project.len ? REALM_PROJECT : org.len ? REALM_ORG : REALM_ALL;
}

static void take_project(struct identity_key *key, const struct identity_project *project)
{
    key->project = project->id;
    key->org = project->org;
    key->tier = project->tier;
    key->project_allowance = project->allowance;
}

/* What the key has from its project, or the organisation it rules. Whoever rules over all asks models on the account of the
 * default project, but is not shut out with it. */
static err_t set_tenant(const struct list *list, const struct db_rows *rows, size_t i,
                        struct identity_key *key)
{
    struct str id = db_text(rows, i, KEY_PROJECT), org = db_text(rows, i, KEY_ORG);
    const struct identity_project *project =
        identity_part_project(list->tenants, id.len || org.len ? id : STR("default"));

    key->realm = realm_of(key->scopes, org, id);
    key->is_disabled |= id.len > 0 && (!project || project->is_disabled);
    key->is_disabled |= org.len > 0 && !identity_part_has_org(list->tenants, org);
    if (project) {
        take_project(key, project);
        return NULL;
    }
    TRY(copy_text(list->part->arena, id, &key->project));
    key->tier = STR("");
    return copy_text(list->part->arena, org, &key->org);
}

static err_t read_key(const struct list *list, const struct db_rows *rows, size_t i,
                      struct identity_key *key)
{
    struct arena *arena = list->part->arena;

    *key = (struct identity_key){.scopes = (unsigned)db_int(rows, i, KEY_SCOPES),
                                 .expires_ms = (uint64_t)db_int(rows, i, KEY_EXPIRES),
                                 .is_disabled =
                                     db_int(rows, i, KEY_DISABLED) || db_int(rows, i, KEY_REVOKED)};
    TRY(copy_text(arena, db_text(rows, i, KEY_ID), &key->id));
    TRY(copy_text(arena, db_text(rows, i, KEY_NAME), &key->name));
    TRY(set_tenant(list, rows, i, key));
    TRY(load_list(db_text(rows, i, KEY_MODELS), arena, &key->models));
    TRY(load_list(db_text(rows, i, KEY_IPS), arena, &key->ips));
    list->part->has_admin |= key->realm == REALM_ALL;
    return load_allowance(key->id, db_text(rows, i, KEY_LIMITS), db_text(rows, i, KEY_BUDGETS),
                          arena, &key->allowance, &key->is_disabled);
}

static bool take_hash(struct str blob, struct identity_entry *entry)
{
    if (blob.len != IDENTITY_HASH_BYTES)
        return false;
    memcpy(entry->hash, blob.ptr, blob.len);
    return true;
}

/* A key that was rotated is there under two secrets for a while. */
static err_t take_keys(const struct db_rows *rows, void *arg)
{
    struct list *list = arg;

    for (size_t i = 0; i < rows->count; i++) {
        struct identity_entry entry = {0};
        uint64_t old_expires_ms = (uint64_t)db_int(rows, i, KEY_OLD_EXPIRES);
        TRY(read_key(list, rows, i, &entry.key));
        if (take_hash(db_text(rows, i, KEY_HASH), &entry))
            TRY(add(&list->rows, &entry, sizeof(entry)));
        if (!take_hash(db_text(rows, i, KEY_OLD_HASH), &entry))
            continue;
        entry.is_old = true;
        if (entry.key.expires_ms == 0 || entry.key.expires_ms > old_expires_ms)
            entry.key.expires_ms = old_expires_ms;
        TRY(add(&list->rows, &entry, sizeof(entry)));
    }
    return NULL;
}

static err_t make_table(struct list *list)
{
    struct identity_entry *entries;

    TRY(keep(list, (void **)&entries));
    return identity_table_make(entries, list->rows.len / sizeof(*entries), list->part->arena,
                               &list->part->keys);
}

static err_t read_keys(struct reading *r, int64_t version)
{
    struct identity_part *part = r->fresh.keys = identity_part_new();
    struct list list = {.part = part,
                        .tenants = r->fresh.tenants ? r->fresh.tenants : r->before->tenants,
                        .rows = buf_make(MEM_PROCESS, LIST_MAX_BYTES)};
    err_t err;

    if (!part)
        return err_no_memory();
    part->version = version;
    err = each_page(r->tx,
                    "SELECT " KEY_COLUMNS " FROM keys WHERE id > $1 ORDER BY id LIMIT " PAGE_ROWS,
                    take_keys, &list);
    if (!err)
        err = make_table(&list);
    buf_fini(&list.rows);
    return err;
}

/* Those that have changed since all were read. */
static err_t read_recent(struct reading *r, int64_t version)
{
    struct identity_part *part = r->fresh.recent = identity_part_new();
    struct arena *arena = arena_new(MEM_PROCESS, PAGE_MAX_BYTES);
    struct list list = {
        .part = part, .tenants = r->before->tenants, .rows = buf_make(MEM_PROCESS, LIST_MAX_BYTES)};
    struct db_rows rows;
    err_t err = part && arena ? NULL : err_no_memory();

    if (!err)
        err = db_tx_run(r->tx,
                        DB_ASK("SELECT " KEY_COLUMNS " FROM keys WHERE changed > $1",
                               DB_OF_INT(r->before->keys->version)),
                        arena, &rows);
    if (!err)
        err = take_keys(&rows, &list);
    if (!err)
        err = make_table(&list);
    if (part)
        part->version = version;
    buf_fini(&list.rows);
    arena_free(arena);
    return err;
}

/* ---- users ---- */

static int compare_texts(const void *a, const void *b)
{
    const struct str *x = a, *y = b;
    size_t len = x->len < y->len ? x->len : y->len;
    int order = len ? memcmp(x->ptr, y->ptr, len) : 0;

    return order ? order : (x->len > y->len) - (x->len < y->len);
}

static err_t take_users(const struct db_rows *rows, void *arg)
{
    struct list *list = arg;

    for (size_t i = 0; i < rows->count; i++) {
        struct str id;
        TRY(copy_text(list->part->arena, db_text(rows, i, 0), &id));
        TRY(add(&list->rows, &id, sizeof(id)));
    }
    return NULL;
}

static err_t read_users(struct reading *r, int64_t version)
{
    struct identity_part *part = r->fresh.users = identity_part_new();
    struct list list = {.part = part, .rows = buf_make(MEM_PROCESS, LIST_MAX_BYTES)};
    err_t err;

    if (!part)
        return err_no_memory();
    part->version = version;
    err = each_page(r->tx,
                    "SELECT id FROM users WHERE id > $1 AND suspended <> 0 "
                    "ORDER BY id LIMIT " PAGE_ROWS,
                    take_users, &list);
    if (!err)
        err = keep(&list, (void **)&part->suspended);
    part->suspended_count = list.rows.len / sizeof(struct str);
    buf_fini(&list.rows);
    if (!err && part->suspended_count > 0)
        qsort(part->suspended, part->suspended_count, sizeof(struct str), compare_texts);
    return err;
}

/* ---- all of it ---- */

/* Whether few enough changed for a part of their own. */
static bool is_small(const struct identity_part *recent, const struct identity_part *keys)
{
    return recent->keys.count <= RECENT_AT_LEAST + keys->keys.count / 64;
}

static err_t read_changes(struct reading *r, int64_t version, int64_t tenants, int64_t users)
{
    const struct identity_parts *before = r->before;
    bool is_all = !before->tenants || before->tenants->version < tenants || !before->keys ||
                  version < before->version; /* an older state of the store was put back */

    if (is_all) {
        TRY(read_tenants(r, tenants));
    } else {
        TRY(read_recent(r, version));
        is_all = !is_small(r->fresh.recent, before->keys);
    }
    if (is_all) {
        identity_part_unref(r->fresh.recent);
        r->fresh.recent = NULL;
        TRY(read_keys(r, version));
    }
    if (!before->users || before->users->version != users)
        TRY(read_users(r, users));
    return NULL;
}

static err_t read_in_transaction(struct db_tx *tx, void *arg)
{
    struct reading *r = arg;
    struct arena *arena = arena_new(MEM_PROCESS, 64 * 1024);
    struct db_rows rows;
    err_t err;

    identity_parts_unref(&r->fresh); /* of an earlier run */
    r->tx = tx;
    if (!arena)
        return err_no_memory();
    err = db_tx_run(
        tx, DB_ASK_PLAIN("SELECT version, tenants, users FROM identity_version WHERE id = 1"),
        arena, &rows);
    if (!err && rows.count != 1)
        err = err_new(ERR_STORE, "the store has no identity_version");
    r->fresh.version = err ? 0 : db_int(&rows, 0, 0);
    if (!err && r->fresh.version != r->before->version)
        err = read_changes(r, r->fresh.version, db_int(&rows, 0, 1), db_int(&rows, 0, 2));
    arena_free(arena);
    return err;
}

static void replace(struct identity_part **part, struct identity_part *fresh)
{
    if (!fresh)
        return;
    identity_part_unref(*part);
    *part = fresh;
}

err_t identity_parts_read(struct db *db, struct identity_parts *parts, bool *changed)
{
    struct reading r = {.before = parts};
    err_t err = db_transact(db, DB_READ, read_in_transaction, &r);

    *changed = false;
    if (err) {
        identity_parts_unref(&r.fresh);
        return err;
    }
    if (r.fresh.version == parts->version)
        return NULL;
    if (r.fresh.keys) { /* all of them: nothing is more recent */
        identity_part_unref(parts->recent);
        parts->recent = NULL;
    }
    replace(&parts->tenants, r.fresh.tenants);
    replace(&parts->keys, r.fresh.keys);
    replace(&parts->recent, r.fresh.recent);
    replace(&parts->users, r.fresh.users);
    parts->version = r.fresh.version;
    *changed = true;
    return NULL;
}
