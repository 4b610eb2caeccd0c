/* SPDX-License-Identifier: Apache-2.0 */
/* Anthropic's answers: event streams and whole ones.
 *
 * A stream is message_start, then blocks (text, thinking, tool_use and what Anthropic's own tools
 * produce), each started, continued by deltas and stopped; then message_delta with the stop reason
 * and message_stop. Event types, block types and deltas that are not known are relayed and
 * otherwise ignored, as the API asks of its clients.
 *
 * Where the answer's schema was told as a tool, a call of that is told as text.
 *
 * The hard thing is which call a fragment of arguments belongs to. It names its block; calls count
 * separately, without the texts before them, and some servers keep several blocks open at once. So
 * the blocks that are calls are marked, and a call's number is that of the marks below its own. */
#include "model/encode.h"
#include "model/provider_anthropic.h"
#include "model/usage_count.h"

/* Members of an event that are looked at; it has two or three. */
#define EVENT_MEMBERS 16

#define invalid(...) err_new_detail(ERR_UPSTREAM, (.code = "upstream_invalid"), __VA_ARGS__)

/* The members of an event or a whole answer. */
struct fields {
    const struct json_member *items;
    size_t count;
};

static struct str field(const struct fields *fields, struct str key)
{
    for (size_t i = 0; i < fields->count; i++)
        if (json_key_is(&fields->items[i], key))
            return fields->items[i].value;
    return (struct str){0};
}

/* A string of the protocol's own vocabulary, which is written without escapes; else empty. */
static struct str word(struct str value)
{
    return json_kind(value) == JSON_STRING ? (struct str){value.ptr + 1, value.len - 2}
                                           : (struct str){0};
}

static bool says_something(struct str value)
{
    return json_kind(value) == JSON_STRING && value.len > 2;
}

/* ---- deltas ---- */

/* Add a delta with the text of a JSON string, unless there is none or nobody asks for deltas. */
static err_t add_text(struct decoder *decoder, struct event *out, enum delta_kind kind,
                      unsigned index, struct str value)
{
    struct delta *delta;

    if (!decoder->scratch || !says_something(value))
        return NULL;
    delta = decode_add(decoder, out, kind);
    if (!delta || !json_text(value, decoder->scratch, &delta->text))
        return arena_err(decoder->scratch);
    delta->index = index;
    return NULL;
}

/* The same with the value's own JSON text. */
static err_t add_json(struct decoder *decoder, struct event *out, enum delta_kind kind,
                      struct str json)
{
    struct delta *delta = decode_add(decoder, out, kind);

    if (!delta)
        return arena_err(decoder->scratch);
    delta->text = json;
    return NULL;
}

static err_t read_name(struct decoder *decoder, struct str value, struct str *out)
{
    if (json_kind(value) != JSON_STRING)
        return NULL;
    if (!json_text(value, decoder->scratch, out))
        return arena_err(decoder->scratch);
    *out = provider_anthropic_name_read(*out, decoder->scratch);
    return out->ptr ? NULL : arena_err(decoder->scratch);
}

/* The call whose arguments a block holds: false if it is not the block of a call. */
static bool find_call(const struct decoder *decoder, uint64_t block, unsigned *call)
{
    uint64_t bit = 1ULL << (block % 64);

    if (block >= 128) { /* more than we mark: one after the other */
        *call = decoder->tool_count[0] - 1;
        return decoder->tool_count[0] > 0 && decoder->open_kind == PART_TOOL_CALL &&
               decoder->open_index == block;
    }
    if (!(decoder->seen[block / 64] & bit))
        return false;
    *call = (unsigned)__builtin_popcountll(decoder->seen[block / 64] & (bit - 1));
    if (block >= 64)
        *call += (unsigned)__builtin_popcountll(decoder->seen[0]);
    return true;
}

/* Mark a block as a call. Blocks are numbered in the order in which they begin. */
static err_t mark_call(struct decoder *decoder, uint64_t block)
{
    if (decoder->tool_count[0] > 0 && block <= decoder->open_index)
        return invalid("the provider's stream begins block %llu out of order",
                       (unsigned long long)block);
    decoder->open_kind = PART_TOOL_CALL;
    decoder->open_index = (unsigned)block;
    decoder->tool_count[0]++;
    if (block < 128)
        decoder->seen[block / 64] |= 1ULL << (block % 64);
    return NULL;
}

