/* SPDX-License-Identifier: Apache-2.0 */
/* One reader and one writer for each kind of member. */
#include "govern/identity_field.h"

#include "base/json_members.h"
#include "base/sys.h"
#include "base/text.h"
#include "govern/allowance.h"
#include "govern/identity.h"
#include "net/sock.h"

#define MAX_NAME  128
#define MAX_MODEL 256
#define MAX_LIST  1000

static const struct {
    struct str word;
    unsigned scope;
} scopes[] = {{{"models", 6}, IDENTITY_MODELS},
              {{"route", 5}, IDENTITY_ROUTE},
              {{"admin", 5}, IDENTITY_ADMIN}};
#define SCOPE_COUNT (sizeof(scopes) / sizeof(*scopes))

static err_t wrong(const struct identity_field *field, const char *what)
{
    return err_new_detail(ERR_BAD_REQUEST, (.code = "invalid_value", .param = field->name),
                          "%s must be %s", field->name, what);
}

/* ---- texts ---- */

/* Controls are U+0000–1F and U+007F–9F (Unicode's category Cc). */
bool identity_is_printable(struct str text, size_t max)
{
    size_t count = 0;

    for (struct str rest = text; rest.len > 0; count++) {
        size_t len = text_utf8_length(rest);
        unsigned char first = (unsigned char)rest.ptr[0];
        if (len == 0 || first < 0x20 || first == 0x7f ||
            (first == 0xc2 && (unsigned char)rest.ptr[1] < 0xa0))
            return false;
        rest = str_after(rest, len);
    }
    return count >= 1 && count <= max;
}

static err_t read_name(const struct identity_field *field, struct str json, struct arena *arena,
                       struct db_value *out)
{
    struct str text;

    if (!json_text(json, arena, &text) || !identity_is_printable(text, MAX_NAME))
        return wrong(field, "a text of 1 to 128 printable characters");
    *out = DB_OF_TEXT(text);
    return NULL;
}

static err_t read_tier(const struct identity_field *field, struct str json, struct arena *arena,
                       struct db_value *out)
{
    *out = DB_OF_TEXT(STR(""));
    if (json_kind(json) == JSON_NULL || str_eq(json, STR("\"\"")))
        return NULL;
    return read_name(field, json, arena, out);
}

static err_t read_bool(const struct identity_field *field, struct str json, struct db_value *out)
{
    enum json_kind kind = json_kind(json);

    if (kind != JSON_TRUE && kind != JSON_FALSE)
        return wrong(field, "true or false");
    *out = DB_OF_INT(kind == JSON_TRUE);
    return NULL;
}

/* ---- times ---- */

static err_t read_expires(const struct identity_field *field, struct str json, struct arena *arena,
                          struct db_value *out)
{
    struct str text;
    uint64_t ms;

    *out = DB_OF_INT(0);
    if (json_kind(json) == JSON_NULL)
        return NULL;
    if (!json_text(json, arena, &text))
        return wrong(field, "a time like 2027-01-31T00:00:00Z, a duration like 30d, or null");
    if (text_parse_iso_date(text, &ms) && ms > 0) {
        *out = DB_OF_INT(ms);
        return NULL;
    }
    if (!text_duration_ms(text, &ms) || ms == 0 || ms > UINT64_C(4000000000000))
        return wrong(field, "a time like 2027-01-31T00:00:00Z, a duration like 30d, or null");
    *out = DB_OF_INT(sys_wall_ms() + ms);
    return NULL;
}

/* ---- lists ---- */

static err_t read_scopes(const struct identity_field *field, struct str json, struct arena *arena,
                         struct db_value *out)
{
    struct str element, word;
    unsigned found = 0, one;

    for (size_t at = 0; json_array_next(json, &at, &element); found |= one) {
        one = 0;
        if (json_text(element, arena, &word))
            for (size_t i = 0; i < SCOPE_COUNT; i++)
                if (str_eq(word, scopes[i].word))
                    one = scopes[i].scope;
        if (!one)
            return wrong(field, "a list of models, route, admin");
    }
    if (found == 0)
        return wrong(field, "a list of models, route, admin");
    *out = DB_OF_INT(found);
    return NULL;
}

static bool is_model(struct str text)
{
    size_t star = str_index(text, '*');

    return identity_is_printable(text, MAX_MODEL) && star + 1 >= text.len;
}

