/* SPDX-License-Identifier: Apache-2.0 */
/* Members of the admin API's objects: what they may hold, how they are kept, who may set them. */
#ifndef GOVERN_IDENTITY_FIELD_H
#define GOVERN_IDENTITY_FIELD_H

#include "base/json_writer.h"
#include "store/db.h"

/* What a member holds; in the store texts, numbers and times are columns of their own type, lists and objects JSON. */
enum field_kind {
    FIELD_TEXT,
    FIELD_NAME, /* 1 to 128 printable characters */
    FIELD_TIER, /* the same, or none */
    FIELD_BOOL,
    FIELD_TIME,    /* ms; 0: null */
    FIELD_EXPIRES, /* the same; may be given as a duration from now */
    FIELD_SCOPES,
    FIELD_MODELS,
    FIELD_IPS,
    FIELD_LIMITS,
    FIELD_BUDGETS
};

/* Who may set it. */
enum field_right {
    FIELD_SHOWN, /* nobody */
    FIELD_ONCE,  /* whoever creates the object */
    FIELD_FREE,  /* whoever rules over the object */
    FIELD_ABOVE  /* only who rules over more than the object */
};

struct identity_field {
    const char *name;
    enum field_kind kind;
    enum field_right right;
};

/* Read a member's value, valid JSON, as it will be kept. Texts are borrowed or in the arena. Errors: BAD_REQUEST naming the
 * member, the arena's. */
err_t identity_field_read(const struct identity_field *field, struct str json, struct arena *arena,
                          struct db_value *out) ERR_MUST_CHECK;

/* What is kept when nothing was given. */
struct db_value identity_field_default(const struct identity_field *field);

/* Write the member into an open object. */
void identity_field_write(const struct identity_field *field, const struct db_value *value,
                          struct json_writer *w);

/* 1 to `max` characters (not bytes) of UTF-8, none of them a control character. */
bool identity_is_printable(struct str text, size_t max);

#endif
