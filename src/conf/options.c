/* SPDX-License-Identifier: Apache-2.0 */
/* The table of options, and the tree that its dotted paths describe.
 *
 * Reading, printing, the JSON Schema and the reference page all walk that tree, so none of them
 * knows a single option by name. */
#include "conf/options.h"

#include "base/check.h"
#include "conf/conf.h"

#define TEXT_OF(literal) {literal, sizeof(literal) - 1}

const struct option options[] = {
#define OPTION(path, type, owner, field, by_default, allowed, flags, help)                         \
    {TEXT_OF(path),                                                                                \
     OPTION_##type,                                                                                \
     offsetof(struct owner, field),                                                                \
     sizeof(((struct owner *)0)->field),                                                           \
     TEXT_OF(by_default),                                                                          \
     TEXT_OF(allowed),                                                                             \
     flags,                                                                                        \
     help},
#include "conf/options.def"
#undef OPTION
};

const size_t option_count = sizeof options / sizeof *options;

/* Describe the child of `prefix` on the way to options[i]. */
static void child_on_path(size_t i, size_t prefix_len, struct option_child *child)
{
    struct str path = options[i].path, rest = str_after(path, prefix_len);
    size_t dot = str_index(rest, '.');
    size_t prefix_end = prefix_len + dot + 1;

    *child = (struct option_child){.name = {rest.ptr, dot}, .kind = CHILD_GROUP};
    if (dot == rest.len) {
        child->kind = CHILD_OPTION;
        child->option = &options[i];
        return;
    }
    if (str_starts(str_after(rest, dot), STR(".*."))) {
        child->kind = CHILD_MAP;
        prefix_end += 2;
    } else if (str_ends(child->name, STR("[]"))) {
        child->kind = CHILD_LIST;
        child->name.len -= 2;
    }
    child->prefix = (struct str){path.ptr, prefix_end};
}

bool options_next_child(struct str prefix, size_t *at, struct option_child *child)
{
    for (; *at < option_count; ++*at) {
        if (!str_starts(options[*at].path, prefix))
            continue;
        child_on_path(*at, prefix.len, child);
        /* The options of one group stand together: step over them. */
        do
            ++*at;
        while (child->prefix.len && *at < option_count &&
               str_starts(options[*at].path, child->prefix));
        return true;
    }
    return false;
}

const struct option_collection *options_collection(struct str prefix)
{
    static const struct option_collection collections[] = {
#define COLLECTION(prefix, owner, items, count, type, short_for)                                   \
    {TEXT_OF(prefix), offsetof(struct owner, items), offsetof(struct owner, count),                \
     sizeof(struct type), TEXT_OF(short_for)}
        COLLECTION("providers.*.", conf, providers, provider_count, conf_provider, ""),
        COLLECTION("providers.*.keys[].", conf_provider, keys, key_count, conf_provider_key, ""),
        COLLECTION("models.*.", conf, models, model_count, conf_model, ""),
        COLLECTION("models.*.targets[].", conf_model, targets, target_count, conf_target, "model"),
        COLLECTION("models.*.context_fallbacks[].", conf_model, context_fallbacks,
                   context_fallback_count, conf_target, "model"),
        COLLECTION("models.*.content_fallbacks[].", conf_model, content_fallbacks,
                   content_fallback_count, conf_target, "model"),
        COLLECTION("keys.static[].", conf, keys.fixed, keys.fixed_count, conf_key, ""),
        COLLECTION("keys.issuers[].", conf, keys.issuers, keys.issuer_count, conf_issuer, ""),
#undef COLLECTION
    };
    size_t i = 0;

    _Static_assert(offsetof(struct conf_provider, name) == 0, "the name comes first");
    _Static_assert(offsetof(struct conf_model, name) == 0, "the name comes first");
    while (!str_eq(collections[i].prefix, prefix))
        check(++i < sizeof collections / sizeof *collections);
    return &collections[i];
}

const char *option_type_name(enum option_type type)
{
    static const char *const names[] = {
#define X(name, label) label,
        OPTION_TYPES(X)
#undef X
    };

    return names[type];
}

bool option_is_computed(const struct option *option)
{
    return str_starts(option->by_default, STR("("));
}

bool option_next_word(struct str *rest, struct str *word)
{
    return rest->len && str_split(rest, '|', word);
}

struct str option_word(const struct option *option, size_t i)
{
    struct str rest = option->allowed, word = {0};

    do
        if (!option_next_word(&rest, &word))
            return (struct str){0};
    while (i--);
    return word;
}

bool option_is_foreign(const struct option *option, int kind)
{
    static const unsigned foreign[] = {
        [CONF_PROVIDER_OPENAI] = ONLY_LOCAL | ONLY_ANTHROPIC,
        [CONF_PROVIDER_ANTHROPIC] = ONLY_LOCAL | ONLY_OPENAI | ONLY_CHAT,
        [CONF_PROVIDER_GEMINI] = ONLY_LOCAL | ONLY_OPENAI | ONLY_CHAT | ONLY_ANTHROPIC,
        [CONF_PROVIDER_LOCAL] = ONLY_OPENAI | ONLY_REMOTE | ONLY_ANTHROPIC,
    };

    return option->flags & foreign[kind];
}

bool option_range(const struct option *option, struct str *low, struct str *high, bool *can_be_off)
{
    struct str range = option->allowed;

    *can_be_off = str_starts(range, STR("off, "));
    if (*can_be_off)
        range = str_after(range, 5);
    size_t dots = str_find(range, STR(".."));
    if (dots == range.len)
        return false;
    *low = (struct str){range.ptr, dots};
    *high = str_after(range, dots + 2);
    return true;
}
