/* SPDX-License-Identifier: Apache-2.0 */
/* Answers in Anthropic's form, written from their meaning: streams block by block, and whole.
 *
 * In a stream, one block is open at a time: text, thinking or a call. What is of another kind
 * closes it and opens the next. The stop reason and the token counts come at the very end, when
 * both are known.
 *
 * The hard thing is calls whose arguments come interleaved, which a stream of blocks cannot say.
 * The first call that is open is streamed; one that begins before its arguments are a complete
 * value waits, and so do those behind it. Providers that send one call after the other, as nearly
 * all do, are streamed throughout. */
#include "base/json_writer.h"
#include "dialect/anthropic_messages.h"
#include "net/sse.h"

enum block { BLOCK_NONE, BLOCK_TEXT, BLOCK_THINKING, BLOCK_CALL };

/* A call of a tool, from its beginning to the end of the stream. */
struct call_block {
    unsigned index; /* as in the deltas */
    struct str id, name;
    struct buf arguments; /* so far */
    bool is_closed;
    struct call_block *next;
};

struct stream {
    bool is_started, is_signed; /* signed: the thinking that is open */
    enum block open;
    unsigned blocks; /* begun */
    unsigned call_count;
    struct call_block *calls, *last; /* in the order in which they began */
    struct call_block *current;      /* the open one, or the first that waits */
    enum stop_reason stop;
    struct str stop_text;
};

/* ---- what streams and whole answers share ---- */

static void put_usage(struct json_writer *w, const struct usage *usage)
{
    uint64_t cache = usage->cached + usage->cache_written;

    json_put_object(w, "usage");
    json_put_u64(w, "input_tokens", usage->input > cache ? usage->input - cache : 0);
    json_put_u64(w, "cache_creation_input_tokens", usage->cache_written);
    json_put_u64(w, "cache_read_input_tokens", usage->cached);
    json_put_u64(w, "output_tokens", usage->output);
    if (usage->reasoning > 0) {
        json_put_object(w, "output_tokens_details");
        json_put_u64(w, "thinking_tokens", usage->reasoning);
        json_close_object(w);
    }
    json_close_object(w);
}

/* Why the answer ended. Some providers say "stop" where calls are to be answered, and a stop
 * sequence that is not told by name cannot be told here. */
static void put_stop(struct json_writer *w, enum stop_reason stop, struct str text, bool has_calls)
{
    static const char *const reasons[] = {
        [STOP_UNKNOWN] = "end_turn",  [STOP_END] = "end_turn",
        [STOP_LENGTH] = "max_tokens", [STOP_TOOL_CALLS] = "tool_use",
        [STOP_FILTERED] = "refusal",  [STOP_SEQUENCE] = "stop_sequence",
        [STOP_PAUSED] = "pause_turn",
    };

    if (stop == STOP_SEQUENCE && text.len == 0)
        stop = STOP_END;
    if ((stop == STOP_END || stop == STOP_UNKNOWN) && has_calls)
        stop = STOP_TOOL_CALLS;
    json_put_text(w, "stop_reason", str_from(reasons[stop]));
    json_put_text_or_null(w, "stop_sequence", stop == STOP_SEQUENCE ? text : (struct str){0});
    if (stop != STOP_FILTERED)
        return;
    json_put_object(w, "stop_details");
    json_put_text(w, "type", STR("refusal"));
    json_put_null(w, "category");
    json_put_text_or_null(w, "explanation", text);
    json_close_object(w);
}

/* The members of a message up to its content. */
static err_t put_head(struct json_writer *w, const struct answer_writer *writer)
{
    const char *id = arena_printf(writer->arena, "msg_%.*s", STR_ARG(writer->id));

    if (!id)
        return arena_err(writer->arena);
    json_put_text(w, "id", str_from(id));
    json_put_text(w, "type", STR("message"));
    json_put_text(w, "role", STR("assistant"));
    json_put_text(w, "model", writer->model);
    return NULL;
}

/* A call's id; one is made where the provider gave none. */
static err_t call_id(const struct answer_writer *writer, struct str given, unsigned index,
                     struct str *out)
{
    *out =
        given.len
            ? given
            : str_from(arena_printf(writer->arena, "toolu_%.*s%02u", STR_ARG(writer->id), index));
    return out->ptr ? NULL : arena_err(writer->arena);
}

