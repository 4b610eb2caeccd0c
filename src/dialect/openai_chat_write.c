/* SPDX-License-Identifier: Apache-2.0 */
/* Answers of providers of other protocols as chat completions (OpenAI's OpenAPI 2.3.0,
 * CreateChatCompletionResponse and …StreamResponse), with `reasoning_content`, which many clients
 * read.
 *
 * A stream is a chunk per step: the role, then what is said, thought and called, then why it ended;
 * at last, if asked for, the usage. The hard thing is a call without arguments: clients parse what
 * they have put together, so it gets `{}` before its choice ends. */
#include "base/json_writer.h"
#include "dialect/openai_chat.h"
#include "dialect/openai_custom.h"

/* A call of a stream. */
struct call {
    unsigned choice, index;
    bool has_arguments, is_custom;
    struct call *before;
    struct openai_custom_input custom;
};

struct state {
    struct str head;    /* every chunk's, up to its choices */
    uint64_t opened[2]; /* choices whose role was told, bit by bit */
    struct call *calls;
    uint64_t characters, cited; /* of the first choice's text: told, and up to the last citation */
};

/* ---- shared by both forms ---- */

struct str openai_chat_finish_reason(enum stop_reason stop)
{
    switch (stop) {
    case STOP_LENGTH:
        return STR("length");
    case STOP_TOOL_CALLS:
        return STR("tool_calls");
    case STOP_FILTERED:
        return STR("content_filter");
    default:
        return STR("stop");
    }
}

static struct str finish_reason(const struct answer_writer *writer, enum stop_reason stop)
{
    if (stop == STOP_TOOL_CALLS && writer->ask->wants_functions)
        return STR("function_call");
    return openai_chat_finish_reason(stop);
}

void openai_chat_put_usage(struct json_writer *w, const struct usage *usage)
{
    if (!usage || (!usage->is_known && !usage->is_estimated)) {
        json_put_null(w, "usage");
        return;
    }
    json_put_object(w, "usage");
    json_put_u64(w, "prompt_tokens", usage->input);
    json_put_u64(w, "completion_tokens", usage->output);
    json_put_u64(w, "total_tokens", usage->input + usage->output);
    json_put_object(w, "prompt_tokens_details");
    json_put_u64(w, "cached_tokens", usage->cached);
    json_put_u64(w, "cache_write_tokens", usage->cache_written);
    json_close_object(w);
    json_put_object(w, "completion_tokens_details");
    json_put_u64(w, "reasoning_tokens", usage->reasoning);
    json_close_object(w);
    json_close_object(w);
}

static void put_id(struct json_writer *w, const char *prefix, struct str id)
{
    json_name(w, "id");
    json_open_text(w);
    json_more_text(w, str_from(prefix));
    json_more_text(w, id);
    json_close_text(w);
}

/* An id of ours for a call that came without one: the answer's, and which call it is. */
static err_t put_call_id(const struct answer_writer *writer, struct json_writer *w, struct str id,
                         unsigned choice, unsigned index)
{
    const char *prefix;

    if (id.len > 0) {
        json_put_text(w, "id", id);
        return NULL;
    }
    prefix = choice ? arena_printf(writer->arena, "call_%u_%u_", choice, index)
                    : arena_printf(writer->arena, "call_%u_", index);
    if (!prefix)
        return arena_err(writer->arena);
    put_id(w, prefix, writer->id);
    return NULL;
}

/* What Gemini signed goes where its own OpenAI-compatible API has it, to be sent back. */
static void put_signature(struct json_writer *w, struct str signature)
{
    if (signature.len == 0)
        return;
    json_put_object(w, "extra_content");
    json_put_object(w, "google");
    json_put_text(w, "thought_signature", signature);
    json_close_object(w);
    json_close_object(w);
}

static uint64_t count_characters(struct str text)
{
    uint64_t count = 0;

    for (size_t i = 0; i < text.len; i++)
        count += (text.ptr[i] & 0xC0) != 0x80;
    return count;
}

/* The place on the web that a citation names, in one of the providers' forms; or nothing. */
static struct str cited_url(struct str citation, struct str *title)
{
    struct str web = json_get(citation, STR("web")); /* Gemini */
    struct str from = json_kind(web) == JSON_OBJECT ? web : citation;
    struct str url = json_get(from, STR("url"));

