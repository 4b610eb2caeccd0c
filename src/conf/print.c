/* SPDX-License-Identifier: Apache-2.0 */
/* Prints a configuration as YAML and JSON, and the table of options as JSON Schema and Markdown.
 *
 * All four walk the tree of options, so an option that is added to options.def appears in each
 * of them. */
#include "conf/conf.h"
#include "conf/options.h"
#include "conf/value.h"

/* ---- what both views share ---- */

/* Options of the other kind of provider have no meaning for this one. */
static bool is_foreign(const struct option *option, struct str prefix, const void *base)
{
    const struct conf_provider *p = base;

    if (!str_eq(prefix, STR("providers.*.")))
        return false;
    return option_is_foreign(option, (int)p->kind);
}

/* Whether there is anything to show of a child. */
static bool has_content(const struct option_child *child, struct str prefix, const void *base)
{
    struct option_child inner;

    switch (child->kind) {
    case CHILD_OPTION:
        return !is_foreign(child->option, prefix, base) && !value_is_empty(child->option, base);
    case CHILD_GROUP:
        for (size_t at = 0; options_next_child(child->prefix, &at, &inner);)
            if (has_content(&inner, child->prefix, base))
                return true;
        return false;
    default: {
        const struct option_collection *c = options_collection(child->prefix);
        return *(const size_t *)((const char *)base + c->count_offset) > 0;
    }
    }
}

/* Struct `i` of a collection; NULL behind the last. */
static const void *item_at(const struct option_child *child, const void *base, size_t i)
{
    const struct option_collection *c = options_collection(child->prefix);
    const char *items = *(const char *const *)((const char *)base + c->items_offset);

    return i < *(const size_t *)((const char *)base + c->count_offset) ? items + i * c->item_size
                                                                       : NULL;
}

/* ---- YAML ---- */

static err_t yaml_indent(struct buf *out, size_t depth)
{
    return buf_printf(out, "%*s", (int)(2 * depth), "");
}

static err_t yaml_children(struct str prefix, const void *base, size_t depth, struct buf *out);

static err_t yaml_collection(const struct option_child *child, const void *base, size_t depth,
                             struct buf *out)
{
    const void *item;

    for (size_t i = 0; (item = item_at(child, base, i)); i++) {
        TRY(yaml_indent(out, depth));
        if (child->kind == CHILD_LIST) {
            TRY(buf_add(out, STR("-\n")));
        } else {
            TRY(buf_add_json(out, *(const struct str *)item));
            TRY(buf_add(out, STR(":\n")));
        }
        TRY(yaml_children(child->prefix, item, depth + 1, out));
    }
    return NULL;
}

static err_t yaml_children(struct str prefix, const void *base, size_t depth, struct buf *out)
{
    struct option_child child;

    for (size_t at = 0; options_next_child(prefix, &at, &child);) {
        if (!has_content(&child, prefix, base))
            continue;
        TRY(yaml_indent(out, depth));
        TRY(buf_printf(out, "%.*s:", STR_ARG(child.name)));
        if (child.kind == CHILD_OPTION) {
            TRY(buf_add_byte(out, ' '));
            TRY(value_print(child.option, base, out));
        }
        TRY(buf_add_byte(out, '\n'));
        if (child.kind == CHILD_GROUP)
            TRY(yaml_children(child.prefix, base, depth + 1, out));
        else if (child.kind != CHILD_OPTION)
            TRY(yaml_collection(&child, base, depth + 1, out));
    }
    return NULL;
}

err_t conf_print(const struct conf *conf, struct buf *out)
{
    return yaml_children(STR(""), conf, 0, out);
}

/* ---- JSON ---- */

static err_t json_children(struct str prefix, const void *base, struct buf *out);

static err_t json_collection(const struct option_child *child, const void *base, struct buf *out)
{
    const void *item;
    bool is_list = child->kind == CHILD_LIST;

    TRY(buf_add_byte(out, is_list ? '[' : '{'));
    for (size_t i = 0; (item = item_at(child, base, i)); i++) {
        if (i)
            TRY(buf_add_byte(out, ','));
        if (!is_list) {
            TRY(buf_add_json(out, *(const struct str *)item));
            TRY(buf_add_byte(out, ':'));
        }
        TRY(json_children(child->prefix, item, out));
    }
    return buf_add_byte(out, is_list ? ']' : '}');
}

static err_t json_children(struct str prefix, const void *base, struct buf *out)
{
    struct option_child child;
    bool is_first = true;

    TRY(buf_add_byte(out, '{'));
    for (size_t at = 0; options_next_child(prefix, &at, &child);) {
        if (!has_content(&child, prefix, base))
            continue;
        TRY(buf_printf(out, "%s\"%.*s\":", is_first ? "" : ",", STR_ARG(child.name)));
        is_first = false;
        if (child.kind == CHILD_OPTION)
            TRY(value_print(child.option, base, out));
        else if (child.kind == CHILD_GROUP)
            TRY(json_children(child.prefix, base, out));
        else
            TRY(json_collection(&child, base, out));
    }
    return buf_add_byte(out, '}');
}

