/* SPDX-License-Identifier: Apache-2.0 */
/* Answers of OpenAI's protocols: chat completions, completions, and what comes whole only.
 *
 * An answer that passes through is read just deeply enough to know whether it commits us (the first
 * content), counts (usage) and is complete (every choice has a finish reason). Only with scratch is
 * its meaning worked out (provider_openai_deltas.c).
 *
 * The hard thing is what counts as meaningful. A chunk that holds only the role says nothing yet:
 * an error after it may still become an ordinary HTTP error. */
#include "model/encode.h"
#include "model/provider_openai.h"
#include "model/usage_count.h"

/* ---- streams ---- */

/* Whether a delta says anything: a member other than the role that is not null, "" or []. */
static bool delta_is_meaningful(struct str delta)
{
    struct json_member m;

    for (size_t at = 0; json_object_next(delta, &at, &m);) {
        enum json_kind kind = json_kind(m.value);
        if (json_key_is(&m, STR("role")) || kind == JSON_NULL)
            continue;
        if (kind == JSON_STRING && m.value.len == 2)
            continue;
        if (kind == JSON_ARRAY && json_is_empty(m.value))
            continue;
        return true;
    }
    return false;
}

/* A choice of a chunk: spans of its members. `text` is that of completions. */
struct choice {
    uint64_t index;
    struct str finish, delta, text, logprobs, stop_sequence;
};

static err_t read_members(struct str value, struct choice *out)
{
    struct str position = {0};
    struct json_member m;

    if (json_kind(value) != JSON_OBJECT)
        return provider_openai_invalid("a choice of the provider's answer is not an object");
    *out = (struct choice){0};
    for (size_t at = 0; json_object_next(value, &at, &m);) {
        if (json_key_is(&m, STR("index")))
            position = m.value;
        else if (json_key_is(&m, STR("finish_reason")))
            out->finish = m.value;
        else if (json_key_is(&m, STR("delta")) || json_key_is(&m, STR("message")))
            out->delta = m.value;
        else if (json_key_is(&m, STR("text")))
            out->text = m.value;
        else if (json_key_is(&m, STR("logprobs")))
            out->logprobs = m.value;
        else if (json_key_is(&m, STR("stop_reason")))
            out->stop_sequence = m.value;
    }
    if (position.ptr && (!json_u64(position, &out->index) || out->index >= 128))
        return provider_openai_invalid("a choice of the provider's answer has the index %.*s",
                                       STR_ARG(position));
    return NULL;
}

/* A few servers write "" for null. */
static bool is_finished(const struct choice *c)
{
    return json_kind(c->finish) == JSON_STRING && c->finish.len > 2;
}

/* The meaning of a choice. It ends once, and what comes after that is none of it. */
static err_t add_choice(struct decoder *decoder, struct event *out, const struct choice *c,
                        bool is_whole)
{
    unsigned index = (unsigned)c->index;
    struct str entries = json_get(c->logprobs, STR("content"));
    bool was_finished = decoder->finished[index / 64] >> (index % 64) & 1;
    struct delta *delta;

    if (was_finished)
        return NULL;
    TRY(provider_openai_read_delta(decoder, out, index, c->delta, is_whole));
    if (json_kind(c->text) == JSON_STRING && c->text.len > 2) {
        delta = decode_add(decoder, out, DELTA_TEXT);
        if (!delta || !json_text(c->text, decoder->scratch, &delta->text))
            return arena_err(decoder->scratch);
        delta->choice = index;
    }
    if (json_kind(entries) == JSON_ARRAY && !json_is_empty(entries)) {
        delta = decode_add(decoder, out, DELTA_LOGPROBS);
        if (!delta)
            return arena_err(decoder->scratch);
        delta->choice = index;
        delta->text = entries;
    }
    if (!is_whole && !is_finished(c))
        return NULL;
    return provider_openai_read_finish(decoder, out, index, c->finish, c->stop_sequence);
}

/* Of a function, or of a tool whose input is a text. */
static void count_call(struct tokens_tally *tally, struct str called)
{
    usage_count_json(tally, json_get(called, STR("name")));
    usage_count_json(tally, json_get(called, STR("arguments")));
    usage_count_json(tally, json_get(called, STR("input")));
}