    if (json_kind(url) != JSON_STRING)
        url = json_get(from, STR("uri"));
    *title = json_get(from, STR("title"));
    if (json_kind(*title) != JSON_STRING)
        *title = STR("\"\"");
    return json_kind(url) == JSON_STRING ? url : (struct str){0};
}

static bool is_annotation(struct str citation)
{
    struct str title;

    return str_eq(json_get(citation, STR("type")), STR("\"url_citation\"")) ||
           cited_url(citation, &title).len > 0;
}

/* A citation as an annotation of the text from `start` to `end`. OpenAI knows places on the web
 * only. */
static void add_annotation(struct json_writer *w, struct str citation, uint64_t start, uint64_t end)
{
    struct str title, url = cited_url(citation, &title);

    if (str_eq(json_get(citation, STR("type")), STR("\"url_citation\""))) {
        json_add_raw(w, citation);
        return;
    }
    json_open_object(w);
    json_put_text(w, "type", STR("url_citation"));
    json_put_object(w, "url_citation");
    json_put_u64(w, "start_index", start);
    json_put_u64(w, "end_index", end);
    json_put_raw(w, "url", url);
    json_put_raw(w, "title", title);
    json_close_object(w);
    json_close_object(w);
}

/* ---- streams ---- */

/* What all chunks of a stream begin with. */
static err_t make_state(struct answer_writer *writer)
{
    struct buf head = buf_make(MEM_REQUEST, 64 * 1024);
    struct state *state = arena_new_struct(writer->arena, struct state);
    struct json_writer w = json_writer_make(&head);
    err_t err;

    if (!state)
        return arena_err(writer->arena);
    json_open_object(&w);
    put_id(&w, "chatcmpl-", writer->id);
    json_put_text(&w, "object", STR("chat.completion.chunk"));
    json_put_u64(&w, "created", writer->created_s);
    json_put_text(&w, "model", writer->model);
    json_name(&w, "choices");
    err = json_writer_err(&w);
    if (!err) {
        state->head = arena_copy(writer->arena, buf_str(&head));
        err = state->head.ptr ? NULL : arena_err(writer->arena);
    }
    buf_fini(&head);
    writer->state = err ? NULL : state;
    return err;
}

/* Begin a chunk of one choice, down into its delta. */
static struct json_writer open_chunk(struct answer_writer *writer, unsigned choice)
{
    struct state *state = writer->state;
    struct json_writer w = json_writer_make(&writer->out);

    w.err = buf_add(w.out, STR("data: "));
    if (!w.err)
        w.err = buf_add(w.out, state->head);
    json_open_array(&w);
    json_open_object(&w);
    json_put_u64(&w, "index", choice);
    json_put_object(&w, "delta");
    return w;
}

static err_t close_chunk(struct answer_writer *writer, struct json_writer *w, struct str logprobs,
                         struct str finish)
{
    json_close_object(w);
    if (logprobs.len) {
        json_put_object(w, "logprobs");
        json_put_raw(w, "content", logprobs);
        json_put_null(w, "refusal");
        json_close_object(w);
    } else {
        json_put_null(w, "logprobs");
    }
    json_put_text_or_null(w, "finish_reason", finish);
    json_close_object(w);
    json_close_array(w);
    if (writer->ask->wants_usage)
        json_put_null(w, "usage");
    json_close_object(w);
    TRY(json_writer_err(w));
    return buf_add(w->out, STR("\n\n"));
}

/* A choice's first chunk tells the role. */
static err_t open_choice(struct answer_writer *writer, unsigned choice)
{
    struct state *state = writer->state;
    uint64_t bit = 1ULL << (choice % 64), *opened = &state->opened[choice / 64 % 2];
    struct json_writer w;

    if (*opened & bit)
        return NULL;
    *opened |= bit;
    w = open_chunk(writer, choice);
    json_put_text(&w, "role", STR("assistant"));
    json_put_text(&w, "content", STR(""));
    return close_chunk(writer, &w, STR(""), STR(""));
}

/* A chunk whose delta has one member, a text. */
static err_t write_text(struct answer_writer *writer, const struct delta *delta, const char *name,
                        struct str logprobs)
{
    struct json_writer w = open_chunk(writer, delta->choice);

    json_put_text(&w, name, delta->text);
    return close_chunk(writer, &w, logprobs, STR(""));
}

static struct call *find_call(const struct state *state, unsigned choice, unsigned index)
{
    struct call *call = state->calls;