err_t conf_print_json(const struct conf *conf, struct buf *out)
{
    return json_children(STR(""), conf, out);
}

/* ---- JSON Schema ---- */

/* Text that has a variable in it stands for any type. */
#define WITH_VARIABLE "{\"type\":\"string\",\"pattern\":\"[$][{]\"}"

static err_t schema_words(const struct option *option, struct buf *out)
{
    struct str rest = option->allowed, word;
    const char *comma = "";

    TRY(buf_add(out, STR("\"enum\":[")));
    while (option_next_word(&rest, &word)) {
        TRY(buf_printf(out, "%s\"%.*s\"", comma, STR_ARG(word)));
        comma = ",";
    }
    return buf_add_byte(out, ']');
}

static err_t schema_number(const struct option *option, struct buf *out)
{
    struct str low, high;
    bool can_be_off;

    (void)option_range(option, &low, &high, &can_be_off);
    return buf_printf(out,
                      "\"anyOf\":[{\"type\":\"integer\",\"minimum\":%.*s,\"maximum\":%.*s},"
                      "{\"type\":\"string\",\"pattern\":\"^[0-9]+$%s|[$][{]\"}]",
                      STR_ARG(low), STR_ARG(high), can_be_off ? "|^off$" : "");
}

static err_t schema_amounts(const char *number, struct buf *out)
{
    TRY(buf_printf(out,
                   "\"anyOf\":[{\"type\":\"string\",\"pattern\":\"^%s/(day|month|total)$"
                   "|^off$|[$][{]\"},",
                   number));
    return buf_printf(out,
                      "{\"type\":\"array\",\"items\":{\"type\":\"string\",\"pattern\":\"^%s/"
                      "(day|month|total)$|[$][{]\"}}]",
                      number);
}

static err_t schema_unit(const struct option *option, const char *pattern, struct buf *out)
{
    bool can_be_off = str_starts(option->allowed, STR("off, "));

    return buf_printf(out, "\"type\":[\"string\",\"integer\"],\"pattern\":\"%s%s|[$][{]\"", pattern,
                      can_be_off ? "|^off$" : "");
}

/* A share may be a fraction as well. */
static err_t schema_percent(const struct option *option, struct buf *out)
{
    TRY(buf_add(out, STR("\"anyOf\":[{\"type\":\"number\",\"minimum\":0,\"maximum\":1},{")));
    TRY(schema_unit(option, "^[0-9]+%$|^0[.][0-9]{1,2}$", out));
    return buf_add(out, STR("}]"));
}

static err_t schema_list(const struct option *option, struct buf *out)
{
    TRY(buf_add(out, STR("\"anyOf\":[{\"type\":\"array\",\"items\":{\"type\":\"string\"")));
    if (option->allowed.len) {
        TRY(buf_add_byte(out, ','));
        TRY(schema_words(option, out));
    }
    return buf_add(out, STR("}},{\"type\":\"string\"}]"));
}

static err_t schema_type(const struct option *option, struct buf *out)
{
    switch (option->type) {
    case OPTION_BOOL:
        return buf_add(out, STR("\"anyOf\":[{\"type\":\"boolean\"},{\"enum\":[\"on\",\"off\","
                                "\"yes\",\"no\"]}," WITH_VARIABLE "]"));
    case OPTION_ENUM:
        TRY(buf_add(out, STR("\"anyOf\":[{")));
        TRY(schema_words(option, out));
        return buf_add(out, STR("}," WITH_VARIABLE "]"));
    case OPTION_INT:
        return schema_number(option, out);
    case OPTION_DURATION:
        return schema_unit(option, "^(0|[0-9]+(ms|s|m|h|d))$", out);
    case OPTION_SIZE:
        return schema_unit(option, "^[0-9]+([KMGT]i?B|B)?$", out);
    case OPTION_PERCENT:
        return schema_percent(option, out);
    case OPTION_RATE:
        return buf_add(out, STR("\"type\":\"string\",\"pattern\":\"^[0-9]+/([0-9]+(ms|s|m|h|d)|s|"
                                "sec|m|min|h|hour|d|day)$|^off$|[$][{]\""));
    case OPTION_QUOTA:
        return schema_amounts("[0-9]+", out);
    case OPTION_MONEY:
        return schema_amounts("[0-9]+([.][0-9]{1,9})?", out);
    case OPTION_LIST:
        return schema_list(option, out);
    case OPTION_MAP:
        return buf_add(out, STR("\"type\":\"object\",\"additionalProperties\":{\"type\":"
                                "[\"string\",\"number\",\"boolean\"]}"));
    case OPTION_JSON:
        return buf_add(out, STR("\"type\":\"object\""));
    case OPTION_TEXT:
        if (!option->allowed.len)
            return buf_add(out, STR("\"type\":\"string\""));
        TRY(buf_add(out, STR("\"anyOf\":[{")));
        TRY(schema_words(option, out));
        return buf_add(out, STR("}," WITH_VARIABLE "]"));
    default:
        return buf_add(out, STR("\"type\":\"string\""));
    }
}

