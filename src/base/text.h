/* SPDX-License-Identifier: Apache-2.0 */
/* Small text formats: UTF-8 validity, durations and sizes with units, HTTP and ISO dates, ids. */
#ifndef BASE_TEXT_H
#define BASE_TEXT_H

#include "base/str.h"

/* Whether `s` is well-formed UTF-8 (RFC 3629: no overlong forms, no surrogates). */
bool text_is_utf8(struct str s);

/* The length (1–4) of the well-formed character that `s` begins with; 0 if there is none. */
size_t text_utf8_length(struct str s);

/* Whether `s` ends inside a character that later bytes may complete; *valid_len is the length of
 * the well-formed part before it. False with *valid_len < s.len means broken. */
bool text_utf8_prefix(struct str s, size_t *valid_len);

/* "10s", "250ms", "15m", "1h", "7d", "0" to milliseconds. False on anything else. */
bool text_duration_ms(struct str s, uint64_t *ms);

/* "64KiB", "32MiB", "1GiB", "512", "10KB" to bytes. */
bool text_size_bytes(struct str s, uint64_t *bytes);

/* Milliseconds as the shortest exact duration ("90s", "15m"). `out` holds at least 32 bytes. */
void text_format_duration(uint64_t ms, char *out);

/* Write "Sun, 06 Nov 1994 08:49:37 GMT" (RFC 9110 §5.6.7, 29 bytes and NUL) for a time in seconds
 * since 1970. */
void text_http_date(uint64_t seconds, char out[30]);

/* Parse the three HTTP date forms of RFC 9110 §5.6.7 to seconds since 1970. */
bool text_parse_http_date(struct str s, uint64_t *seconds);

/* Write "2026-11-22T17:06:19.123Z" (24 bytes and NUL). */
void text_iso_date(uint64_t wall_ms, char out[25]);

/* Parse "2026-11-22", the midnight that it begins with in UTC, or "2026-11-22T17:06:19Z" (also with ".123") to milliseconds since
 * 1970. */
bool text_parse_iso_date(struct str s, uint64_t *wall_ms);

/* A fresh id: `prefix` and 22 random characters of [0-9A-Za-z]. `out` holds prefix + 23 bytes.
 * Cheap: random bytes are taken from the kernel in blocks per thread. */
void text_random_id(const char *prefix, char *out);

/* Write `n` in decimal digits, without NUL, and return how many they are (at most TEXT_U64_BYTES). */
#define TEXT_U64_BYTES 20
size_t text_put_u64(uint64_t n, char *out);

/* Seeded 64-bit hash for tables and shards; not for secrets. */
uint64_t text_hash(struct str s, uint64_t seed);

#endif
