/* SPDX-License-Identifier: Apache-2.0 */
/* The events of a response that has ended, made from its object: for callers who want it as a stream again
 * (OpenAPI 2.3.0, ResponseStreamEvent).
 *
 * Item by item what openai_responses_stream.c would have told, had every text come at once. How it really came is not
 * known any more. */
#include "dialect/body.h"
#include "dialect/openai_responses.h"
#include "net/sse.h"

/* A response being told. */
struct replay {
    struct buf *out;
    uint64_t sequence;
    struct str object; /* the response */
    struct str id;     /* of the item in hand, as JSON */
    size_t item, part; /* their places */
};

static struct json_writer begin_event(struct replay *replay, const char *type)
{
    struct json_writer w = json_writer_make(replay->out);

    w.err = sse_begin(replay->out, type);
    json_open_object(&w);
    json_put_text(&w, "type", str_from(type));
    json_put_u64(&w, "sequence_number", replay->sequence++);
    return w;
}

static err_t end_event(struct json_writer *w)
{
    json_close_object(w);
    TRY(json_writer_err(w));
    return buf_add(w->out, STR("\n\n"));
}

static struct json_writer begin_item_event(struct replay *replay, const char *type)
{
    struct json_writer w = begin_event(replay, type);

    json_put_raw(&w, "item_id", replay->id);
    json_put_u64(&w, "output_index", replay->item);
    return w;
}

static struct json_writer begin_part_event(struct replay *replay, const char *type)
{
    struct json_writer w = begin_item_event(replay, type);

    json_put_u64(&w, "content_index", replay->part);
    return w;
}

static bool is_text(struct str object, const char *name, const char *value)
{
    struct str found = json_get(object, str_from(name));

    return found.len == strlen(value) + 2 && memcmp(found.ptr + 1, value, found.len - 2) == 0;
}

/* ---- the response ---- */

/* As it was before anything was said. */
static err_t tell_beginning(struct replay *replay, const char *type)
{
    static const char *const later[] = {
        "status", "output", "completed_at", "error", "incomplete_details", "usage", NULL};
    struct json_writer w = begin_event(replay, type);

    json_put_object(&w, "response");
    json_put_text(&w, "status", STR("in_progress"));
    json_put_raw(&w, "output", STR("[]"));
    json_put_null(&w, "completed_at");
    json_put_null(&w, "error");
    json_put_null(&w, "incomplete_details");
    responses_put_members(&w, replay->object, later);
    json_close_object(&w);
    return end_event(&w);
}

/* There is no event for one that was cancelled. */
static err_t tell_cancelled(struct replay *replay)
{
    struct json_writer w = begin_event(replay, "error");

    json_put_text(&w, "code", STR("response_cancelled"));
    json_put_text(&w, "message", STR("the response was cancelled"));
    json_put_null(&w, "param");
    return end_event(&w);
}

static err_t tell_end(struct replay *replay)
{
    struct json_writer w;

    if (is_text(replay->object, "status", "cancelled"))
        return tell_cancelled(replay);
    w = begin_event(replay, is_text(replay->object, "status", "completed") ? "response.completed"
                            : is_text(replay->object, "status", "incomplete")
                                ? "response.incomplete"
                                : "response.failed");
    json_put_raw(&w, "response", replay->object);
    return end_event(&w);
}

/* ---- parts ---- */

/* What becomes of the text of each kind of part. */
static const struct text_kind {
    const char *type, *member, *delta, *done;
} text_kinds[] = {
    {"output_text", "text", "response.output_text.delta", "response.output_text.done"},
    {"reasoning_text", "text", "response.reasoning_text.delta", "response.reasoning_text.done"},
    {"refusal", "refusal", "response.refusal.delta", "response.refusal.done"},
};

static err_t tell_part(struct replay *replay, struct str part, const struct text_kind *kind,
                       bool is_new)
{
    const char *const left_out[] = {kind->member, "annotations", "logprobs", NULL};
    struct json_writer w = begin_part_event(replay, is_new ? "response.content_part.added"
                                                           : "response.content_part.done");

    if (!is_new) {
        json_put_raw(&w, "part", part);
        return end_event(&w);
    }
    json_put_object(&w, "part");
    json_put_raw(&w, kind->member, STR("\"\""));
    if (kind == &text_kinds[0]) {
        json_put_raw(&w, "annotations", STR("[]"));
        json_put_raw(&w, "logprobs", STR("[]"));
    }
    responses_put_members(&w, part, left_out);
    json_close_object(&w);
    return end_event(&w);
}