/* The block that is the answer, where that is the call of a tool. */
struct answer_block {
    uint64_t index;
};

/* A call of the tool that stands for the answer: its input is the text. A second answer is none. */
static err_t add_answer(struct decoder *decoder, struct str input, uint64_t index,
                        struct event *out)
{
    struct answer_block *answer;

    if (decoder->state)
        return NULL;
    answer = arena_new_struct(decoder->arena, struct answer_block);
    if (!answer)
        return arena_err(decoder->arena);
    answer->index = index;
    decoder->state = answer;
    return json_kind(input) == JSON_OBJECT && !json_is_empty(input)
               ? add_json(decoder, out, DELTA_TEXT, input)
               : NULL;
}

static bool is_answer(const struct decoder *decoder, struct str block)
{
    return decoder->from_encoder &&
           str_eq(word(json_get(block, STR("name"))), STR(PROVIDER_ANTHROPIC_ANSWER));
}

/* A call begins. Its input follows in fragments, unless a server gives it at once. */
static err_t add_call(struct decoder *decoder, struct str block, uint64_t index, struct event *out)
{
    struct str input = json_get(block, STR("input"));
    struct delta *delta;

    if (is_answer(decoder, block))
        return add_answer(decoder, input, index, out);
    TRY(mark_call(decoder, index));
    delta = decode_add(decoder, out, DELTA_TOOL_CALL);
    if (!delta)
        return arena_err(decoder->scratch);
    delta->index = decoder->tool_count[0] - 1;
    TRY(read_name(decoder, json_get(block, STR("id")), &delta->id));
    TRY(read_name(decoder, json_get(block, STR("name")), &delta->name));
    if (json_kind(input) != JSON_OBJECT || json_is_empty(input))
        return NULL;
    if (index < 128)
        decoder->finished[index / 64] |= 1ULL << (index % 64);
    delta = decode_add(decoder, out, DELTA_ARGUMENTS);
    if (!delta)
        return arena_err(decoder->scratch);
    delta->index = decoder->tool_count[0] - 1;
    delta->text = input;
    return NULL;
}

static err_t add_arguments(struct decoder *decoder, struct str fragment, uint64_t block,
                           struct event *out)
{
    const struct answer_block *answer = decoder->state;
    unsigned call;

    if (answer && answer->index == block)
        return add_text(decoder, out, DELTA_TEXT, 0, fragment);
    if (!find_call(decoder, block, &call))
        return NULL; /* a tool of Anthropic's own */
    if (block < 128 && decoder->finished[block / 64] & 1ULL << (block % 64))
        return NULL; /* they were complete when it began */
    return add_text(decoder, out, DELTA_ARGUMENTS, call, fragment);
}

static err_t add_citations(struct decoder *decoder, struct str citations, struct event *out)
{
    struct str citation;

    for (size_t at = 0; json_array_next(citations, &at, &citation);)
        TRY(add_json(decoder, out, DELTA_CITATION, citation));
    return NULL;
}

/* What a block holds: all of it in a whole answer, in a stream what it begins with. */
static err_t add_block(struct decoder *decoder, struct str block, uint64_t index, struct event *out)
{
    struct str type = word(json_get(block, STR("type")));

    if (str_eq(type, STR("text"))) {
        TRY(add_text(decoder, out, DELTA_TEXT, 0, json_get(block, STR("text"))));
        return add_citations(decoder, json_get(block, STR("citations")), out);
    }
    if (str_eq(type, STR("thinking"))) {
        TRY(add_text(decoder, out, DELTA_REASONING, 0, json_get(block, STR("thinking"))));
        return add_text(decoder, out, DELTA_SIGNATURE, 0, json_get(block, STR("signature")));
    }
    if (str_eq(type, STR("redacted_thinking")))
        return add_text(decoder, out, DELTA_REDACTED, 0, json_get(block, STR("data")));
    if (str_eq(type, STR("tool_use")))
        return add_call(decoder, block, index, out);
    return NULL;
}

