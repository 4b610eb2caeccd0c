/* SPDX-License-Identifier: Apache-2.0 */
/* The meaning of a messages request.
 *
 * Blocks become parts one by one, with the block itself kept beside its meaning. The system blocks
 * are a message in front. A user's message is taken apart: results of tools stand in messages of
 * their own, right behind the calls that they answer, and what else the user says follows them.
 *
 * The hard thing is what has no word elsewhere. Blocks of Anthropic's own tools are kept as they
 * are, and whoever must put them into other words says so; nothing is left out here. */
#include "dialect/anthropic_messages.h"
#include "dialect/body.h"

/* How many calls are compared, at most, to find the names of tools that results belong to. */
#define MAX_LOOKUPS 100000

/* An expansion in progress. */
struct expansion {
    struct arena *arena;
    struct prompt *out;
    const struct message *calls; /* the assistant's message before, or NULL */
    size_t last_call, lookups;
    bool is_in_result; /* blocks of a tool's result are being read */
};

/* Where a block stands, for whoever must refuse it: `outer` is the path of the list. */
struct place {
    struct expansion *x;
    const char *outer;
    size_t index;
};

static err_t refuse(const struct place *place, const char *member, const char *expected)
{
    const char *path =
        arena_printf(place->x->arena, "%s[%zu].%s", place->outer, place->index, member);

    if (!path)
        return arena_err(place->x->arena);
    return body_bad("invalid_type", path, "Invalid '%s': expected %s.", path, expected);
}

/* A member that is a string, decoded. A missing one stays empty unless it is required. */
static err_t read_text(const struct place *place, struct str object, const char *member,
                       bool is_required, struct str *out)
{
    struct str value = json_get(object, str_from(member));

    if (!is_required && (json_kind(value) == JSON_NONE || json_kind(value) == JSON_NULL))
        return NULL;
    if (json_kind(value) != JSON_STRING)
        return refuse(place, member, "a string");
    return json_text(value, place->x->arena, out) ? NULL : arena_err(place->x->arena);
}

/* The same for one whose value is kept as JSON text. */
static struct str json_of(struct str object, const char *member, enum json_kind kind)
{
    struct str value = json_get(object, str_from(member));

    return json_kind(value) == kind ? value : (struct str){0};
}

/* ---- blocks ---- */

static err_t read_blocks(struct expansion *x, const char *outer, struct str list,
                         struct part **parts, size_t *count);

/* Texts of a document that is given as blocks, one under the other. */
static err_t join_texts(const struct place *place, struct str blocks, struct str *out)
{
    struct arena *arena = place->x->arena;
    char *joined = arena_alloc(arena, blocks.len + 1);
    size_t len = 0;
    struct str block, text;

    if (!joined)
        return arena_err(arena);
    for (size_t at = 0; json_array_next(blocks, &at, &block);) {
        if (json_kind(json_get(block, STR("text"))) != JSON_STRING)
            return refuse(place, "source", "a source of text blocks");
        if (!json_text(json_get(block, STR("text")), arena, &text))
            return arena_err(arena);
        if (len > 0)
            joined[len++] = '\n';
        memcpy(joined + len, text.ptr, text.len);
        len += text.len;
    }
    *out = (struct str){joined, len};
    return NULL;
}