    while (call && (call->choice != choice || call->index != index))
        call = call->before;
    return call;
}

static err_t write_call(struct answer_writer *writer, const struct delta *delta)
{
    struct state *state = writer->state;
    struct call *call = arena_new_struct(writer->arena, struct call);
    struct json_writer w;

    if (!call)
        return arena_err(writer->arena);
    *call = (struct call){.choice = delta->choice, .index = delta->index, .before = state->calls};
    state->calls = call;
    call->is_custom = openai_custom_is(writer->ask, delta->name);
    if (call->is_custom)
        TRY(openai_custom_begin(&call->custom, writer->arena));
    w = open_chunk(writer, delta->choice);
    if (writer->ask->wants_functions) {
        json_put_object(&w, "function_call");
    } else {
        json_put_array(&w, "tool_calls");
        json_open_object(&w);
        json_put_u64(&w, "index", delta->index);
        TRY(put_call_id(writer, &w, delta->id, delta->choice, delta->index));
        json_put_text(&w, "type", call->is_custom ? STR("custom") : STR("function"));
        json_put_object(&w, call->is_custom ? "custom" : "function");
    }
    json_put_text(&w, "name", delta->name);
    json_put_text(&w, call->is_custom ? "input" : "arguments", STR(""));
    json_close_object(&w);
    if (!writer->ask->wants_functions) {
        put_signature(&w, delta->text);
        json_close_object(&w);
        json_close_array(&w);
    }
    return close_chunk(writer, &w, STR(""), STR(""));
}

static err_t write_input(struct answer_writer *writer, const struct call *call, struct str text)
{
    struct json_writer w;

    if (text.len == 0)
        return NULL;
    w = open_chunk(writer, call->choice);
    json_put_array(&w, "tool_calls");
    json_open_object(&w);
    json_put_u64(&w, "index", call->index);
    json_put_object(&w, "custom");
    json_put_text(&w, "input", text);
    json_close_object(&w);
    json_close_object(&w);
    json_close_array(&w);
    return close_chunk(writer, &w, STR(""), STR(""));
}

static err_t write_arguments(struct answer_writer *writer, unsigned choice, unsigned index,
                             struct str text)
{
    struct call *call = find_call(writer->state, choice, index);
    struct json_writer w;

    if (call)
        call->has_arguments = true;
    if (call && call->is_custom) {
        TRY(openai_custom_add(&call->custom, text, writer->arena, &text));
        return write_input(writer, call, text);
    }
    w = open_chunk(writer, choice);
    if (writer->ask->wants_functions) {
        json_put_object(&w, "function_call");
    } else {
        json_put_array(&w, "tool_calls");
        json_open_object(&w);
        json_put_u64(&w, "index", index);
        json_put_object(&w, "function");
    }
    json_put_text(&w, "arguments", text);
    json_close_object(&w);
    if (!writer->ask->wants_functions) {
        json_close_object(&w);
        json_close_array(&w);
    }
    return close_chunk(writer, &w, STR(""), STR(""));
}

static err_t write_citation(struct answer_writer *writer, const struct delta *delta)
{
    struct state *state = writer->state;
    struct json_writer w;

    if (!is_annotation(delta->text))
        return NULL;
    w = open_chunk(writer, delta->choice);
    json_put_array(&w, "annotations");
    add_annotation(&w, delta->text, state->cited, state->characters);
    json_close_array(&w);
    state->cited = state->characters;
    return close_chunk(writer, &w, STR(""), STR(""));
}

/* The arguments of calls that had none, and what of an input shows only at its end. */
static err_t close_calls(struct answer_writer *writer, unsigned choice)
{
    struct state *state = writer->state;
    struct str text;

    for (struct call *call = state->calls; call; call = call->before) {
        if (call->choice != choice)
            continue;
        if (call->is_custom) {
            TRY(openai_custom_end(&call->custom, writer->arena, &text));
            TRY(write_input(writer, call, text));
        } else if (!call->has_arguments) {
            TRY(write_arguments(writer, call->choice, call->index, STR("{}")));
        }
    }
    return NULL;
}

