/* SPDX-License-Identifier: Apache-2.0 */
/* What a response repeats of its request: settings in the response object, and the input as items
 * with ids.
 *
 * Both are printed as soon as an answer is going to be written, because the request's body is given
 * back long before a stream ends. What the request left out is shown with the API's own default,
 * since readers of the object expect a value. */
#include <stdio.h>

#include "dialect/body.h"
#include "dialect/openai_responses.h"

#define ECHO_MAX_BYTES ((size_t)64 * 1024 * 1024)

static bool is_given(struct str value)
{
    return json_kind(value) != JSON_NONE && json_kind(value) != JSON_NULL;
}

static void add_json(struct json_writer *w, struct str json)
{
    size_t end = 0;

    for (bool is_first = true; is_first || json.len > 0; is_first = false) {
        for (end = 0; end < json.len && json.ptr[end] != '\n' && json.ptr[end] != '\r'; end++)
            ;
        if (is_first)
            json_add_raw(w, (struct str){json.ptr, end});
        else if (!w->err)
            w->err = buf_add(w->out, (struct str){json.ptr, end});
        json = str_after(json, end < json.len ? end + 1 : end);
    }
}

void responses_put_json(struct json_writer *w, const char *name, struct str json)
{
    json_name(w, name);
    add_json(w, json); /* a line break in valid JSON is never within a string */
}

void responses_put_members(struct json_writer *w, struct str object, const char *const *left_out)
{
    struct json_member m;

    for (size_t at = 0; json_object_next(object, &at, &m);) {
        bool is_wanted = true;
        for (size_t i = 0; left_out[i]; i++)
            is_wanted &= !json_key_is(&m, str_from(left_out[i]));
        if (!is_wanted)
            continue;
        json_add_raw(w, (struct str){m.key.ptr - 1, m.key.len + 2}); /* the name in its quotes */
        if (!w->err)
            w->err = buf_add(w->out, STR(":"));
        w->needs_comma = false;
        add_json(w, m.value);
    }
}

/* ---- settings ---- */

/* A function has all the members that the schema of a response requires. */
static void put_tools(struct json_writer *w, struct str tools)
{
    static const char *const nothing[] = {NULL};
    struct str tool;

    json_put_array(w, "tools");
    for (size_t at = 0; json_array_next(tools, &at, &tool);) {
        json_open_object(w);
        responses_put_members(w, tool, nothing);
        if (str_eq(json_get(tool, STR("type")), STR("\"function\""))) {
            if (!json_get(tool, STR("parameters")).ptr)
                json_put_null(w, "parameters");
            if (!json_get(tool, STR("strict")).ptr)
                json_put_null(w, "strict");
        }
        json_close_object(w);
    }
    json_close_array(w);
}

static void put_text(struct json_writer *w, struct str text)
{
    static const char *const format[] = {"format", NULL};
    struct str given = json_get(text, STR("format"));

    json_put_object(w, "text");
    responses_put_json(w, "format", is_given(given) ? given : STR("{\"type\":\"text\"}"));
    responses_put_members(w, text, format);
    json_close_object(w);
}

static void put_settings(struct json_writer *w, const struct chat_request *ask)
{
    static const struct {
        const char *name, *by_default;
    } settings[] = {
        {"background", "false"},
        {"frequency_penalty", "0"},
        {"instructions", "null"},
        {"max_output_tokens", "null"},
        {"max_tool_calls", "null"},
        {"metadata", "{}"},
        {"parallel_tool_calls", "true"},
        {"presence_penalty", "0"},
        {"previous_response_id", "null"},
        {"prompt_cache_key", "null"},
        {"reasoning", "{\"effort\":null,\"summary\":null}"},
        {"safety_identifier", "null"},
        {"service_tier", "\"default\""},
        {"store", "true"},
        {"temperature", "1"},
        {"tool_choice", "\"auto\""},
        {"top_logprobs", "0"},
        {"top_p", "1"},
        {"truncation", "\"disabled\""},
    };
    struct str user = body_get(ask, STR("user"));

    for (size_t i = 0; i < sizeof(settings) / sizeof(*settings); i++) {
        struct str value = body_get(ask, str_from(settings[i].name));
        responses_put_json(w, settings[i].name,
                           is_given(value) ? value : str_from(settings[i].by_default));
    }
    put_text(w, body_get(ask, STR("text")));
    put_tools(w, body_get(ask, STR("tools")));
    if (is_given(user))
        responses_put_json(w, "user", user);
}

/* ---- the input ---- */

static bool is_type(struct str object, const char *type)
{
    struct str value = json_get(object, STR("type"));

    return value.len == strlen(type) + 2 && memcmp(value.ptr + 1, type, value.len - 2) == 0;
}

/* A content part with the members that the schema of an item requires. */
static void put_part(struct json_writer *w, struct str part)
{
    static const char *const nothing[] = {NULL};

    json_open_object(w);
    responses_put_members(w, part, nothing);
    if (is_type(part, "input_image") && !json_get(part, STR("detail")).ptr)
        json_put_text(w, "detail", STR("auto"));
    if (is_type(part, "output_text") && !json_get(part, STR("annotations")).ptr)
        json_put_raw(w, "annotations", STR("[]"));
    if (is_type(part, "output_text") && !json_get(part, STR("logprobs")).ptr)
        json_put_raw(w, "logprobs", STR("[]"));
    json_close_object(w);
}

