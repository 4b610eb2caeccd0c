/* SPDX-License-Identifier: Apache-2.0 */
/* The two layers of text that tokens and sets of keys are made of: base64url (RFC 4648 §5) and JSON objects.
 *
 * Both are read so that a text has one meaning only: no padding, no stray bits, no member twice. */
#ifndef GOVERN_JWT_TEXT_H
#define GOVERN_JWT_TEXT_H

#include "base/arena.h"
#include "base/err.h"
#include "base/str.h"

#define JWT_MAX_MEMBERS 100

struct jwt_member {
    struct str name;  /* decoded */
    struct str value; /* JSON as it came */
};

struct jwt_object {
    struct jwt_member *members;
    size_t count;
};

/* Decode into the arena. Errors: DENIED for what is not base64url in its one form (RFC 7515 §2, without padding), the
 * arena's. */
err_t jwt_decode(struct str text, struct arena *arena, struct str *out) ERR_MUST_CHECK;

/* Read a JSON object of at most JWT_MAX_MEMBERS members; values are borrowed from `json`. Errors: DENIED for anything
 * else and for a member that is there twice, the arena's. */
err_t jwt_object_read(struct str json, struct arena *arena, struct jwt_object *out) ERR_MUST_CHECK;

/* A member's value as it came, or a str with ptr NULL. */
struct str jwt_object_get(const struct jwt_object *object, struct str name);

/* A member that is a text, decoded; an empty str with ptr NULL if it is missing. Errors: DENIED if it is something
 * else, the arena's. */
err_t jwt_object_text(const struct jwt_object *object, struct str name, struct arena *arena,
                      struct str *out) ERR_MUST_CHECK;

/* A refusal: for the log, not for the caller. */
#define jwt_refuse(...) err_new_detail(ERR_DENIED, (.code = "invalid_api_key"), __VA_ARGS__)

#endif