/* ---- events ---- */

/* Begin an event; its object stays open. */
static struct json_writer begin(struct answer_writer *writer, const char *type)
{
    struct json_writer w = json_writer_make(&writer->out);

    w.err = sse_begin(&writer->out, type);
    json_open_object(&w);
    json_put_text(&w, "type", str_from(type));
    return w;
}

static err_t end(struct json_writer *w)
{
    json_close_object(w);
    TRY(json_writer_err(w));
    return buf_add(w->out, STR("\n\n"));
}

static err_t write_start(struct answer_writer *writer, struct stream *s)
{
    struct json_writer w;
    struct usage usage = *writer->usage;

    if (s->is_started)
        return NULL;
    s->is_started = true;
    usage.output = usage.reasoning = 0;
    w = begin(writer, "message_start");
    json_put_object(&w, "message");
    TRY(put_head(&w, writer));
    json_put_array(&w, "content");
    json_close_array(&w);
    json_put_null(&w, "stop_reason");
    json_put_null(&w, "stop_sequence");
    put_usage(&w, &usage);
    json_close_object(&w);
    return end(&w);
}

static err_t close_block(struct answer_writer *writer, struct stream *s)
{
    struct json_writer w;

    if (s->open == BLOCK_NONE)
        return NULL;
    if (s->open == BLOCK_CALL) {
        s->current->is_closed = true;
        s->current = s->current->next;
    }
    s->open = BLOCK_NONE;
    w = begin(writer, "content_block_stop");
    json_put_u64(&w, "index", s->blocks - 1);
    return end(&w);
}

/* Begin a block; its object stays open. */
static struct json_writer begin_block(struct answer_writer *writer, struct stream *s,
                                      const char *type)
{
    struct json_writer w = begin(writer, "content_block_start");

    json_put_u64(&w, "index", s->blocks++);
    json_put_object(&w, "content_block");
    json_put_text(&w, "type", str_from(type));
    return w;
}

static err_t end_block_start(struct json_writer *w)
{
    json_close_object(w);
    return end(w);
}

static err_t write_delta(struct answer_writer *writer, const struct stream *s, const char *type,
                         const char *member, struct str text)
{
    struct json_writer w = begin(writer, "content_block_delta");

    json_put_u64(&w, "index", s->blocks - 1);
    json_put_object(&w, "delta");
    json_put_text(&w, "type", str_from(type));
    json_put_text(&w, member, text);
    json_close_object(&w);
    return end(&w);
}

/* ---- calls ---- */

static err_t write_arguments(struct answer_writer *writer, struct stream *s, struct str fragment)
{
    return fragment.len ? write_delta(writer, s, "input_json_delta", "partial_json", fragment)
                        : NULL;
}

/* Open the block of the first call that waits, with what has come of its arguments. */
static err_t open_call(struct answer_writer *writer, struct stream *s)
{
    struct call_block *call = s->current;
    struct json_writer w = begin_block(writer, s, "tool_use");
    struct str id;

    TRY(call_id(writer, call->id, call->index, &id));
    json_put_text(&w, "id", id);
    json_put_text(&w, "name", call->name);
    json_put_object(&w, "input");
    json_close_object(&w);
    TRY(end_block_start(&w));
    s->open = BLOCK_CALL;
    return write_arguments(writer, s, buf_str(&call->arguments));
}

static bool is_complete(const struct call_block *call)
{
    return call->arguments.len > 0 && !json_check(buf_str(&call->arguments));
}

/* Open the next call if nothing stands in its way: not one that may still get arguments. */
static err_t advance_calls(struct answer_writer *writer, struct stream *s)
{
    while (s->current) {
        if (s->open == BLOCK_CALL && (!s->current->next || !is_complete(s->current)))
            return NULL;
        TRY(close_block(writer, s));
        if (s->current)
            TRY(open_call(writer, s));
    }
    return NULL;
}

/* Write out and close all calls: something else follows. */
static err_t finish_calls(struct answer_writer *writer, struct stream *s)
{
    while (s->current) {
        if (s->open != BLOCK_CALL)
            TRY(open_call(writer, s));
        TRY(close_block(writer, s));
    }
    return NULL;
}

static void free_arguments(void *arguments)
{
    buf_fini(arguments);
}

static struct call_block *find_call(const struct stream *s, unsigned index)
{
    struct call_block *call = s->current; /* mostly the one that is open */

