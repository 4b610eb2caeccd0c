/* SPDX-License-Identifier: Apache-2.0 */
/* Shows and compares options' values.
 *
 * Values are written as JSON, which is YAML too, so one function serves both views. Whatever may
 * be a secret (keys, values of headers, a proxy's password) is shown as "***". */
#include "base/text.h"
#include "conf/quota.h"
#include "conf/value.h"
#include "conf/value_quota.h"

static const void *field_of(const struct option *option, const void *base)
{
    return (const char *)base + option->offset;
}

bool value_is_empty(const struct option *option, const void *base)
{
    const void *field = field_of(option, base);

    switch (option->type) {
    case OPTION_BOOL:
    case OPTION_ENUM:
    case OPTION_RATE:
    case OPTION_TARGET:
        return false;
    case OPTION_QUOTA:
    case OPTION_MONEY:
        return ((const struct conf_quotas *)field)->count == 0;
    case OPTION_LIST:
        return ((const struct conf_strings *)field)->count == 0;
    case OPTION_MAP:
        return ((const struct conf_pairs *)field)->count == 0;
    case OPTION_INT:
    case OPTION_DURATION:
    case OPTION_SIZE:
    case OPTION_PERCENT:
        return option_is_computed(option) && *(const uint64_t *)field == 0;
    default: /* nothing in place of a default is something */
        return ((const struct str *)field)->len == 0 &&
               (option->by_default.len == 0 || option_is_computed(option));
    }
}

static err_t print_number(const struct option *option, uint64_t value, struct buf *out)
{
    static const char *const units[] = {"", "KiB", "MiB", "GiB"};
    struct str low, high;
    bool can_be_off = false;
    char text[32];
    size_t unit = 0;

    (void)option_range(option, &low, &high, &can_be_off);
    if (value == 0 && can_be_off)
        return buf_add(out, STR("\"off\""));
    switch (option->type) {
    case OPTION_DURATION:
        text_format_duration(value, text);
        return buf_printf(out, "\"%s\"", text);
    case OPTION_PERCENT:
        return buf_printf(out, "\"%llu%%\"", (unsigned long long)value);
    case OPTION_SIZE:
        for (; unit < 3 && value && value % 1024 == 0; unit++)
            value /= 1024;
        return buf_printf(out, "\"%llu%s\"", (unsigned long long)value, units[unit]);
    default:
        return buf_add_u64(out, value);
    }
}

static err_t print_word(const struct option *option, const void *field, struct buf *out)
{
    int i = option->size == sizeof(bool) ? *(const bool *)field : *(const int *)field;

    return buf_add_json(out, option_word(option, (size_t)i));
}

/* "http://user:password@host" without what stands before the "@". */
static err_t print_proxy(struct str url, struct buf *out)
{
    size_t at = str_index(url, '@');

    if (at == url.len)
        return buf_add_json(out, url);
    /* A URL of ours has no character that JSON escapes. */
    return buf_printf(out, "\"http://***%.*s\"", STR_ARG(str_after(url, at)));
}

/* The address of a service without a password, which may stand before "@" or behind "?". */
static err_t print_service(struct str url, struct buf *out)
{
    struct buf text = buf_make(MEM_CONF, 256 * 1024);
    size_t start = str_find(url, STR("://")), at = url.len;
    err_t err = NULL;

    if (start == url.len) /* a path */
        return buf_add_json(out, url);
    while (at > start && url.ptr[at - 1] != '@')
        at--;
    struct str rest = str_after(url, at > start ? at : start + 3);
    size_t query = str_index(rest, '?');
    err = buf_printf(&text, "%.*s://%s%.*s%s", (int)start, url.ptr, at > start ? "***@" : "",
                     (int)query, rest.ptr, query < rest.len ? "?***" : "");
    if (!err)
        err = buf_add_json(out, buf_str(&text));
    buf_fini(&text);
    return err;
}

static err_t print_rate(const struct conf_rate *rate, struct buf *out)
{
    TRY(buf_add_byte(out, '"'));
    TRY(quota_print_rate(rate, out));
    return buf_add_byte(out, '"');
}

static err_t print_list(const struct conf_strings *list, struct buf *out)
{
    TRY(buf_add_byte(out, '['));
    for (size_t i = 0; i < list->count; i++) {
        if (i)
            TRY(buf_add(out, STR(", ")));
        TRY(buf_add_json(out, list->items[i]));
    }
    return buf_add_byte(out, ']');
}

static err_t print_pairs(const struct conf_pairs *pairs, bool are_shown, struct buf *out)
{
    TRY(buf_add_byte(out, '{'));
    for (size_t i = 0; i < pairs->count; i++) {
        if (i)
            TRY(buf_add(out, STR(", ")));
        TRY(buf_add_json(out, pairs->items[i].name));
        TRY(buf_add(out, STR(": ")));
        TRY(buf_add_json(out, are_shown ? pairs->items[i].value : STR("***")));
    }
    return buf_add_byte(out, '}');
}

static err_t print_target(const struct conf_target *target, struct buf *out)
{
    struct buf text = buf_make(MEM_CONF, 64 * 1024);
    err_t err =
        buf_printf(&text, "%.*s/%.*s", STR_ARG(target->provider->name), STR_ARG(target->model));

    if (!err)
        err = buf_add_json(out, buf_str(&text));
    buf_fini(&text);
    return err;
}

err_t value_print(const struct option *option, const void *base, struct buf *out)
{
    const void *field = field_of(option, base);

    switch (option->type) {
    case OPTION_BOOL:
        return buf_add(out, *(const bool *)field ? STR("true") : STR("false"));
    case OPTION_INT:
    case OPTION_DURATION:
    case OPTION_SIZE:
    case OPTION_PERCENT:
        return print_number(option, *(const uint64_t *)field, out);
    case OPTION_ENUM:
        return print_word(option, field, out);
    case OPTION_SECRET:
        return buf_add(out, STR("\"***\""));
    case OPTION_PROXY:
        return print_proxy(*(const struct str *)field, out);
    case OPTION_SERVICE:
        return print_service(*(const struct str *)field, out);
    case OPTION_RATE:
        return print_rate(field, out);
    case OPTION_QUOTA:
    case OPTION_MONEY:
        return value_quota_print(option, field, out);
    case OPTION_LIST:
        return print_list(field, out);
    case OPTION_MAP:
        return print_pairs(field, option->flags & SHOWN, out);
    case OPTION_JSON:
        return buf_add(out, *(const struct str *)field);
    case OPTION_TARGET:
        return print_target(base, out);
    default:
        return buf_add_json(out, *(const struct str *)field);
    }
}

bool value_equal(const struct option *option, const void *a, const void *b)
{
    const struct conf_strings *list_a = field_of(option, a), *list_b = field_of(option, b);
    const struct str *text_a = field_of(option, a), *text_b = field_of(option, b);

    switch (option->type) {
    case OPTION_LIST:
        if (list_a->count != list_b->count)
            return false;
        for (size_t i = 0; i < list_a->count; i++)
            if (!str_eq(list_a->items[i], list_b->items[i]))
                return false;
        return true;
    case OPTION_QUOTA:
    case OPTION_MONEY:
        return value_quota_equal(field_of(option, a), field_of(option, b));
    case OPTION_BOOL:
    case OPTION_ENUM:
    case OPTION_INT:
    case OPTION_DURATION:
    case OPTION_SIZE:
    case OPTION_PERCENT:
    case OPTION_RATE:
        return memcmp(field_of(option, a), field_of(option, b), option->size) == 0;
    default:
        return str_eq(*text_a, *text_b);
    }
}
