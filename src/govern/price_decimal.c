/* SPDX-License-Identifier: Apache-2.0 */
/* Decimal numbers without floating point.
 *
 * 1.5e-07 has no exact double, and times a million million it would be 149999.99…: so digits and
 * exponent are read apart, and the point is moved. */
#include "govern/price_decimal.h"

#define MOST_DIGITS 36 /* of an unsigned __int128, with room for one more */

typedef unsigned __int128 wide;

struct decimal {
    wide digits;
    int exponent;  /* of ten */
    bool is_exact; /* false: digits that are not zero were left out */
};

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Digits with at most one point among them. Returns how many bytes they take, 0 if there are none. */
static size_t read_digits(struct str text, struct decimal *d)
{
    size_t at = 0, count = 0, kept = 0;
    bool is_fraction = false;

    for (; at < text.len && (is_digit(text.ptr[at]) || (text.ptr[at] == '.' && !is_fraction));
         at++) {
        if (text.ptr[at] == '.') {
            is_fraction = true;
            continue;
        }
        count++;
        if (kept < MOST_DIGITS) {
            d->digits = d->digits * 10 + (unsigned)(text.ptr[at] - '0');
            kept += d->digits > 0;
            d->exponent -= is_fraction;
        } else {
            d->is_exact &= text.ptr[at] == '0';
            d->exponent += !is_fraction;
        }
    }
    return count && text.ptr[at - 1] != '.' && text.ptr[0] != '.' ? at : 0;
}

/* "e-07" or nothing. */
static bool read_exponent(struct str text, struct decimal *d)
{
    uint64_t n;
    bool is_negative;

    if (text.len == 0)
        return true;
    if (text.len < 2 || (text.ptr[0] | 0x20) != 'e')
        return false;
    is_negative = text.ptr[1] == '-';
    text = str_after(text, text.ptr[1] == '-' || text.ptr[1] == '+' ? 2 : 1);
    if (text.len > 6 || !str_to_u64(text, &n))
        return false;
    d->exponent += is_negative ? -(int)n : (int)n;
    return true;
}

bool price_decimal_parse(struct str text, int power, uint64_t *out, bool *is_exact)
{
    struct decimal d = {.is_exact = true};
    size_t len = text.len < 4096 ? read_digits(text, &d) : 0;

    if (!len || !read_exponent(str_after(text, len), &d))
        return false;
    d.exponent += power;
    for (; d.exponent > 0 && d.digits && d.digits <= PRICE_DECIMAL_MAX; d.exponent--)
        d.digits *= 10;
    for (; d.exponent < 0 && d.digits; d.exponent++) {
        d.is_exact &= d.digits % 10 == 0;
        d.digits /= 10;
    }
    d.digits += !d.is_exact;
    *is_exact = d.is_exact;
    *out = (uint64_t)d.digits;
    return d.digits <= PRICE_DECIMAL_MAX;
}

err_t price_decimal_print(uint64_t value, int power, struct buf *out)
{
    uint64_t unit = 1;

    for (int i = 0; i < power; i++)
        unit *= 10;
    TRY(buf_add_u64(out, value / unit));
    value %= unit;
    if (value == 0)
        return NULL;
    for (; value % 10 == 0; power--)
        value /= 10;
    return buf_printf(out, ".%0*llu", power, (unsigned long long)value);
}
