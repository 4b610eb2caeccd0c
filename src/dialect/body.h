/* SPDX-License-Identifier: Apache-2.0 */
/* What the bodies of all model requests have in common, whatever the dialect: they are JSON objects
 * without repeated members, name a model, and have members whose type is known.
 *
 * The body is read without building a tree: one strict pass gives the top-level members, and of
 * those only what every provider would refuse is judged, so that the caller learns at once and by
 * name what is wrong. What we do not know is relayed; what could turn us against the operator
 * (another address, another key) is refused.
 *
 * The hard thing is to be strict without being wrong: a limit that differs between providers is
 * theirs to enforce. */
#ifndef DIALECT_BODY_H
#define DIALECT_BODY_H

#include "base/arena.h"
#include "base/err.h"
#include "model/message.h"

/* A refusal that blames a member: body_bad("invalid_value", "n", "…", …). Code and param must
 * outlive the error (literals or the request's arena). */
#define body_bad(error_code, field, ...)                                                           \
    err_new_detail(ERR_BAD_REQUEST, (.code = (error_code), .param = (field)), __VA_ARGS__)

enum body_type {
    BODY_TEXT, /* a string */
    BODY_BOOL,
    BODY_COUNT,  /* an integer of at least `least` and at most `most` */
    BODY_NUMBER, /* a number within least … most */
    BODY_OBJECT,
    BODY_LIST,
    BODY_TEXTS,  /* a string or a list of strings */
    BODY_REFUSED /* never accepted from callers */
};

/* What a member must be. null is accepted wherever a member may be left out. */
struct body_rule {
    struct str name;
    enum body_type type;
    double least, most;
};

/* A line of a table of rules. */
#define BODY_RULE(name, type, least, most) {{name, sizeof(name) - 1}, BODY_##type, least, most}

/* Members that would send us elsewhere or with another key. */
#define BODY_RULES_REFUSED                                                                         \
    BODY_RULE("api_base", REFUSED, 0, 0), BODY_RULE("base_url", REFUSED, 0, 0),                    \
        BODY_RULE("api_key", REFUSED, 0, 0), BODY_RULE("extra_headers", REFUSED, 0, 0)

/* Read a body's members and check them against the rules; sets body, members, member_count and, if
 * there is a boolean `stream`, is_stream. The strs point into `body`. Errors: BAD_REQUEST
 * (invalid_json, invalid_type, invalid_value, unsupported_parameter), BUSY. */
err_t body_read(struct str body, const struct body_rule *rules, size_t rule_count,
                struct arena *arena, struct chat_request *out) ERR_MUST_CHECK;

/* The value of a top-level member, or a str with ptr NULL. */
struct str body_get(const struct chat_request *ask, struct str name);

/* Read the member `model` into out->model, copied: it is needed when the body has been given back.
 * Errors: BAD_REQUEST. */
err_t body_read_model(struct arena *arena, struct chat_request *out) ERR_MUST_CHECK;

/* Check that the member `messages` is a list of at least one and at most `most`, each of which `check`
 * accepts. Errors: BAD_REQUEST, and those of `check`. */
err_t body_check_messages(const struct chat_request *ask, size_t most,
                          err_t (*check)(struct str message, size_t index, struct arena *arena),
                          struct arena *arena) ERR_MUST_CHECK;

/* The error for a value of a type that was not expected ("a string"). */
err_t body_wrong_type(const char *name, const char *expected, struct str value);

/* The error for a member that must be a string and is missing or something else. */
err_t body_not_text(const char *param, struct str value);

/* The decoded name of a member, in the arena if it had escapes; ptr NULL without memory. */
struct str body_name(const struct json_member *member, struct arena *arena);

/* Put what setting_of() knows into out->settings and the names of all other members into
 * out->unknown, except for those for which is_handled(name) holds. Members that are null were not
 * given. Errors: BUSY. */
err_t body_read_settings(const struct chat_request *ask, bool (*is_handled)(struct str name),
                         struct arena *arena, struct prompt *out) ERR_MUST_CHECK;

#endif