/* A text that outlives the event. */
static err_t keep_text(struct decoder *decoder, struct str value, struct str *out)
{
    struct str text;

    if (json_kind(value) != JSON_STRING)
        return NULL;
    if (!json_text(value, decoder->arena, &text))
        return arena_err(decoder->arena);
    *out = arena_copy(decoder->arena, text);
    return out->ptr ? NULL : arena_err(decoder->arena);
}

/* ---- the end of an answer ---- */

static enum stop_reason stop_reason_of(struct str reason)
{
    static const struct {
        const char *name;
        enum stop_reason stop;
    } reasons[] = {
        {"end_turn", STOP_END},
        {"max_tokens", STOP_LENGTH},
        {"stop_sequence", STOP_SEQUENCE},
        {"tool_use", STOP_TOOL_CALLS},
        {"refusal", STOP_FILTERED},
        {"pause_turn", STOP_PAUSED},
        {"model_context_window_exceeded", STOP_LENGTH},
    };

    for (size_t i = 0; i < sizeof(reasons) / sizeof(*reasons); i++)
        if (str_eq(reason, str_from(reasons[i].name)))
            return reasons[i].stop;
    return STOP_END; /* a reason of later years: it has ended, at any rate */
}

/* What is told of why the answer ended. */
struct stop {
    struct str reason, sequence, details;
};

/* Note why the answer ended. The last one that tells counts. */
static err_t read_stop(struct decoder *decoder, const struct stop *told)
{
    struct str text = {0};

    if (json_kind(told->reason) != JSON_STRING)
        return NULL;
    decoder->stop = stop_reason_of(word(told->reason));
    if (!decoder->scratch)
        return NULL;
    if (decoder->stop == STOP_SEQUENCE)
        text = told->sequence;
    else if (decoder->stop == STOP_FILTERED)
        text = json_get(told->details, STR("explanation"));
    decoder->stop_text = (struct str){0};
    return keep_text(decoder, text, &decoder->stop_text);
}

static err_t add_finish(struct decoder *decoder, struct event *out)
{
    struct delta *delta;

    if (!decoder->scratch)
        return NULL;
    delta = decode_add(decoder, out, DELTA_FINISH);
    if (!delta)
        return arena_err(decoder->scratch);
    /* the call of the answer's tool is none of the caller's */
    delta->stop = decoder->stop == STOP_TOOL_CALLS && decoder->state && decoder->tool_count[0] == 0
                      ? STOP_END
                      : decoder->stop;
    delta->text = decoder->stop_text;
    return NULL;
}

err_t provider_anthropic_decode_end(struct decoder *decoder, struct event *out)
{
    if (decoder->stop == STOP_UNKNOWN)
        return err_new_detail(ERR_UPSTREAM, (.code = "upstream_truncated"),
                              "the provider's stream ended before the answer did");
    out->kind = EVENT_END;
    return decoder->is_ended ? NULL : add_finish(decoder, out);
}

/* ---- events ---- */

/* Whose answer it is. */
static err_t read_names(struct decoder *decoder, struct str id, struct str model)
{
    if (!decoder->scratch)
        return NULL;
    TRY(keep_text(decoder, id, &decoder->id));
    return keep_text(decoder, model, &decoder->model);
}

/* Two answers spliced into one cannot be told in another protocol, nor be true in this one. A start
 * that is only repeated does no harm. */
static err_t read_message_start(struct decoder *decoder, const struct fields *fields,
                                struct event *out)
{
    struct str message = field(fields, STR("message"));

    (void)out;
    if (decoder->scratch && decoder->has_content)
        return invalid("the provider's stream begins a second answer");
    provider_anthropic_usage_read(decoder, json_get(message, STR("usage")), false);
    return read_names(decoder, json_get(message, STR("id")), json_get(message, STR("model")));
}

/* Which blocks mean something by having begun: calls and results, and what comes in one piece, be it only a signature or
 * a citation. */
