/* SPDX-License-Identifier: Apache-2.0 */
/* A response as a JSON object: what was answered so far, as items, and how it stands.
 *
 * Items are runs of the answer's parts: text and refusals side by side are the parts of one message,
 * each call and each piece of reasoning is an item. The hard thing is that the same items, with the
 * same ids and numbers, come out of a stream and of a whole answer; both therefore grow them part
 * by part with responses_add_part. */
#include "dialect/openai_responses.h"

#include <stdio.h>

/* ---- items ---- */

static enum output_kind kind_of(const struct answer_writer *writer, const struct answer_part *part)
{
    switch (part->kind) {
    case ANSWER_TEXT:
    case ANSWER_REFUSAL:
        return OUTPUT_MESSAGE;
    case ANSWER_CALL:
        return openai_custom_is(writer->ask, part->name) ? OUTPUT_CUSTOM_CALL : OUTPUT_CALL;
    default:
        return OUTPUT_REASONING;
    }
}

err_t responses_add_part(struct answer_writer *writer, const struct answer_part *part,
                         struct output_item **out)
{
    struct responses_state *state = writer->state;
    struct output_item *item = state->last_item;
    enum output_kind kind = kind_of(writer, part);

    if (kind == OUTPUT_MESSAGE && item && item->kind == kind && !item->is_done &&
        item->last->next == part) {
        item->last = part;
        item->count++;
        *out = item;
        return NULL;
    }
    item = arena_new_struct(writer->arena, struct output_item);
    if (!item)
        return arena_err(writer->arena);
    *item = (struct output_item){
        .kind = kind, .index = state->item_count++, .first = part, .last = part, .count = 1};
    if (state->last_item)
        state->last_item->next = item;
    else
        state->items = item;
    state->last_item = item;
    *out = item;
    return NULL;
}

void responses_put_item_id(struct json_writer *w, const char *name,
                           const struct answer_writer *writer, const struct output_item *item)
{
    static const char *const prefixes[] = {"msg", "rs", "fc", "ctc"};
    char text[64];

    snprintf(text, sizeof(text), "%s_%.*s%zu", prefixes[item->kind], STR_ARG(writer->id),
             item->index);
    json_put_text(w, name, str_from(text));
}

/* ---- parts ---- */

struct str responses_logprobs(struct str logprobs)
{
    return json_kind(logprobs) == JSON_ARRAY ? logprobs : STR("[]");
}

static void put_number(struct json_writer *w, const char *name, struct str number)
{
    json_put_raw(w, name, json_kind(number) == JSON_NUMBER ? number : STR("0"));
}

/* {"type":"url_citation","url_citation":{…}} of chat completions, and what else names a URL. A provider that tells no
 * position means all of the text. */
struct str responses_annotation(struct str citation, struct arena *arena)
{
    struct str nested = json_get(citation, STR("url_citation"));
    struct str from = json_kind(nested) == JSON_OBJECT ? nested : citation;
    struct str url = json_get(from, STR("url")), title = json_get(from, STR("title")), made = {0};
    struct buf text = buf_make(MEM_REQUEST, ANSWER_MAX_BYTES);
    struct json_writer w = json_writer_make(&text);

    if (json_kind(url) != JSON_STRING)
        return made;
    json_open_object(&w);
    json_put_text(&w, "type", STR("url_citation"));
    put_number(&w, "start_index", json_get(from, STR("start_index")));
    put_number(&w, "end_index", json_get(from, STR("end_index")));
    responses_put_json(&w, "url", url);
    responses_put_json(&w, "title", json_kind(title) == JSON_STRING ? title : STR("\"\""));
    json_close_object(&w);
    if (!json_writer_err(&w))
        made = arena_copy(arena, buf_str(&text));
    buf_fini(&text);
    return made;
}

static void put_text_part(struct json_writer *w, const struct answer_writer *writer,
                          const struct answer_part *part, bool is_new)
{
    const struct responses_state *state = writer->state;
    const struct answer_choice *choice = answer_first(&state->answer);
    struct str annotation;

    json_put_array(w, "annotations");
    for (size_t i = 0; i < part->citation_count && !is_new; i++) {
        annotation = responses_annotation(part->citations[i], writer->arena);
        if (annotation.len)
            json_add_raw(w, annotation);
    }
    json_close_array(w);
    responses_put_json(w, "logprobs",
                       responses_logprobs(is_new || !choice ? (struct str){0} : choice->logprobs));
    json_put_text(w, "text", is_new ? STR("") : buf_str(&part->text));
}

