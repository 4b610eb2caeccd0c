/* SPDX-License-Identifier: Apache-2.0 */
/* Reading and changing objects.
 *
 * Every change begins with the next number of identity_version, whose row lock puts changes in a line; then the row is read
 * within the realm, changed in memory, and written with its line of the audit log. The function that does it may run
 * again from its start, so it keeps nothing from an earlier run. */
#include "govern/identity_store.h"

#include <stdio.h>

#include "base/json_members.h"
#include "base/sys.h"
#include "govern/allowance.h"
#include "govern/identity_object.h"
#include "govern/identity_page.h"
#include "govern/identity_part.h"
#include "govern/identity_secret.h"
#include "observe/log.h"

#define MAX_MEMBERS    32
#define MAX_DETAIL     ((size_t)16 * 1024)
#define MAX_OVERLAP_MS UINT64_C(31536000000)
#define DEFAULT_ID     STR("default")

/* A change in progress. */
struct change {
    const struct identity_call *call;
    const struct identity_object *object;
    const char *verb; /* "create" */
    err_t (*fn)(struct change *c);
    struct json_member members[MAX_MEMBERS];
    size_t member_count;
    struct str secret;                 /* the new key */
    uint8_t hash[IDENTITY_HASH_BYTES]; /* its */
    char new_id[IDENTITY_ID_BYTES];
    int64_t now_ms, overlap_ms;
    /* While it runs: */
    struct db_tx *tx;
    int64_t version;
    struct db_value row[IDENTITY_MAX_FIELDS + 2]; /* with the two further parameters of keys */
};

bool identity_has_store(void)
{
    return identity_db() != NULL;
}

/* ---- refusals ---- */

static err_t no_such(const struct identity_object *object)
{
    return err_new_detail(ERR_NOT_FOUND, (.code = "not_found"), "there is no %s with this id",
                          object->name);
}

static err_t not_yours(void)
{
    return err_new_detail(ERR_DENIED, (.status = 403, .code = "insufficient_permissions"),
                          "this needs a key that rules over more");
}

static err_t needed(const char *member)
{
    return err_new_detail(ERR_BAD_REQUEST, (.code = "missing_parameter", .param = member),
                          "%s is needed", member);
}

/* ---- reading ---- */

/* Within a transaction, or (tx NULL) on its own. */
static err_t read_one(struct db_tx *tx, const struct identity_object *object,
                      const struct identity_call *call, struct str id, struct db_value *row)
{
    const struct identity_actor *actor = call->actor;
    struct db_ask ask =
        DB_ASK(object->one, DB_OF_TEXT(id), DB_OF_TEXT(actor->org), DB_OF_TEXT(actor->project));
    struct db_rows rows;

    TRY(tx ? db_tx_run(tx, ask, call->arena, &rows)
           : db_run(identity_db(), DB_READ, ask, call->arena, &rows));
    if (rows.count == 0)
        return no_such(object);
    for (size_t i = 0; i < object->field_count; i++)
        row[i] = *db_cell(&rows, 0, i);
    return NULL;
}

static err_t write_one(const struct identity_call *call, const struct db_value *row,
                       struct str secret)
{
    struct json_writer w = json_writer_make(call->out);

    identity_object_write(identity_object_get(call->type), row, secret, &w);
    return json_writer_err(&w);
}

err_t identity_show(const struct identity_call *call)
{
    struct db_value row[IDENTITY_MAX_FIELDS];

    TRY(read_one(NULL, identity_object_get(call->type), call, call->id, row));
    return write_one(call, row, STR(""));
}

