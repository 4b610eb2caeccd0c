/* SPDX-License-Identifier: Apache-2.0 */
/* An answer as the events of a response (OpenAPI 2.3.0, ResponseStreamEvent).
 *
 * Every item is announced, filled by deltas and then repeated whole; so is the response around
 * them. What came is therefore gathered first, and each delta is told as what it changed in the
 * answer. Text and reasoning are closed when something else begins.
 *
 * The hard thing is calls: fragments of several may come in any order, so all stay open until the
 * answer ends. */
#include "dialect/openai_error.h"
#include "dialect/openai_responses.h"
#include "net/sse.h"

/* An event begins: what follows are its members. */
static struct json_writer begin_event(struct answer_writer *writer, struct buf *out,
                                      const char *type)
{
    struct responses_state *state = writer->state;
    struct json_writer w = json_writer_make(out);

    w.err = sse_begin(out, type);
    json_open_object(&w);
    json_put_text(&w, "type", str_from(type));
    json_put_u64(&w, "sequence_number", state->sequence++);
    return w;
}

static err_t end_event(struct json_writer *w)
{
    json_close_object(w);
    TRY(json_writer_err(w));
    return buf_add(w->out, STR("\n\n"));
}

/* An event about an item. */
static struct json_writer begin_item_event(struct answer_writer *writer, const char *type,
                                           const struct output_item *item)
{
    struct json_writer w = begin_event(writer, &writer->out, type);

    responses_put_item_id(&w, "item_id", writer, item);
    json_put_u64(&w, "output_index", item->index);
    return w;
}

/* ---- the response ---- */

static err_t tell_response(struct answer_writer *writer, struct buf *out, const char *type,
                           enum response_status status, err_t err)
{
    struct json_writer w = begin_event(writer, out, type);

    json_name(&w, "response");
    responses_put_object(&w, writer, status, err);
    return end_event(&w);
}

static err_t begin_response(struct answer_writer *writer)
{
    struct responses_state *state;

    TRY(responses_state_get(writer, &state));
    if (state->is_begun)
        return NULL;
    state->is_begun = true;
    if (!state->is_queued)
        TRY(tell_response(writer, &writer->out, "response.created", RESPONSE_IN_PROGRESS, NULL));
    return tell_response(writer, &writer->out, "response.in_progress", RESPONSE_IN_PROGRESS, NULL);
}

err_t responses_write_queued(struct answer_writer *writer)
{
    struct responses_state *state;

    TRY(responses_state_get(writer, &state));
    state->is_queued = true;
    TRY(tell_response(writer, &writer->out, "response.created", RESPONSE_QUEUED, NULL));
    return tell_response(writer, &writer->out, "response.queued", RESPONSE_QUEUED, NULL);
}

/* ---- items and their parts ---- */

static err_t tell_item(struct answer_writer *writer, const struct output_item *item,
                       const char *type, const char *status, bool is_new)
{
    struct json_writer w = begin_event(writer, &writer->out, type);

    json_put_u64(&w, "output_index", item->index);
    json_name(&w, "item");
    responses_put_item(&w, writer, item, status, is_new);
    return end_event(&w);
}

/* `i`: the part's place in the item. */
static err_t tell_part(struct answer_writer *writer, const struct output_item *item,
                       const struct answer_part *part, size_t i, bool is_new)
{
    struct json_writer w = begin_item_event(
        writer, is_new ? "response.content_part.added" : "response.content_part.done", item);

    json_put_u64(&w, "content_index", i);
    json_name(&w, "part");
    responses_put_part(&w, writer, part, is_new);
    return end_event(&w);
}

static bool is_call(const struct output_item *item)
{
    return item->kind == OUTPUT_CALL || item->kind == OUTPUT_CUSTOM_CALL;
}

/* What becomes of the text of each kind of part. */
static const struct {
    const char *delta, *done, *member;
} names[] = {
    [ANSWER_TEXT] = {"response.output_text.delta", "response.output_text.done", "text"},
    [ANSWER_REASONING] = {"response.reasoning_text.delta", "response.reasoning_text.done", "text"},
    [ANSWER_REFUSAL] = {"response.refusal.delta", "response.refusal.done", "refusal"},
    [ANSWER_CALL] = {"response.function_call_arguments.delta",
                     "response.function_call_arguments.done", "arguments"},
};

static err_t tell_delta(struct answer_writer *writer, const struct output_item *item,
                        enum answer_part_kind kind, struct str text, struct str logprobs)
{
    struct json_writer w = begin_item_event(writer, names[kind].delta, item);