    if (call && call->index == index)
        return call;
    for (call = s->calls; call && call->index != index;)
        call = call->next;
    return call;
}

static err_t copy(struct answer_writer *writer, struct str text, struct str *out)
{
    *out = arena_copy(writer->arena, text);
    return out->ptr ? NULL : arena_err(writer->arena);
}

static err_t begin_call(struct answer_writer *writer, struct stream *s, const struct delta *delta)
{
    struct call_block *call = arena_new_struct(writer->arena, struct call_block);

    if (!call)
        return arena_err(writer->arena);
    if (find_call(s, delta->index))
        return NULL; /* told twice */
    call->index = delta->index;
    call->arguments = buf_make(MEM_REQUEST, ANSWER_MAX_BYTES);
    TRY(arena_defer(writer->arena, free_arguments, &call->arguments));
    TRY(copy(writer, delta->id, &call->id));
    TRY(copy(writer, delta->name, &call->name));
    if (s->last)
        s->last->next = call;
    else
        s->calls = call;
    s->last = call;
    s->call_count++;
    if (!s->current)
        s->current = call;
    if (s->open != BLOCK_CALL)
        TRY(close_block(writer, s));
    return advance_calls(writer, s);
}

static bool is_blank(struct str text)
{
    for (size_t i = 0; i < text.len; i++)
        if (!strchr(" \t\r\n", text.ptr[i]))
            return false;
    return true;
}

static err_t add_arguments(struct answer_writer *writer, struct stream *s,
                           const struct delta *delta)
{
    struct call_block *call = find_call(s, delta->index);

    if (!call || (call->is_closed && is_blank(delta->text)))
        return NULL;
    if (call->is_closed)
        return err_new_detail(ERR_UPSTREAM, (.code = "upstream_invalid"),
                              "the provider's stream holds arguments of a call that was over");
    TRY(buf_add(&call->arguments, delta->text));
    if (call == s->current && s->open == BLOCK_CALL)
        return write_arguments(writer, s, delta->text);
    return NULL;
}

/* ---- texts ---- */

static err_t open_text(struct answer_writer *writer, struct stream *s, enum block kind)
{
    struct json_writer w;

    if (s->open == kind && !(kind == BLOCK_THINKING && s->is_signed))
        return NULL;
    TRY(finish_calls(writer, s));
    TRY(close_block(writer, s));
    w = begin_block(writer, s, kind == BLOCK_TEXT ? "text" : "thinking");
    json_put_text(&w, kind == BLOCK_TEXT ? "text" : "thinking", STR(""));
    if (kind == BLOCK_THINKING)
        json_put_text(&w, "signature", STR(""));
    s->open = kind;
    s->is_signed = false;
    return end_block_start(&w);
}

static err_t add_text(struct answer_writer *writer, struct stream *s, struct str text)
{
    if (text.len == 0)
        return NULL;
    TRY(open_text(writer, s, BLOCK_TEXT));
    return write_delta(writer, s, "text_delta", "text", text);
}

static err_t add_thinking(struct answer_writer *writer, struct stream *s, struct str text)
{
    if (text.len == 0)
        return NULL;
    TRY(open_text(writer, s, BLOCK_THINKING));
    return write_delta(writer, s, "thinking_delta", "thinking", text);
}

static err_t add_signature(struct answer_writer *writer, struct stream *s, struct str signature)
{
    TRY(open_text(writer, s, BLOCK_THINKING));
    s->is_signed = true;
    return write_delta(writer, s, "signature_delta", "signature", signature);
}

static err_t add_redacted(struct answer_writer *writer, struct stream *s, struct str data)
{
    struct json_writer w;

    TRY(finish_calls(writer, s));
    TRY(close_block(writer, s));
    w = begin_block(writer, s, "redacted_thinking");
    json_put_text(&w, "data", data);
    TRY(end_block_start(&w));
    s->open = BLOCK_TEXT; /* any that has nothing to it but its end */
    return close_block(writer, s);
}

/* ---- the stream ---- */