err_t identity_list(const struct identity_call *call, const struct identity_page *page)
{
    const struct identity_object *object = identity_object_get(call->type);
    const struct identity_actor *actor = call->actor;
    struct json_writer w = json_writer_make(call->out);
    struct identity_place after;
    struct db_rows rows;
    size_t count;

    TRY(identity_place_read(object->name, page->cursor, call->arena, &after));
    TRY(db_run(identity_db(), DB_READ,
               DB_ASK(object->page, DB_OF_TEXT(actor->org), DB_OF_TEXT(actor->project),
                      DB_OF_TEXT(page->org), DB_OF_TEXT(page->project), DB_OF_INT(after.number),
                      DB_OF_TEXT(after.id), DB_OF_INT(page->limit + 1)),
               call->arena, &rows));
    count = rows.count > page->limit ? page->limit : rows.count;
    json_open_object(&w);
    json_put_text(&w, "object", STR("list"));
    json_put_array(&w, "data");
    for (size_t i = 0; i < count; i++)
        identity_object_write(object, db_cell(&rows, i, 0), STR(""), &w);
    json_close_array(&w);
    if (count < rows.count)
        after = (struct identity_place){db_int(&rows, count - 1, object->created),
                                        db_text(&rows, count - 1, 0)};
    identity_place_write(object->name, count < rows.count ? &after : NULL, &w);
    json_close_object(&w);
    return json_writer_err(&w);
}

/* ---- what every change does ---- */

static struct str detail_of(const struct change *c)
{
    struct str body = c->call->body;

    if (body.len == 0)
        return STR("{}");
    return body.len <= MAX_DETAIL ? body : STR("{\"too_long_to_keep\":true}");
}

/* The organisation and project that an object belongs to. */
static void owners_of(const struct change *c, struct str *org, struct str *project)
{
    *org = *project = STR("");
    switch (c->call->type) {
    case IDENTITY_ORGS:
        *org = c->row[0].bytes;
        break;
    case IDENTITY_PROJECTS:
        *org = c->row[PROJECT_ORG].bytes;
        *project = c->row[0].bytes;
        break;
    case IDENTITY_KEYS:
        *org = c->row[KEY_FIELD_ORG].bytes;
        *project = c->row[KEY_FIELD_PROJECT].bytes;
        break;
    case IDENTITY_USERS:
        *project = c->row[USER_PROJECT].bytes;
        break;
    }
}

static err_t add_audit(struct change *c)
{
    const struct identity_actor *actor = c->call->actor;
    struct str org, project;
    char *action = arena_printf(c->call->arena, "%s.%s", c->object->name, c->verb);

    if (!action)
        return arena_err(c->call->arena);
    owners_of(c, &org, &project);
    return db_tx_run(
        c->tx,
        DB_ASK("INSERT INTO audit (at_ms, actor, actor_name, ip, org_id, project_id, action, "
               "object, detail) VALUES ($1, $2, $3, $4, CASE WHEN $5 = '' AND $6 <> '' THEN "
               "(SELECT org_id FROM projects WHERE id = $6) ELSE $5 END, $6, $7, $8, $9)",
               DB_OF_INT(c->now_ms), DB_OF_TEXT(actor->key), DB_OF_TEXT(actor->name),
               DB_OF_TEXT(actor->ip), DB_OF_TEXT(org), DB_OF_TEXT(project),
               DB_OF_TEXT(str_from(action)), DB_OF_TEXT(c->row[0].bytes), DB_OF_TEXT(detail_of(c))),
        NULL, NULL);
}

static err_t next_version(struct change *c)
{
    static const char *const others[] = {
        [IDENTITY_ORGS] = "UPDATE identity_version SET version = version + 1, "
                          "tenants = version + 1 WHERE id = 1",
        [IDENTITY_PROJECTS] = "UPDATE identity_version SET version = version + 1, "
                              "tenants = version + 1 WHERE id = 1",
        [IDENTITY_KEYS] = "UPDATE identity_version SET version = version + 1 WHERE id = 1",
        [IDENTITY_USERS] = "UPDATE identity_version SET version = version + 1, "
                           "users = version + 1 WHERE id = 1"};
    struct db_rows rows;

    TRY(db_tx_run(c->tx, DB_ASK_PLAIN(others[c->call->type]), NULL, NULL));
    TRY(db_tx_run(c->tx, DB_ASK_PLAIN("SELECT version FROM identity_version WHERE id = 1"),
                  c->call->arena, &rows));
    c->version = rows.count ? db_int(&rows, 0, 0) : 0;
    return NULL;
}