/* "10.0.0.0/8", "192.0.2.7", "2001:db8::/32" (RFC 4632, RFC 4291 §2.3). */
static bool is_network(struct str text)
{
    size_t slash = str_index(text, '/');
    struct address address;
    uint64_t bits = 0;

    if (!address_set_ip(&address, (struct str){text.ptr, slash}, 0))
        return false;
    if (slash == text.len)
        return true;
    return str_to_u64(str_after(text, slash + 1), &bits) &&
           bits <= (address.u.any.sa_family == AF_INET ? 32 : 128);
}

/* The list is kept as it came. */
static err_t read_list(const struct identity_field *field, struct str json, struct arena *arena,
                       struct db_value *out)
{
    bool is_models = field->kind == FIELD_MODELS;
    const char *what = is_models ? "a list of models, where a * may stand at the end"
                                 : "a list of addresses or networks like 10.0.0.0/8";
    struct str element, text;
    size_t count = 0;

    *out = DB_OF_TEXT(STR(""));
    if (json_kind(json) == JSON_NULL)
        return NULL;
    if (json_kind(json) != JSON_ARRAY)
        return wrong(field, what);
    for (size_t at = 0; json_array_next(json, &at, &element); count++)
        if (count == MAX_LIST || !json_text(element, arena, &text) ||
            !(is_models ? is_model(text) : is_network(text)))
            return wrong(field, what);
    if (count > 0)
        *out = DB_OF_TEXT(json);
    return NULL;
}

static err_t read_allowance(const struct identity_field *field, struct str json,
                            struct arena *arena, struct db_value *out)
{
    struct allowance unused = {0};

    if (field->kind == FIELD_LIMITS)
        TRY(allowance_read_limits(json, &unused));
    else
        TRY(allowance_read_budgets(json, arena, &unused));
    *out = DB_OF_TEXT(json_kind(json) == JSON_NULL || json_is_empty(json) ? STR("") : json);
    return NULL;
}

err_t identity_field_read(const struct identity_field *field, struct str json, struct arena *arena,
                          struct db_value *out)
{
    switch (field->kind) {
    case FIELD_TEXT:
    case FIELD_NAME:
        return read_name(field, json, arena, out);
    case FIELD_TIER:
        return read_tier(field, json, arena, out);
    case FIELD_BOOL:
        return read_bool(field, json, out);
    case FIELD_TIME:
    case FIELD_EXPIRES:
        return read_expires(field, json, arena, out);
    case FIELD_SCOPES:
        return read_scopes(field, json, arena, out);
    case FIELD_MODELS:
    case FIELD_IPS:
        return read_list(field, json, arena, out);
    case FIELD_LIMITS:
    case FIELD_BUDGETS:
        return read_allowance(field, json, arena, out);
    }
    return NULL;
}

struct db_value identity_field_default(const struct identity_field *field)
{
    switch (field->kind) {
    case FIELD_BOOL:
    case FIELD_TIME:
    case FIELD_EXPIRES:
        return DB_OF_INT(0);
    case FIELD_SCOPES:
        return DB_OF_INT(IDENTITY_MODELS);
    default:
        return DB_OF_TEXT(STR(""));
    }
}

/* ---- writing ---- */

static void write_time(const char *name, int64_t ms, struct json_writer *w)
{
    char text[25];

    if (ms <= 0) {
        json_put_null(w, name);
        return;
    }
    text_iso_date((uint64_t)ms, text);
    json_put_text(w, name, str_from(text));
}

static void write_scopes(const char *name, int64_t value, struct json_writer *w)
{
    json_put_array(w, name);
    for (size_t i = 0; i < SCOPE_COUNT; i++)
        if (value & scopes[i].scope)
            json_add_text(w, scopes[i].word);
    json_close_array(w);
}

void identity_field_write(const struct identity_field *field, const struct db_value *value,
                          struct json_writer *w)
{
    switch (field->kind) {
    case FIELD_TEXT:
    case FIELD_NAME:
    case FIELD_TIER:
        json_put_text_or_null(w, field->name, value->bytes);
        break;
    case FIELD_BOOL:
        json_put_bool(w, field->name, value->number != 0);
        break;
    case FIELD_TIME:
    case FIELD_EXPIRES:
        write_time(field->name, value->number, w);
        break;
    case FIELD_SCOPES:
        write_scopes(field->name, value->number, w);
        break;
    case FIELD_MODELS:
    case FIELD_IPS:
        json_put_raw(w, field->name, value->bytes.len ? value->bytes : STR("[]"));
        break;
    case FIELD_LIMITS:
    case FIELD_BUDGETS:
        json_put_raw(w, field->name, value->bytes.len ? value->bytes : STR("{}"));
        break;
    }
}