/* Before the end: the rest of its calls, and what a refusal said of itself. */
static err_t write_finish(struct answer_writer *writer, const struct delta *delta)
{
    struct json_writer w;

    TRY(close_calls(writer, delta->choice));
    if (delta->stop == STOP_FILTERED && delta->text.len > 0)
        TRY(write_text(writer, delta, "refusal", STR("")));
    w = open_chunk(writer, delta->choice);
    return close_chunk(writer, &w, STR(""), finish_reason(writer, delta->stop));
}

static err_t write_delta(struct answer_writer *writer, const struct delta *delta,
                         struct str logprobs)
{
    struct state *state = writer->state;

    switch (delta->kind) {
    case DELTA_TEXT:
        if (delta->choice == 0)
            state->characters += count_characters(delta->text);
        return write_text(writer, delta, "content", logprobs);
    case DELTA_REASONING:
        if (writer->hides_reasoning)
            return NULL;
        return write_text(writer, delta, "reasoning_content", STR(""));
    case DELTA_REFUSAL:
        return write_text(writer, delta, "refusal", STR(""));
    case DELTA_TOOL_CALL:
        return write_call(writer, delta);
    case DELTA_ARGUMENTS:
        return write_arguments(writer, delta->choice, delta->index, delta->text);
    case DELTA_CITATION:
        return write_citation(writer, delta);
    case DELTA_LOGPROBS: {
        struct json_writer w = open_chunk(writer, delta->choice);
        return close_chunk(writer, &w, delta->text, STR(""));
    }
    case DELTA_FINISH:
        return write_finish(writer, delta);
    case DELTA_SIGNATURE:
    case DELTA_REDACTED:
        break; /* OpenAI has no word for them */
    }
    return NULL;
}

/* The usage, in a chunk without choices, and the end marker. */
static err_t write_end(struct answer_writer *writer)
{
    struct state *state = writer->state;
    const struct usage *usage = writer->usage;
    struct json_writer w = json_writer_make(&writer->out);

    if (writer->ask->wants_usage && usage && (usage->is_known || usage->is_estimated)) {
        TRY(buf_add(w.out, STR("data: ")));
        TRY(buf_add(w.out, state->head));
        json_open_array(&w);
        json_close_array(&w);
        openai_chat_put_usage(&w, usage);
        json_close_object(&w);
        TRY(json_writer_err(&w));
        TRY(buf_add(w.out, STR("\n\n")));
    }
    return buf_add(w.out, STR("data: [DONE]\n\n"));
}

err_t openai_chat_write_event(struct answer_writer *writer, const struct event *event)
{
    if (event->kind != EVENT_CONTENT && event->kind != EVENT_END)
        return NULL;
    if (!writer->state)
        TRY(make_state(writer));
    for (size_t i = 0; i < event->delta_count; i++) {
        const struct delta *delta = &event->deltas[i], *next = delta + 1;
        /* a text and what is told of its tokens belong together */
        bool has_logprobs = delta->kind == DELTA_TEXT && i + 1 < event->delta_count &&
                            next->kind == DELTA_LOGPROBS && next->choice == delta->choice;
        TRY(open_choice(writer, delta->choice));
        TRY(write_delta(writer, delta, has_logprobs ? next->text : STR("")));
        i += has_logprobs;
    }
    return event->kind == EVENT_END ? write_end(writer) : NULL;
}

/* ---- whole answers ---- */

static bool has_part(const struct answer_choice *choice, enum answer_part_kind kind)
{
    for (const struct answer_part *part = choice->parts; part; part = part->next)
        if (part->kind == kind)
            return true;
    return false;
}

/* All parts of a kind as one text. */
static void put_parts(struct json_writer *w, const char *name, const struct answer_choice *choice,
                      enum answer_part_kind kind)
{
    json_name(w, name);
    json_open_text(w);
    for (const struct answer_part *part = choice->parts; part; part = part->next)
        if (part->kind == kind)
            json_more_text(w, buf_str(&part->text));
    json_close_text(w);
}

static void put_refusal(struct json_writer *w, const struct answer_choice *choice)
{
    if (has_part(choice, ANSWER_REFUSAL))
        put_parts(w, "refusal", choice, ANSWER_REFUSAL);
    else
        json_put_text_or_null(w, "refusal",
                              choice->stop == STOP_FILTERED ? choice->stop_text : STR(""));
}

