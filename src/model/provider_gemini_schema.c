/* SPDX-License-Identifier: Apache-2.0 */
/* JSON Schema as Gemini's `Schema` (ai.google.dev/api/caching#Schema), which is what models before 2.5 understand: a
 * subset of OpenAPI 3.0's.
 *
 * What means the same is put otherwise: references are replaced by what they name, lists of types become anyOf, null
 * becomes `nullable`, const an enum of one. What says nothing about an answer is left out; a rule that cannot be said is
 * left out and reported, and what would change the answer's form is refused.
 *
 * The hard thing is references: they may lead back to where they stand, or multiply, so that depth and number of schemas
 * are bounded. */
#include "model/provider_gemini.h"

#define MAX_DEPTH   20
#define MAX_SCHEMAS 10000

struct converter {
    struct encoding *encoding;
    struct str root;
    struct json_writer *w;
    size_t depth, count;
};

/* One schema being written: it may be put together from several, the first of which wins. */
struct schema {
    uint64_t written; /* keywords, bit by bit */
    bool is_nullable;
    bool has_choice, has_enum; /* each can be said once */
};

enum rule {
    RULE_COPY,
    RULE_COUNT,  /* int64: a text in protobuf's JSON */
    RULE_IGNORE, /* says nothing about the answer, or what Gemini does anyway */
    RULE_TYPE,
    RULE_ENUM,
    RULE_CONST,
    RULE_FORMAT,
    RULE_PROPERTIES,
    RULE_ITEMS,
    RULE_NULLABLE,
    RULE_EXTRA, /* additionalProperties */
    RULE_REF,
    RULE_ALL,
    RULE_ANY
};

static const struct keyword {
    struct str name;
    enum rule rule;
} keywords[] = {
#define K(name, rule) {{name, sizeof(name) - 1}, RULE_##rule}
    K("type", TYPE),
    K("enum", ENUM),
    K("const", CONST),
    K("format", FORMAT),
    K("properties", PROPERTIES),
    K("items", ITEMS),
    K("nullable", NULLABLE),
    K("title", COPY),
    K("description", COPY),
    K("default", COPY),
    K("example", COPY),
    K("required", COPY),
    K("propertyOrdering", COPY),
    K("minProperties", COUNT),
    K("maxProperties", COUNT),
    K("minItems", COUNT),
    K("maxItems", COUNT),
    K("minLength", COUNT),
    K("maxLength", COUNT),
    K("pattern", COPY),
    K("minimum", COPY),
    K("maximum", COPY),
    K("additionalProperties", EXTRA),
    K("$schema", IGNORE),
    K("$id", IGNORE),
    K("$comment", IGNORE),
    K("$anchor", IGNORE),
    K("$defs", IGNORE),
    K("definitions", IGNORE),
    K("examples", IGNORE),
    K("deprecated", IGNORE),
    K("readOnly", IGNORE),
    K("writeOnly", IGNORE),
    /* after all others: what stands beside them wins */
    K("$ref", REF),
    K("allOf", ALL),
    K("anyOf", ANY),
    K("oneOf", ANY),
#undef K
};

#define KEYWORDS (sizeof(keywords) / sizeof(*keywords))

static err_t put_schema(struct converter *c, struct str schema);
static err_t put_members(struct converter *c, struct str schema, struct schema *to);

/* A rule that Gemini has no word for: the answer may be wider than was asked. */
static err_t report(struct converter *c, struct str keyword)
{
    const char *name = arena_printf(c->encoding->arena, "json_schema.%.*s", STR_ARG(keyword));

    return name ? encode_drop(c->encoding, str_from(name)) : arena_err(c->encoding->arena);
}

static err_t refuse(struct converter *c, struct str keyword)
{
    const char *name = arena_printf(c->encoding->arena, "json_schema.%.*s", STR_ARG(keyword));

    return name ? encode_refuse(c->encoding, str_from(name)) : arena_err(c->encoding->arena);
}

static err_t too_large(void)
{
    return err_new_detail(ERR_BAD_REQUEST,
                          (.code = "unsupported_parameter", .param = "json_schema"),
                          "the provider of this model cannot take a schema that refers to itself, "
                          "or is so deep or large");
}

static bool is_null(struct str value)
{
    return json_kind(value) == JSON_NULL;
}

/* ---- references ---- */

/* A step of a JSON pointer (RFC 6901 §4), in the arena. */
static struct str unescape(struct str step, struct arena *arena)
{
    char *text = arena_alloc(arena, step.len + 1);
    size_t len = 0;

    for (size_t i = 0; text && i < step.len; i++) {
        bool is_escape = step.ptr[i] == '~' && i + 1 < step.len &&
                         (step.ptr[i + 1] == '0' || step.ptr[i + 1] == '1');
        text[len++] = !is_escape ? step.ptr[i] : step.ptr[i + 1] == '0' ? '~' : '/';
        i += is_escape;
    }
    return (struct str){text, text ? len : 0};
}