void responses_put_part(struct json_writer *w, const struct answer_writer *writer,
                        const struct answer_part *part, bool is_new)
{
    struct str text = is_new ? STR("") : buf_str(&part->text);

    json_open_object(w);
    if (part->kind == ANSWER_TEXT) {
        json_put_text(w, "type", STR("output_text"));
        put_text_part(w, writer, part, is_new);
    } else if (part->kind == ANSWER_REFUSAL) {
        json_put_text(w, "type", STR("refusal"));
        json_put_text(w, "refusal", text);
    } else {
        json_put_text(w, "type", STR("reasoning_text"));
        json_put_text(w, "text", text);
    }
    json_close_object(w);
}

/* ---- items as JSON ---- */

static void put_message(struct json_writer *w, const struct answer_writer *writer,
                        const struct output_item *item, bool is_new)
{
    const struct answer_part *part = item->first;

    json_put_text(w, "role", STR("assistant"));
    json_put_array(w, "content");
    for (size_t i = 0; i < item->count && !is_new; i++, part = part->next)
        responses_put_part(w, writer, part, false);
    json_close_array(w);
}

/* Signatures and what is hidden go out behind a prefix: see openai_responses_items.c. */
static void put_secret(struct json_writer *w, const struct answer_part *part)
{
    bool is_hidden = part->kind == ANSWER_REDACTED;
    struct str secret = is_hidden ? buf_str(&part->text) : part->signature;
    struct str prefix = is_hidden ? STR(RESPONSES_REDACTED) : STR(RESPONSES_SIGNED);
    struct buf text = buf_make(MEM_REQUEST, ANSWER_MAX_BYTES);

    if (secret.len == 0) {
        json_put_null(w, "encrypted_content");
        return;
    }
    if (!w->err)
        w->err = buf_add(&text, prefix);
    if (!w->err)
        w->err = buf_add(&text, secret);
    json_put_text(w, "encrypted_content", buf_str(&text));
    buf_fini(&text);
}

static void put_reasoning(struct json_writer *w, const struct answer_writer *writer,
                          const struct output_item *item, bool is_new)
{
    const struct answer_part *part = item->first;

    json_put_raw(w, "summary", STR("[]"));
    json_put_array(w, "content");
    if (!is_new && part->kind == ANSWER_REASONING && part->text.len)
        responses_put_part(w, writer, part, false);
    json_close_array(w);
    if (is_new)
        json_put_null(w, "encrypted_content");
    else
        put_secret(w, part);
}

/* A signature of a call's has Gemini's own place in OpenAI's format. */
static void put_call(struct json_writer *w, const struct answer_writer *writer,
                     const struct output_item *item, bool is_new)
{
    const struct answer_part *part = item->first;
    struct str text = {0};

    json_put_text(w, "call_id", part->id);
    json_put_text(w, "name", part->name);
    if (item->kind == OUTPUT_CALL)
        json_put_text(w, "arguments", is_new ? STR("") : answer_arguments(part));
    else if (!is_new && !w->err)
        w->err = openai_custom_whole(buf_str(&part->text), writer->arena, &text);
    if (item->kind == OUTPUT_CUSTOM_CALL)
        json_put_text(w, "input", text);
    if (part->signature.len == 0)
        return;
    json_put_object(w, "extra_content");
    json_put_object(w, "google");
    json_put_text(w, "thought_signature", part->signature);
    json_close_object(w);
    json_close_object(w);
}

void responses_put_item(struct json_writer *w, const struct answer_writer *writer,
                        const struct output_item *item, const char *status, bool is_new)
{
    static const char *const types[] = {"message", "reasoning", "function_call",
                                        "custom_tool_call"};

    json_open_object(w);
    responses_put_item_id(w, "id", writer, item);
    json_put_text(w, "type", str_from(types[item->kind]));
    json_put_text(w, "status", str_from(status));
    if (item->kind == OUTPUT_MESSAGE)
        put_message(w, writer, item, is_new);
    else if (item->kind == OUTPUT_REASONING)
        put_reasoning(w, writer, item, is_new);
    else
        put_call(w, writer, item, is_new);
    json_close_object(w);
}

/* When an answer breaks off, it is in its last item, or in calls that were not closed. */
static const char *item_status(const struct responses_state *state, const struct output_item *item,
                               enum response_status status)
{
    bool is_cut = item == state->last_item || (!item->is_done && !state->is_over);

    return status != RESPONSE_COMPLETED && is_cut ? "incomplete" : "completed";
}

static void put_items(struct json_writer *w, const struct answer_writer *writer,
                      enum response_status status)
{
    const struct responses_state *state = writer->state;

    for (const struct output_item *item = state->items; item; item = item->next)
        responses_put_item(w, writer, item, item_status(state, item, status), false);
}

