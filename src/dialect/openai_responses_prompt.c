/* SPDX-License-Identifier: Apache-2.0 */
/* The meaning of a request for a response: tools, formats, settings; its items are
 * openai_responses_items.c's.
 *
 * Only what no responses API would take is refused here, because a request is also looked into when
 * its bytes are going to pass unchanged. Built-in tools, prompts and conversations that a provider keeps
 * are therefore put into the prompt by name, and the provider's translator refuses them. */
#include "dialect/body.h"
#include "dialect/openai_custom.h"
#include "dialect/openai_messages.h"
#include "dialect/openai_responses.h"

static bool is_given(struct str value)
{
    return json_kind(value) != JSON_NONE && json_kind(value) != JSON_NULL;
}

/* "tools[2].name" */
static const char *place(struct arena *arena, const char *list, size_t i, const char *member)
{
    const char *text = arena_printf(arena, "%s[%zu].%s", list, i, member);

    return text ? text : list;
}

static err_t need_text(struct str value, const char *param, struct arena *arena, struct str *out)
{
    if (json_kind(value) != JSON_STRING)
        return body_not_text(param, value);
    return json_text(value, arena, out) ? NULL : arena_err(arena);
}

static err_t text_if(struct str value, const char *param, struct arena *arena, struct str *out)
{
    return is_given(value) ? need_text(value, param, arena, out) : NULL;
}

/* ---- tools ---- */

static err_t read_function(struct str value, size_t i, struct arena *arena, struct tool *out)
{
    struct str parameters = json_get(value, STR("parameters"));
    struct str strict = json_get(value, STR("strict"));

    out->is_function = true;
    TRY(need_text(json_get(value, STR("name")), place(arena, "tools", i, "name"), arena,
                  &out->name));
    TRY(text_if(json_get(value, STR("description")), place(arena, "tools", i, "description"), arena,
                &out->description));
    if (is_given(parameters) && json_kind(parameters) != JSON_OBJECT)
        return body_wrong_type(place(arena, "tools", i, "parameters"), "an object", parameters);
    if (is_given(parameters))
        out->parameters = parameters;
    if (json_kind(strict) == JSON_TRUE || json_kind(strict) == JSON_FALSE)
        out->strict = strict;
    return NULL;
}

static err_t read_custom(struct str value, size_t i, struct arena *arena, struct tool *out)
{
    TRY(need_text(json_get(value, STR("name")), place(arena, "tools", i, "name"), arena,
                  &out->name));
    TRY(text_if(json_get(value, STR("description")), place(arena, "tools", i, "description"), arena,
                &out->description));
    return openai_custom_make(json_get(value, STR("format")), arena, out);
}

static err_t read_tools(struct str tools, struct arena *arena, struct prompt *out)
{
    struct str value, type;
    size_t count = 0;

    for (size_t at = 0; json_array_next(tools, &at, &value);)
        count++;
    out->tools = arena_alloc_array(arena, count, sizeof(*out->tools));
    if (!out->tools)
        return arena_err(arena);
    for (size_t at = 0; json_array_next(tools, &at, &value); out->tool_count++) {
        struct tool *tool = &out->tools[out->tool_count];
        TRY(need_text(json_get(value, STR("type")), place(arena, "tools", out->tool_count, "type"),
                      arena, &type));
        tool->raw = value;
        if (str_eq(type, STR("function")))
            TRY(read_function(value, out->tool_count, arena, tool));
        else if (str_eq(type, STR("custom")))
            TRY(read_custom(value, out->tool_count, arena, tool));
        else
            tool->name = type;
    }
    return NULL;
}

/* Tools that agents offer whoever answers, and that a model can do without. */
static bool is_optional(const struct tool *tool)
{
    static const char *const types[] = {"web_search", "web_search_preview", "namespace",
                                        "image_generation", "tool_search"};

    for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++)
        if (!tool->is_function && str_eq(tool->name, str_from(types[i])))
            return true;
    return false;
}

/* Leave those out by name, so that they are reported: agents could not be served at all if each of
 * them were refused. The others (files, code, MCP) are what the question is about. */
static err_t leave_out_optional(struct arena *arena, struct prompt *out)
{
    struct str *unknown =
        arena_alloc_array(arena, out->unknown_count + out->tool_count, sizeof(*unknown));
    size_t kept = 0;

    if (!unknown)
        return arena_err(arena);
    for (size_t i = 0; i < out->unknown_count; i++)
        unknown[i] = out->unknown[i];
    for (size_t i = 0; i < out->tool_count; i++) {
        if (is_optional(&out->tools[i]))
            unknown[out->unknown_count++] = out->tools[i].name;
        else
            out->tools[kept++] = out->tools[i];
    }
    out->tool_count = kept;
    out->unknown = unknown;
    return NULL;
}

static err_t is_listed(struct str list, const struct tool *tool, struct arena *arena, bool *out)
{
    struct str value, name;

    *out = false;
    for (size_t at = 0; !*out && json_array_next(list, &at, &value);) {
        value = json_get(value, STR("name"));
        if (json_kind(value) != JSON_STRING)
            continue;
        if (!json_text(value, arena, &name))
            return arena_err(arena);
        *out = str_eq(name, tool->name);
    }
    return NULL;
}