    if (kind != ANSWER_CALL)
        json_put_u64(&w, "content_index", item->count - 1);
    json_put_text(&w, "delta", text);
    if (kind == ANSWER_TEXT)
        responses_put_json(&w, "logprobs", responses_logprobs(logprobs));
    return end_event(&w);
}

/* A part of a message or of reasoning is over. */
static err_t close_part(struct answer_writer *writer, const struct output_item *item,
                        const struct answer_part *part, size_t i)
{
    const struct responses_state *state = writer->state;
    struct json_writer w;

    if (part->kind == ANSWER_REDACTED || (part->kind == ANSWER_REASONING && part->text.len == 0))
        return NULL; /* it was never opened */
    w = begin_item_event(writer, names[part->kind].done, item);
    json_put_u64(&w, "content_index", i);
    json_put_text(&w, names[part->kind].member, buf_str(&part->text));
    if (part->kind == ANSWER_TEXT)
        responses_put_json(&w, "logprobs",
                           responses_logprobs(answer_first(&state->answer)->logprobs));
    TRY(end_event(&w));
    return tell_part(writer, item, part, i, false);
}

static err_t tell_input(struct answer_writer *writer, const struct output_item *item,
                        struct str text)
{
    struct json_writer w;

    if (text.len == 0)
        return NULL;
    w = begin_item_event(writer, "response.custom_tool_call_input.delta", item);
    json_put_text(&w, "delta", text);
    return end_event(&w);
}

/* What its arguments hold may only show now. */
static err_t close_custom_call(struct answer_writer *writer, struct output_item *item)
{
    struct json_writer w;
    struct str text;

    TRY(openai_custom_end(&item->custom, writer->arena, &text));
    TRY(tell_input(writer, item, text));
    TRY(openai_custom_whole(buf_str(&item->first->text), writer->arena, &text));
    w = begin_item_event(writer, "response.custom_tool_call_input.done", item);
    json_put_text(&w, "input", text);
    return end_event(&w);
}

static err_t close_call(struct answer_writer *writer, struct output_item *item)
{
    const struct answer_part *part = item->first;
    struct json_writer w;

    if (item->kind == OUTPUT_CUSTOM_CALL)
        return close_custom_call(writer, item);
    w = begin_item_event(writer, names[ANSWER_CALL].done, item);
    json_put_text(&w, "name", part->name);
    json_put_text(&w, "arguments", answer_arguments(part));
    return end_event(&w);
}

static err_t close_item(struct answer_writer *writer, struct output_item *item, const char *status)
{
    if (item->is_done)
        return NULL;
    TRY(is_call(item) ? close_call(writer, item)
                      : close_part(writer, item, item->last, item->count - 1));
    item->is_done = true;
    return tell_item(writer, item, "response.output_item.done", status, false);
}

/* ---- deltas ---- */

/* A part has begun: close what it ends, announce the item that it opens, and itself. */
static err_t open_part(struct answer_writer *writer, const struct answer_part *part)
{
    struct responses_state *state = writer->state;
    struct output_item *before = state->last_item, *item;
    const struct answer_part *last = before ? before->last : NULL;

    TRY(responses_add_part(writer, part, &item));
    if (item->kind == OUTPUT_CUSTOM_CALL)
        TRY(openai_custom_begin(&item->custom, writer->arena));
    if (item == before) { /* of the same message */
        TRY(close_part(writer, item, last, item->count - 2));
    } else {
        if (before && !is_call(before))
            TRY(close_item(writer, before, "completed"));
        TRY(tell_item(writer, item, "response.output_item.added", "in_progress", true));
    }
    return item->kind == OUTPUT_MESSAGE ? tell_part(writer, item, part, item->count - 1, true)
                                        : NULL;
}

/* Text of whatever kind. Reasoning may have none, so its part is announced by the first. */
static err_t tell_text(struct answer_writer *writer, const struct delta *delta,
                       const struct answer_part *part, struct str logprobs)
{
    const struct responses_state *state = writer->state;
    const struct output_item *item = state->last_item;

    if (part->kind == ANSWER_REASONING && part->text.len == delta->text.len)
        TRY(tell_part(writer, item, part, 0, true));
    return tell_delta(writer, item, part->kind, delta->text, logprobs);
}

static err_t tell_arguments(struct answer_writer *writer, const struct delta *delta)
{
    const struct responses_state *state = writer->state;
    struct output_item *item = state->items;
    struct str text;

    while (item && !(is_call(item) && item->first->index == delta->index))
        item = item->next;
    if (!item)
        return NULL;
    if (item->kind == OUTPUT_CALL)
        return tell_delta(writer, item, ANSWER_CALL, delta->text, (struct str){0});
    TRY(openai_custom_add(&item->custom, delta->text, writer->arena, &text));
    return tell_input(writer, item, text);
}