/* What "#/$defs/Name" names; ptr NULL if that is nothing in this document. */
static err_t resolve(struct converter *c, struct str ref, struct str *out)
{
    struct arena *arena = c->encoding->arena;
    struct str path, step;

    *out = (struct str){0};
    if (json_kind(ref) != JSON_STRING)
        return NULL;
    if (!json_text(ref, arena, &path))
        return arena_err(arena);
    if (str_eq(path, STR("#")))
        *out = c->root;
    if (!str_starts(path, STR("#/")))
        return NULL;
    *out = c->root;
    path = str_after(path, 2);
    while (out->ptr && path.ptr && str_split(&path, '/', &step)) {
        step = unescape(step, arena);
        if (!step.ptr)
            return arena_err(arena);
        *out = json_get(*out, step);
    }
    return NULL;
}

static err_t put_reference(struct converter *c, struct str ref, struct schema *to)
{
    struct str target;
    err_t err;

    TRY(resolve(c, ref, &target));
    if (!target.ptr)
        return refuse(c, STR("$ref"));
    if (++c->depth > MAX_DEPTH || ++c->count > MAX_SCHEMAS)
        return too_large();
    err = put_members(c, target, to);
    c->depth--;
    return err;
}

/* ---- types ---- */

/* Gemini's names are OpenAPI's in capitals. */
static err_t put_type_name(struct converter *c, struct str type)
{
    char name[16] = "";

    for (size_t i = 0; i < type.len && i < sizeof(name) - 1; i++)
        name[i] = (char)(type.ptr[i] >= 'a' && type.ptr[i] <= 'z' ? type.ptr[i] - 32 : type.ptr[i]);
    json_put_text(c->w, "type", str_from(name));
    return NULL;
}

static struct str unquoted(struct str text)
{
    return text.len >= 2 ? (struct str){text.ptr + 1, text.len - 2} : text;
}

/* ["string", "null"] and the like. */
static err_t put_types(struct converter *c, struct str types, struct schema *to)
{
    struct str type, last = {0};
    size_t count = 0;

    for (size_t at = 0; json_array_next(types, &at, &type);) {
        if (str_eq(type, STR("\"null\"")))
            to->is_nullable = true;
        else if (json_kind(type) == JSON_STRING && ++count)
            last = type;
    }
    if (count <= 1)
        return count ? put_type_name(c, unquoted(last)) : NULL;
    to->has_choice = true;
    json_put_array(c->w, "anyOf");
    for (size_t at = 0; json_array_next(types, &at, &type);) {
        if (json_kind(type) != JSON_STRING || str_eq(type, STR("\"null\"")))
            continue;
        json_open_object(c->w);
        TRY(put_type_name(c, unquoted(type)));
        json_close_object(c->w);
    }
    json_close_array(c->w);
    return NULL;
}

/* Only texts can be listed. */
static err_t put_enum(struct converter *c, struct str values, struct schema *to)
{
    struct str value;

    for (size_t at = 0; json_array_next(values, &at, &value);)
        if (json_kind(value) != JSON_STRING && !is_null(value))
            return report(c, STR("enum"));
    to->has_enum = true;
    json_put_array(c->w, "enum");
    for (size_t at = 0; json_array_next(values, &at, &value);) {
        if (is_null(value))
            to->is_nullable = true;
        else
            json_add_raw(c->w, value);
    }
    json_close_array(c->w);
    return NULL;
}

static err_t put_const(struct converter *c, struct str value, struct schema *to)
{
    if (json_kind(value) != JSON_STRING || to->has_enum)
        return report(c, STR("const"));
    to->has_enum = true;
    json_put_array(c->w, "enum");
    json_add_raw(c->w, value);
    json_close_array(c->w);
    return NULL;
}

static err_t put_format(struct converter *c, struct str format)
{
    static const char *const known[] = {"\"enum\"",   "\"date-time\"", "\"float\"",
                                        "\"double\"", "\"int32\"",     "\"int64\""};

    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
        if (str_eq(format, str_from(known[i]))) {
            json_put_raw(c->w, "format", format);
            return NULL;
        }
    return report(c, STR("format"));
}

static err_t put_count(struct converter *c, const struct keyword *keyword, struct str value)
{
    uint64_t count;

    if (!json_u64(value, &count))
        return report(c, keyword->name);
    json_put_text(c->w, keyword->name.ptr, value);
    return NULL;
}

/* ---- schemas in schemas ---- */