static void count_tool_calls(struct tokens_tally *tally, struct str calls)
{
    struct str call;

    for (size_t at = 0; json_array_next(calls, &at, &call);) {
        count_call(tally, json_get(call, STR("function")));
        count_call(tally, json_get(call, STR("custom")));
    }
}

/* Mistral's models write parts, and think in lists of them. */
static void count_parts(struct tokens_tally *tally, struct str parts)
{
    struct str part, thought;

    for (size_t at = 0; json_array_next(parts, &at, &part);) {
        struct str thinking = json_get(part, STR("thinking"));
        usage_count_json(tally, json_get(part, STR("text")));
        usage_count_json(tally, thinking);
        for (size_t in = 0; json_array_next(thinking, &in, &thought);)
            usage_count_json(tally, json_get(thought, STR("text")));
    }
}

/* Nearly all deltas are {"content":"…"}: where no quote stands between the first and the last, that
 * is all there is. Else empty. */
static struct str plain_content(struct str delta)
{
    const struct str front = STR("{\"content\":"), back = STR("}");
    struct str value;

    if (delta.len < front.len + back.len + 2 || !str_starts(delta, front))
        return (struct str){0};
    value = (struct str){delta.ptr + front.len, delta.len - front.len - back.len};
    if (value.ptr[0] != '"' || value.ptr[value.len - 1] != '"' ||
        memchr(value.ptr + 1, '"', value.len - 2))
        return (struct str){0};
    return value;
}

/* vLLM's thoughts have two names for a while, and stand under both. */
static bool is_said_twice(const struct json_member *m, struct str delta)
{
    return json_key_is(m, STR("reasoning")) &&
           json_kind(json_get(delta, STR("reasoning_content"))) == JSON_STRING;
}

/* Tally what a choice says. */
static void count_choice(struct tokens_tally *tally, const struct choice *c)
{
    struct str content = plain_content(c->delta);
    struct json_member m;

    usage_count_json(tally, c->text);
    if (content.len > 0) {
        usage_count_json(tally, content);
        return;
    }
    for (size_t at = 0; json_object_next(c->delta, &at, &m);) {
        if (json_kind(m.value) == JSON_STRING && !json_key_is(&m, STR("role")) &&
            !is_said_twice(&m, c->delta))
            usage_count_json(tally, m.value);
        else if (json_key_is(&m, STR("tool_calls")))
            count_tool_calls(tally, m.value);
        else if (json_key_is(&m, STR("function_call")))
            count_call(tally, m.value);
        else if (json_key_is(&m, STR("content")))
            count_parts(tally, m.value);
        else if (json_key_is(&m, STR("audio"))) /* the words at least */
            usage_count_json(tally, json_get(m.value, STR("transcript")));
    }
}

/* Note one choice of a chunk. Whether a delta says anything matters only until the first does. */
static err_t read_choice(struct decoder *decoder, struct str value, struct event *out)
{
    struct choice c;

    TRY(read_members(value, &c));
    if (decoder->scratch)
        TRY(add_choice(decoder, out, &c, false));
    else if (decoder->tally)
        count_choice(decoder->tally, &c);
    decoder->seen[c.index / 64] |= 1ULL << (c.index % 64);
    if (decoder->usage.is_known)
        decoder->has_said_more |= delta_is_meaningful(c.delta) || c.text.len > 2;
    if (is_finished(&c)) {
        decoder->finished[c.index / 64] |= 1ULL << (c.index % 64);
        decoder->has_content = true;
    }
    if (!decoder->has_content)
        decoder->has_content =
            delta_is_meaningful(c.delta) || c.text.len > 2 || out->delta_count > 0;
    return NULL;
}

/* The answer's own id and the model that gave it, once. */
static err_t keep_name(struct decoder *decoder, struct str value, struct str *out)
{
    struct str text;

    if (out->len > 0 || json_kind(value) != JSON_STRING)
        return NULL;
    if (!json_text(value, decoder->scratch, &text))
        return arena_err(decoder->scratch);
    *out = arena_copy(decoder->arena, text);
    return out->ptr ? NULL : arena_err(decoder->arena);
}

