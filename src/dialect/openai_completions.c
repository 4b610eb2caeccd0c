/* SPDX-License-Identifier: Apache-2.0 */
/* OpenAI's legacy completions as callers speak them (OpenAPI 2.3.0, CreateCompletionRequest): load
 * generators and evaluation tools still do.
 *
 * For a provider that only chats, the prompt becomes one message of the user, and what is said in
 * answer the text. Several prompts, or prompts of tokens, go only to providers that take them
 * themselves. */
#include "base/json_writer.h"
#include "dialect/body.h"
#include "dialect/openai_chat.h"
#include "dialect/openai_error.h"

static const struct body_rule rules[] = {
    BODY_RULE("stream", BOOL, 0, 0),
    BODY_RULE("stream_options", OBJECT, 0, 0),
    BODY_RULE("n", COUNT, 1, 128),
    BODY_RULE("best_of", COUNT, 0, 128),
    BODY_RULE("max_tokens", COUNT, 0, 1e9),
    BODY_RULE("top_k", COUNT, -1, 1e9),
    BODY_RULE("logprobs", COUNT, 0, 1000),
    BODY_RULE("temperature", NUMBER, 0, 2),
    BODY_RULE("top_p", NUMBER, 0, 1),
    BODY_RULE("frequency_penalty", NUMBER, -2, 2),
    BODY_RULE("presence_penalty", NUMBER, -2, 2),
    BODY_RULE("echo", BOOL, 0, 0),
    BODY_RULE("suffix", TEXT, 0, 0),
    BODY_RULE("stop", TEXTS, 0, 0),
    BODY_RULE("user", TEXT, 0, 0),
    BODY_RULES_REFUSED,
};

/* ---- requests ---- */

static bool is_handled(struct str name)
{
    static const char *const handled[] = {"model",          "prompt", "stream",
                                          "stream_options", "stop",   "logprobs"};

    for (size_t i = 0; i < sizeof(handled) / sizeof(*handled); i++)
        if (str_eq(name, str_from(handled[i])))
            return true;
    return false;
}

static err_t read_prompt(const struct chat_request *ask, struct arena *arena, struct prompt *out)
{
    struct str prompt = body_get(ask, STR("prompt")), element = {0};
    struct message *message = arena_new_struct(arena, struct message);
    struct part *part = arena_new_struct(arena, struct part);
    size_t at = 0;

    if (!message || !part)
        return arena_err(arena);
    if (json_array_next(prompt, &at, &element)) {
        prompt = element;
        if (json_kind(prompt) != JSON_STRING ||
            json_array_next(body_get(ask, STR("prompt")), &at, &element))
            return body_bad("unsupported_parameter", "prompt",
                            "This model's provider takes one prompt that is text, no list.");
    }
    if (!json_text(prompt, arena, &part->text))
        return json_kind(prompt) == JSON_STRING ? arena_err(arena)
                                                : body_wrong_type("prompt", "a string", prompt);
    part->kind = PART_TEXT;
    *message = (struct message){.role = ROLE_USER, .parts = part, .part_count = 1};
    out->messages = message;
    out->message_count = 1;
    return NULL;
}

static err_t read_stops(const struct chat_request *ask, struct arena *arena, struct prompt *out)
{
    struct str stop = body_get(ask, STR("stop")), element;
    size_t room = 1;

    for (size_t at = 0; json_array_next(stop, &at, &element);)
        room++;
    out->stops = arena_alloc_array(arena, room, sizeof(*out->stops));
    if (!out->stops)
        return arena_err(arena);
    if (json_kind(stop) == JSON_STRING && !json_text(stop, arena, &out->stops[out->stop_count++]))
        return arena_err(arena);
    for (size_t at = 0; json_array_next(stop, &at, &element);)
        if (!json_text(element, arena, &out->stops[out->stop_count++]))
            return arena_err(arena);
    return NULL;
}

static err_t expand(const struct chat_request *ask, struct arena *arena, struct prompt *out)
{
    struct str logprobs = body_get(ask, STR("logprobs"));

    *out = (struct prompt){0};
    TRY(read_prompt(ask, arena, out));
    TRY(read_stops(ask, arena, out));
    if (json_kind(logprobs) == JSON_NUMBER)
        return body_bad("unsupported_parameter", "logprobs",
                        "This model's provider cannot give 'logprobs' in the form of completions.");
    return body_read_settings(ask, is_handled, arena, out);
}

/* A prompt is text, tokens, or a list of either; left out, it is the start of a document. */
static err_t check_prompt(struct str prompt)
{
    enum json_kind kind = json_kind(prompt);

    if (kind == JSON_NONE)
        return body_bad("missing_required_parameter", "prompt",
                        "Missing required parameter: 'prompt'.");
    if (kind == JSON_STRING || kind == JSON_ARRAY || kind == JSON_NULL)
        return NULL;
    return body_wrong_type("prompt", "a string or an array", prompt);
}

