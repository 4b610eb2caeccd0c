/* SPDX-License-Identifier: Apache-2.0 */
/* Presets: what need not be said of a known service.
 *
 * They are applied before a provider's own options are read, so that those win without anybody
 * having to remember which ones the file has. */
#include "conf/presets.h"

#include "conf/expand.h"

struct preset {
    struct str name, url;
    enum conf_auth auth;
    bool has_old_max_tokens;
    struct str seed_field, reasoning_field;
    enum conf_reasoning_back reasoning_back;
    bool stream_usage, speaks_responses, takes_extensions;
};

static const struct preset presets[] = {
#define TEXT_OF(literal) {literal, sizeof(literal) - 1}
#define X(name, url, auth, old, seed, reasoning, back, usage, responses, extensions)               \
    {TEXT_OF(#name),     TEXT_OF(url),          CONF_##auth, old,       TEXT_OF(seed),             \
     TEXT_OF(reasoning), CONF_REASONING_##back, usage,       responses, extensions},
#include "conf/presets.def"
#undef X
#undef TEXT_OF
};

bool presets_is_openai(struct str url)
{
    struct str host = STR("https://api.openai.com");

    return str_starts(url, host) && (url.len == host.len || url.ptr[host.len] == '/');
}

void presets_apply_kind(struct conf_provider *p, enum conf_provider_kind kind)
{
    static const char *const urls[] = {
        [CONF_PROVIDER_OPENAI] = "https://api.openai.com/v1",
        [CONF_PROVIDER_ANTHROPIC] = "https://api.anthropic.com",
        [CONF_PROVIDER_GEMINI] = "https://generativelanguage.googleapis.com/v1beta",
        [CONF_PROVIDER_LOCAL] = NULL,
    };
    static const enum conf_auth auths[] = {
        [CONF_PROVIDER_OPENAI] = CONF_AUTH_BEARER,
        [CONF_PROVIDER_ANTHROPIC] = CONF_AUTH_X_API_KEY,
        [CONF_PROVIDER_GEMINI] = CONF_AUTH_X_GOOG_API_KEY,
        [CONF_PROVIDER_LOCAL] = CONF_AUTH_NONE,
    };

    p->kind = kind;
    p->url = str_from(urls[kind]);
    p->auth = auths[kind];
    p->seed_field = STR("seed");
    p->reasoning_field = STR("reasoning_content");
    p->reasoning_back = kind == CONF_PROVIDER_LOCAL ? CONF_REASONING_GIVEN : CONF_REASONING_NEVER;
    p->has_old_max_tokens = kind == CONF_PROVIDER_LOCAL;
    p->takes_extensions = kind == CONF_PROVIDER_LOCAL;
    p->stream_usage = true;
}

static void apply_row(const struct preset *row, struct conf_provider *p)
{
    p->url = row->url;
    p->auth = row->auth;
    p->has_old_max_tokens = row->has_old_max_tokens;
    p->seed_field = row->seed_field;
    p->reasoning_field = row->reasoning_field;
    p->reasoning_back = row->reasoning_back;
    p->stream_usage = row->stream_usage;
    p->speaks_responses = row->speaks_responses;
    p->takes_extensions = row->takes_extensions;
}

/* What the file says under this key, if it is a text without variables that are not set. */
static struct str peek(struct reader *r, const struct tree_node *node, struct str key)
{
    const struct tree_node *value = tree_get(node, key);
    bool has_variables;
    struct str text;

    if (!value || value->kind != TREE_SCALAR || !expand_scalar(r, value, &text, &has_variables))
        return (struct str){0};
    return text;
}

void presets_apply(struct reader *r, const struct tree_node *node, struct conf_provider *p)
{
    static const char *const kinds[] = {"openai", "anthropic", "gemini", "local"};
    struct str kind = peek(r, node, STR("kind")), preset = peek(r, node, STR("preset"));

    presets_apply_kind(p, CONF_PROVIDER_OPENAI);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (str_eq(kind, str_from(kinds[i])))
            presets_apply_kind(p, (enum conf_provider_kind)i);
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++)
        if (p->kind == CONF_PROVIDER_OPENAI && str_eq(preset, presets[i].name))
            apply_row(&presets[i], p);
}