static bool is_meaningful_start(struct str block)
{
    struct str type = word(json_get(block, STR("type"))), citation;
    size_t at = 0;

    return str_ends(type, STR("tool_use")) || str_ends(type, STR("tool_result")) ||
           str_eq(type, STR("redacted_thinking")) || says_something(json_get(block, STR("text"))) ||
           says_something(json_get(block, STR("thinking"))) ||
           says_something(json_get(block, STR("signature"))) ||
           json_array_next(json_get(block, STR("citations")), &at, &citation);
}

/* Tally what a stream says that is not read as deltas: texts, and fragments of arguments. */
static void count_delta(struct tokens_tally *tally, struct str delta)
{
    struct json_member m;

    for (size_t at = 0; json_object_next(delta, &at, &m);)
        if (json_key_is(&m, STR("text")) || json_key_is(&m, STR("thinking")) ||
            json_key_is(&m, STR("partial_json")))
            usage_count_json(tally, m.value);
}

static err_t read_block_start(struct decoder *decoder, const struct fields *fields,
                              struct event *out)
{
    struct str block = field(fields, STR("content_block"));
    uint64_t index = 0;

    if (decoder->has_content || is_meaningful_start(block))
        out->kind = EVENT_CONTENT;
    if (!decoder->scratch) {
        if (decoder->tally)
            usage_count_json(decoder->tally, json_get(block, STR("name")));
        return NULL;
    }
    if (!json_u64(field(fields, STR("index")), &index) || index > UINT32_MAX)
        return invalid("a block in the provider's stream has no index");
    return add_block(decoder, block, index, out);
}

/* Whether a delta has anything in it: a member besides its type that is neither "" nor null. */
static bool is_meaningful_delta(struct str delta)
{
    struct json_member m;

    for (size_t at = 0; json_object_next(delta, &at, &m);)
        if (!json_key_is(&m, STR("type")) && json_kind(m.value) != JSON_NULL &&
            (json_kind(m.value) != JSON_STRING || m.value.len > 2))
            return true;
    return false;
}

static err_t add_block_delta(struct decoder *decoder, const struct fields *fields, struct str delta,
                             struct event *out)
{
    struct str type = word(json_get(delta, STR("type")));
    uint64_t index = 0;

    if (str_eq(type, STR("text_delta")))
        return add_text(decoder, out, DELTA_TEXT, 0, json_get(delta, STR("text")));
    if (str_eq(type, STR("thinking_delta")))
        return add_text(decoder, out, DELTA_REASONING, 0, json_get(delta, STR("thinking")));
    if (str_eq(type, STR("signature_delta")))
        return add_text(decoder, out, DELTA_SIGNATURE, 0, json_get(delta, STR("signature")));
    if (str_eq(type, STR("citations_delta"))) {
        struct str citation = json_get(delta, STR("citation"));
        return citation.ptr ? add_json(decoder, out, DELTA_CITATION, citation) : NULL;
    }
    if (!str_eq(type, STR("input_json_delta")))
        return NULL;
    if (!json_u64(field(fields, STR("index")), &index))
        return invalid("a delta in the provider's stream has no index");
    return add_arguments(decoder, json_get(delta, STR("partial_json")), index, out);
}

static err_t read_block_delta(struct decoder *decoder, const struct fields *fields,
                              struct event *out)
{
    struct str delta = field(fields, STR("delta"));

    if (decoder->has_content || is_meaningful_delta(delta))
        out->kind = EVENT_CONTENT;
    if (decoder->scratch)
        return add_block_delta(decoder, fields, delta, out);
    if (decoder->tally)
        count_delta(decoder->tally, delta);
    return NULL;
}

static err_t read_message_delta(struct decoder *decoder, const struct fields *fields,
                                struct event *out)
{
    struct str delta = field(fields, STR("delta"));
    struct stop stop = {json_get(delta, STR("stop_reason")), json_get(delta, STR("stop_sequence")),
                        json_get(delta, STR("stop_details"))};

    TRY(read_stop(decoder, &stop));
    provider_anthropic_usage_read(decoder, field(fields, STR("usage")), true);
    if (decoder->stop != STOP_UNKNOWN)
        out->kind = EVENT_CONTENT;
    return NULL;
}

