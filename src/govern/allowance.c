/* SPDX-License-Identifier: Apache-2.0 */
/* Reading allowances. A member that is null means the same as one that is missing. */
#include "govern/allowance.h"

#include "base/json_members.h"
#include "base/json_writer.h"
#include "conf/quota.h"

#define MAX_STREAMS 1000000
#define MAX_QUOTAS  8
#define MAX_BYTES   ((size_t)64 * 1024) /* of limits or budgets */

static err_t wrong(const char *param, const char *example)
{
    return err_new_detail(ERR_BAD_REQUEST, (.code = "invalid_value", .param = param),
                          "%s must be like %s", param, example);
}

#define MAX_TEXT 64 /* bytes of a rate or an amount */

/* A text in `room`. Of escapes there may be the one of a slash, which some write before every slash: ours need no other. */
static struct str plain_text(struct str value, char room[MAX_TEXT])
{
    size_t len = 0;

    if (json_kind(value) != JSON_STRING || value.len - 2 > MAX_TEXT)
        return STR("");
    for (size_t i = 1; i < value.len - 1; i++)
        if (value.ptr[i] != '\\' || value.ptr[i + 1] != '/')
            room[len++] = value.ptr[i];
    return (struct str){room, len};
}

/* ---- limits ---- */

/* What is off has no limit; null is as if it were not there. */
static err_t read_rate(struct str value, const char *param, struct conf_rate *out)
{
    char room[MAX_TEXT];

    if (json_kind(value) == JSON_NULL)
        return NULL;
    if (!quota_parse_rate(plain_text(value, room), out))
        return wrong(param, "\"100/60s\" (a window of at most 50d), \"off\" or null");
    if (out->count == 0)
        out->count = ALLOWANCE_OFF;
    return NULL;
}

static err_t read_streams(struct str value, uint64_t *out)
{
    char room[MAX_TEXT];

    if (json_kind(value) == JSON_NULL)
        return NULL;
    if (str_eq(plain_text(value, room), STR("off")))
        *out = 0;
    else if (!json_u64(value, out) || *out > MAX_STREAMS)
        return wrong("limits.streams", "5 (at most 1000000), \"off\" or null");
    if (*out == 0)
        *out = ALLOWANCE_OFF;
    return NULL;
}

static err_t read_limit(const struct json_member *m, struct allowance *out)
{
    if (json_key_is(m, STR("requests")))
        return read_rate(m->value, "limits.requests", &out->requests);
    if (json_key_is(m, STR("tokens")))
        return read_rate(m->value, "limits.tokens", &out->tokens);
    if (!json_key_is(m, STR("streams")))
        return err_new_detail(ERR_BAD_REQUEST, (.code = "unknown_parameter", .param = "limits"),
                              "limits has requests, tokens and streams");
    return read_streams(m->value, &out->streams);
}

err_t allowance_read_limits(struct str json, struct allowance *out)
{
    struct json_member member;

    if (json.len > 0 && json_kind(json) != JSON_OBJECT && json_kind(json) != JSON_NULL)
        return wrong("limits", "{\"requests\": \"100/60s\"}");
    for (size_t at = 0; json.len > 0 && json_object_next(json, &at, &member);)
        TRY(read_limit(&member, out));
    return NULL;
}

/* ---- budgets ---- */

static err_t add_quota(struct str value, enum quota_unit unit, struct conf_quotas *out)
{
    const char *param = unit == QUOTA_MONEY ? "budgets.money" : "budgets.tokens";
    struct conf_quota quota;
    char room[MAX_TEXT];

    if (!quota_parse(plain_text(value, room), unit, &quota))
        return wrong(param,
                     unit == QUOTA_MONEY ? "[\"2.50/day\", \"20/month\"]" : "[\"100000/day\"]");
    for (size_t i = 0; i < out->count; i++)
        if (out->items[i].period == quota.period)
            return err_new_detail(ERR_BAD_REQUEST, (.code = "invalid_value", .param = param),
                                  "%s names a period twice", param);
    if (out->count == MAX_QUOTAS)
        return wrong(param, "one amount for each period");
    out->items[out->count++] = quota;
    return NULL;
}

/* One amount, or a list of them. */
static err_t read_quotas(struct str value, enum quota_unit unit, struct arena *arena,
                         struct conf_quotas *out)
{
    struct str element;

    out->count = 0;
    out->items = arena_alloc_array(arena, MAX_QUOTAS, sizeof(*out->items));
    if (!out->items)
        return arena_err(arena);
    if (json_kind(value) == JSON_NULL)
        return NULL;
    if (json_kind(value) != JSON_ARRAY)
        return add_quota(value, unit, out);
    for (size_t at = 0; json_array_next(value, &at, &element);)
        TRY(add_quota(element, unit, out));
    return NULL;
}

err_t allowance_read_budgets(struct str json, struct arena *arena, struct allowance *out)
{
    struct json_member m;

    if (json.len > 0 && json_kind(json) != JSON_OBJECT && json_kind(json) != JSON_NULL)
        return wrong("budgets", "{\"money\": [\"5/month\"]}");
    for (size_t at = 0; json.len > 0 && json_object_next(json, &at, &m);) {
        if (json_key_is(&m, STR("tokens")))
            TRY(read_quotas(m.value, QUOTA_TOKENS, arena, &out->token_budget));
        else if (json_key_is(&m, STR("money")))
            TRY(read_quotas(m.value, QUOTA_MONEY, arena, &out->money_budget));
        else
            return err_new_detail(ERR_BAD_REQUEST,
                                  (.code = "unknown_parameter", .param = "budgets"),
                                  "budgets has tokens and money");
    }
    return NULL;
}

/* ---- both ---- */

/* The last of that name counts, as when it is read. *value stays as it is where there is none. */
static void find(struct str object, const char *name, struct str *value)
{
    struct json_member m;

    for (size_t at = 0; object.len > 0 && json_object_next(object, &at, &m);)
        if (json_key_is(&m, str_from(name)))
            *value = m.value;
}

err_t allowance_merge(struct str before, struct str changes, struct arena *arena, struct str *out)
{
    static const char *const names[] = {"requests", "tokens", "streams", "money"};
    struct buf text = buf_make(MEM_GOVERN, MAX_BYTES);
    struct json_writer w = json_writer_make(&text);
    err_t err;

    json_open_object(&w);
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        struct str value = STR("null");
        find(before, names[i], &value);
        find(changes, names[i], &value);
        if (json_kind(value) != JSON_NULL)
            json_put_raw(&w, names[i], value);
    }
    json_close_object(&w);
    err = json_writer_err(&w);
    *out = err || json_is_empty(buf_str(&text)) ? STR("") : arena_copy(arena, buf_str(&text));
    buf_fini(&text);
    return err ? err : out->ptr ? NULL : arena_err(arena);
}

err_t allowance_load(struct str limits, struct str budgets, struct arena *arena,
                     struct allowance **out)
{
    *out = NULL;
    if (limits.len == 0 && budgets.len == 0)
        return NULL;
    TRY(json_check(limits.len ? limits : STR("{}")));
    TRY(json_check(budgets.len ? budgets : STR("{}")));
    *out = arena_new_struct(arena, struct allowance);
    if (!*out)
        return arena_err(arena);
    TRY(allowance_read_limits(limits, *out));
    return allowance_read_budgets(budgets, arena, *out);
}