/* Where an image or a document comes from. */
static err_t read_source(const struct place *place, struct str block, struct part *part)
{
    struct str source = json_get(block, STR("source")), type = {0};

    if (json_kind(source) != JSON_OBJECT)
        return refuse(place, "source", "an object");
    TRY(read_text(place, source, "type", true, &type));
    if (str_eq(type, STR("base64"))) {
        TRY(read_text(place, source, "media_type", true, &part->media_type));
        return read_text(place, source, "data", true, &part->data);
    }
    if (str_eq(type, STR("url"))) {
        if (part->kind == PART_FILE)
            part->media_type = STR("application/pdf");
        return read_text(place, source, "url", true, &part->url);
    }
    if (str_eq(type, STR("file")))
        return read_text(place, source, "file_id", true, &part->id);
    if (part->kind == PART_FILE && str_eq(type, STR("text"))) {
        part->media_type = STR("text/plain");
        return read_text(place, source, "data", true, &part->text);
    }
    if (part->kind == PART_FILE && str_eq(type, STR("content"))) {
        part->media_type = STR("text/plain");
        if (json_kind(json_get(source, STR("content"))) == JSON_STRING)
            return read_text(place, source, "content", true, &part->text);
        return join_texts(place, json_get(source, STR("content")), &part->text);
    }
    return refuse(place, "source", "a source of type base64, url or file");
}

static err_t read_call(const struct place *place, struct str block, struct part *part)
{
    struct str input = json_get(block, STR("input"));

    TRY(read_text(place, block, "id", true, &part->id));
    TRY(read_text(place, block, "name", true, &part->name));
    if (json_kind(input) != JSON_NONE && json_kind(input) != JSON_OBJECT)
        return refuse(place, "input", "an object");
    part->arguments = input.ptr ? input : STR("{}");
    return NULL;
}

/* The name of the tool that was called under this id. Results mostly come in the order of the
 * calls. */
static struct str find_name(struct expansion *x, struct str id)
{
    size_t count = x->calls ? x->calls->part_count : 0;

    for (size_t i = 0; i < count && x->lookups < MAX_LOOKUPS; i++, x->lookups++) {
        size_t at = (x->last_call + 1 + i) % count;
        const struct part *part = &x->calls->parts[at];
        if (part->kind != PART_TOOL_CALL || !str_eq(part->id, id))
            continue;
        x->last_call = at;
        return part->name;
    }
    return (struct str){0};
}

static err_t read_result(const struct place *place, struct str block, struct part *part)
{
    struct str content = json_get(block, STR("content"));
    struct expansion *x = place->x;
    const char *path;

    if (x->is_in_result)
        return refuse(place, "type", "a block that is not a tool_result");
    TRY(read_text(place, block, "tool_use_id", true, &part->id));
    part->name = find_name(x, part->id);
    part->is_error = json_kind(json_get(block, STR("is_error"))) == JSON_TRUE;
    if (json_kind(content) == JSON_NONE || json_kind(content) == JSON_NULL)
        return NULL;
    path = arena_printf(x->arena, "%s[%zu].content", place->outer, place->index);
    if (!path)
        return arena_err(x->arena);
    x->is_in_result = true;
    TRY(read_blocks(x, path, content, &part->parts, &part->part_count));
    x->is_in_result = false;
    return NULL;
}

static const struct {
    struct str type;
    enum part_kind kind;
} block_types[] = {
#define X(type, kind) {{type, sizeof(type) - 1}, kind}
    X("text", PART_TEXT),
    X("image", PART_IMAGE),
    X("document", PART_FILE),
    X("tool_use", PART_TOOL_CALL),
    X("tool_result", PART_TOOL_RESULT),
    X("thinking", PART_REASONING),
    X("redacted_thinking", PART_REDACTED),
#undef X
};

static enum part_kind kind_of(struct str type)
{
    for (size_t i = 0; i < sizeof(block_types) / sizeof(*block_types); i++)
        if (str_eq(type, block_types[i].type))
            return block_types[i].kind;
    return PART_OTHER;
}