static err_t read_message_stop(struct decoder *decoder, const struct fields *fields,
                               struct event *out)
{
    (void)fields;
    TRY(provider_anthropic_decode_end(decoder, out));
    decoder->is_ended = true;
    return NULL;
}

/* What a provider says of its own failure. That it is overloaded has a status of its own in this
 * protocol, and so a code. */
static err_t read_error(struct decoder *decoder, const struct fields *fields, struct event *out)
{
    struct str error = field(fields, STR("error"));
    err_t reported = decode_reported(error);

    (void)decoder;
    (void)out;
    if (!str_eq(word(json_get(error, STR("type"))), STR("overloaded_error")))
        return reported;
    return err_new_detail(ERR_UPSTREAM, (.code = "overloaded", .status = 503), "%s",
                          reported->text);
}

static const struct {
    struct str type;
    err_t (*read)(struct decoder *decoder, const struct fields *fields, struct event *out);
} readers[] = {
#define X(type, read) {{type, sizeof(type) - 1}, read}
    X("content_block_delta", read_block_delta), X("content_block_start", read_block_start),
    X("message_start", read_message_start),     X("message_delta", read_message_delta),
    X("message_stop", read_message_stop),       X("error", read_error),
#undef X
};

err_t provider_anthropic_decode(struct decoder *decoder, const struct sse_event *in,
                                struct event *out)
{
    /* Not on the stack, of which an open stream keeps no more than a page. */
    static _Thread_local struct json_member members[EVENT_MEMBERS];
    struct fields fields = {.items = members};
    struct str type;
    bool is_object;
    err_t err;

    *out = (struct event){.kind = EVENT_QUIET, .has_id = in->has_id, .raw = in->raw};
    err = json_members_read(in->data, members, EVENT_MEMBERS, &fields.count, &is_object);
    if (err || !is_object)
        return invalid("the provider's stream holds an event that is not a JSON object%s%s",
                       err ? ": " : "", err ? err->text : "");
    if (fields.count > EVENT_MEMBERS)
        fields.count = EVENT_MEMBERS;
    type = word(field(&fields, STR("type")));
    if (type.len == 0)
        type = in->type;
    if (type.len == 0)
        return invalid("the provider's stream holds an event without a type");
    for (size_t i = 0; i < sizeof(readers) / sizeof(*readers); i++) {
        if (!str_eq(type, readers[i].type))
            continue;
        TRY(readers[i].read(decoder, &fields, out));
        decoder->has_content |= out->kind == EVENT_CONTENT;
        break;
    }
    return NULL;
}

/* ---- whole answers ---- */

err_t provider_anthropic_decode_whole(struct decoder *decoder, struct str body, struct event *out)
{
    struct json_member members[EVENT_MEMBERS * 2];
    struct fields fields = {.items = members};
    struct str content, block;
    bool is_object;
    err_t err = json_members_read(body, members, EVENT_MEMBERS * 2, &fields.count, &is_object);

    *out = (struct event){.kind = EVENT_CONTENT};
    if (err || !is_object)
        return invalid("the provider's answer is not a JSON object%s%s", err ? ": " : "",
                       err ? err->text : "");
    if (fields.count > EVENT_MEMBERS * 2)
        fields.count = EVENT_MEMBERS * 2;
    if (json_kind(field(&fields, STR("error"))) == JSON_OBJECT)
        return read_error(decoder, &fields, out);
    content = field(&fields, STR("content"));
    if (json_kind(content) != JSON_ARRAY)
        return invalid("the provider's answer holds no content");
    provider_anthropic_usage_read(decoder, field(&fields, STR("usage")), true);
    struct stop stop = {field(&fields, STR("stop_reason")), field(&fields, STR("stop_sequence")),
                        field(&fields, STR("stop_details"))};
    TRY(read_stop(decoder, &stop));
    decoder->is_ended = decoder->has_content = true;
    if (!decoder->scratch)
        return NULL;
    TRY(read_names(decoder, field(&fields, STR("id")), field(&fields, STR("model"))));
    uint64_t index = 0;
    for (size_t at = 0; json_array_next(content, &at, &block); index++)
        TRY(add_block(decoder, block, index, out));
    return add_finish(decoder, out);
}