/* {"type":"allowed_tools","mode","tools"}: the others are as if they were not there. */
static err_t allow_tools(struct str choice, struct arena *arena, struct prompt *out)
{
    struct str mode = STR("auto"), list = json_get(choice, STR("tools"));
    size_t kept = 0;
    bool listed;

    TRY(text_if(json_get(choice, STR("mode")), "tool_choice.mode", arena, &mode));
    if (json_kind(list) != JSON_ARRAY)
        return body_wrong_type("tool_choice.tools", "an array", list);
    out->tool_choice = str_eq(mode, STR("required")) ? TOOL_REQUIRED : TOOL_AUTO;
    for (size_t i = 0; i < out->tool_count; i++) {
        TRY(is_listed(list, &out->tools[i], arena, &listed));
        if (listed)
            out->tools[kept++] = out->tools[i];
    }
    out->tool_count = kept;
    return NULL;
}

/* After the tools. A built-in tool that is asked for is one that was refused. */
static err_t read_tool_choice(struct str choice, struct arena *arena, struct prompt *out)
{
    struct str word = {0};

    if (!is_given(choice))
        return NULL;
    TRY(need_text(json_kind(choice) == JSON_OBJECT ? json_get(choice, STR("type")) : choice,
                  json_kind(choice) == JSON_OBJECT ? "tool_choice.type" : "tool_choice", arena,
                  &word));
    if (json_kind(choice) != JSON_OBJECT) {
        out->tool_choice = str_eq(word, STR("none"))       ? TOOL_NONE
                           : str_eq(word, STR("required")) ? TOOL_REQUIRED
                                                           : TOOL_AUTO;
        if (out->tool_choice == TOOL_AUTO && !str_eq(word, STR("auto")))
            return body_bad("invalid_value", "tool_choice",
                            "Invalid value: '%.*s'. Supported values are: 'none', 'auto', and "
                            "'required'.",
                            STR_ARG(word));
        return NULL;
    }
    if (str_eq(word, STR("allowed_tools")))
        return allow_tools(choice, arena, out);
    if (!str_eq(word, STR("function")) && !str_eq(word, STR("custom")))
        return NULL;
    out->tool_choice = TOOL_NAMED;
    return need_text(json_get(choice, STR("name")), "tool_choice.name", arena, &out->tool_name);
}

/* ---- formats ---- */

static err_t read_schema(struct str format, struct arena *arena, struct prompt *out)
{
    struct str strict = json_get(format, STR("strict"));

    out->format = FORMAT_SCHEMA;
    out->schema = json_get(format, STR("schema"));
    if (json_kind(out->schema) != JSON_OBJECT)
        return body_wrong_type("text.format.schema", "an object", out->schema);
    if (is_given(strict))
        out->schema_strict = strict;
    TRY(need_text(json_get(format, STR("name")), "text.format.name", arena, &out->schema_name));
    return text_if(json_get(format, STR("description")), "text.format.description", arena,
                   &out->schema_description);
}

/* {"format":{"type"…},"verbosity"} */
static err_t read_text_options(struct str text, struct arena *arena, struct prompt *out)
{
    struct str format = json_get(text, STR("format")), type = STR("text");
    struct str verbosity = json_get(text, STR("verbosity"));

    if (is_given(verbosity))
        out->settings[SETTING_VERBOSITY] = verbosity;
    if (!is_given(format))
        return NULL;
    TRY(need_text(json_get(format, STR("type")), "text.format.type", arena, &type));
    if (str_eq(type, STR("json_schema")))
        return read_schema(format, arena, out);
    if (str_eq(type, STR("json_object")))
        out->format = FORMAT_JSON;
    else if (!str_eq(type, STR("text")))
        return body_bad("invalid_value", "text.format.type",
                        "Invalid value: '%.*s'. Supported values are: 'text', 'json_schema', and "
                        "'json_object'.",
                        STR_ARG(type));
    return NULL;
}

/* Log probabilities are asked for by `include`, or by how many there shall be. */
static void read_logprobs(const struct chat_request *ask, struct prompt *out)
{
    struct str include = body_get(ask, STR("include")), value, top;

    for (size_t at = 0; json_array_next(include, &at, &value);)
        if (str_eq(value, STR("\"message.output_text.logprobs\"")))
            out->settings[SETTING_LOGPROBS] = STR("true");
    top = out->settings[SETTING_TOP_LOGPROBS];
    if (top.len && !str_eq(top, STR("0")))
        out->settings[SETTING_LOGPROBS] = STR("true");
}

/* ---- the whole ---- */

/* Members that are read by code here, or mean nothing to a provider of another protocol. */
static bool is_handled(struct str name)
{
    static const char *const names[] = {
        "model",        "input",
        "instructions", "previous_response_id",
        "stream",       "stream_options",
        "tools",        "tool_choice",
        "text",         "parallel_tool_calls",
        "reasoning",    "include",
    };

    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        if (str_eq(name, str_from(names[i])))
            return true;
    return false;
}

err_t responses_expand(const struct chat_request *ask, struct arena *arena, struct prompt *out)
{
    struct str effort = json_get(body_get(ask, STR("reasoning")), STR("effort"));

    TRY(responses_read_items(ask, arena, out));
    TRY(read_tools(body_get(ask, STR("tools")), arena, out));
    TRY(read_tool_choice(body_get(ask, STR("tool_choice")), arena, out));
    TRY(body_read_settings(ask, is_handled, arena, out));
    openai_messages_set_cache_ttl(out);
    if (ask->is_answered_here) /* so is what it says of the background */
        out->settings[SETTING_BACKGROUND] = (struct str){0};
    TRY(leave_out_optional(arena, out));
    TRY(read_text_options(body_get(ask, STR("text")), arena, out));
    read_logprobs(ask, out);
    out->is_one_tool_at_a_time = json_kind(body_get(ask, STR("parallel_tool_calls"))) == JSON_FALSE;
    return text_if(effort, "reasoning.effort", arena, &out->effort);
}
