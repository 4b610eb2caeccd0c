/* SPDX-License-Identifier: Apache-2.0 */
/* What a chat completions request means (OpenAI's OpenAPI 2.3.0, CreateChatCompletionRequest).
 *
 * Works on a body that dialect_chat's parse has accepted. One function per member that needs more
 * than a name; the rest goes through the table of settings. `functions` and `function_call`, the
 * old form of tools, mean the same as the new one. */
#include "dialect/body.h"
#include "dialect/openai_chat.h"
#include "dialect/openai_custom.h"
#include "dialect/openai_messages.h"

/* An expansion under way. */
struct reader {
    const struct chat_request *ask;
    struct arena *arena;
    struct prompt *out;
    const char *list; /* within it, params count from its element: "tools", or NULL */
    size_t index;
};

/* "tools[2].function", or `param` itself outside of lists. Made only for errors. */
static const char *place(const struct reader *r, const char *param)
{
    const char *text =
        r->list ? arena_printf(r->arena, "%s[%zu]%s", r->list, r->index, param) : param;

    return text ? text : r->list;
}

static bool is_given(struct str value)
{
    return json_kind(value) != JSON_NONE && json_kind(value) != JSON_NULL;
}

/* A text of an object's member, empty if not given; `param` names it. */
static err_t read_text(const struct reader *r, struct str object, struct str key, const char *param,
                       struct str *out)
{
    struct str value = json_get(object, key);

    if (!is_given(value))
        return NULL;
    if (json_kind(value) != JSON_STRING)
        return body_wrong_type(place(r, param), "a string", value);
    return json_text(value, r->arena, out) ? NULL : arena_err(r->arena);
}

static err_t need_text(const struct reader *r, struct str object, struct str key, const char *param,
                       struct str *out)
{
    TRY(read_text(r, object, key, param, out));
    if (out->len > 0)
        return NULL;
    param = place(r, param);
    return body_bad("missing_required_parameter", param, "Missing required parameter: '%s'.",
                    param);
}

/* "true" or "false" as written; empty if not given. */
static struct str boolean_text(struct str value)
{
    enum json_kind kind = json_kind(value);

    return kind == JSON_TRUE || kind == JSON_FALSE ? value : (struct str){0};
}

static size_t count_items(struct str array)
{
    struct str item;
    size_t count = 0;

    for (size_t at = 0; json_array_next(array, &at, &item);)
        count++;
    return count;
}

/* ---- tools ---- */

/* A function's declaration: the inner object of a tool, or an element of `functions`. */
static err_t read_function(const struct reader *r, struct str function, const char *where,
                           struct tool *out)
{
    struct str parameters = json_get(function, STR("parameters"));

    if (json_kind(function) != JSON_OBJECT)
        return body_wrong_type(place(r, where), "an object", function);
    out->is_function = true;
    TRY(need_text(r, function, STR("name"), where, &out->name));
    TRY(read_text(r, function, STR("description"), where, &out->description));
    if (is_given(parameters) && json_kind(parameters) != JSON_OBJECT)
        return body_wrong_type(place(r, where), "an object as its parameters", parameters);
    if (is_given(parameters))
        out->parameters = parameters;
    out->strict = boolean_text(json_get(function, STR("strict")));
    return NULL;
}

/* {"custom":{"name","description","format"}} */
static err_t read_custom(const struct reader *r, struct str custom, struct tool *out)
{
    if (json_kind(custom) != JSON_OBJECT)
        return body_wrong_type(place(r, ".custom"), "an object", custom);
    TRY(need_text(r, custom, STR("name"), ".custom.name", &out->name));
    TRY(read_text(r, custom, STR("description"), ".custom.description", &out->description));
    return openai_custom_make(json_get(custom, STR("format")), r->arena, out);
}

static err_t read_tool(const struct reader *r, struct str value, struct tool *out)
{
    struct str type = {0}, cache = json_get(value, STR("cache_control"));

    out->raw = value;
    TRY(need_text(r, value, STR("type"), ".type", &type));
    if (json_kind(cache) == JSON_OBJECT)
        out->cache_control = cache;
    if (str_eq(type, STR("function")))
        return read_function(r, json_get(value, STR("function")), ".function", out);
    if (str_eq(type, STR("custom")))
        return read_custom(r, json_get(value, STR("custom")), out);
    out->name = type;
    return NULL;
}