static err_t change_in_transaction(struct db_tx *tx, void *arg)
{
    struct change *c = arg;

    c->tx = tx;
    TRY(next_version(c));
    TRY(c->fn(c));
    TRY(add_audit(c));
    return db_tx_notify(tx, "identity");
}

/* Members of the body, each once. */
static err_t read_members(struct change *c)
{
    bool is_object = true;

    if (c->call->body.len == 0)
        return NULL;
    TRY(json_members_read(c->call->body, c->members, MAX_MEMBERS, &c->member_count, &is_object));
    if (!is_object || c->member_count > MAX_MEMBERS)
        return err_new_detail(ERR_BAD_REQUEST, (.code = "invalid_json"),
                              "the body must be a JSON object");
    for (size_t i = 0; i < c->member_count; i++)
        for (size_t k = 0; k < i; k++)
            if (str_eq(c->members[i].key, c->members[k].key))
                return err_new_detail(ERR_BAD_REQUEST, (.code = "duplicate_parameter"),
                                      "a member stands in the body twice");
    return NULL;
}

/* PARKS: run a change and put it in force. What it says is in c->row. */
static err_t run_change(struct change *c)
{
    err_t err;

    c->object = identity_object_get(c->call->type);
    c->now_ms = (int64_t)sys_wall_ms();
    TRY(read_members(c));
    TRY(db_transact(identity_db(), DB_WRITE, change_in_transaction, c));
    err = identity_refresh();
    if (err) /* it is done, and will be in force when the store can be read again */
        log_error("a change of keys is not in force yet", err);
    return NULL;
}

/* ---- members of the body ---- */

static const struct json_member *member_get(const struct change *c, const char *name)
{
    for (size_t i = 0; i < c->member_count; i++)
        if (json_key_is(&c->members[i], str_from(name)))
            return &c->members[i];
    return NULL;
}

/* Whether who asks is ruled by the object as a whole: it may not lift its own limits. */
static bool is_own(const struct change *c)
{
    const struct identity_actor *actor = c->call->actor;

    return (c->call->type == IDENTITY_ORGS && actor->org.len > 0) ||
           (c->call->type == IDENTITY_PROJECTS && actor->project.len > 0);
}

/* Of limits and budgets a change names those that it means: the others stay. */
static err_t keep_others(const struct identity_field *field, struct str before, struct arena *arena,
                         struct db_value *value)
{
    bool is_allowance = field->kind == FIELD_LIMITS || field->kind == FIELD_BUDGETS;

    if (!is_allowance || before.len == 0 || value->bytes.len == 0)
        return NULL;
    return allowance_merge(before, value->bytes, arena, &value->bytes);
}

static err_t set_member(struct change *c, const struct json_member *m, bool is_new)
{
    for (size_t i = 0; i < c->object->field_count; i++) {
        const struct identity_field *field = &c->object->fields[i];
        if (!json_key_is(m, str_from(field->name)))
            continue;
        if (field->right == FIELD_SHOWN || (field->right == FIELD_ONCE && !is_new))
            return err_new_detail(ERR_BAD_REQUEST, (.code = "invalid_value", .param = field->name),
                                  "%s cannot be set", field->name);
        if (field->right == FIELD_ABOVE && !is_new && is_own(c))
            return not_yours();
        struct str before = c->row[i].bytes;
        TRY(identity_field_read(field, m->value, c->call->arena, &c->row[i]));
        return is_new ? NULL : keep_others(field, before, c->call->arena, &c->row[i]);
    }
    return err_new_detail(ERR_BAD_REQUEST, (.code = "unknown_parameter"),
                          "a %s has no member \"%.*s\"", c->object->name,
                          (int)(m->key.len < 64 ? m->key.len : 64), m->key.ptr);
}

