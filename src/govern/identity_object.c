/* SPDX-License-Identifier: Apache-2.0 */
/* The four tables. What lies outside a realm is left out by the statement itself, so that it looks as if it were not
 * there. */
#include "govern/identity_object.h"

#include "base/check.h"
#include "base/sys.h"

/* ---- organisations ---- */

static const struct identity_field org_fields[] = {{"id", FIELD_TEXT, FIELD_SHOWN},
                                                   {"name", FIELD_NAME, FIELD_FREE},
                                                   {"disabled", FIELD_BOOL, FIELD_ABOVE},
                                                   {"created", FIELD_TIME, FIELD_SHOWN}};

#define ORG_COLUMNS "SELECT id, name, disabled, created_ms FROM orgs "

/* ---- projects ---- */

static const struct identity_field project_fields[] = {
    {"id", FIELD_TEXT, FIELD_SHOWN},       {"org", FIELD_TEXT, FIELD_ONCE},
    {"name", FIELD_NAME, FIELD_FREE},      {"tier", FIELD_TIER, FIELD_ABOVE},
    {"limits", FIELD_LIMITS, FIELD_ABOVE}, {"budgets", FIELD_BUDGETS, FIELD_ABOVE},
    {"disabled", FIELD_BOOL, FIELD_ABOVE}, {"created", FIELD_TIME, FIELD_SHOWN}};

#define PROJECT_COLUMNS                                                                            \
    "SELECT id, org_id, name, tier, limits, budgets, disabled, created_ms FROM projects "

/* ---- keys ---- */

static const struct identity_field key_fields[] = {
    {"id", FIELD_TEXT, FIELD_SHOWN},          {"org", FIELD_TEXT, FIELD_ONCE},
    {"project", FIELD_TEXT, FIELD_ONCE},      {"name", FIELD_NAME, FIELD_FREE},
    {"hint", FIELD_TEXT, FIELD_SHOWN},        {"scopes", FIELD_SCOPES, FIELD_FREE},
    {"models", FIELD_MODELS, FIELD_FREE},     {"ips", FIELD_IPS, FIELD_FREE},
    {"limits", FIELD_LIMITS, FIELD_FREE},     {"budgets", FIELD_BUDGETS, FIELD_FREE},
    {"expires", FIELD_EXPIRES, FIELD_FREE},   {"disabled", FIELD_BOOL, FIELD_FREE},
    {"created", FIELD_TIME, FIELD_SHOWN},     {"rotated", FIELD_TIME, FIELD_SHOWN},
    {"old_expires", FIELD_TIME, FIELD_SHOWN}, {"revoked", FIELD_TIME, FIELD_SHOWN}};

#define KEY_COLUMNS                                                                                \
    "SELECT id, org_id, project_id, name, hint, scopes, models, ips, limits, budgets, "            \
    "expires_ms, disabled, created_ms, rotated_ms, old_expires_ms, revoked_ms FROM keys "

/* ---- users ---- */

static const struct identity_field user_fields[] = {{"id", FIELD_TEXT, FIELD_SHOWN},
                                                    {"project", FIELD_TEXT, FIELD_ONCE},
                                                    {"user", FIELD_NAME, FIELD_ONCE},
                                                    {"suspended", FIELD_BOOL, FIELD_FREE},
                                                    {"created", FIELD_TIME, FIELD_SHOWN}};

#define USER_COLUMNS                                                                               \
    "SELECT u.id, u.project_id, u.name, u.suspended, u.created_ms FROM users u "                   \
    "JOIN projects p ON p.id = u.project_id "

/* ---- the tables ---- */

#define FIELDS(list) .fields = list, .field_count = sizeof(list) / sizeof(*(list))
#define AFTER(created, id)                                                                         \
    "AND (" created " > $5 OR (" created " = $5 AND " id " > $6)) "                                \
    "ORDER BY " created ", " id " LIMIT $7"

