/* SPDX-License-Identifier: Apache-2.0 */
/* Small text formats. Each pair of functions stands with its table; the dates use the proleptic
 * Gregorian calendar arithmetic of whole 400-year cycles, so that no library call and no time zone
 * is involved. */
#include "base/text.h"

#include <stdio.h>

#include "base/sys.h"

/* ---- UTF-8 ---- */

/* The second byte's range narrows after some first bytes (RFC 3629 §4): no overlong forms after E0
 * and F0, no surrogates after ED, nothing beyond U+10FFFF after F4. */
static bool second_is_good(unsigned char first, unsigned char second)
{
    switch (first) {
    case 0xE0:
        return second >= 0xA0 && second <= 0xBF;
    case 0xED:
        return second >= 0x80 && second <= 0x9F;
    case 0xF0:
        return second >= 0x90 && second <= 0xBF;
    case 0xF4:
        return second >= 0x80 && second <= 0x8F;
    default:
        return (second & 0xC0) == 0x80;
    }
}

/* How many bytes of `s` belong to its first character and are good so far; *whole is the
 * character's length, 0 if the first byte starts none. Equal means a complete character. */
static size_t utf8_good_bytes(struct str s, size_t *whole)
{
    const unsigned char *p = (const unsigned char *)s.ptr;
    size_t n = 1;

    if (p[0] < 0x80)
        return *whole = 1;
    *whole = p[0] < 0xC2 ? 0 : p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : p[0] < 0xF5 ? 4 : 0;
    if (*whole == 0)
        return 1;
    if (s.len < 2 || !second_is_good(p[0], p[1]))
        return 1;
    for (n = 2; n < *whole && n < s.len && (p[n] & 0xC0) == 0x80; n++)
        ;
    return n;
}

size_t text_utf8_length(struct str s)
{
    size_t whole;

    if (s.len == 0)
        return 0;
    return utf8_good_bytes(s, &whole) == whole ? whole : 0;
}

/* The length of the ASCII part at the front, in steps of eight bytes: up to 7 short of the truth. */
static size_t ascii_length(struct str s)
{
    size_t i = 0;
    uint64_t word;

    for (; i + sizeof(word) <= s.len; i += sizeof(word)) {
        memcpy(&word, s.ptr + i, sizeof(word));
        if (word & UINT64_C(0x8080808080808080))
            break;
    }
    return i;
}

/* The length of the well-formed part at the front. */
static size_t utf8_valid_length(struct str s)
{
    size_t i = ascii_length(s), n;

    while (i < s.len && (n = text_utf8_length(str_after(s, i))) > 0) {
        i += n;
        if (n == 1)
            i += ascii_length(str_after(s, i));
    }
    return i;
}

bool text_is_utf8(struct str s)
{
    return utf8_valid_length(s) == s.len;
}

bool text_utf8_prefix(struct str s, size_t *valid_len)
{
    size_t whole;

    *valid_len = utf8_valid_length(s);
    if (*valid_len == s.len)
        return false;
    s = str_after(s, *valid_len);
    return utf8_good_bytes(s, &whole) == s.len && s.len < whole;
}

/* ---- Durations and sizes ---- */

struct unit {
    const char *name;
    uint64_t factor;
};

/* Number and unit, "0" alone, or a bare number if the units have an empty name. */
static bool parse_with_unit(struct str s, const struct unit *units, size_t count, uint64_t *out)
{
    size_t digits = 0;
    struct str unit;
    uint64_t n;

    while (digits < s.len && s.ptr[digits] >= '0' && s.ptr[digits] <= '9')
        digits++;
    if (!str_to_u64((struct str){s.ptr, digits}, &n))
        return false;
    unit = str_after(s, digits);
    for (size_t i = 0; i < count; i++)
        if (str_eq(unit, str_from(units[i].name)))
            return !__builtin_mul_overflow(n, units[i].factor, out);
    *out = 0;
    return unit.len == 0 && n == 0;
}

