/* SPDX-License-Identifier: Apache-2.0 */
/* The objects of the admin API as tables: members, and the statements that read and write their rows. */
#ifndef GOVERN_IDENTITY_OBJECT_H
#define GOVERN_IDENTITY_OBJECT_H

#include "govern/identity_field.h"
#include "govern/identity_store.h"

#define IDENTITY_MAX_FIELDS 16

/* A row's columns are the object's members in their order; the first one is the id, and `created` is when it was made.
 *
 * one:    $1 id, $2 and $3 the realm (organisation and project; empty: all)
 * page:   $1 $2 the realm, $3 $4 organisation and project that were asked for (empty: all), $5 $6 created and
 *         id of the last row before, $7 how many
 * insert, update: all members; of keys further parameters behind them (identity_store.c)
 * remove: $1 id, $2 now, $3 the number of the change, as many of them as each needs; NULL-terminated */
struct identity_object {
    const char *name;   /* "key" */
    const char *prefix; /* of ids; NULL: they are made otherwise */
    const struct identity_field *fields;
    size_t field_count, created; /* `created`: index of that member */
    const char *one, *page, *insert, *update;
    const char *remove[4];
};

/* Places of members that code asks for. */
enum { ORG_NAME = 1 };
enum { PROJECT_ORG = 1 };
enum { USER_PROJECT = 1, USER_NAME };
enum {
    KEY_FIELD_ORG = 1,
    KEY_FIELD_PROJECT,
    KEY_FIELD_NAME,
    KEY_FIELD_HINT,
    KEY_FIELD_SCOPES,
    KEY_FIELD_EXPIRES = 10,
    KEY_FIELD_DISABLED,
    KEY_FIELD_REVOKED = 15
};

/* The table of a type; static. */
const struct identity_object *identity_object_get(enum identity_type type);

/* Write a row as a JSON object; `secret` (may be empty) is the new key's text. */
void identity_object_write(const struct identity_object *object, const struct db_value *row,
                           struct str secret, struct json_writer *w);

#endif
