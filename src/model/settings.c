/* SPDX-License-Identifier: Apache-2.0 */
/* The table of settings (settings.def), asked by setting, by protocol and by a caller's name.
 *
 * The columns of the table stand in the order of enum protocol, and the first that has a name gives
 * a setting the name by which people are told of it. */
#include "model/settings.h"

#include "base/check.h"
#include "base/json_members.h"

/* The protocols that have a column. */
#define COLUMNS (PROTOCOL_GEMINI + 1)

/* The macros of settings.def. */
#define AS(text)      {SETTING_AS, {text, sizeof(text) - 1}}
#define EXTRA(text)   {SETTING_EXTRA, {text, sizeof(text) - 1}}
#define CLAMP_1(text) {SETTING_CLAMP_1, {text, sizeof(text) - 1}}
#define MADE(text)    {SETTING_MADE, {text, sizeof(text) - 1}}
#define DROP(text)    {SETTING_DROP, {text, sizeof(text) - 1}}
#define REFUSE(text)  {SETTING_REFUSE, {text, sizeof(text) - 1}}
#define LOCAL(text)   {SETTING_LOCAL, {text, sizeof(text) - 1}}

static const struct {
    struct str usual; /* JSON text of the default, or empty */
    struct setting_column columns[COLUMNS];
} settings[SETTING_COUNT] = {
#define X(id, usual, ...) [SETTING_##id] = {{usual, sizeof(usual) - 1}, {__VA_ARGS__}},
#include "model/settings.def"
#undef X
};

struct str setting_name(enum setting setting)
{
    check(setting < SETTING_COUNT);
    for (int i = 0; i < COLUMNS; i++)
        if (settings[setting].columns[i].name.len > 0)
            return settings[setting].columns[i].name;
    return STR("");
}

const struct setting_column *setting_in(enum setting setting, enum protocol protocol)
{
    check(setting < SETTING_COUNT && protocol < COLUMNS);
    return &settings[setting].columns[protocol];
}

enum setting setting_of(enum protocol protocol, struct str member)
{
    check(protocol < COLUMNS);
    /* the older name of max_completion_tokens, which most callers still send */
    if (protocol == PROTOCOL_CHAT && str_eq(member, STR("max_tokens")))
        return SETTING_MAX_TOKENS;
    for (int i = 0; member.len > 0 && i < SETTING_COUNT; i++)
        if (str_eq(settings[i].columns[protocol].name, member))
            return (enum setting)i;
    return SETTING_COUNT;
}

/* Whether two JSON values of the same kind mean the same, as deep as defaults go: numbers by value,
 * lists of texts element by element, the rest as it is written. */
static bool is_same(struct str a, struct str b)
{
    size_t at_a = 0, at_b = 0;
    struct str left, right;
    double x, y;

    if (json_double(a, &x))
        return json_double(b, &y) && x == y;
    if (json_kind(a) != JSON_ARRAY)
        return json_kind(a) == JSON_OBJECT ? json_is_empty(a) && json_is_empty(b) : str_eq(a, b);
    for (;;) {
        bool more = json_array_next(a, &at_a, &left);
        if (more != json_array_next(b, &at_b, &right))
            return false;
        if (!more)
            return true;
        if (!str_eq(left, right))
            return false;
    }
}

bool setting_is_default(enum setting setting, struct str value)
{
    check(setting < SETTING_COUNT);
    struct str usual = settings[setting].usual;

    if (json_kind(value) == JSON_NULL)
        return true;
    return json_kind(value) == json_kind(usual) && usual.len > 0 && is_same(value, usual);
}

const char *protocol_name(enum protocol protocol)
{
    static const char *const names[PROTOCOL_COUNT] = {
        [PROTOCOL_CHAT] = "chat",         [PROTOCOL_RESPONSES] = "responses",
        [PROTOCOL_MESSAGES] = "messages", [PROTOCOL_COMPLETIONS] = "completions",
        [PROTOCOL_GEMINI] = "gemini",     [PROTOCOL_EMBEDDINGS] = "embeddings",
        [PROTOCOL_RERANK] = "rerank",     [PROTOCOL_MODERATIONS] = "moderations",
        [PROTOCOL_OTHER] = "other",       [PROTOCOL_COMPACT] = "/responses/compact",
    };

    return protocol < PROTOCOL_COUNT ? names[protocol] : "none";
}