static err_t tell_citation(struct answer_writer *writer, const struct delta *delta,
                           const struct answer_part *part)
{
    const struct responses_state *state = writer->state;
    struct str annotation = responses_annotation(delta->text, writer->arena);
    struct json_writer w;

    if (annotation.len == 0)
        return NULL;
    w = begin_item_event(writer, "response.output_text.annotation.added", state->last_item);
    json_put_u64(&w, "content_index", state->last_item->count - 1);
    json_put_u64(&w, "annotation_index", part->citation_count - 1);
    json_put_raw(&w, "annotation", annotation);
    return end_event(&w);
}

static err_t take_delta(struct answer_writer *writer, const struct delta *delta,
                        struct str logprobs)
{
    struct responses_state *state = writer->state;
    const struct answer_choice *choice = answer_first(&state->answer);
    const struct answer_part *before = choice ? choice->last : NULL, *part;
    bool is_text = delta->kind == DELTA_TEXT || delta->kind == DELTA_REASONING ||
                   delta->kind == DELTA_REFUSAL || delta->kind == DELTA_ARGUMENTS;

    if (delta->choice != 0 || (is_text && delta->text.len == 0))
        return NULL;
    TRY(answer_add(&state->answer, delta, 1));
    part = answer_first(&state->answer)->last;
    if (part != before)
        TRY(open_part(writer, part));
    switch (delta->kind) {
    case DELTA_TEXT:
    case DELTA_REASONING:
    case DELTA_REFUSAL:
        return tell_text(writer, delta, part, logprobs);
    case DELTA_ARGUMENTS:
        return tell_arguments(writer, delta);
    case DELTA_CITATION:
        return tell_citation(writer, delta, part);
    default:
        return NULL;
    }
}

/* The log probabilities of a text stand behind it in the same event. */
static struct str logprobs_behind(const struct event *event, size_t i)
{
    bool is_next = i + 1 < event->delta_count && event->deltas[i + 1].kind == DELTA_LOGPROBS;

    return is_next && event->deltas[i + 1].choice == 0 ? event->deltas[i + 1].text
                                                       : (struct str){0};
}

static err_t end_response(struct answer_writer *writer)
{
    struct responses_state *state = writer->state;
    enum response_status status = responses_status(&state->answer);
    bool is_cut = status == RESPONSE_INCOMPLETE;

    for (struct output_item *item = state->items; item; item = item->next)
        TRY(close_item(writer, item,
                       is_cut && item == state->last_item ? "incomplete" : "completed"));
    state->is_over = true;
    return tell_response(writer, &writer->out,
                         is_cut ? "response.incomplete" : "response.completed", status, NULL);
}

err_t responses_write_event(struct answer_writer *writer, const struct event *event)
{
    bool is_end = event->kind == EVENT_END;

    if (!is_end && event->kind != EVENT_CONTENT)
        return NULL;
    TRY(begin_response(writer));
    for (size_t i = 0; i < event->delta_count; i++)
        TRY(take_delta(writer, &event->deltas[i], logprobs_behind(event, i)));
    return is_end ? end_response(writer) : NULL;
}

/* ---- errors ---- */

/* The API's own event, and the member by which SDKs know that they must raise. */
static err_t write_error_event(struct responses_state *state, err_t err, struct arena *arena,
                               struct buf *out)
{
    struct json_writer w = json_writer_make(out);
    struct str error = openai_error_print(err, (struct str){0}, arena);

    TRY(buf_add(out, STR("event: error\ndata: ")));
    json_open_object(&w);
    json_put_text(&w, "type", STR("error"));
    json_put_u64(&w, "sequence_number", state ? state->sequence++ : 0);
    json_put_text_or_null(&w, "code", str_from(err->code));
    json_put_text(&w, "message", str_from(err->text));
    json_put_text_or_null(&w, "param", str_from(err->param));
    responses_put_json(&w, "error", json_get(error, STR("error")));
    json_close_object(&w);
    TRY(json_writer_err(&w));
    return buf_add(out, STR("\n\n"));
}

err_t responses_write_error(struct answer_writer *writer, err_t err, struct arena *arena,
                            struct buf *out)
{
    struct responses_state *state = writer ? writer->state : NULL;
    bool is_begun = state && (state->is_begun || state->is_queued) && !state->is_over;

    if (!is_begun || err_is(err, ERR_CANCELLED)) /* there is no event for who cancelled it */
        return write_error_event(state, err, arena, out);
    return tell_response(writer, out, "response.failed", RESPONSE_FAILED, err);
}