static err_t set_members(struct change *c, bool is_new)
{
    for (size_t i = 0; i < c->member_count; i++)
        TRY(set_member(c, &c->members[i], is_new));
    return NULL;
}

/* ---- creating ---- */

/* A project or organisation that the body names must be there, in the realm. */
static err_t need(struct change *c, enum identity_type type, struct str id, struct db_value *row)
{
    return read_one(c->tx, identity_object_get(type), c->call, id, row);
}

static err_t place_project(struct change *c)
{
    const struct identity_actor *actor = c->call->actor;
    struct db_value org[IDENTITY_MAX_FIELDS];

    if (actor->project.len)
        return not_yours();
    if (c->row[PROJECT_ORG].bytes.len == 0)
        c->row[PROJECT_ORG] = DB_OF_TEXT(actor->org.len ? actor->org : DEFAULT_ID);
    return need(c, IDENTITY_ORGS, c->row[PROJECT_ORG].bytes, org);
}

/* Which keys may be. One without project rules: its organisation, or all; then it may ask models, too, on the account of the
 * default project. */
static err_t check_key(const struct db_value *row)
{
    bool has_project = row[KEY_FIELD_PROJECT].bytes.len > 0;
    bool has_org = row[KEY_FIELD_ORG].bytes.len > 0;
    int64_t scopes = row[KEY_FIELD_SCOPES].number;

    if (has_project || (has_org ? scopes == IDENTITY_ADMIN : (scopes & IDENTITY_ADMIN) != 0))
        return NULL;
    return err_new_detail(ERR_BAD_REQUEST, (.code = "invalid_value", .param = "scopes"),
                          has_org ? "a key of an organisation has the scope admin alone"
                                  : "a key without project has the scope admin");
}

/* What is not said follows from who asks. */
static void choose_project(struct change *c)
{
    const struct identity_actor *actor = c->call->actor;
    struct db_value *org = &c->row[KEY_FIELD_ORG], *project = &c->row[KEY_FIELD_PROJECT];

    if (project->bytes.len || org->bytes.len)
        return;
    if (actor->project.len)
        *project = DB_OF_TEXT(actor->project);
    else if (actor->org.len)
        *org = DB_OF_TEXT(actor->org);
    else if (!(c->row[KEY_FIELD_SCOPES].number & IDENTITY_ADMIN))
        *project = DB_OF_TEXT(DEFAULT_ID);
}

static err_t place_key(struct change *c)
{
    struct db_value *org = &c->row[KEY_FIELD_ORG], *project = &c->row[KEY_FIELD_PROJECT];
    struct db_value found[IDENTITY_MAX_FIELDS];

    choose_project(c);
    if (project->bytes.len) {
        TRY(need(c, IDENTITY_PROJECTS, project->bytes, found));
        if (org->bytes.len && !str_eq(org->bytes, found[PROJECT_ORG].bytes))
            return no_such(identity_object_get(IDENTITY_ORGS));
        *org = found[PROJECT_ORG];
    } else if (org->bytes.len) {
        TRY(need(c, IDENTITY_ORGS, org->bytes, found));
    }
    TRY(check_key(c->row));
    c->row[KEY_FIELD_HINT] = DB_OF_TEXT(str_after(c->secret, c->secret.len - 4));
    c->row[c->object->field_count] = DB_OF_INT(c->version);
    c->row[c->object->field_count + 1] =
        DB_OF_BLOB(((struct str){(const char *)c->hash, sizeof(c->hash)}));
    return NULL;
}