static err_t read_tools(struct reader *r)
{
    struct str tools = body_get(r->ask, STR("tools"));
    struct str functions = body_get(r->ask, STR("functions")), value;
    struct tool *next;

    if (is_given(functions) && json_kind(functions) != JSON_ARRAY)
        return body_wrong_type("functions", "an array", functions);
    r->out->tools = next =
        arena_alloc_array(r->arena, count_items(tools) + count_items(functions) + 1, sizeof(*next));
    if (!next)
        return arena_err(r->arena);
    r->list = "tools";
    r->index = 0;
    for (size_t at = 0; json_array_next(tools, &at, &value); r->index++)
        TRY(read_tool(r, value, next++));
    r->list = "functions";
    r->index = 0;
    for (size_t at = 0; json_array_next(functions, &at, &value); r->index++) {
        next->raw = value;
        TRY(read_function(r, value, "", next++));
    }
    r->list = NULL;
    r->out->tool_count = (size_t)(next - r->out->tools);
    return NULL;
}

static err_t bad_choice(const char *param)
{
    return body_bad("invalid_value", param,
                    "Invalid '%s': expected 'none', 'auto', 'required' or a named function.",
                    param);
}

/* "none", "auto" or "required". */
static bool read_mode(struct str text, enum tool_choice *out)
{
    static const char *const modes[] = {
        [TOOL_AUTO] = "auto", [TOOL_NONE] = "none", [TOOL_REQUIRED] = "required"};

    for (size_t i = TOOL_AUTO; i <= TOOL_REQUIRED; i++)
        if (str_eq(text, str_from(modes[i]))) {
            *out = (enum tool_choice)i;
            return true;
        }
    return false;
}

/* Where a tool or a choice has its name: in an object named after its type. */
static struct str named_by(struct str value)
{
    struct str custom = json_get(value, STR("custom"));

    return json_kind(custom) == JSON_OBJECT ? custom : json_get(value, STR("function"));
}

/* Keep only the tools that {"mode","tools":[{"type":"function","function":{"name"}}]} lists. */
static err_t allow_tools(const struct reader *r, struct str allowed)
{
    struct str mode = {0}, names = json_get(allowed, STR("tools")), value;
    struct prompt *out = r->out;
    size_t kept = 0;

    TRY(need_text(r, allowed, STR("mode"), "tool_choice.allowed_tools.mode", &mode));
    if (!read_mode(mode, &out->tool_choice))
        return bad_choice("tool_choice.allowed_tools.mode");
    for (size_t i = 0; i < out->tool_count; i++) {
        bool is_allowed = false;
        for (size_t at = 0; json_array_next(names, &at, &value);) {
            struct str name = {0};
            TRY(read_text(r, named_by(value), STR("name"), "tool_choice.allowed_tools.tools",
                          &name));
            is_allowed |= out->tools[i].is_function && str_eq(name, out->tools[i].name);
        }
        if (is_allowed)
            out->tools[kept++] = out->tools[i];
    }
    out->tool_count = kept;
    return NULL;
}

/* `tool_choice`, or `function_call` whose object has the name right inside. */
static err_t read_tool_choice(const struct reader *r, struct str value, const char *param,
                              bool is_old)
{
    struct prompt *out = r->out;
    struct str text = {0}, type = {0};

    if (json_kind(value) == JSON_STRING) {
        if (!json_text(value, r->arena, &text))
            return arena_err(r->arena);
        return read_mode(text, &out->tool_choice) ? NULL : bad_choice(param);
    }
    if (json_kind(value) != JSON_OBJECT)
        return bad_choice(param);
    TRY(read_text(r, value, STR("type"), param, &type));
    if (str_eq(type, STR("allowed_tools")))
        return allow_tools(r, json_get(value, STR("allowed_tools")));
    if (!is_old && !str_eq(type, STR("function")) && !str_eq(type, STR("custom")))
        return bad_choice(param);
    out->tool_choice = TOOL_NAMED;
    return need_text(r, is_old ? value : named_by(value), STR("name"), param, &out->tool_name);
}

static err_t read_choices(const struct reader *r)
{
    struct str choice = body_get(r->ask, STR("tool_choice"));
    struct str old = body_get(r->ask, STR("function_call"));

    if (is_given(choice))
        TRY(read_tool_choice(r, choice, "tool_choice", false));
    else if (is_given(old))
        TRY(read_tool_choice(r, old, "function_call", true));
    r->out->is_one_tool_at_a_time =
        json_kind(body_get(r->ask, STR("parallel_tool_calls"))) == JSON_FALSE;
    return NULL;
}