static const struct identity_object objects[] = {
    [IDENTITY_ORGS] =
        {
            .name = "org",
            .prefix = "org_",
            FIELDS(org_fields),
            .created = 3,
            .one =
                ORG_COLUMNS "WHERE id = $1 AND deleted_ms = 0 AND ($2 = '' OR id = $2) AND $3 = ''",
            .page = ORG_COLUMNS "WHERE deleted_ms = 0 AND ($1 = '' OR id = $1) AND $2 = '' "
                                "AND ($3 = '' OR id = $3) AND $4 = '' " AFTER("created_ms", "id"),
            .insert = "INSERT INTO orgs (id, name, disabled, created_ms) VALUES ($1, $2, $3, $4)",
            .update = "UPDATE orgs SET name = $2, disabled = $3, created_ms = $4 WHERE id = $1",
            .remove = {"UPDATE orgs SET deleted_ms = $2 WHERE id = $1",
                       "UPDATE projects SET deleted_ms = $2 WHERE org_id = $1 AND deleted_ms = 0",
                       "UPDATE keys SET revoked_ms = $2, changed = $3 WHERE org_id = $1 "
                       "AND revoked_ms = 0"},
        },
    [IDENTITY_PROJECTS] =
        {
            .name = "project",
            .prefix = "proj_",
            FIELDS(project_fields),
            .created = 7,
            .one = PROJECT_COLUMNS "WHERE id = $1 AND deleted_ms = 0 "
                                   "AND ($2 = '' OR org_id = $2) AND ($3 = '' OR id = $3)",
            .page = PROJECT_COLUMNS
            "WHERE deleted_ms = 0 AND ($1 = '' OR org_id = $1) AND ($2 = '' OR id = $2) "
            "AND ($3 = '' OR org_id = $3) AND ($4 = '' OR id = $4) " AFTER("created_ms", "id"),
            .insert = "INSERT INTO projects (id, org_id, name, tier, limits, budgets, disabled, "
                      "created_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            .update = "UPDATE projects SET org_id = $2, name = $3, tier = $4, limits = $5, "
                      "budgets = $6, disabled = $7, created_ms = $8 WHERE id = $1",
            .remove = {"UPDATE projects SET deleted_ms = $2 WHERE id = $1",
                       "UPDATE keys SET revoked_ms = $2, changed = $3 WHERE project_id = $1 "
                       "AND revoked_ms = 0"},
        },
    [IDENTITY_KEYS] =
        {
            .name = "key",
            .prefix = "key_",
            FIELDS(key_fields),
            .created = 12,
            .one = KEY_COLUMNS
            "WHERE id = $1 AND ($2 = '' OR org_id = $2) AND ($3 = '' OR project_id = $3)",
            .page = KEY_COLUMNS
            "WHERE ($1 = '' OR org_id = $1) AND ($2 = '' OR project_id = $2) "
            "AND ($3 = '' OR org_id = $3) AND ($4 = '' OR project_id = $4) " AFTER("created_ms",
                                                                                   "id"),
            .insert = "INSERT INTO keys (id, org_id, project_id, name, hint, scopes, models, ips, "
                      "limits, budgets, expires_ms, disabled, created_ms, rotated_ms, "
                      "old_expires_ms, revoked_ms, changed, hash) VALUES ($1, $2, $3, $4, $5, $6, "
                      "$7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)",
            .update = "UPDATE keys SET org_id = $2, project_id = $3, name = $4, hint = $5, "
                      "scopes = $6, models = $7, ips = $8, limits = $9, budgets = $10, "
                      "expires_ms = $11, disabled = $12, created_ms = $13, rotated_ms = $14, "
                      "old_expires_ms = $15, revoked_ms = $16, changed = $17 WHERE id = $1",
            .remove = {"UPDATE keys SET revoked_ms = $2, changed = $3 WHERE id = $1 "
                       "AND revoked_ms = 0"},
        },
    [IDENTITY_USERS] =
        {
            .name = "user",
            FIELDS(user_fields),
            .created = 4,
            .one = USER_COLUMNS "WHERE u.id = $1 AND p.deleted_ms = 0 "
                                "AND ($2 = '' OR p.org_id = $2) AND ($3 = '' OR p.id = $3)",
            .page = USER_COLUMNS
            "WHERE p.deleted_ms = 0 AND ($1 = '' OR p.org_id = $1) AND ($2 = '' OR p.id = $2) "
            "AND ($3 = '' OR p.org_id = $3) AND ($4 = '' OR p.id = $4) " AFTER("u.created_ms",
                                                                               "u.id"),
            .insert = "INSERT INTO users (id, project_id, name, suspended, created_ms) "
                      "VALUES ($1, $2, $3, $4, $5) "
                      "ON CONFLICT (id) DO UPDATE SET suspended = excluded.suspended",
            .update = "UPDATE users SET project_id = $2, name = $3, suspended = $4, "
                      "created_ms = $5 WHERE id = $1",
            .remove = {"DELETE FROM users WHERE id = $1"},
        },
};

const struct identity_object *identity_object_get(enum identity_type type)
{
    _Static_assert(sizeof(key_fields) / sizeof(*key_fields) <= IDENTITY_MAX_FIELDS, "raise it");
    return &objects[type];
}

/* What a key is good for at the moment, in a word. */
static const char *status_of(const struct db_value *key)
{
    int64_t expires_ms = key[KEY_FIELD_EXPIRES].number;

    if (key[KEY_FIELD_REVOKED].number)
        return "revoked";
    if (expires_ms && (uint64_t)expires_ms <= sys_wall_ms())
        return "expired";
    return key[KEY_FIELD_DISABLED].number ? "disabled" : "active";
}

void identity_object_write(const struct identity_object *object, const struct db_value *row,
                           struct str secret, struct json_writer *w)
{
    json_open_object(w);
    json_put_text(w, "object", str_from(object->name));
    for (size_t i = 0; i < object->field_count; i++)
        identity_field_write(&object->fields[i], &row[i], w);
    if (object == &objects[IDENTITY_KEYS])
        json_put_text(w, "status", str_from(status_of(row)));
    json_put_text_if(w, "key", secret);
    json_close_object(w);
}