static err_t place_user(struct change *c)
{
    struct db_value *project = &c->row[USER_PROJECT], found[IDENTITY_MAX_FIELDS];
    char *id;

    if (c->row[USER_NAME].bytes.len == 0)
        return needed("user");
    if (project->bytes.len == 0)
        *project = DB_OF_TEXT(c->call->actor->project.len ? c->call->actor->project : DEFAULT_ID);
    TRY(need(c, IDENTITY_PROJECTS, project->bytes, found));
    id = arena_printf(c->call->arena, "%.*s/%.*s", STR_ARG(project->bytes),
                      STR_ARG(c->row[USER_NAME].bytes));
    c->row[0] = DB_OF_TEXT(str_from(id));
    return id ? NULL : arena_err(c->call->arena);
}

static err_t place(struct change *c)
{
    switch (c->call->type) {
    case IDENTITY_ORGS:
        return c->call->actor->org.len ? not_yours() : NULL;
    case IDENTITY_PROJECTS:
        return place_project(c);
    case IDENTITY_KEYS:
        return place_key(c);
    case IDENTITY_USERS:
        return place_user(c);
    }
    return NULL;
}

static err_t create(struct change *c)
{
    size_t extra = c->call->type == IDENTITY_KEYS ? 2 : 0;

    for (size_t i = 0; i < c->object->field_count; i++)
        c->row[i] = identity_field_default(&c->object->fields[i]);
    c->row[0] = DB_OF_TEXT(str_from(c->new_id));
    c->row[c->object->created] = DB_OF_INT(c->now_ms);
    TRY(set_members(c, true));
    if (c->call->type != IDENTITY_USERS && !member_get(c, "name"))
        return needed("name");
    TRY(place(c));
    return db_tx_run(c->tx,
                     (struct db_ask){c->object->insert, c->row, c->object->field_count + extra},
                     NULL, NULL);
}

static err_t mint(struct change *c)
{
    char *text = arena_alloc(c->call->arena, IDENTITY_KEY_BYTES);

    if (!text)
        return arena_err(c->call->arena);
    identity_mint_key(text);
    c->secret = str_from(text);
    return identity_hash(c->secret, c->hash);
}

err_t identity_create(const struct identity_call *call)
{
    struct change *c = arena_new_struct(call->arena, struct change);
    const struct identity_object *object = identity_object_get(call->type);

    if (!c)
        return arena_err(call->arena);
    c->call = call;
    c->verb = "create";
    c->fn = create;
    if (object->prefix)
        identity_mint_id(object->prefix, c->new_id);
    if (call->type == IDENTITY_KEYS)
        TRY(mint(c));
    TRY(run_change(c));
    return write_one(call, c->row, c->secret);
}

/* ---- changing ---- */

static err_t refuse_revoked(void)
{
    return err_new_detail(ERR_BAD_REQUEST, (.status = 409, .code = "key_revoked"),
                          "this key is revoked for good: create another one");
}

static err_t update(struct change *c)
{
    size_t extra = c->call->type == IDENTITY_KEYS;

    TRY(need(c, c->call->type, c->call->id, c->row));
    TRY(set_members(c, false));
    if (c->call->type == IDENTITY_KEYS) {
        if (c->row[KEY_FIELD_REVOKED].number)
            return refuse_revoked();
        TRY(check_key(c->row));
        c->row[c->object->field_count] = DB_OF_INT(c->version);
    }
    return db_tx_run(c->tx,
                     (struct db_ask){c->object->update, c->row, c->object->field_count + extra},
                     NULL, NULL);
}

err_t identity_update(const struct identity_call *call)
{
    struct change *c = arena_new_struct(call->arena, struct change);

    if (!c)
        return arena_err(call->arena);
    c->call = call;
    c->verb = "update";
    c->fn = update;
    TRY(run_change(c));
    return write_one(call, c->row, STR(""));
}

/* ---- removing ---- */

/* How many parameters a statement takes, up to three. */
static size_t parameters_of(const char *sql)
{
    return strstr(sql, "$3") ? 3 : strstr(sql, "$2") ? 2 : 1;
}