static err_t add_delta(struct answer_writer *writer, struct stream *s, const struct delta *delta)
{
    if (delta->choice != 0)
        return NULL;
    switch (delta->kind) {
    case DELTA_TEXT:
    case DELTA_REFUSAL:
        return add_text(writer, s, delta->text);
    case DELTA_REASONING:
        return add_thinking(writer, s, delta->text);
    case DELTA_SIGNATURE:
        return add_signature(writer, s, delta->text);
    case DELTA_REDACTED:
        return add_redacted(writer, s, delta->text);
    case DELTA_TOOL_CALL:
        return begin_call(writer, s, delta);
    case DELTA_ARGUMENTS:
        return add_arguments(writer, s, delta);
    case DELTA_FINISH:
        s->stop = delta->stop;
        return copy(writer, delta->text, &s->stop_text);
    case DELTA_CITATION: /* in the provider's form, which is not this one */
    case DELTA_LOGPROBS:
        return NULL;
    }
    return NULL;
}

static err_t write_end(struct answer_writer *writer, struct stream *s)
{
    struct json_writer w;

    TRY(finish_calls(writer, s));
    TRY(close_block(writer, s));
    w = begin(writer, "message_delta");
    json_put_object(&w, "delta");
    put_stop(&w, s->stop, s->stop_text, s->call_count > 0);
    json_close_object(&w);
    put_usage(&w, writer->usage);
    TRY(end(&w));
    w = begin(writer, "message_stop");
    return end(&w);
}

err_t anthropic_writer_event(struct answer_writer *writer, const struct event *event)
{
    struct stream *s = writer->state;

    if (event->kind != EVENT_CONTENT && event->kind != EVENT_END)
        return NULL;
    if (!s)
        s = writer->state = arena_new_struct(writer->arena, struct stream);
    if (!s)
        return arena_err(writer->arena);
    TRY(write_start(writer, s));
    for (size_t i = 0; i < event->delta_count; i++)
        TRY(add_delta(writer, s, &event->deltas[i]));
    return event->kind == EVENT_END ? write_end(writer, s) : NULL;
}

/* ---- whole answers ---- */

static bool is_object(struct str json)
{
    size_t count;
    bool is_object;

    return !json_members_read(json, NULL, 0, &count, &is_object) && is_object;
}

/* Models do write arguments that are no object; then they are told as the text that they are. */
static err_t put_call(struct json_writer *w, const struct answer_writer *writer,
                      const struct answer_part *part)
{
    struct str input = answer_arguments(part), id;

    TRY(call_id(writer, part->id, part->index, &id));
    json_put_text(w, "type", STR("tool_use"));
    json_put_text(w, "id", id);
    json_put_text(w, "name", part->name);
    if (is_object(input)) {
        json_put_raw(w, "input", input);
        return NULL;
    }
    json_put_object(w, "input");
    json_put_text(w, "arguments", input);
    json_close_object(w);
    return NULL;
}

static err_t put_part(struct json_writer *w, const struct answer_writer *writer,
                      const struct answer_part *part)
{
    struct str text = buf_str(&part->text);

    json_open_object(w);
    switch (part->kind) {
    case ANSWER_TEXT:
    case ANSWER_REFUSAL:
        json_put_text(w, "type", STR("text"));
        json_put_text(w, "text", text);
        break;
    case ANSWER_REASONING:
        json_put_text(w, "type", STR("thinking"));
        json_put_text(w, "thinking", text);
        json_put_text(w, "signature", part->signature);
        break;
    case ANSWER_REDACTED:
        json_put_text(w, "type", STR("redacted_thinking"));
        json_put_text(w, "data", text);
        break;
    case ANSWER_CALL:
        TRY(put_call(w, writer, part));
        break;
    }
    json_close_object(w);
    return NULL;
}

err_t anthropic_writer_answer(struct answer_writer *writer, const struct answer *answer)
{
    const struct answer_choice *choice = answer_first(answer);
    struct json_writer w = json_writer_make(&writer->out);
    bool has_calls = false;

    json_open_object(&w);
    TRY(put_head(&w, writer));
    json_put_array(&w, "content");
    for (const struct answer_part *p = choice ? choice->parts : NULL; p; p = p->next) {
        has_calls |= p->kind == ANSWER_CALL;
        TRY(put_part(&w, writer, p));
    }
    json_close_array(&w);
    put_stop(&w, choice ? choice->stop : STOP_UNKNOWN, choice ? choice->stop_text : (struct str){0},
             has_calls);
    put_usage(&w, writer->usage);
    json_close_object(&w);
    return json_writer_err(&w);
}