static err_t schema_option(const struct option *option, struct buf *out)
{
    TRY(buf_add(out, STR("{\"description\":")));
    TRY(buf_add_json(out, str_from(option->help)));
    if (option->by_default.len && !option_is_computed(option)) {
        TRY(buf_add(out, STR(",\"default\":")));
        TRY(buf_add_json(out, option->by_default));
    }
    TRY(buf_add_byte(out, ','));
    TRY(schema_type(option, out));
    return buf_add_byte(out, '}');
}

static err_t schema_object(struct str prefix, struct buf *out);

/* A map of objects or a list of them; where an element may be a text, so may the list. */
static err_t schema_collection(const struct option_child *child, struct buf *out)
{
    bool has_short = options_collection(child->prefix)->short_for.len;

    if (child->kind == CHILD_MAP) {
        TRY(buf_add(out, STR("{\"type\":[\"object\",\"null\"],\"additionalProperties\":{")));
        TRY(schema_object(child->prefix, out));
        return buf_add(out, STR("}}"));
    }
    TRY(buf_add(out, STR("{\"type\":[\"array\",\"null\"")));
    TRY(buf_add(out, has_short ? STR(",\"string\",\"object\"],\"items\":{\"anyOf\":[{"
                                     "\"type\":\"string\"},{")
                               : STR("],\"items\":{")));
    TRY(schema_object(child->prefix, out));
    return buf_add(out, has_short ? STR("}]}}") : STR("}}"));
}

/* The members of an object that may have the children of `prefix`, and no others. An object
 * without a value is as good as an empty one. */
static err_t schema_object(struct str prefix, struct buf *out)
{
    struct option_child child;
    const char *comma = "";

    TRY(buf_add(
        out,
        STR("\"type\":[\"object\",\"null\"],\"additionalProperties\":false,\"properties\":{")));
    for (size_t at = 0; options_next_child(prefix, &at, &child);) {
        TRY(buf_printf(out, "%s\"%.*s\":", comma, STR_ARG(child.name)));
        comma = ",";
        if (child.kind == CHILD_OPTION) {
            TRY(schema_option(child.option, out));
        } else if (child.kind == CHILD_GROUP) {
            TRY(buf_add_byte(out, '{'));
            TRY(schema_object(child.prefix, out));
            TRY(buf_add_byte(out, '}'));
        } else {
            TRY(schema_collection(&child, out));
        }
    }
    return buf_add_byte(out, '}');
}

err_t conf_print_schema(struct buf *out)
{
    TRY(buf_add(out, STR("{\"$schema\":\"https://json-schema.org/draft/2020-12/schema\","
                         "\"title\":\"Configuration of Sluice\",")));
    TRY(schema_object(STR(""), out));
    return buf_add(out, STR("}\n"));
}

/* ---- Markdown ---- */

/* A cell of a table: "|" would end it. */
static err_t cell(struct str text, struct buf *out)
{
    struct str part;

    if (!text.len)
        return NULL;
    for (bool is_first = true; text.ptr && str_split(&text, '|', &part); is_first = false) {
        if (!is_first)
            TRY(buf_add(out, STR(", ")));
        TRY(buf_add(out, part));
    }
    return NULL;
}

static err_t reference_row(const struct option *o, struct buf *out)
{
    struct str by_default = o->by_default;

    TRY(buf_printf(out, "| `%.*s` | %s | ", STR_ARG(o->path), option_type_name(o->type)));
    if (option_is_computed(o))
        by_default = (struct str){by_default.ptr + 1, by_default.len - 2};
    TRY(cell(by_default, out));
    TRY(buf_add(out, STR(" | ")));
    TRY(cell(o->allowed, out));
    TRY(buf_add(out, STR(" | ")));
    TRY(cell(str_from(o->help), out));
    return buf_printf(out, "%s%s%s%s%s%s |\n", o->flags & ONLY_OPENAI ? " (kind openai)" : "",
                      o->flags & ONLY_ANTHROPIC ? " (kind anthropic)" : "",
                      o->flags & ONLY_LOCAL ? " (kind local)" : "",
                      o->flags & ONLY_CHAT ? " (kinds openai and local)" : "",
                      o->flags & ONLY_REMOTE ? " (not kind local)" : "",
                      o->flags & RESTART ? " (needs a restart)" : "");
}

err_t conf_print_reference(struct buf *out)
{
    TRY(buf_add(out,
                STR("| Option | Type | Default | Allowed | Meaning |\n|---|---|---|---|---|\n")));
    for (size_t i = 0; i < option_count; i++)
        TRY(reference_row(&options[i], out));
    return NULL;
}
