/* SPDX-License-Identifier: Apache-2.0 */
/* One strict pass over a JSON document (RFC 8259), yielding the spans of its top-level members.
 *
 * Bodies and events are checked and looked into without building a tree: the spans point into the
 * original bytes, so that members can be spliced and everything else relayed untouched. The verdict
 * (valid or not) is the same as yyjson's in strict mode, proven by differential fuzzing: UTF-8 is
 * checked, a BOM is refused, depth is at most 128, lone surrogate escapes are refused.
 *
 * The hard thing is speed: a prompt is mostly one long string, so strings are judged 64 bytes at a
 * time (json_scan.h). */
#ifndef BASE_JSON_MEMBERS_H
#define BASE_JSON_MEMBERS_H

#include "base/arena.h"
#include "base/err.h"
#include "base/str.h"

#define JSON_MAX_DEPTH 128

struct json_member {
    struct str key;   /* without quotes, as written: escapes not decoded */
    struct str value; /* as written, from its first to its last byte; strings with their quotes */
    bool key_has_escapes;
};

/* Check `doc` and, if its top level is an object, list its members in document order. At most `max`
 * are stored in `members`; *count is the true number (so *count > max means "too many"). A document
 * whose top level is not an object gives *count = 0 and *is_object = false. Errors: BAD_REQUEST
 * (code "invalid_json") whose text says what is wrong and at which byte. */
err_t json_members_read(struct str doc, struct json_member *members, size_t max, size_t *count,
                        bool *is_object) ERR_MUST_CHECK;

/* Check a document without listing anything: NULL if it is valid. */
err_t json_check(struct str doc) ERR_MUST_CHECK;

/* ---- Looking into text that json_members_read or json_check has accepted ---- */

/* Step through an object's members or an array's elements: begin with *at = 0 on the value's span;
 * false at the end or when `value` is not an object (array). */
bool json_object_next(struct str value, size_t *at, struct json_member *member);
bool json_array_next(struct str value, size_t *at, struct str *element);

/* The value of member `key` of an object (the last one if repeated), or a str with ptr NULL. Keys
 * written with escapes are compared decoded. */
struct str json_get(struct str object, struct str key);

/* Whether a key as written, escapes and all, means `key`. */
bool json_key_decodes_to(struct str written, struct str key);

/* Whether the member's decoded key equals `key`. */
static inline bool json_key_is(const struct json_member *member, struct str key)
{
    return member->key_has_escapes ? json_key_decodes_to(member->key, key)
                                   : str_eq(member->key, key);
}

/* The same in whatever case (ASCII) it is written. */
bool json_key_is_like(const struct json_member *member, struct str key);

/* Whether an object or array, whichever it is, has nothing in it. */
bool json_is_empty(struct str container);

/* What a value is, by its first byte. */
enum json_kind {
    JSON_NONE,
    JSON_OBJECT,
    JSON_ARRAY,
    JSON_STRING,
    JSON_NUMBER,
    JSON_TRUE,
    JSON_FALSE,
    JSON_NULL
};
enum json_kind json_kind(struct str value);

/* A string value's text, decoded; borrowed from the document when it has no escapes, else in the
 * arena. False if `value` is not a string or memory is short (arena_err tells). */
bool json_text(struct str value, struct arena *arena, struct str *out);

/* A number value as an exact non-negative integer (no fraction or exponent). False otherwise. */
bool json_u64(struct str value, uint64_t *out);

/* A number value as a double. False if it is not a number or overflows. */
bool json_double(struct str value, double *out);

/* For yyjson: its allocator through mem.h (use REQUEST). */
struct yyjson_alc;
const struct yyjson_alc *json_yyjson_alc(void);

#endif
