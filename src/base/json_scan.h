/* SPDX-License-Identifier: Apache-2.0 */
/* Finding where a JSON string ends, 64 bytes at a time.
 *
 * This stands behind json_members.h, which is what others include unless they look for letters. The same steps
 * (json_scan_steps.h) are built twice, for vectors of 16 bytes and for those of 32 bytes that AVX2
 * has; which to use is decided at run time. */
#ifndef BASE_JSON_SCAN_H
#define BASE_JSON_SCAN_H

#include <stdbool.h>

/* The closing quote of the string whose text begins at `at`, if it is among the first sixteen bytes
 * and all before it is plain ASCII, else NULL. Most keys need no more than this; a string for which
 * it is NULL may be of any length, good or bad. Reads nothing from `end` on. */
const char *json_scan_near_quote(const char *at, const char *end);

/* From the first byte of a string's text, `at`, to its closing quote. NULL if the string has no end
 * before `end` or is broken: control characters, unknown escapes, half a surrogate pair (RFC 8259
 * §7), bytes that are not UTF-8 (RFC 3629). What is wrong and where, a slower look must tell; all
 * before *stuck is good, though a character or an escape may be unfinished there.
 * `start` is where the document begins, of which all up to the opening quote has been accepted.
 * Nothing outside of `start` to `end` is read. */
const char *json_scan_string(const char *start, const char *at, const char *end,
                             const char **stuck);

/* The same for text known to be good: to the closing quote, or `end` if there is none. */
const char *json_scan_quote(const char *at, const char *end);

#define JSON_SCAN_LETTERS 6

/* Where a quote is followed by one of these letters, as the text of a string would be that begins so: the place of the
 * next such letter from `at` on, or `end` if there is none. Any text will do. */
const char *json_scan_letter(const char *at, const char *end,
                             const char letters[JSON_SCAN_LETTERS]);

/* The two builds, for tests: they give the same, but the wide one runs only where
 * json_scan_has_wide says so. */
bool json_scan_has_wide(void);
const char *json_scan_string_narrow(const char *start, const char *at, const char *end,
                                    const char **stuck);
const char *json_scan_string_wide(const char *start, const char *at, const char *end,
                                  const char **stuck);
const char *json_scan_quote_narrow(const char *at, const char *end);
const char *json_scan_quote_wide(const char *at, const char *end);
const char *json_scan_letter_narrow(const char *at, const char *end,
                                    const char letters[JSON_SCAN_LETTERS]);
const char *json_scan_letter_wide(const char *at, const char *end,
                                  const char letters[JSON_SCAN_LETTERS]);

/* Whether this processor's kind may have the wide build at all. */
#if defined(__x86_64__) && defined(__SSE2__)
#define JSON_SCAN_WIDE
#endif

#endif
