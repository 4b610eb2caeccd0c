/* SPDX-License-Identifier: Apache-2.0 */
/* Tools for small models: a prompt with tools becomes one that asks for JSON.
 *
 * The hard thing is to keep it short and its beginning stable: a small model reads slowly, and the
 * server's prefix cache pays only for what did not change. */
#include "model/local_tools.h"

#include "base/json_writer.h"

/* The longest text made here: schemas of all tools, or a tool's results. */
#define TEXT_MAX_BYTES ((size_t)64 * 1024 * 1024)

/* A rewriting under way. */
struct rewrite {
    struct arena *arena;
    const struct prompt *from;
    struct prompt *to;
};

/* A text that print(out) writes, copied into the arena. */
static err_t print_text(const struct rewrite *r,
                        err_t (*print)(const struct rewrite *r, const struct message *message,
                                       struct buf *out),
                        const struct message *message, struct str *text)
{
    struct buf out = buf_make(MEM_REQUEST, TEXT_MAX_BYTES);
    err_t err = print(r, message, &out);

    if (!err) {
        *text = arena_copy(r->arena, buf_str(&out));
        err = text->ptr ? NULL : arena_err(r->arena);
    }
    buf_fini(&out);
    return err;
}

/* Whether the model may call this tool. */
static bool is_offered(const struct prompt *prompt, const struct tool *tool)
{
    return tool->is_function &&
           (prompt->tool_choice != TOOL_NAMED || str_eq(tool->name, prompt->tool_name));
}

/* Whether it may answer the user instead. */
static bool may_reply(const struct prompt *prompt)
{
    return prompt->tool_choice != TOOL_REQUIRED && prompt->tool_choice != TOOL_NAMED;
}

bool local_tools_are_offered(const struct prompt *prompt)
{
    if (prompt->tool_choice == TOOL_NONE)
        return false;
    for (size_t i = 0; i < prompt->tool_count; i++)
        if (is_offered(prompt, &prompt->tools[i]))
            return true;
    return false;
}

/* ---- what the model is told ---- */

static struct str parameters_of(const struct tool *tool)
{
    return tool->parameters.len ? tool->parameters : STR("{\"type\":\"object\"}");
}

static err_t print_instructions(const struct rewrite *r, const struct message *unused,
                                struct buf *out)
{
    const struct prompt *prompt = r->from;

    TRY(buf_add(out, STR("You have tools. Answer with one JSON object and nothing else.\n"
                         "To call a tool: {\"name\": \"TOOL\", \"arguments\": {…}}\n")));
    if (may_reply(prompt))
        TRY(buf_add(out,
                    STR("To answer the user: {\"reply\": \"…\"}\n"
                        "Call a tool only if you need it. When you have its result, reply.\n")));
    TRY(buf_add(out, STR("Tools:\n")));
    for (size_t i = 0; i < prompt->tool_count; i++) {
        const struct tool *tool = &prompt->tools[i];
        if (!is_offered(prompt, tool))
            continue;
        TRY(buf_add(out, STR("- ")));
        TRY(buf_add(out, tool->name));
        if (tool->description.len) {
            TRY(buf_add(out, STR(": ")));
            TRY(buf_add(out, tool->description));
        }
        TRY(buf_add(out, STR("\n  arguments: ")));
        TRY(buf_add(out, parameters_of(tool)));
        TRY(buf_add(out, STR("\n")));
    }
    return NULL;
}

/* ---- the schema of the answer ---- */

/* An object with exactly these members, all required. */
static void open_branch(struct json_writer *w)
{
    json_open_object(w);
    json_put_text(w, "type", STR("object"));
    json_put_object(w, "properties");
}

static void close_branch(struct json_writer *w, struct str required)
{
    json_close_object(w);
    json_put_raw(w, "required", required);
    json_put_bool(w, "additionalProperties", false);
    json_close_object(w);
}

/* References in a schema count from its root, which it is not any more: then any object will do. */
static struct str schema_of(const struct tool *tool)
{
    struct str schema = parameters_of(tool);

    return str_find(schema, STR("\"$ref\"")) < schema.len ? STR("{\"type\":\"object\"}") : schema;
}

static err_t print_schema(const struct rewrite *r, const struct message *unused, struct buf *out)
{
    const struct prompt *prompt = r->from;
    struct json_writer w = json_writer_make(out);

    json_open_object(&w);
    json_put_array(&w, "oneOf");
    for (size_t i = 0; i < prompt->tool_count; i++) {
        if (!is_offered(prompt, &prompt->tools[i]))
            continue;
        open_branch(&w);
        json_put_object(&w, "name");
        json_put_text(&w, "const", prompt->tools[i].name);
        json_close_object(&w);
        json_put_raw(&w, "arguments", schema_of(&prompt->tools[i]));
        close_branch(&w, STR("[\"name\",\"arguments\"]"));
    }
    if (may_reply(prompt)) {
        struct str reply = prompt->format == FORMAT_SCHEMA ? prompt->schema
                           : prompt->format == FORMAT_JSON ? STR("{\"type\":\"object\"}")
                                                           : STR("{\"type\":\"string\"}");
        open_branch(&w);
        json_put_raw(&w, "reply", reply);
        close_branch(&w, STR("[\"reply\"]"));
    }
    json_close_array(&w);
    json_close_object(&w);
    return json_writer_err(&w);
}