static err_t remove_object(struct change *c)
{
    TRY(need(c, c->call->type, c->call->id, c->row));
    if (is_own(c))
        return not_yours();
    if (str_eq(c->call->id, DEFAULT_ID))
        return err_new_detail(ERR_BAD_REQUEST, (.status = 409, .code = "is_default"),
                              "the default %s stays: disable it instead", c->object->name);
    struct db_value values[] = {DB_OF_TEXT(c->call->id), DB_OF_INT(c->now_ms),
                                DB_OF_INT(c->version)};
    for (size_t i = 0; c->object->remove[i]; i++) {
        const char *sql = c->object->remove[i];
        TRY(db_tx_run(c->tx, (struct db_ask){sql, values, parameters_of(sql)}, NULL, NULL));
    }
    return NULL;
}

err_t identity_remove(const struct identity_call *call)
{
    struct change *c = arena_new_struct(call->arena, struct change);
    struct json_writer w = json_writer_make(call->out);

    if (!c)
        return arena_err(call->arena);
    c->call = call;
    c->verb = call->type == IDENTITY_KEYS ? "revoke" : "delete";
    c->fn = remove_object;
    TRY(run_change(c));
    json_open_object(&w);
    json_put_text(&w, "object", str_from(c->object->name));
    json_put_text(&w, "id", call->id);
    json_put_bool(&w, call->type == IDENTITY_KEYS ? "revoked" : "deleted", true);
    json_close_object(&w);
    return json_writer_err(&w);
}

/* ---- rotating ---- */

static err_t read_overlap(struct change *c)
{
    static const struct identity_field field = {"overlap", FIELD_EXPIRES, FIELD_FREE};
    struct db_value until;

    for (size_t i = 0; i < c->member_count; i++) {
        if (!json_key_is(&c->members[i], STR("overlap")))
            return err_new_detail(ERR_BAD_REQUEST, (.code = "unknown_parameter"),
                                  "a rotation has the member overlap alone");
        if (str_eq(c->members[i].value, STR("\"0\"")) || str_eq(c->members[i].value, STR("\"0s\"")))
            continue;
        TRY(identity_field_read(&field, c->members[i].value, c->call->arena, &until));
        c->overlap_ms = until.number ? until.number - c->now_ms : 0;
    }
    if (c->overlap_ms < 0 || (uint64_t)c->overlap_ms > MAX_OVERLAP_MS)
        return err_new_detail(ERR_BAD_REQUEST, (.code = "invalid_value", .param = "overlap"),
                              "overlap must be a duration of at most 365d");
    return NULL;
}

static err_t rotate(struct change *c)
{
    struct str hash = {(const char *)c->hash, sizeof(c->hash)};

    TRY(need(c, IDENTITY_KEYS, c->call->id, c->row));
    if (c->row[KEY_FIELD_REVOKED].number)
        return refuse_revoked();
    TRY(read_overlap(c));
    TRY(db_tx_run(c->tx,
                  DB_ASK("UPDATE keys SET old_hash = hash, old_expires_ms = $2, hash = $3, "
                         "hint = $4, rotated_ms = $5, changed = $6 WHERE id = $1",
                         DB_OF_TEXT(c->call->id), DB_OF_INT(c->now_ms + c->overlap_ms),
                         DB_OF_BLOB(hash), DB_OF_TEXT(str_after(c->secret, c->secret.len - 4)),
                         DB_OF_INT(c->now_ms), DB_OF_INT(c->version)),
                  NULL, NULL));
    return need(c, IDENTITY_KEYS, c->call->id, c->row);
}

err_t identity_rotate(const struct identity_call *call)
{
    struct change *c = arena_new_struct(call->arena, struct change);

    if (!c)
        return arena_err(call->arena);
    c->call = call;
    c->verb = "rotate";
    c->fn = rotate;
    TRY(mint(c));
    TRY(run_change(c));
    return write_one(call, c->row, c->secret);
}