/* A failure, beside which the provider may tell what it will charge for all the same. */
static err_t read_failure(struct decoder *decoder, const struct json_member *members, size_t count,
                          struct str error)
{
    for (size_t i = 0; i < count; i++)
        if (json_key_is(&members[i], STR("usage")))
            (void)provider_openai_read_usage(members[i].value, &decoder->usage);
    return decode_reported(error);
}

static err_t read_chunk(struct decoder *decoder, const struct json_member *members, size_t count,
                        struct event *out)
{
    bool has_choices = false, has_usage = false, is_told = false;

    for (size_t i = 0; i < count; i++) {
        const struct json_member *m = &members[i];
        if (json_key_is(m, STR("error")) && json_kind(m->value) != JSON_NULL)
            return read_failure(decoder, members, count, m->value);
        if (json_key_is(m, STR("usage")) && json_kind(m->value) == JSON_OBJECT) {
            is_told |= provider_openai_read_usage(m->value, &decoder->usage);
            has_usage = true;
        } else if (json_key_is(m, STR("x_groq"))) {
            is_told |=
                provider_openai_read_usage(json_get(m->value, STR("usage")), &decoder->usage);
        }
        if (decoder->scratch && json_key_is(m, STR("id")))
            TRY(keep_name(decoder, m->value, &decoder->id));
        if (decoder->scratch && json_key_is(m, STR("model")))
            TRY(keep_name(decoder, m->value, &decoder->model));
        if (!json_key_is(m, STR("choices")))
            continue;
        struct str choice;
        for (size_t at = 0; json_array_next(m->value, &at, &choice);) {
            has_choices = true;
            TRY(read_choice(decoder, choice, out));
        }
    }
    decoder->has_said_more &= !is_told;
    if (has_choices && decoder->has_content)
        out->kind = EVENT_CONTENT;
    else
        out->kind = has_usage && !has_choices ? EVENT_USAGE : EVENT_QUIET;
    return NULL;
}

static bool is_complete(const struct decoder *d)
{
    if (d->protocol == PROTOCOL_RESPONSES)
        return d->is_ended;
    return (d->seen[0] | d->seen[1]) != 0 && d->seen[0] == d->finished[0] &&
           d->seen[1] == d->finished[1];
}

err_t provider_openai_decode_end(struct decoder *decoder, struct event *out)
{
    out->kind = EVENT_END;
    if (is_complete(decoder))
        return NULL;
    return err_new_detail(ERR_UPSTREAM, (.code = "upstream_truncated"),
                          "the provider's stream ended before the answer did");
}

/* The top-level members of an event or answer, `max` of them at most. */
static err_t read_object(struct str text, const char *what, struct json_member *members, size_t max,
                         size_t *count)
{
    bool is_object;
    err_t err = json_members_read(text, members, max, count, &is_object);

    if (err)
        return provider_openai_invalid("the provider's %s is not JSON: %s", what, err->text);
    if (!is_object)
        return provider_openai_invalid("the provider's %s is not a JSON object", what);
    *count = *count < max ? *count : max;
    return NULL;
}

err_t provider_openai_decode(struct decoder *decoder, const struct sse_event *in, struct event *out)
{
    /* Not on the stack, of which an open stream keeps no more than a page. */
    static _Thread_local struct json_member members[24];
    size_t count;

    *out = (struct event){.raw = in->raw, .has_id = in->has_id};
    if (decoder->protocol == PROTOCOL_RESPONSES)
        return provider_openai_decode_response(decoder, in, out);
    if (str_eq(str_trim(in->data), STR("[DONE]")))
        return provider_openai_decode_end(decoder, out);
    TRY(read_object(in->data, "event", members, 24, &count));
    return read_chunk(decoder, members, count, out);
}

/* ---- whole answers ---- */

/* Members of an answer that are looked at. A response has 34 and more, and its usage among the last. */
#define WHOLE_MEMBERS 128