static void put_annotations(struct json_writer *w, const struct answer_choice *choice)
{
    uint64_t start = 0;
    bool is_open = false;

    for (const struct answer_part *part = choice->parts; part; part = part->next) {
        uint64_t end = start;
        if (part->kind != ANSWER_TEXT)
            continue;
        end += count_characters(buf_str(&part->text));
        for (size_t i = 0; i < part->citation_count; i++) {
            if (!is_annotation(part->citations[i]))
                continue;
            if (!is_open)
                json_put_array(w, "annotations");
            is_open = true;
            add_annotation(w, part->citations[i], start, end);
        }
        start = end;
    }
    if (is_open)
        json_close_array(w);
}

/* The tool that is called, and with what. */
static err_t put_called(const struct answer_writer *writer, struct json_writer *w,
                        const struct answer_part *part)
{
    bool is_custom = openai_custom_is(writer->ask, part->name);
    struct str input = {0};

    if (is_custom)
        TRY(openai_custom_whole(buf_str(&part->text), writer->arena, &input));
    json_put_text(w, "type", is_custom ? STR("custom") : STR("function"));
    json_put_object(w, is_custom ? "custom" : "function");
    json_put_text(w, "name", part->name);
    if (is_custom)
        json_put_text(w, "input", input);
    else
        json_put_text(w, "arguments", answer_arguments(part));
    json_close_object(w);
    return NULL;
}

static err_t put_calls(const struct answer_writer *writer, struct json_writer *w,
                       const struct answer_choice *choice)
{
    json_put_array(w, "tool_calls");
    for (const struct answer_part *part = choice->parts; part; part = part->next) {
        if (part->kind != ANSWER_CALL)
            continue;
        json_open_object(w);
        TRY(put_call_id(writer, w, part->id, choice->index, part->index));
        TRY(put_called(writer, w, part));
        put_signature(w, part->signature);
        json_close_object(w);
    }
    json_close_array(w);
    return NULL;
}

/* The old form has room for one call. */
static void put_function_call(struct json_writer *w, const struct answer_choice *choice)
{
    const struct answer_part *part = choice->parts;

    while (part->kind != ANSWER_CALL)
        part = part->next;
    json_put_object(w, "function_call");
    json_put_text(w, "name", part->name);
    json_put_text(w, "arguments", answer_arguments(part));
    json_close_object(w);
}

static err_t put_message(const struct answer_writer *writer, struct json_writer *w,
                         const struct answer_choice *choice)
{
    json_put_object(w, "message");
    json_put_text(w, "role", STR("assistant"));
    if (has_part(choice, ANSWER_TEXT))
        put_parts(w, "content", choice, ANSWER_TEXT);
    else
        json_put_null(w, "content");
    put_refusal(w, choice);
    if (has_part(choice, ANSWER_REASONING) && !writer->hides_reasoning)
        put_parts(w, "reasoning_content", choice, ANSWER_REASONING);
    put_annotations(w, choice);
    if (has_part(choice, ANSWER_CALL) && writer->ask->wants_functions)
        put_function_call(w, choice);
    else if (has_part(choice, ANSWER_CALL))
        TRY(put_calls(writer, w, choice));
    json_close_object(w);
    return NULL;
}

static err_t add_choice(const struct answer_writer *writer, struct json_writer *w,
                        const struct answer_choice *choice)
{
    json_open_object(w);
    json_put_u64(w, "index", choice->index);
    TRY(put_message(writer, w, choice));
    if (choice->logprobs.len) {
        json_put_object(w, "logprobs");
        json_put_raw(w, "content", choice->logprobs);
        json_put_null(w, "refusal");
        json_close_object(w);
    } else {
        json_put_null(w, "logprobs");
    }
    json_put_text(w, "finish_reason", finish_reason(writer, choice->stop));
    json_close_object(w);
    return NULL;
}

err_t openai_chat_write_answer(struct answer_writer *writer, const struct answer *answer)
{
    struct json_writer w = json_writer_make(&writer->out);

    json_open_object(&w);
    put_id(&w, "chatcmpl-", writer->id);
    json_put_text(&w, "object", STR("chat.completion"));
    json_put_u64(&w, "created", writer->created_s);
    json_put_text(&w, "model", writer->model);
    json_put_array(&w, "choices");
    for (const struct answer_choice *choice = answer->choices; choice; choice = choice->next)
        TRY(add_choice(writer, &w, choice));
    json_close_array(&w);
    openai_chat_put_usage(&w, writer->usage);
    json_close_object(&w);
    return json_writer_err(&w);
}