static err_t put_properties(struct converter *c, struct str properties)
{
    struct json_member m;

    json_put_object(c->w, "properties");
    for (size_t at = 0; json_object_next(properties, &at, &m);) {
        json_add_raw(c->w, (struct str){m.key.ptr - 1, m.key.len + 2}); /* in its quotes */
        if (!c->w->err)
            c->w->err = buf_add(c->w->out, STR(":"));
        c->w->needs_comma = false;
        TRY(put_schema(c, m.value));
    }
    json_close_object(c->w);
    return NULL;
}

/* {"type": "null"} is nobody's choice but "nullable". */
static bool is_null_schema(struct str schema)
{
    return str_eq(json_get(schema, STR("type")), STR("\"null\""));
}

/* Of one that is left, all is said in place of the choice. */
static err_t put_choice(struct converter *c, const struct keyword *keyword, struct str choice,
                        struct schema *to)
{
    struct str schema, last = {0};
    size_t count = 0;

    for (size_t at = 0; json_array_next(choice, &at, &schema);) {
        if (is_null_schema(schema))
            to->is_nullable = true;
        else if (++count)
            last = schema;
    }
    if (count <= 1)
        return count ? put_members(c, last, to) : NULL;
    if (to->has_choice)
        return refuse(c, keyword->name);
    to->has_choice = true;
    json_put_array(c->w, "anyOf");
    for (size_t at = 0; json_array_next(choice, &at, &schema);)
        if (!is_null_schema(schema))
            TRY(put_schema(c, schema));
    json_close_array(c->w);
    return NULL;
}

/* Of one, which is how Pydantic writes a reference with a description. */
static err_t put_all(struct converter *c, struct str all, struct schema *to)
{
    struct str schema, more;
    size_t at = 0;

    if (!json_array_next(all, &at, &schema))
        return NULL;
    return json_array_next(all, &at, &more) ? refuse(c, STR("allOf")) : put_members(c, schema, to);
}

/* ---- keywords ---- */

static err_t put_keyword(struct converter *c, const struct keyword *keyword, struct str value,
                         struct schema *to)
{
    switch (keyword->rule) {
    case RULE_COPY:
        json_put_raw(c->w, keyword->name.ptr, value);
        break;
    case RULE_COUNT:
        return put_count(c, keyword, value);
    case RULE_IGNORE:
        break;
    case RULE_TYPE:
        return json_kind(value) == JSON_STRING ? put_type_name(c, unquoted(value))
                                               : put_types(c, value, to);
    case RULE_ENUM:
        return put_enum(c, value, to);
    case RULE_CONST:
        return put_const(c, value, to);
    case RULE_FORMAT:
        return put_format(c, value);
    case RULE_PROPERTIES:
        return put_properties(c, value);
    case RULE_ITEMS:
        if (json_kind(value) == JSON_ARRAY)
            return refuse(c, keyword->name);
        json_name(c->w, "items");
        return put_schema(c, value);
    case RULE_NULLABLE:
        to->is_nullable |= json_kind(value) == JSON_TRUE;
        break;
    case RULE_EXTRA: /* others than were named do not come anyway */
        return json_kind(value) == JSON_FALSE ? NULL : report(c, keyword->name);
    case RULE_REF:
        return put_reference(c, value, to);
    case RULE_ALL:
        return put_all(c, value, to);
    case RULE_ANY:
        return put_choice(c, keyword, value, to);
    }
    return NULL;
}

static err_t report_unknown(struct converter *c, struct str schema)
{
    struct json_member m;
    size_t i;

    for (size_t at = 0; json_object_next(schema, &at, &m);) {
        for (i = 0; i < KEYWORDS && !json_key_is(&m, keywords[i].name); i++)
            ;
        if (i == KEYWORDS)
            TRY(report(c, m.key));
    }
    return NULL;
}

/* What a schema says, as far as it has not been said, between the members of the object that is open. */
static err_t put_members(struct converter *c, struct str schema, struct schema *to)
{
    struct str value;

    for (size_t i = 0; i < KEYWORDS; i++) {
        value = json_get(schema, keywords[i].name);
        if (!value.ptr || to->written >> i & 1)
            continue;
        to->written |= UINT64_C(1) << i;
        TRY(put_keyword(c, &keywords[i], value, to));
    }
    return report_unknown(c, schema);
}

static err_t put_schema(struct converter *c, struct str schema)
{
    struct schema to = {0};

    if (++c->depth > MAX_DEPTH || ++c->count > MAX_SCHEMAS)
        return too_large();
    json_open_object(c->w);
    TRY(put_members(c, schema, &to));
    if (to.is_nullable)
        json_put_bool(c->w, "nullable", true);
    json_close_object(c->w);
    c->depth--;
    return json_writer_err(c->w);
}

err_t provider_gemini_put_schema(struct encoding *encoding, const char *name, struct str schema,
                                 struct json_writer *w)
{
    struct converter c = {.encoding = encoding, .root = schema, .w = w};

    json_name(w, name);
    return put_schema(&c, schema);
}
