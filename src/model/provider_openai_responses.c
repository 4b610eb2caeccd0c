/* SPDX-License-Identifier: Apache-2.0 */
/* OpenAI's responses, which pass through: callers of other protocols are answered by
 * chat completions. The events' meaning is not worked out, only when the answer begins, how it ends
 * and what it took (OpenAI's OpenAPI 2.3.0, ResponseStreamEvent). */
#include "model/encode.h"
#include "model/provider_openai.h"
#include "model/usage_count.h"

/* Members of an event that are looked at; it has eight at most. */
#define EVENT_MEMBERS 12

/* Events that only announce something, before anything was said. */
static bool is_quiet(struct str type)
{
    static const char *const quiet[] = {
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_summary_part.added",
        "keepalive",
    };

    for (size_t i = 0; i < sizeof(quiet) / sizeof(*quiet); i++)
        if (str_eq(type, str_from(quiet[i])))
            return true;
    return false;
}

/* Tally what is said: texts, reasoning, refusals, and fragments of calls. Sound is none of it. */
static void count_delta(struct tokens_tally *tally, struct str type, struct str delta)
{
    if (str_ends(type, STR(".delta")) && !str_eq(type, STR("response.audio.delta")))
        usage_count_json(tally, delta);
}

/* `response.failed` and `error` hold why, each in its own place. */
static err_t read_failure(struct str event, struct str response)
{
    struct str error = json_get(response, STR("error"));

    if (json_kind(error) != JSON_OBJECT)
        error = json_get(event, STR("error"));
    return decode_reported(json_kind(error) == JSON_OBJECT ? error : event);
}

err_t provider_openai_decode_response(struct decoder *decoder, const struct sse_event *in,
                                      struct event *out)
{
    /* Not on the stack, of which an open stream keeps no more than a page. */
    static _Thread_local struct json_member members[EVENT_MEMBERS];
    struct str type = in->type, response = {0}, delta = {0};
    size_t count;
    bool is_object;
    err_t err = json_members_read(in->data, members, EVENT_MEMBERS, &count, &is_object);

    if (err || !is_object)
        return provider_openai_invalid("the provider's event is not a JSON object%s%s",
                                       err ? ": " : "", err ? err->text : "");
    for (size_t i = 0; i < count && i < EVENT_MEMBERS; i++) {
        struct str value = members[i].value;
        if (json_key_is(&members[i], STR("type")) && json_kind(value) == JSON_STRING)
            type = (struct str){value.ptr + 1, value.len - 2};
        else if (json_key_is(&members[i], STR("response")))
            response = value;
        else if (json_key_is(&members[i], STR("delta")))
            delta = value;
    }
    if (str_eq(type, STR("error")) || str_eq(type, STR("response.failed"))) {
        (void)provider_openai_read_usage(json_get(response, STR("usage")), &decoder->usage);
        return read_failure(in->data, response);
    }
    out->kind = EVENT_CONTENT;
    if (str_eq(type, STR("response.completed")) || str_eq(type, STR("response.incomplete"))) {
        (void)provider_openai_read_usage(json_get(response, STR("usage")), &decoder->usage);
        decoder->is_ended = true;
        out->kind = EVENT_END;
    } else if (is_quiet(type)) {
        out->kind = decoder->has_content ? EVENT_CONTENT : EVENT_QUIET;
        return NULL;
    }
    if (decoder->tally)
        count_delta(decoder->tally, type, delta);
    decoder->has_content = true;
    return NULL;
}

/* ---- whole answers ---- */

/* The texts of a message's or of a thought's parts. */
static void count_texts(struct tokens_tally *tally, struct str parts)
{
    struct str part;

    for (size_t at = 0; json_array_next(parts, &at, &part);) {
        usage_count_json(tally, json_get(part, STR("text")));
        usage_count_json(tally, json_get(part, STR("refusal")));
    }
}

/* Messages, thoughts, and calls of functions and of tools whose input is a text. */
void provider_openai_count_output(struct tokens_tally *tally, struct str output)
{
    struct str item;

    for (size_t at = 0; json_array_next(output, &at, &item);) {
        count_texts(tally, json_get(item, STR("content")));
        count_texts(tally, json_get(item, STR("summary")));
        usage_count_json(tally, json_get(item, STR("name")));
        usage_count_json(tally, json_get(item, STR("arguments")));
        usage_count_json(tally, json_get(item, STR("input")));
    }
}