static err_t read_block(const struct place *place, struct str block, struct part *part)
{
    struct str type = {0};

    if (json_kind(block) != JSON_OBJECT)
        return refuse(place, "type", "a content block");
    TRY(read_text(place, block, "type", true, &type));
    *part = (struct part){.kind = kind_of(type),
                          .cache_control = json_of(block, "cache_control", JSON_OBJECT),
                          .raw = block};
    switch (part->kind) {
    case PART_TEXT:
        return read_text(place, block, "text", true, &part->text);
    case PART_FILE:
        TRY(read_text(place, block, "title", false, &part->name));
        return read_source(place, block, part);
    case PART_IMAGE:
        return read_source(place, block, part);
    case PART_TOOL_CALL:
        return read_call(place, block, part);
    case PART_TOOL_RESULT:
        return read_result(place, block, part);
    case PART_REASONING:
        TRY(read_text(place, block, "thinking", true, &part->text));
        return read_text(place, block, "signature", false, &part->signature);
    case PART_REDACTED:
        return read_text(place, block, "data", true, &part->data);
    default:
        part->name = type;
        return NULL;
    }
}

static size_t count_elements(struct str list)
{
    struct str element;
    size_t count = 0;

    for (size_t at = 0; json_array_next(list, &at, &element);)
        count++;
    return count;
}

/* A content: a text, or blocks. `outer` is its path. */
static err_t read_blocks(struct expansion *x, const char *outer, struct str list,
                         struct part **parts, size_t *count)
{
    struct place place = {x, outer, 0};
    bool is_text = json_kind(list) == JSON_STRING;
    struct str block;

    if (!is_text && json_kind(list) != JSON_ARRAY)
        return body_bad("invalid_type", outer,
                        "Invalid '%s': expected a string or an array of content blocks.", outer);
    *count = is_text ? 1 : count_elements(list);
    *parts = arena_alloc_array(x->arena, *count, sizeof(**parts));
    if (!*parts)
        return arena_err(x->arena);
    if (is_text) {
        (*parts)[0].kind = PART_TEXT;
        return json_text(list, x->arena, &(*parts)[0].text) ? NULL : arena_err(x->arena);
    }
    for (size_t at = 0; json_array_next(list, &at, &block); place.index++)
        TRY(read_block(&place, block, &(*parts)[place.index]));
    return NULL;
}

/* ---- messages ---- */

static struct message *add_message(struct prompt *out, enum message_role role, struct part *parts,
                                   size_t count)
{
    struct message *message = &out->messages[out->message_count++];

    *message = (struct message){.role = role, .parts = parts, .part_count = count};
    return message;
}

/* Take a user's message apart: its results first, a message each, then the rest. */
static err_t add_user_message(struct expansion *x, struct part *parts, size_t count)
{
    struct part *rest;
    size_t left = 0;

    rest = arena_alloc_array(x->arena, count, sizeof(*rest));
    if (!rest)
        return arena_err(x->arena);
    for (size_t i = 0; i < count; i++)
        if (parts[i].kind == PART_TOOL_RESULT)
            add_message(x->out, ROLE_TOOL, &parts[i], 1);
        else
            rest[left++] = parts[i];
    if (left > 0 || count == 0)
        add_message(x->out, ROLE_USER, rest, left);
    return NULL;
}

static err_t add_turn(struct expansion *x, struct str message, size_t index)
{
    const char *path = arena_printf(x->arena, "messages[%zu].content", index);
    struct part *parts;
    struct str role;
    size_t count;

    if (!path || !json_text(json_get(message, STR("role")), x->arena, &role))
        return arena_err(x->arena);
    TRY(read_blocks(x, path, json_get(message, STR("content")), &parts, &count));
    if (str_eq(role, STR("assistant"))) {
        x->calls = add_message(x->out, ROLE_ASSISTANT, parts, count);
        x->last_call = count ? count - 1 : 0;
    } else if (str_eq(role, STR("system"))) {
        add_message(x->out, ROLE_SYSTEM, parts, count);
    } else {
        return add_user_message(x, parts, count);
    }
    return NULL;
}

/* Most messages that may come of it: each block may be one. */
static size_t count_messages(struct str messages)
{
    struct str message;
    size_t count = 1;

    for (size_t at = 0; json_array_next(messages, &at, &message);)
        count += 1 + count_elements(json_get(message, STR("content")));
    return count;
}

