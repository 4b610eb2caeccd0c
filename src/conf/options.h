/* SPDX-License-Identifier: Apache-2.0 */
/* The table of options (options.def) as data, and walking it as the tree that it describes. */
#ifndef CONF_OPTIONS_H
#define CONF_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/str.h"

/*    type      C type of the field       as people write it */
#define OPTION_TYPES(X)                                                                            \
    X(BOOL, "bool")         /* bool       true, false, on, off, yes, no */                         \
    X(INT, "number")        /* uint64_t */                                                         \
    X(DURATION, "duration") /* uint64_t   in milliseconds: 250ms, 10s, 15m, 1h, 7d */              \
    X(SIZE, "size")         /* uint64_t   in bytes: 512, 64KiB, 32MiB */                           \
    X(PERCENT, "percent")   /* uint64_t   80% */                                                   \
    X(RATE, "rate")         /* struct conf_rate 100/60s, 100/min, off */                           \
    X(TEXT, "text")         /* struct str */                                                       \
    X(SECRET, "secret")     /* struct str text, or file:/path; never shown */                      \
    X(PATH, "path")         /* struct str relative to the file's folder; ~/ is the home */         \
    X(URL, "url")           /* struct str http(s)://host[:port][/path], no slash at the end */     \
    X(PROXY, "url")         /* struct str http://[user:password@]host:port, or "off" */            \
    X(SERVICE, "url")       /* struct str scheme:…, or file:/path; shown without its password */   \
    X(ENUM, "word")         /* int, bool  position in the allowed words */                         \
    X(LIST, "list")         /* struct conf_strings */                                              \
    X(QUOTA, "amounts")     /* struct conf_quotas 100000/day, or a list of such */                 \
    X(MONEY, "amounts")     /* struct conf_quotas the same with decimals, in nano-units */         \
    X(MAP, "map")           /* struct conf_pairs */                                                \
    X(JSON, "map")          /* struct str a JSON object */                                         \
    X(TARGET, "text")       /* in a struct conf_target: provider/model */

enum option_type {
#define X(name, label) OPTION_##name,
    OPTION_TYPES(X)
#undef X
};

enum option_flags {
    LIVE = 0,
    RESTART = 1,
    ONLY_OPENAI = 2,
    ONLY_LOCAL = 4,
    ONLY_CHAT = 8,
    ONLY_REMOTE = 16,
    SHOWN = 32,
    ONLY_ANTHROPIC = 64
};

struct option {
    struct str path;
    enum option_type type;
    size_t offset, size;   /* of the field in its struct */
    struct str by_default; /* worked out if it begins with "(" */
    struct str allowed;
    unsigned flags;
    const char *help;
};

extern const struct option options[];
extern const size_t option_count;

/* A step down the tree: an option, a group of options, or a collection of structs. */
struct option_child {
    struct str name;   /* "http" */
    struct str prefix; /* what its own children's paths begin with: "http.", "keys.static[]." */
    const struct option *option; /* NULL unless it is an option itself */
    enum { CHILD_OPTION, CHILD_GROUP, CHILD_MAP, CHILD_LIST } kind;
};

/* Step through the children of the node whose children's paths begin with `prefix` ("" is the
 * top). Begin with *at = 0; false at the end. */
bool options_next_child(struct str prefix, size_t *at, struct option_child *child);

/* Where the structs of a CHILD_MAP or CHILD_LIST are kept, in struct conf or in a struct of the
 * collection around it. Those of a map begin with their name. */
struct option_collection {
    struct str prefix; /* "providers.*." */
    size_t items_offset, count_offset, item_size;
    struct str short_for; /* a text in place of an element is this option of it; empty: none is */
};

/* The collection whose options begin with `prefix`, which must be one's. */
const struct option_collection *options_collection(struct str prefix);

/* Name of a type, for people. */
const char *option_type_name(enum option_type type);

/* Whether a default is worked out rather than written in the table. */
bool option_is_computed(const struct option *option);

/* Step through the words of `allowed` ("a|b"). Begin with *rest = option->allowed; false at the
 * end. */
bool option_next_word(struct str *rest, struct str *word);

/* Word `i` of `allowed`, or an empty str. */
struct str option_word(const struct option *option, size_t i);

/* Whether the option has no meaning for providers of this kind (enum conf_provider_kind). */
bool option_is_foreign(const struct option *option, int kind);

/* For a range: its bounds as text, and whether "off" is allowed too. False if there is no range. */
bool option_range(const struct option *option, struct str *low, struct str *high, bool *can_be_off);

#endif