/* The text at once, or once more at its end. */
static err_t tell_text(struct replay *replay, struct str part, const struct text_kind *kind,
                       bool is_end)
{
    struct json_writer w = begin_part_event(replay, is_end ? kind->done : kind->delta);

    json_put_raw(&w, is_end ? kind->member : "delta", json_get(part, str_from(kind->member)));
    if (kind == &text_kinds[0])
        json_put_raw(&w, "logprobs", responses_logprobs(json_get(part, STR("logprobs"))));
    return end_event(&w);
}

static err_t tell_annotations(struct replay *replay, struct str part)
{
    struct str list = json_get(part, STR("annotations")), annotation;
    struct json_writer w;
    size_t i = 0;

    for (size_t at = 0; json_array_next(list, &at, &annotation); i++) {
        w = begin_part_event(replay, "response.output_text.annotation.added");
        json_put_u64(&w, "annotation_index", i);
        json_put_raw(&w, "annotation", annotation);
        TRY(end_event(&w));
    }
    return NULL;
}

static err_t replay_part(struct replay *replay, struct str part)
{
    const struct text_kind *kind = text_kinds;

    while (!is_text(part, "type", kind->type))
        if (++kind == text_kinds + sizeof(text_kinds) / sizeof(*text_kinds))
            return NULL; /* none of ours */
    TRY(tell_part(replay, part, kind, true));
    if (json_get(part, str_from(kind->member)).len > 2)
        TRY(tell_text(replay, part, kind, false));
    TRY(tell_annotations(replay, part));
    TRY(tell_text(replay, part, kind, true));
    return tell_part(replay, part, kind, false);
}

/* ---- items ---- */

/* An item as it was announced: without what it says. */
static err_t tell_announcement(struct replay *replay, struct str item)
{
    static const char *const later[] = {"status", "content",           "arguments",
                                        "input",  "encrypted_content", NULL};
    struct json_writer w = begin_event(replay, "response.output_item.added");

    json_put_u64(&w, "output_index", replay->item);
    json_put_object(&w, "item");
    json_put_text(&w, "status", STR("in_progress"));
    if (json_get(item, STR("content")).ptr)
        json_put_raw(&w, "content", STR("[]"));
    if (json_get(item, STR("arguments")).ptr)
        json_put_raw(&w, "arguments", STR("\"\""));
    if (json_get(item, STR("input")).ptr)
        json_put_raw(&w, "input", STR("\"\""));
    if (json_get(item, STR("encrypted_content")).ptr)
        json_put_null(&w, "encrypted_content");
    responses_put_members(&w, item, later);
    json_close_object(&w);
    return end_event(&w);
}

static err_t tell_item(struct replay *replay, struct str item)
{
    struct json_writer w = begin_event(replay, "response.output_item.done");

    json_put_u64(&w, "output_index", replay->item);
    json_put_raw(&w, "item", item);
    return end_event(&w);
}

static err_t replay_call(struct replay *replay, struct str item)
{
    bool is_custom = is_text(item, "type", "custom_tool_call");
    const char *member = is_custom ? "input" : "arguments";
    struct str text = json_get(item, str_from(member));
    struct json_writer w;

    if (text.len > 2) {
        w = begin_item_event(replay, is_custom ? "response.custom_tool_call_input.delta"
                                               : "response.function_call_arguments.delta");
        json_put_raw(&w, "delta", text);
        TRY(end_event(&w));
    }
    w = begin_item_event(replay, is_custom ? "response.custom_tool_call_input.done"
                                           : "response.function_call_arguments.done");
    if (!is_custom)
        json_put_raw(&w, "name", json_get(item, STR("name")));
    json_put_raw(&w, member, text);
    return end_event(&w);
}

static err_t replay_item(struct replay *replay, struct str item)
{
    struct str content = json_get(item, STR("content")), part;

    replay->id = json_get(item, STR("id"));
    replay->part = 0;
    TRY(tell_announcement(replay, item));
    for (size_t at = 0; json_array_next(content, &at, &part); replay->part++)
        TRY(replay_part(replay, part));
    if (is_text(item, "type", "function_call") || is_text(item, "type", "custom_tool_call"))
        TRY(replay_call(replay, item));
    return tell_item(replay, item);
}

err_t responses_replay(struct str object, struct buf *out)
{
    struct replay replay = {.out = out, .object = object};
    struct str items = json_get(object, STR("output")), item;

    TRY(tell_beginning(&replay, "response.created"));
    TRY(tell_beginning(&replay, "response.in_progress"));
    for (size_t at = 0; json_array_next(items, &at, &item); replay.item++)
        TRY(replay_item(&replay, item));
    return tell_end(&replay);
}