static err_t read_messages(struct expansion *x, const struct chat_request *ask)
{
    struct str messages = body_get(ask, STR("messages")), system = body_get(ask, STR("system"));
    struct str message;
    struct part *parts;
    size_t count, index = 0;

    x->out->messages =
        arena_alloc_array(x->arena, count_messages(messages), sizeof(*x->out->messages));
    if (!x->out->messages)
        return arena_err(x->arena);
    if (json_kind(system) != JSON_NONE && json_kind(system) != JSON_NULL) {
        TRY(read_blocks(x, "system", system, &parts, &count));
        if (count > 0)
            add_message(x->out, ROLE_SYSTEM, parts, count);
    }
    for (size_t at = 0; json_array_next(messages, &at, &message); index++)
        TRY(add_turn(x, message, index));
    return NULL;
}

/* ---- tools ---- */

static err_t read_tool(const struct place *place, struct str given, struct tool *tool)
{
    struct str type = {0}, schema = json_get(given, STR("input_schema"));
    struct str strict = json_get(given, STR("strict"));

    if (json_kind(given) != JSON_OBJECT)
        return refuse(place, "name", "a tool");
    TRY(read_text(place, given, "type", false, &type));
    *tool = (struct tool){.is_function = type.len == 0 || str_eq(type, STR("custom")),
                          .cache_control = json_of(given, "cache_control", JSON_OBJECT),
                          .raw = given};
    if (!tool->is_function) {
        tool->name = type;
        return NULL;
    }
    TRY(read_text(place, given, "name", true, &tool->name));
    TRY(read_text(place, given, "description", false, &tool->description));
    if (json_kind(schema) != JSON_OBJECT)
        return refuse(place, "input_schema", "an object");
    tool->parameters = schema;
    if (json_kind(strict) == JSON_TRUE || json_kind(strict) == JSON_FALSE)
        tool->strict = strict;
    return NULL;
}

static err_t read_tools(struct expansion *x, const struct chat_request *ask)
{
    struct str list = body_get(ask, STR("tools")), tool;
    struct place place = {x, "tools", 0};

    x->out->tools = arena_alloc_array(x->arena, count_elements(list), sizeof(*x->out->tools));
    if (!x->out->tools)
        return arena_err(x->arena);
    for (size_t at = 0; json_array_next(list, &at, &tool); place.index++)
        TRY(read_tool(&place, tool, &x->out->tools[x->out->tool_count++]));
    return NULL;
}

/* A string member without escapes, for the words of the API itself. */
static struct str word(struct str object, const char *member)
{
    struct str value = json_of(object, member, JSON_STRING);

    return value.len > 2 ? (struct str){value.ptr + 1, value.len - 2} : (struct str){0};
}

static err_t read_tool_choice(struct expansion *x, const struct chat_request *ask)
{
    struct str choice = body_get(ask, STR("tool_choice")), type = word(choice, "type");
    struct prompt *out = x->out;

    if (json_kind(choice) != JSON_OBJECT)
        return NULL;
    out->is_one_tool_at_a_time =
        json_kind(json_get(choice, STR("disable_parallel_tool_use"))) == JSON_TRUE;
    if (str_eq(type, STR("auto")))
        out->tool_choice = TOOL_AUTO;
    else if (str_eq(type, STR("any")))
        out->tool_choice = TOOL_REQUIRED;
    else if (str_eq(type, STR("none")))
        out->tool_choice = TOOL_NONE;
    else if (!str_eq(type, STR("tool")))
        return body_bad("invalid_value", "tool_choice.type",
                        "Invalid 'tool_choice.type': expected auto, any, tool or none.");
    else if (json_kind(json_get(choice, STR("name"))) != JSON_STRING)
        return body_bad("missing_required_parameter", "tool_choice.name",
                        "Missing required parameter: 'tool_choice.name'.");
    else if (!json_text(json_get(choice, STR("name")), x->arena, &out->tool_name))
        return arena_err(x->arena);
    else
        out->tool_choice = TOOL_NAMED;
    return NULL;
}