/* ---- the object ---- */

/* Filtered with words of refusal is an answer like others. */
enum response_status responses_status(const struct answer *answer)
{
    const struct answer_choice *choice = answer_first(answer);

    if (!choice)
        return RESPONSE_COMPLETED;
    for (const struct answer_part *p = choice->parts; p; p = p->next)
        if (p->kind == ANSWER_REFUSAL && choice->stop == STOP_FILTERED)
            return RESPONSE_COMPLETED;
    return choice->stop == STOP_LENGTH || choice->stop == STOP_FILTERED ? RESPONSE_INCOMPLETE
                                                                        : RESPONSE_COMPLETED;
}

/* One of the API's few. */
static struct str error_code(err_t err)
{
    if (err->kind == ERR_LIMITED)
        return STR("rate_limit_exceeded");
    return err->kind == ERR_BAD_REQUEST ? STR("invalid_prompt") : STR("server_error");
}

static void put_outcome(struct json_writer *w, const struct answer_writer *writer,
                        enum response_status status, err_t err)
{
    const struct responses_state *state = writer->state;
    const struct answer_choice *choice = answer_first(&state->answer);

    if (status == RESPONSE_FAILED && err) {
        json_put_object(w, "error");
        json_put_text(w, "code", error_code(err));
        json_put_text(w, "message", str_from(err->text));
        json_close_object(w);
    } else {
        json_put_null(w, "error");
    }
    if (status == RESPONSE_INCOMPLETE) {
        json_put_object(w, "incomplete_details");
        json_put_text(w, "reason",
                      choice && choice->stop == STOP_FILTERED ? STR("content_filter")
                                                              : STR("max_output_tokens"));
        json_close_object(w);
    } else {
        json_put_null(w, "incomplete_details");
    }
}

/* Left out where nobody counted: the schema knows no null here. */
static void put_usage(struct json_writer *w, const struct usage *usage)
{
    if (!usage || (!usage->is_known && !usage->is_estimated))
        return;
    json_put_object(w, "usage");
    json_put_u64(w, "input_tokens", usage->input);
    json_put_object(w, "input_tokens_details");
    json_put_u64(w, "cached_tokens", usage->cached);
    json_put_u64(w, "cache_write_tokens", usage->cache_written);
    json_close_object(w);
    json_put_u64(w, "output_tokens", usage->output);
    json_put_object(w, "output_tokens_details");
    json_put_u64(w, "reasoning_tokens", usage->reasoning);
    json_close_object(w);
    json_put_u64(w, "total_tokens", usage->input + usage->output);
    json_close_object(w);
}

void responses_put_object(struct json_writer *w, const struct answer_writer *writer,
                          enum response_status status, err_t err)
{
    static const char *const names[] = {"in_progress", "completed", "incomplete",
                                        "failed",      "cancelled", "queued"};
    const struct responses_state *state = writer->state;
    char id[64];

    snprintf(id, sizeof(id), "resp_%.*s", STR_ARG(writer->id));
    json_open_object(w);
    json_put_text(w, "id", str_from(id));
    json_put_text(w, "object", STR("response"));
    json_put_u64(w, "created_at", writer->created_s);
    json_put_text(w, "status", str_from(names[status]));
    if (status == RESPONSE_COMPLETED && writer->ended_s)
        json_put_u64(w, "completed_at", writer->ended_s);
    else
        json_put_null(w, "completed_at");
    put_outcome(w, writer, status, err);
    json_put_text(w, "model", writer->model);
    json_put_array(w, "output");
    put_items(w, writer, status);
    json_close_array(w);
    json_add_raw(w, state->echo);
    if (status != RESPONSE_IN_PROGRESS && status != RESPONSE_QUEUED)
        put_usage(w, writer->usage);
    json_close_object(w);
}

/* ---- for whoever keeps responses ---- */

const struct answer *responses_answer(const struct answer_writer *writer)
{
    const struct responses_state *state = writer->state;

    return state ? &state->answer : NULL;
}

struct str responses_input(const struct answer_writer *writer)
{
    const struct responses_state *state = writer->state;

    return state ? state->input : (struct str){0};
}

err_t responses_print_output(const struct answer_writer *writer, enum response_status status,
                             struct buf *out)
{
    struct json_writer w = json_writer_make(out);

    put_items(&w, writer, status);
    return json_writer_err(&w);
}

err_t responses_print_object(const struct answer_writer *writer, enum response_status status,
                             err_t err, struct buf *out)
{
    struct json_writer w = json_writer_make(out);

    responses_put_object(&w, writer, status, err);
    return json_writer_err(&w);
}