static err_t parse(struct str body, struct arena *arena, struct chat_request *out)
{
    struct str options;

    TRY(body_read(body, rules, sizeof(rules) / sizeof(*rules), arena, out));
    out->protocol = PROTOCOL_COMPLETIONS;
    out->expand = expand;
    options = body_get(out, STR("stream_options"));
    out->wants_usage = json_kind(json_get(options, STR("include_usage"))) == JSON_TRUE;
    TRY(body_read_model(arena, out));
    return check_prompt(body_get(out, STR("prompt")));
}

/* ---- answers ---- */

static void open_answer(const struct answer_writer *writer, struct json_writer *w)
{
    json_open_object(w);
    json_name(w, "id");
    json_open_text(w);
    json_more_text(w, STR("cmpl-"));
    json_more_text(w, writer->id);
    json_close_text(w);
    json_put_text(w, "object", STR("text_completion"));
    json_put_u64(w, "created", writer->created_s);
    json_put_text(w, "model", writer->model);
    json_put_array(w, "choices");
}

/* There is no word for calls here, and none is asked for. */
static struct str finish_reason(enum stop_reason stop)
{
    return stop == STOP_TOOL_CALLS ? STR("stop") : openai_chat_finish_reason(stop);
}

static err_t write_chunk(struct answer_writer *writer, unsigned choice, struct str text,
                         struct str finish)
{
    struct json_writer w = json_writer_make(&writer->out);

    TRY(buf_add(w.out, STR("data: ")));
    open_answer(writer, &w);
    json_open_object(&w);
    json_put_text(&w, "text", text);
    json_put_u64(&w, "index", choice);
    json_put_null(&w, "logprobs");
    json_put_text_or_null(&w, "finish_reason", finish);
    json_close_object(&w);
    json_close_array(&w);
    if (writer->ask->wants_usage)
        json_put_null(&w, "usage");
    json_close_object(&w);
    TRY(json_writer_err(&w));
    return buf_add(w.out, STR("\n\n"));
}

static err_t write_end(struct answer_writer *writer)
{
    const struct usage *usage = writer->usage;
    struct json_writer w = json_writer_make(&writer->out);

    if (writer->ask->wants_usage && usage && (usage->is_known || usage->is_estimated)) {
        TRY(buf_add(w.out, STR("data: ")));
        open_answer(writer, &w);
        json_close_array(&w);
        openai_chat_put_usage(&w, usage);
        json_close_object(&w);
        TRY(json_writer_err(&w));
        TRY(buf_add(w.out, STR("\n\n")));
    }
    return buf_add(w.out, STR("data: [DONE]\n\n"));
}

static err_t write_event(struct answer_writer *writer, const struct event *event)
{
    if (event->kind != EVENT_CONTENT && event->kind != EVENT_END)
        return NULL;
    for (size_t i = 0; i < event->delta_count; i++) {
        const struct delta *delta = &event->deltas[i];
        if (delta->kind == DELTA_TEXT || delta->kind == DELTA_REFUSAL)
            TRY(write_chunk(writer, delta->choice, delta->text, STR("")));
        else if (delta->kind == DELTA_FINISH)
            TRY(write_chunk(writer, delta->choice, STR(""), finish_reason(delta->stop)));
    }
    return event->kind == EVENT_END ? write_end(writer) : NULL;
}

static err_t write_answer(struct answer_writer *writer, const struct answer *answer)
{
    struct json_writer w = json_writer_make(&writer->out);

    open_answer(writer, &w);
    for (const struct answer_choice *choice = answer->choices; choice; choice = choice->next) {
        json_open_object(&w);
        json_name(&w, "text");
        json_open_text(&w);
        for (const struct answer_part *part = choice->parts; part; part = part->next)
            if (part->kind == ANSWER_TEXT || part->kind == ANSWER_REFUSAL)
                json_more_text(&w, buf_str(&part->text));
        json_close_text(&w);
        json_put_u64(&w, "index", choice->index);
        json_put_null(&w, "logprobs");
        json_put_text(&w, "finish_reason", finish_reason(choice->stop));
        json_close_object(&w);
    }
    json_close_array(&w);
    openai_chat_put_usage(&w, writer->usage);
    json_close_object(&w);
    return json_writer_err(&w);
}

static const struct dialect completions = {
    .name = "completions",
    .protocol = PROTOCOL_COMPLETIONS,
    .parse = parse,
    .forwards = openai_error_forwards,
    .error_status = openai_error_status,
    .print_error = openai_error_print,
    .write_error = openai_error_write,
    .write_event = write_event,
    .write_answer = write_answer,
    .heartbeat = {": keep-alive\n\n", 14},
    .heartbeat_with_ids = {": keep-alive\n", 13},
    .end_marker = {"data: [DONE]\n\n", 14},
};

const struct dialect *const dialect_completions = &completions;