/* A message's content as a list of parts; text is one part. */
static void put_content(struct json_writer *w, struct str content, bool is_output)
{
    struct str part;

    json_put_array(w, "content");
    if (json_kind(content) == JSON_STRING) {
        json_open_object(w);
        json_put_text(w, "type", is_output ? STR("output_text") : STR("input_text"));
        responses_put_json(w, "text", content);
        if (is_output) {
            json_put_raw(w, "annotations", STR("[]"));
            json_put_raw(w, "logprobs", STR("[]"));
        }
        json_close_object(w);
    }
    for (size_t at = 0; json_array_next(content, &at, &part);)
        put_part(w, part);
    json_close_array(w);
}

static void put_input_id(struct json_writer *w, const struct answer_writer *writer, struct str item,
                         const char *prefix, size_t i)
{
    struct str id = json_get(item, STR("id"));
    char text[64];

    if (json_kind(id) == JSON_STRING) {
        responses_put_json(w, "id", id);
        return;
    }
    snprintf(text, sizeof(text), "%s_%.*si%zu", prefix, STR_ARG(writer->id), i);
    json_put_text(w, "id", str_from(text));
}

static void put_input_message(struct json_writer *w, const struct answer_writer *writer,
                              struct str item, size_t i)
{
    static const char *const own[] = {"id", "type", "content", "status", NULL};
    bool is_output = str_eq(json_get(item, STR("role")), STR("\"assistant\""));

    json_open_object(w);
    put_input_id(w, writer, item, "msg", i);
    json_put_text(w, "type", STR("message"));
    json_put_text(w, "status", STR("completed"));
    put_content(w, json_get(item, STR("content")), is_output);
    responses_put_members(w, item, own);
    json_close_object(w);
}

static void put_input_item(struct json_writer *w, const struct answer_writer *writer,
                           struct str item, size_t i)
{
    static const char *const own[] = {"id", NULL};
    bool is_result = is_type(item, "function_call_output"),
         is_custom_result = is_type(item, "custom_tool_call_output");

    if (!is_given(json_get(item, STR("type"))) || is_type(item, "message")) {
        put_input_message(w, writer, item, i);
        return;
    }
    json_open_object(w);
    put_input_id(w, writer, item, is_result ? "fco" : is_custom_result ? "ctco" : "item", i);
    responses_put_members(w, item, own);
    if ((is_result || is_type(item, "function_call")) && !json_get(item, STR("status")).ptr)
        json_put_text(w, "status", STR("completed"));
    json_close_object(w);
}

/* An item, or what it refers to unless the conversation has that already. */
static void put_input(struct json_writer *w, const struct answer_writer *writer, struct str item,
                      size_t i)
{
    const struct chat_request *ask = writer->ask;
    struct str id;

    if (!is_type(item, "item_reference") &&
        (is_given(json_get(item, STR("type"))) || is_given(json_get(item, STR("role"))))) {
        put_input_item(w, writer, item, i);
        return;
    }
    id = json_get(item, STR("id"));
    if (id.len > 2)
        id = responses_find_item(ask->referenced, (struct str){id.ptr + 1, id.len - 2});
    if (id.len > 2)
        add_json(w, id);
}

static void put_inputs(struct json_writer *w, const struct answer_writer *writer)
{
    struct str input = body_get(writer->ask, STR("input")), item;
    size_t i = 0;

    if (json_kind(input) == JSON_STRING) {
        json_open_object(w);
        put_input_id(w, writer, (struct str){0}, "msg", 0);
        json_put_text(w, "type", STR("message"));
        json_put_text(w, "status", STR("completed"));
        put_content(w, input, false);
        json_put_text(w, "role", STR("user"));
        json_close_object(w);
    }
    for (size_t at = 0; json_array_next(input, &at, &item); i++)
        put_input(w, writer, item, i);
}

/* ---- both ---- */

/* What `put` writes, as a text in the writer's arena. */
static err_t print(struct answer_writer *writer, struct buf *text, struct json_writer *w,
                   struct str *out)
{
    err_t err = json_writer_err(w);

    if (!err) {
        *out = arena_copy(writer->arena, buf_str(text));
        err = out->ptr ? NULL : arena_err(writer->arena);
    }
    buf_fini(text);
    return err;
}

err_t responses_state_get(struct answer_writer *writer, struct responses_state **out)
{
    struct responses_state *state = writer->state;
    struct buf text = buf_make(MEM_REQUEST, ECHO_MAX_BYTES);
    struct json_writer w = json_writer_make(&text);

    *out = state;
    if (state)
        return NULL;
    state = arena_new_struct(writer->arena, struct responses_state);
    if (!state)
        return arena_err(writer->arena);
    state->answer = answer_make(writer->arena);
    put_settings(&w, writer->ask);
    TRY(print(writer, &text, &w, &state->echo));
    if (json_kind(body_get(writer->ask, STR("store"))) != JSON_FALSE) {
        w = json_writer_make(&text);
        put_inputs(&w, writer);
        TRY(print(writer, &text, &w, &state->input));
    }
    writer->state = *out = state;
    return NULL;
}
