/* SPDX-License-Identifier: Apache-2.0 */
/* Reads and writes rates, quotas and money.
 *
 * Everything is whole numbers: 0.1 is 100,000,000 nano-units, and what has more digits than that is
 * refused rather than rounded. */
#include "conf/quota.h"

#include "base/text.h"

#define NANO_DIGITS   9
#define NANO_PER_UNIT UINT64_C(1000000000)
#define MAX_RATE      UINT64_C(1000000000000)
/* What limits can keep: a backlog has 52 days (govern/limit_store.h). */
#define MAX_WINDOW_MS (UINT64_C(50) * 24 * 60 * 60 * 1000)

/* The text before and after the only "/". */
static bool split(struct str text, struct str *amount, struct str *span)
{
    size_t slash = str_index(text, '/');

    *amount = (struct str){text.ptr, slash};
    *span = slash < text.len ? str_after(text, slash + 1) : (struct str){0};
    return amount->len && span->len;
}

static bool parse_window(struct str text, uint64_t *ms)
{
    static const struct {
        const char *name;
        uint64_t ms;
    } words[] = {{"s", 1000},    {"sec", 1000},     {"m", 60000},     {"min", 60000},
                 {"h", 3600000}, {"hour", 3600000}, {"d", 86400000u}, {"day", 86400000u}};

    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (str_eq(text, str_from(words[i].name))) {
            *ms = words[i].ms;
            return true;
        }
    }
    return text_duration_ms(text, ms) && *ms > 0 && *ms <= MAX_WINDOW_MS;
}

bool quota_parse_rate(struct str text, struct conf_rate *out)
{
    struct str count, window;

    if (str_eq(text, STR("off"))) {
        *out = (struct conf_rate){0};
        return true;
    }
    return split(text, &count, &window) && str_to_u64(count, &out->count) && out->count > 0 &&
           out->count <= MAX_RATE && parse_window(window, &out->window_ms);
}

bool quota_parse_money(struct str text, uint64_t *nano)
{
    size_t point = str_index(text, '.');
    bool has_fraction = point < text.len;
    struct str whole = {text.ptr, point}, fraction = str_after(text, point + has_fraction);
    uint64_t units, rest = 0;

    if (has_fraction && (fraction.len > NANO_DIGITS || !str_to_u64(fraction, &rest)))
        return false;
    if (!str_to_u64(whole, &units) || units > QUOTA_MAX_AMOUNT / NANO_PER_UNIT)
        return false;
    for (size_t i = fraction.len; i < NANO_DIGITS; i++)
        rest *= 10;
    *nano = units * NANO_PER_UNIT + rest;
    return *nano <= QUOTA_MAX_AMOUNT;
}

const char *quota_period_name(enum conf_period period)
{
    static const char *const names[] = {"day", "month", "total"};

    return names[period];
}

bool quota_parse(struct str text, enum quota_unit unit, struct conf_quota *out)
{
    struct str amount, period;
    bool is_read;

    if (!split(text, &amount, &period))
        return false;
    is_read = unit == QUOTA_MONEY ? quota_parse_money(amount, &out->amount)
                                  : str_to_u64(amount, &out->amount);
    if (!is_read || out->amount == 0 || out->amount > QUOTA_MAX_AMOUNT)
        return false;
    for (int i = CONF_PERIOD_DAY; i <= CONF_PERIOD_TOTAL; i++) {
        out->period = (enum conf_period)i;
        if (str_eq(period, str_from(quota_period_name(out->period))))
            return true;
    }
    return false;
}

err_t quota_print_rate(const struct conf_rate *rate, struct buf *out)
{
    char window[32];

    if (rate->count == 0)
        return buf_add(out, STR("off"));
    text_format_duration(rate->window_ms, window);
    return buf_printf(out, "%llu/%s", (unsigned long long)rate->count, window);
}

/* For every call, so without printf. */
size_t quota_format_money(uint64_t nano, char room[QUOTA_MONEY_BYTES])
{
    size_t len = text_put_u64(nano / NANO_PER_UNIT, room);
    /* A one in front keeps the noughts behind the point; the point takes its place. */
    size_t end = len + text_put_u64(NANO_PER_UNIT + nano % NANO_PER_UNIT, room + len);

    if (nano % NANO_PER_UNIT == 0)
        return len;
    room[len] = '.';
    while (room[end - 1] == '0')
        end--;
    return end;
}

err_t quota_print_money(uint64_t nano, struct buf *out)
{
    char text[QUOTA_MONEY_BYTES];

    return buf_add(out, (struct str){text, quota_format_money(nano, text)});
}

err_t quota_print(const struct conf_quota *quota, enum quota_unit unit, struct buf *out)
{
    if (unit == QUOTA_MONEY)
        TRY(quota_print_money(quota->amount, out));
    else
        TRY(buf_add_u64(out, quota->amount));
    return buf_printf(out, "/%s", quota_period_name(quota->period));
}