static const struct unit duration_units[] = {
    {"d", 86400000}, {"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1},
};
#define DURATION_UNITS (sizeof(duration_units) / sizeof(duration_units[0]))

bool text_duration_ms(struct str s, uint64_t *ms)
{
    return parse_with_unit(s, duration_units, DURATION_UNITS, ms);
}

void text_format_duration(uint64_t ms, char *out)
{
    const struct unit *unit = duration_units;

    if (ms == 0) {
        memcpy(out, "0", 2);
        return;
    }
    while (ms % unit->factor != 0) /* ends at "ms" at the latest */
        unit++;
    snprintf(out, 32, "%llu%s", (unsigned long long)(ms / unit->factor), unit->name);
}

bool text_size_bytes(struct str s, uint64_t *bytes)
{
    static const struct unit units[] = {
        {"", 1},
        {"B", 1},
        {"KB", 1000},
        {"MB", 1000000},
        {"GB", 1000000000},
        {"TB", 1000000000000},
        {"KiB", UINT64_C(1) << 10},
        {"MiB", UINT64_C(1) << 20},
        {"GiB", UINT64_C(1) << 30},
        {"TiB", UINT64_C(1) << 40},
    };

    return parse_with_unit(s, units, sizeof(units) / sizeof(units[0]), bytes);
}

/* ---- Dates ---- */

static const char *const day_names[] = {"Sunday",   "Monday", "Tuesday", "Wednesday",
                                        "Thursday", "Friday", "Saturday"};
static const char month_names[] = "JanFebMarAprMayJunJulAugSepOctNovDec";

struct date {
    unsigned year, month, day; /* month 1–12 */
    unsigned hour, minute, second;
};

/* Days since 1970-01-01. Years are counted from March, so that the leap day is the last of its
 * year. */
static int64_t days_from_date(const struct date *d)
{
    int64_t year = (int64_t)d->year - (d->month <= 2);
    int64_t month = d->month > 2 ? d->month - 3 : d->month + 9;

    return 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + d->day - 1 -
           719468;
}

/* The inverse, with the time of day. */
static struct date date_from_seconds(uint64_t seconds)
{
    uint64_t days = seconds / 86400 + 719468; /* since 0000-03-01 */
    unsigned in_cycle = (unsigned)(days % 146097), in_day = (unsigned)(seconds % 86400);
    unsigned year = (in_cycle - in_cycle / 1460 + in_cycle / 36524 - in_cycle / 146096) / 365;
    unsigned in_year = in_cycle - (365 * year + year / 4 - year / 100);
    unsigned month = (5 * in_year + 2) / 153;

    return (struct date){
        .year = (unsigned)(days / 146097 * 400) + year + (month >= 10),
        .month = month < 10 ? month + 3 : month - 9,
        .day = in_year - (153 * month + 2) / 5 + 1,
        .hour = in_day / 3600,
        .minute = in_day / 60 % 60,
        .second = in_day % 60,
    };
}

/* Seconds since 1970; false for a date that does not exist or lies before. 23:59:60, a leap second,
 * is good. */
static bool date_to_seconds(const struct date *d, uint64_t *seconds)
{
    struct date back;
    int64_t days;

    if (d->month < 1 || d->month > 12 || d->day < 1 || d->day > 31 || d->year < 1970 ||
        d->hour > 23 || d->minute > 59 || d->second > 60)
        return false;
    days = days_from_date(d);
    back = date_from_seconds((uint64_t)days * 86400);
    if (back.day != d->day) /* 31 April is 1 May */
        return false;
    *seconds = (uint64_t)days * 86400 + d->hour * 3600 + d->minute * 60 + d->second;
    return true;
}

/* Write `width` decimal digits of `n`. */
static char *put_digits(char *at, unsigned n, int width)
{
    for (int i = width - 1; i >= 0; i--, n /= 10)
        at[i] = (char)('0' + n % 10);
    return at + width;
}

void text_http_date(uint64_t seconds, char out[30])
{
    struct date d = date_from_seconds(seconds);
    char *at = out;

    memcpy(out, "Sun, 06 Nov 1994 08:49:37 GMT", 30);    /* and then what differs */
    memcpy(at, day_names[(seconds / 86400 + 4) % 7], 3); /* 1970 began on a Thursday */
    at = put_digits(at + 5, d.day, 2);
    memcpy(at + 1, month_names + (size_t)(d.month - 1) * 3, 3);
    at = put_digits(at + 5, d.year, 4);
    at = put_digits(at + 1, d.hour, 2);
    at = put_digits(at + 1, d.minute, 2);
    put_digits(at + 1, d.second, 2);
}

void text_iso_date(uint64_t wall_ms, char out[25])
{
    struct date d = date_from_seconds(wall_ms / 1000);
    char *at;

    memcpy(out, "1994-11-06T08:49:37.000Z", 25);
    at = put_digits(out, d.year, 4);
    at = put_digits(at + 1, d.month, 2);
    at = put_digits(at + 1, d.day, 2);
    at = put_digits(at + 1, d.hour, 2);
    at = put_digits(at + 1, d.minute, 2);
    at = put_digits(at + 1, d.second, 2);
    put_digits(at + 1, (unsigned)(wall_ms % 1000), 3);
}

/* The `len` digits at `at`, if they are a number up to `most`. */
static bool iso_part(struct str s, size_t at, size_t len, uint64_t most, uint64_t *out)
{
    return at + len <= s.len && str_to_u64((struct str){s.ptr + at, len}, out) && *out <= most;
}

/* Days since 1970 of "2026-11-22", which must exist. */
static bool iso_days(struct str s, uint64_t *days)
{
    static const unsigned before[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365};
    uint64_t year, month, day;
    bool is_leap;

    if (!iso_part(s, 0, 4, 9999, &year) || !iso_part(s, 5, 2, 12, &month) ||
        !iso_part(s, 8, 2, 31, &day) || s.ptr[4] != '-' || s.ptr[7] != '-' || year < 1970 ||
        month < 1 || day < 1)
        return false;
    is_leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    if (day > before[month] - before[month - 1] + (is_leap && month == 2))
        return false;
    *days = (year - 1970) * 365 + (year - 1969) / 4 - (year - 1901) / 100 + (year - 1601) / 400 +
            before[month - 1] + (is_leap && month > 2) + day - 1;
    return true;
}

bool text_parse_iso_date(struct str s, uint64_t *wall_ms)
{
    uint64_t days, hours = 0, minutes = 0, seconds = 0, ms = 0;

    if (s.len != 10 && s.len != 20 && s.len != 24)
        return false;
    if (!iso_days(s, &days))
        return false;
    if (s.len > 10 && (s.ptr[10] != 'T' || s.ptr[13] != ':' || s.ptr[16] != ':' ||
                       s.ptr[s.len - 1] != 'Z' || !iso_part(s, 11, 2, 23, &hours) ||
                       !iso_part(s, 14, 2, 59, &minutes) || !iso_part(s, 17, 2, 59, &seconds)))
        return false;
    if (s.len == 24 && (s.ptr[19] != '.' || !iso_part(s, 20, 3, 999, &ms)))
        return false;
    *wall_ms = ((days * 24 + hours) * 60 + minutes) * 60000 + seconds * 1000 + ms;
    return true;
}

/* Read exactly `width` digits off the front. */
static bool take_digits(struct str *s, size_t width, unsigned *out)
{
    uint64_t n;

    if (s->len < width || !str_to_u64((struct str){s->ptr, width}, &n))
        return false;
    *out = (unsigned)n;
    *s = str_after(*s, width);
    return true;
}

static bool take_text(struct str *s, const char *text)
{
    struct str prefix = str_from(text);

    if (!str_starts(*s, prefix))
        return false;
    *s = str_after(*s, prefix.len);
    return true;
}

static bool take_month(struct str *s, unsigned *month)
{
    for (unsigned i = 0; i < 12 && s->len >= 3; i++) {
        if (memcmp(s->ptr, month_names + (size_t)i * 3, 3) == 0) {
            *month = i + 1;
            *s = str_after(*s, 3);
            return true;
        }
    }
    return false;
}

static bool take_time(struct str *s, struct date *d)
{
    return take_digits(s, 2, &d->hour) && take_text(s, ":") && take_digits(s, 2, &d->minute) &&
           take_text(s, ":") && take_digits(s, 2, &d->second);
}

/* "Sun", or "Sunday" if it is there in full. Which day it is need not be true. */
static bool take_day_name(struct str *s, bool *in_full)
{
    for (size_t i = 0; i < 7; i++) {
        struct str name = str_from(day_names[i]);

        *in_full = str_starts(*s, name);
        if (*in_full || str_starts(*s, (struct str){name.ptr, 3})) {
            *s = str_after(*s, *in_full ? name.len : 3);
            return true;
        }
    }
    return false;
}

/* RFC 9110 §5.6.7: a two-digit year more than 50 years ahead means the last century's. */
static unsigned full_year(unsigned year)
{
    unsigned now = date_from_seconds(sys_wall_ms() / 1000).year;

    year += now / 100 * 100;
    return year > now + 50 ? year - 100 : year;
}

/* " 06 Nov 1994 08:49:37 GMT", after the comma. */
static bool parse_imf_date(struct str s, struct date *d)
{
    return take_text(&s, " ") && take_digits(&s, 2, &d->day) && take_text(&s, " ") &&
           take_month(&s, &d->month) && take_text(&s, " ") && take_digits(&s, 4, &d->year) &&
           take_text(&s, " ") && take_time(&s, d) && str_eq(s, STR(" GMT"));
}

/* " 06-Nov-94 08:49:37 GMT", after the comma. */
static bool parse_rfc850_date(struct str s, struct date *d)
{
    if (!(take_text(&s, " ") && take_digits(&s, 2, &d->day) && take_text(&s, "-") &&
          take_month(&s, &d->month) && take_text(&s, "-") && take_digits(&s, 2, &d->year) &&
          take_text(&s, " ") && take_time(&s, d) && str_eq(s, STR(" GMT"))))
        return false;
    d->year = full_year(d->year);
    return true;
}

/* " Nov  6 08:49:37 1994", after the day's name. */
static bool parse_asctime_date(struct str s, struct date *d)
{
    return take_text(&s, " ") && take_month(&s, &d->month) && take_text(&s, " ") &&
           (take_text(&s, " ") ? take_digits(&s, 1, &d->day) : take_digits(&s, 2, &d->day)) &&
           take_text(&s, " ") && take_time(&s, d) && take_text(&s, " ") &&
           take_digits(&s, 4, &d->year) && s.len == 0;
}

bool text_parse_http_date(struct str s, uint64_t *seconds)
{
    struct date d = {0};
    bool in_full, good;

    if (!take_day_name(&s, &in_full))
        return false;
    if (take_text(&s, ","))
        good = in_full ? parse_rfc850_date(s, &d) : parse_imf_date(s, &d);
    else
        good = !in_full && parse_asctime_date(s, &d);
    return good && date_to_seconds(&d, seconds);
}

/* ---- Ids and hashes ---- */

static uint64_t random_word(void)
{
    static _Thread_local uint64_t block[256]; /* a system call for 85 ids */
    static _Thread_local size_t left;

    if (left == 0) {
        sys_random(block, sizeof(block));
        left = sizeof(block) / sizeof(*block);
    }
    return block[--left];
}

void text_random_id(const char *prefix, char *out)
{
    static const char alphabet[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    size_t len = strlen(prefix);

    memcpy(out, prefix, len);
    for (size_t i = 0; i < 22;) {
        uint64_t word = random_word();

        for (int draws = 10; draws > 0 && i < 22; draws--, word >>= 6)
            if ((word & 63) < 62) /* drawing again keeps all characters equally likely */
                out[len + i++] = alphabet[word & 63];
    }
    out[len + 22] = '\0';
}

/* Both halves of the 128-bit product, folded: each bit of the result depends on all bits of both.
 * */
static uint64_t mix(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;

    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint64_t load_u64(const char *ptr)
{
    uint64_t word;

    memcpy(&word, ptr, sizeof(word));
    return word;
}

/* ---- numbers ---- */

static const char digit_pairs[] = "00010203040506070809"
                                  "10111213141516171819"
                                  "20212223242526272829"
                                  "30313233343536373839"
                                  "40414243444546474849"
                                  "50515253545556575859"
                                  "60616263646566676869"
                                  "70717273747576777879"
                                  "80818283848586878889"
                                  "90919293949596979899";

/* From the number of bits, of which a digit has 3.32; the power of ten decides between two. */
static size_t count_digits(uint64_t n)
{
    static const uint64_t powers[] = {
        0,
        10,
        100,
        1000,
        10000,
        100000,
        1000000,
        10000000,
        100000000,
        1000000000,
        10000000000,
        100000000000,
        1000000000000,
        10000000000000,
        100000000000000,
        1000000000000000,
        10000000000000000,
        100000000000000000,
        1000000000000000000,
        UINT64_C(10000000000000000000),
    };
    size_t bits = 64 - (size_t)__builtin_clzll(n | 1), few = bits * 1233 >> 12;

    return few + (n >= powers[few]);
}

static void put_pair(char *at, uint64_t n)
{
    memcpy(at, digit_pairs + n * 2, 2);
}

/* Four digits at a time: each division waits for the one before. */
size_t text_put_u64(uint64_t n, char *out)
{
    size_t len = count_digits(n);
    char *at = out + len;

    for (; n >= 10000; n /= 10000) {
        at -= 4;
        put_pair(at, n % 10000 / 100);
        put_pair(at + 2, n % 100);
    }
    if (n >= 100) {
        put_pair(at -= 2, n % 100);
        n /= 100;
    }
    if (n >= 10)
        put_pair(at - 2, n);
    else
        at[-1] = (char)('0' + n);
    return len;
}

/* A text of less than eight bytes as a word with zeros behind it. Without a copy: what was written byte by byte, a
 * processor must wait for before it can be read as a word. */
static uint64_t load_few(const char *at, size_t len)
{
    uint32_t front = 0, back = 0;

    if (len >= sizeof(front)) {
        memcpy(&front, at, sizeof(front));
        memcpy(&back, at + len - sizeof(back), sizeof(back));
        return front | (uint64_t)back << 8 * (len - sizeof(back));
    }
    for (size_t i = 0; i < len; i++)
        front |= (uint32_t)(unsigned char)at[i] << 8 * i;
    return front;
}

uint64_t text_hash(struct str s, uint64_t seed)
{
    /* Odd constants with about as many ones as zeros: digits of e, pi and the golden ratio. */
    const uint64_t k0 = UINT64_C(0xB7E151628AED2A6B), k1 = UINT64_C(0x243F6A8885A308D3),
                   k2 = UINT64_C(0x9E3779B97F4A7C15);
    uint64_t front, back;

    seed = mix(seed ^ k0, s.len ^ k1);
    while (s.len > 16) {
        seed = mix(load_u64(s.ptr) ^ k1, load_u64(s.ptr + 8) ^ k2 ^ seed);
        s = str_after(s, 16);
    }
    front = s.len < 8 ? load_few(s.ptr, s.len) : load_u64(s.ptr);
    back = s.len > 8 ? load_u64(s.ptr + s.len - 8) >> 8 * (16 - s.len) : 0;
    seed = mix(front ^ k2, back ^ k0 ^ seed);
    return mix(seed ^ k1, k2);
}