/* ---- the rest ---- */

static err_t read_thinking(struct prompt *out, const struct chat_request *ask)
{
    struct str thinking = body_get(ask, STR("thinking")), type = word(thinking, "type");

    if (json_kind(thinking) != JSON_OBJECT)
        return NULL;
    out->has_thinking = true;
    out->thinking = !str_eq(type, STR("disabled"));
    if (str_eq(type, STR("enabled")) &&
        !json_u64(json_get(thinking, STR("budget_tokens")), &out->thinking_tokens))
        return body_bad("invalid_type", "thinking.budget_tokens",
                        "Invalid 'thinking.budget_tokens': expected a positive integer.");
    return NULL;
}

/* How the answer shall look: output_config, and its older form output_format. */
static err_t read_output(struct expansion *x, const struct chat_request *ask)
{
    struct str config = body_get(ask, STR("output_config"));
    struct str format = json_get(config, STR("format"));
    struct str effort = json_of(config, "effort", JSON_STRING);

    if (effort.ptr && !json_text(effort, x->arena, &x->out->effort))
        return arena_err(x->arena);
    if (json_kind(format) != JSON_OBJECT)
        format = body_get(ask, STR("output_format"));
    if (json_kind(format) != JSON_OBJECT)
        return NULL;
    if (!str_eq(word(format, "type"), STR("json_schema")) ||
        json_kind(json_get(format, STR("schema"))) != JSON_OBJECT)
        return body_bad("invalid_value", "output_config.format",
                        "Invalid 'output_config.format': expected a type of 'json_schema' and a "
                        "schema.");
    x->out->format = FORMAT_SCHEMA;
    x->out->schema = json_get(format, STR("schema"));
    x->out->schema_name = STR("answer");
    return NULL;
}

static err_t read_stops(struct expansion *x, const struct chat_request *ask)
{
    struct str list = body_get(ask, STR("stop_sequences")), stop;

    x->out->stops = arena_alloc_array(x->arena, count_elements(list), sizeof(*x->out->stops));
    if (!x->out->stops)
        return arena_err(x->arena);
    for (size_t at = 0; json_array_next(list, &at, &stop);)
        if (!json_text(stop, x->arena, &x->out->stops[x->out->stop_count++]))
            return arena_err(x->arena);
    return NULL;
}

static bool is_handled(struct str name)
{
    static const char *const names[] = {
        "model",    "messages",      "system",        "stream",         "tools",    "tool_choice",
        "thinking", "output_config", "output_format", "stop_sequences", "metadata", "service_tier",
    };

    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        if (str_eq(name, str_from(names[i])))
            return true;
    return false;
}

static void read_own_settings(struct prompt *out, const struct chat_request *ask)
{
    struct str user = json_get(body_get(ask, STR("metadata")), STR("user_id"));
    struct str tier = body_get(ask, STR("service_tier"));

    if (json_kind(user) == JSON_STRING)
        out->settings[SETTING_USER] = user;
    if (str_eq(tier, STR("\"standard_only\"")))
        out->settings[SETTING_SERVICE_TIER] = STR("\"default\"");
}

err_t anthropic_expand(const struct chat_request *ask, struct arena *arena, struct prompt *out)
{
    struct expansion x = {.arena = arena, .out = out};

    TRY(read_messages(&x, ask));
    TRY(read_tools(&x, ask));
    TRY(read_tool_choice(&x, ask));
    TRY(read_thinking(out, ask));
    TRY(read_output(&x, ask));
    TRY(read_stops(&x, ask));
    TRY(body_read_settings(ask, is_handled, arena, out));
    read_own_settings(out, ask);
    return NULL;
}