/* ---- the answer's form ---- */

static err_t read_schema(const struct reader *r, struct str format)
{
    const char *param = "response_format.json_schema";
    struct str schema = json_get(format, STR("json_schema"));
    struct prompt *out = r->out;

    if (json_kind(schema) != JSON_OBJECT)
        return body_wrong_type(param, "an object", schema);
    out->format = FORMAT_SCHEMA;
    TRY(read_text(r, schema, STR("name"), param, &out->schema_name));
    TRY(read_text(r, schema, STR("description"), param, &out->schema_description));
    out->schema_strict = boolean_text(json_get(schema, STR("strict")));
    out->schema = json_get(schema, STR("schema"));
    if (json_kind(out->schema) != JSON_OBJECT)
        return body_wrong_type("response_format.json_schema.schema", "an object", out->schema);
    return NULL;
}

static err_t read_format(const struct reader *r)
{
    struct str format = body_get(r->ask, STR("response_format")), type = {0};

    if (!is_given(format))
        return NULL;
    TRY(need_text(r, format, STR("type"), "response_format.type", &type));
    if (str_eq(type, STR("json_schema")))
        return read_schema(r, format);
    if (str_eq(type, STR("json_object")))
        r->out->format = FORMAT_JSON;
    else if (!str_eq(type, STR("text")))
        return body_bad("invalid_value", "response_format.type",
                        "Invalid 'response_format.type': expected 'text', 'json_object' or "
                        "'json_schema'.");
    return NULL;
}

static err_t read_stops(const struct reader *r)
{
    struct str stop = body_get(r->ask, STR("stop")), value = stop;
    struct prompt *out = r->out;
    bool is_list = json_kind(stop) == JSON_ARRAY;

    if (!is_given(stop))
        return NULL;
    out->stops = arena_alloc_array(r->arena, count_items(stop) + 1, sizeof(*out->stops));
    if (!out->stops)
        return arena_err(r->arena);
    for (size_t at = 0; !is_list || json_array_next(stop, &at, &value);) {
        if (!json_text(value, r->arena, &out->stops[out->stop_count++]))
            return arena_err(r->arena);
        if (!is_list)
            break;
    }
    return NULL;
}

static err_t read_effort(const struct reader *r)
{
    static const char *const efforts[] = {"none", "minimal", "low", "medium",
                                          "high", "xhigh",   "max"};
    struct str value = body_get(r->ask, STR("reasoning_effort"));

    if (!is_given(value))
        return NULL;
    if (json_kind(value) != JSON_STRING)
        return body_wrong_type("reasoning_effort", "a string", value);
    if (!json_text(value, r->arena, &r->out->effort))
        return arena_err(r->arena);
    for (size_t i = 0; i < sizeof(efforts) / sizeof(*efforts); i++)
        if (str_eq(r->out->effort, str_from(efforts[i])))
            return NULL;
    return body_bad("invalid_value", "reasoning_effort",
                    "Invalid 'reasoning_effort': expected 'none', 'minimal', 'low', 'medium', "
                    "'high', 'xhigh' or 'max'.");
}

/* ---- the whole ---- */

static bool is_handled(struct str name)
{
    static const char *const handled[] = {
        "model",      "messages",        "stream",
        "tools",      "tool_choice",     "stream_options",
        "functions",  "function_call",   "parallel_tool_calls",
        "stop",       "response_format", "reasoning_effort",
        "max_tokens",
    };

    for (size_t i = 0; i < sizeof(handled) / sizeof(*handled); i++)
        if (str_eq(name, str_from(handled[i])))
            return true;
    return false;
}

err_t openai_chat_expand(const struct chat_request *ask, struct arena *arena, struct prompt *out)
{
    struct reader r = {.ask = ask, .arena = arena, .out = out};
    struct str old_limit = body_get(ask, STR("max_tokens"));

    *out = (struct prompt){0};
    TRY(openai_messages_read(body_get(ask, STR("messages")), arena, &out->messages,
                             &out->message_count));
    TRY(read_tools(&r));
    TRY(read_choices(&r));
    TRY(read_format(&r));
    TRY(read_stops(&r));
    TRY(read_effort(&r));
    TRY(body_read_settings(ask, is_handled, arena, out));
    if (!out->settings[SETTING_MAX_TOKENS].ptr && is_given(old_limit))
        out->settings[SETTING_MAX_TOKENS] = old_limit;
    openai_messages_set_cache_ttl(out);
    return NULL;
}