static err_t read_choices(struct decoder *decoder, struct str choices, struct event *out)
{
    struct str value;

    for (size_t at = 0; json_array_next(choices, &at, &value);) {
        struct choice c;
        TRY(read_members(value, &c));
        TRY(add_choice(decoder, out, &c, true));
        decoder->finished[c.index / 64] |= 1ULL << (c.index % 64);
    }
    return NULL;
}

/* The member without which an answer is none; embeddings and rerankers differ in it. */
static bool is_essential(enum protocol protocol, const struct json_member *m)
{
    enum json_kind kind = json_kind(m->value);

    switch (protocol) {
    case PROTOCOL_CHAT:
    case PROTOCOL_COMPLETIONS:
        return json_key_is(m, STR("choices")) && kind == JSON_ARRAY && !json_is_empty(m->value);
    case PROTOCOL_RESPONSES:
    case PROTOCOL_COMPACT:
        return json_key_is(m, STR("output")) && kind == JSON_ARRAY;
    case PROTOCOL_EMBEDDINGS:
        return json_key_is(m, STR("data")) && kind == JSON_ARRAY;
    default:
        return (json_key_is(m, STR("results")) || json_key_is(m, STR("data"))) &&
               kind == JSON_ARRAY;
    }
}

/* Usage, in whichever place this answer has it. */
static void read_whole_usage(struct decoder *decoder, const struct json_member *m)
{
    bool writes = decoder->protocol == PROTOCOL_CHAT || decoder->protocol == PROTOCOL_RESPONSES ||
                  decoder->protocol == PROTOCOL_COMPLETIONS ||
                  decoder->protocol == PROTOCOL_COMPACT;

    if (!writes)
        provider_openai_read_input_usage(m, &decoder->usage);
    else if (json_key_is(m, STR("usage")))
        (void)provider_openai_read_usage(m->value, &decoder->usage);
    else if (json_key_is(m, STR("x_groq")))
        (void)provider_openai_read_usage(json_get(m->value, STR("usage")), &decoder->usage);
}

/* Tally what an answer says. */
static err_t count_whole_member(struct decoder *decoder, const struct json_member *m)
{
    struct str value;
    struct choice c;

    if (json_key_is(m, STR("output")))
        provider_openai_count_output(decoder->tally, m->value);
    if (!json_key_is(m, STR("choices")))
        return NULL;
    for (size_t at = 0; json_array_next(m->value, &at, &value);) {
        TRY(read_members(value, &c));
        count_choice(decoder->tally, &c);
    }
    return NULL;
}

static err_t read_whole_member(struct decoder *decoder, const struct json_member *m,
                               struct event *out)
{
    read_whole_usage(decoder, m);
    if (decoder->tally)
        return count_whole_member(decoder, m);
    if (!decoder->scratch)
        return NULL;
    if (json_key_is(m, STR("id")))
        return keep_name(decoder, m->value, &decoder->id);
    if (json_key_is(m, STR("model")))
        return keep_name(decoder, m->value, &decoder->model);
    if (json_key_is(m, STR("choices")))
        return read_choices(decoder, m->value, out);
    return NULL;
}

err_t provider_openai_decode_whole(struct decoder *decoder, struct str body, struct event *out)
{
    static _Thread_local struct json_member members[WHOLE_MEMBERS];
    size_t count;
    bool is_answer = false;

    *out = (struct event){.kind = EVENT_CONTENT, .raw = body};
    if (decoder->protocol == PROTOCOL_OTHER)
        return NULL;
    TRY(read_object(body, "answer", members, WHOLE_MEMBERS, &count));
    for (size_t i = 0; i < count; i++) {
        if (json_key_is(&members[i], STR("error")) && json_kind(members[i].value) != JSON_NULL)
            return read_failure(decoder, members, count, members[i].value);
        TRY(read_whole_member(decoder, &members[i], out));
        is_answer |= is_essential(decoder->protocol, &members[i]);
    }
    decoder->has_content |= is_answer;
    return is_answer ? NULL
                     : provider_openai_invalid("the provider's answer holds no %s",
                                               decoder->protocol == PROTOCOL_CHAT ? "choices"
                                                                                  : "results");
}