/* ---- the conversation ---- */

static err_t add_part(const struct rewrite *r, struct message *message, size_t room,
                      const struct part *part)
{
    if (!message->parts) {
        message->parts = arena_alloc_array(r->arena, room, sizeof(*message->parts));
        if (!message->parts)
            return arena_err(r->arena);
    }
    message->parts[message->part_count++] = *part;
    return NULL;
}

/* What the system says, and then the tools: in its first message, or in one of their own. */
static err_t add_instructions(const struct rewrite *r, const struct message *system)
{
    struct message *out = &r->to->messages[r->to->message_count++];
    struct part told = {.kind = PART_TEXT};
    size_t count = system ? system->part_count : 0;

    out->role = ROLE_SYSTEM;
    TRY(print_text(r, print_instructions, NULL, &told.text));
    for (size_t i = 0; i < count; i++)
        TRY(add_part(r, out, count + 1, &system->parts[i]));
    return add_part(r, out, count + 1, &told);
}

static err_t print_calls(const struct rewrite *r, const struct message *message, struct buf *out)
{
    for (size_t i = 0; i < message->part_count; i++) {
        const struct part *part = &message->parts[i];
        struct json_writer w = json_writer_make(out);
        if (part->kind != PART_TEXT && part->kind != PART_TOOL_CALL)
            continue;
        if (out->len > 0 && part->kind == PART_TOOL_CALL)
            TRY(buf_add(out, STR("\n")));
        if (part->kind == PART_TEXT) {
            TRY(buf_add(out, part->text));
            continue;
        }
        json_open_object(&w);
        json_put_text(&w, "name", part->name);
        json_put_raw(&w, "arguments", part->arguments);
        json_close_object(&w);
        TRY(json_writer_err(&w));
    }
    return NULL;
}

/* The texts of a message's results, each with the name of its tool. */
static err_t print_results(const struct rewrite *r, const struct message *message, struct buf *out)
{
    for (size_t i = 0; i < message->part_count; i++) {
        const struct part *result = &message->parts[i];
        TRY(buf_add(out, result->is_error ? STR("Error of ") : STR("Result of ")));
        TRY(buf_add(out, result->name.len ? result->name : STR("the tool")));
        TRY(buf_add(out, STR(":\n")));
        for (size_t k = 0; k < result->part_count; k++) {
            if (result->parts[k].kind != PART_TEXT)
                continue;
            TRY(buf_add(out, result->parts[k].text));
            TRY(buf_add(out, STR("\n")));
        }
    }
    return NULL;
}

/* A message whose texts become one, with whatever other parts it has behind it. */
static err_t add_printed(const struct rewrite *r, const struct message *message)
{
    struct message *out = &r->to->messages[r->to->message_count++];
    bool is_result = message->role == ROLE_TOOL;
    struct part text = {.kind = PART_TEXT};
    size_t room = 1;

    out->role = is_result ? ROLE_USER : ROLE_ASSISTANT;
    for (size_t i = 0; i < message->part_count; i++)
        room += message->parts[i].part_count;
    TRY(print_text(r, is_result ? print_results : print_calls, message, &text.text));
    TRY(add_part(r, out, room, &text));
    for (size_t i = 0; is_result && i < message->part_count; i++)
        for (size_t k = 0; k < message->parts[i].part_count; k++)
            if (message->parts[i].parts[k].kind != PART_TEXT)
                TRY(add_part(r, out, room, &message->parts[i].parts[k]));
    return NULL;
}

static bool has_calls(const struct message *message)
{
    for (size_t i = 0; i < message->part_count; i++)
        if (message->parts[i].kind == PART_TOOL_CALL)
            return true;
    return false;
}

static err_t rewrite_messages(const struct rewrite *r)
{
    const struct prompt *from = r->from;
    bool has_system = from->message_count > 0 && from->messages[0].role == ROLE_SYSTEM;

    r->to->message_count = 0;
    r->to->messages =
        arena_alloc_array(r->arena, from->message_count + 1, sizeof(*r->to->messages));
    if (!r->to->messages)
        return arena_err(r->arena);
    TRY(add_instructions(r, has_system ? &from->messages[0] : NULL));
    for (size_t i = has_system; i < from->message_count; i++) {
        const struct message *message = &from->messages[i];
        if (message->role == ROLE_TOOL || has_calls(message))
            TRY(add_printed(r, message));
        else
            r->to->messages[r->to->message_count++] = *message;
    }
    return NULL;
}

err_t local_tools_offer(struct arena *arena, const struct prompt *prompt, struct prompt *out)
{
    struct rewrite r = {arena, prompt, out};

    *out = *prompt;
    TRY(rewrite_messages(&r));
    out->format = FORMAT_SCHEMA;
    out->schema_name = STR("answer");
    out->schema_description = out->schema_strict = (struct str){0};
    TRY(print_text(&r, print_schema, NULL, &out->schema));
    out->tools = NULL;
    out->tool_count = 0;
    out->tool_choice = TOOL_CHOICE_NONE_GIVEN;
    return NULL;
}
