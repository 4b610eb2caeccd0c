/* SPDX-License-Identifier: Apache-2.0 */
/* Gemini's answers: GenerateContentResponse, whole or as the events of a stream, each of which is
 * of the same type and holds the next pieces.
 *
 * A stream has no end marker: it is complete when its body ends and every candidate has a reason to
 * finish. Some models repeat that reason in every event, so it is told at the end only. Calls come
 * whole, often without an id; then one is made of the answer's own id, which is unique, so that
 * this file needs no randomness.
 *
 * The hard thing is to tell a refusal from a failure: a blocked prompt has no candidates but is an
 * answer, while a candidate that ends because the model's call made no sense, having said nothing,
 * is an error that another provider may mend. */
#include "base/text.h"
#include "model/provider_gemini.h"
#include "model/usage_count.h"

/* candidateCount is at most 8; each has a byte in two of the decoder's words. */
#define MAX_CANDIDATES 8

/* What decoder->open_kind holds: whether reasoning was the last thing that choice open_index said. */
enum { OPEN_OTHER, OPEN_REASONING };

/* What is remembered of a candidate: in seen[0] and finished[0] bit by bit, in seen[1] why it
 * finished, in finished[1] how many calls it has made. */
static unsigned get_byte(uint64_t bytes, uint64_t index)
{
    return (unsigned)(bytes >> (8 * index)) & 255;
}

static void set_byte(uint64_t *bytes, uint64_t index, unsigned value)
{
    *bytes = (*bytes & ~(255ULL << (8 * index))) | (uint64_t)(value & 255) << (8 * index);
}

static err_t invalid(const char *what)
{
    return err_new_detail(ERR_UPSTREAM, (.code = "upstream_invalid"), "the provider's answer %s",
                          what);
}

/* ---- deltas ---- */

/* A candidate that is being read. */
struct candidate {
    struct decoder *decoder;
    struct event *event;
    uint64_t index;
};

/* A new delta of the candidate; only with scratch. */
static err_t add(const struct candidate *c, enum delta_kind kind, struct delta **out)
{
    *out = decode_add(c->decoder, c->event, kind);
    if (!*out)
        return arena_err(c->decoder->scratch);
    (*out)->choice = (unsigned)c->index;
    return NULL;
}

static err_t read_text(struct decoder *decoder, struct str value, struct str *out)
{
    *out = (struct str){0};
    if (!json_text(value, decoder->scratch, out) && json_kind(value) == JSON_STRING)
        return arena_err(decoder->scratch);
    return NULL;
}

/* Signatures are marked as Gemini's, see provider_gemini_contents.c. */
static err_t add_signature(const struct candidate *c, struct str signature)
{
    struct delta *delta;
    const char *marked =
        arena_printf(c->decoder->scratch, PROVIDER_GEMINI_SIGNATURE "%.*s", STR_ARG(signature));

    if (!marked)
        return arena_err(c->decoder->scratch);
    TRY(add(c, DELTA_SIGNATURE, &delta));
    delta->text = str_from(marked);
    return NULL;
}

/* The id for call number `n` of the candidate. */
static err_t make_id(const struct candidate *c, struct str call, unsigned n, struct str *out)
{
    struct decoder *d = c->decoder;
    const char *id =
        d->id.len > 0 && d->id.len <= 40
            ? arena_printf(d->scratch, "call_%.*s_%u", STR_ARG(d->id), (unsigned)c->index * 256 + n)
            : arena_printf(d->scratch, "call_%016llx_%u",
                           (unsigned long long)text_hash(call, d->usage.input),
                           (unsigned)c->index * 256 + n);

    if (!id)
        return arena_err(d->scratch);
    for (char *at = (char *)(uintptr_t)id; *at; at++)
        if (!(*at >= '0' && *at <= '9') && !((*at | 32) >= 'a' && (*at | 32) <= 'z') && *at != '-')
            *at = '_';
    *out = str_from(id);
    return NULL;
}

static err_t add_call(const struct candidate *c, struct str call, struct str signature, unsigned n)
{
    struct str args = json_get(call, STR("args"));
    struct delta *delta;

    if (signature.len > 0)
        TRY(add_signature(c, signature));
    TRY(add(c, DELTA_TOOL_CALL, &delta));
    delta->index = n;
    delta->text = signature;
    TRY(read_text(c->decoder, json_get(call, STR("name")), &delta->name));
    TRY(read_text(c->decoder, json_get(call, STR("id")), &delta->id));
    if (delta->id.len == 0)
        TRY(make_id(c, call, n, &delta->id));
    if (json_kind(args) != JSON_OBJECT || json_is_empty(args))
        return NULL;
    TRY(add(c, DELTA_ARGUMENTS, &delta));
    delta->index = n;
    delta->text = args;
    return NULL;
}

/* ---- parts ---- */

static err_t read_call(const struct candidate *c, struct str call, struct str signature)
{
    struct decoder *d = c->decoder;
    unsigned n = get_byte(d->finished[1], c->index);

    if (json_kind(call) != JSON_OBJECT || json_kind(json_get(call, STR("name"))) != JSON_STRING ||
        n == 255)
        return invalid("holds a call without a name, or too many");
    set_byte(&d->finished[1], c->index, n + 1);
    d->has_content = true;
    d->open_kind = OPEN_OTHER;
    return d->scratch ? add_call(c, call, signature, n) : NULL;
}

/* A piece of text or of a thought. The signature of a thought may come with the text behind it. */
static err_t read_words(const struct candidate *c, struct str words, bool is_thought,
                        struct str signature)
{
    struct decoder *d = c->decoder;
    bool is_behind_thought = d->open_kind == OPEN_REASONING && d->open_index == c->index;
    bool says_something = json_kind(words) == JSON_STRING && words.len > 2;
    struct delta *delta;

    d->has_content |= says_something;
    if (!d->scratch)
        return NULL;
    if (signature.len > 0 && is_behind_thought && !is_thought)
        TRY(add_signature(c, signature));
    if (says_something) {
        TRY(add(c, is_thought ? DELTA_REASONING : DELTA_TEXT, &delta));
        TRY(read_text(d, words, &delta->text));
        d->open_kind = is_thought ? OPEN_REASONING : OPEN_OTHER;
        d->open_index = (unsigned)c->index;
    }
    if (signature.len > 0 && is_thought && (says_something || is_behind_thought))
        TRY(add_signature(c, signature));
    return NULL;
}

/* Parts of kinds that nobody here can ask for (pictures, code that was run) are passed over. */
static err_t read_part(const struct candidate *c, struct str part)
{
    struct str words = {0}, call = {0}, signature = {0};
    bool is_thought = false;
    struct json_member m;

    if (json_kind(part) != JSON_OBJECT)
        return invalid("holds a part that is not an object");
    for (size_t at = 0; json_object_next(part, &at, &m);) {
        if (json_key_is(&m, STR("text")))
            words = m.value;
        else if (json_key_is(&m, STR("thought")))
            is_thought = json_kind(m.value) == JSON_TRUE;
        else if (json_key_is(&m, STR("functionCall")))
            call = m.value;
        else if (c->decoder->scratch && json_key_is(&m, STR("thoughtSignature")))
            TRY(read_text(c->decoder, m.value, &signature));
    }
    if (call.ptr)
        return read_call(c, call, signature);
    return read_words(c, words, is_thought, signature);
}

/* ---- log probabilities ---- */

static void put_logprob(struct json_writer *w, struct str entry)
{
    struct str token = json_get(entry, STR("token"));
    struct str probability = json_get(entry, STR("logProbability"));

    json_put_raw(w, "token", json_kind(token) == JSON_STRING ? token : STR("\"\""));
    json_put_raw(w, "logprob", json_kind(probability) == JSON_NUMBER ? probability : STR("0"));
    json_put_null(w, "bytes");
}

/* The list in OpenAI's form: one entry per token that was chosen, each with its rivals. */
static void put_logprobs(struct json_writer *w, struct str result)
{
    struct str chosen = json_get(result, STR("chosenCandidates"));
    struct str tops = json_get(result, STR("topCandidates")), entry, top, rival;
    size_t at_top = 0;

    json_open_array(w);
    for (size_t at = 0; json_array_next(chosen, &at, &entry);) {
        json_open_object(w);
        put_logprob(w, entry);
        json_put_array(w, "top_logprobs");
        if (json_array_next(tops, &at_top, &top)) {
            struct str rivals = json_get(top, STR("candidates"));
            for (size_t at_rival = 0; json_array_next(rivals, &at_rival, &rival);) {
                json_open_object(w);
                put_logprob(w, rival);
                json_close_object(w);
            }
        }
        json_close_array(w);
        json_close_object(w);
    }
    json_close_array(w);
}

static err_t add_logprobs(const struct candidate *c, struct str result)
{
    struct buf text = buf_make(MEM_REQUEST, SSE_MAX_EVENT_BYTES * 4);
    struct json_writer w = json_writer_make(&text);
    struct delta *delta = NULL;
    struct str kept = {0};

    put_logprobs(&w, result);
    if (!json_writer_err(&w))
        kept = arena_copy(c->decoder->scratch, buf_str(&text));
    buf_fini(&text);
    TRY(json_writer_err(&w));
    if (!kept.ptr)
        return arena_err(c->decoder->scratch);
    TRY(add(c, DELTA_LOGPROBS, &delta));
    delta->text = kept;
    return NULL;
}

/* Of tokens that were chosen: then something was said, even if its text comes elsewhere. */
static err_t read_logprobs(const struct candidate *c, struct str result)
{
    struct str chosen = json_get(result, STR("chosenCandidates")), entry;
    size_t at = 0;

    if (!json_array_next(chosen, &at, &entry))
        return NULL;
    c->decoder->has_content = true;
    return c->decoder->scratch ? add_logprobs(c, result) : NULL;
}

/* ---- why it ended ---- */

/* A reason that we do not know ends an answer as any other does. *failure: its name, if nothing went well. */
static enum stop_reason stop_of(struct str reason, struct str *failure)
{
    static const struct {
        struct str reason;
        enum stop_reason stop;
        bool is_failure;
    } reasons[] = {
        {STR("STOP"), STOP_END, false},
        {STR("MAX_TOKENS"), STOP_LENGTH, false},
        {STR("SAFETY"), STOP_FILTERED, false},
        {STR("RECITATION"), STOP_FILTERED, false},
        {STR("BLOCKLIST"), STOP_FILTERED, false},
        {STR("PROHIBITED_CONTENT"), STOP_FILTERED, false},
        {STR("SPII"), STOP_FILTERED, false},
        {STR("IMAGE_SAFETY"), STOP_FILTERED, false},
        {STR("IMAGE_PROHIBITED_CONTENT"), STOP_FILTERED, false},
        {STR("IMAGE_RECITATION"), STOP_FILTERED, false},
        {STR("MALFORMED_FUNCTION_CALL"), STOP_END, true},
        {STR("UNEXPECTED_TOOL_CALL"), STOP_END, true},
        {STR("TOO_MANY_TOOL_CALLS"), STOP_END, true},
        {STR("MALFORMED_RESPONSE"), STOP_END, true},
        {STR("MISSING_THOUGHT_SIGNATURE"), STOP_END, true},
        {STR("LANGUAGE"), STOP_END, true},
        {STR("OTHER"), STOP_END, true},
    };

    *failure = STR("");
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++)
        if (str_eq(reasons[i].reason, reason)) {
            if (reasons[i].is_failure)
                *failure = reasons[i].reason;
            return reasons[i].stop;
        }
    return STOP_END;
}

/* Keep why something was filtered, beyond this event; the first reason if there are several. */
static err_t keep_stop_text(struct decoder *decoder, struct str value)
{
    struct str text;

    if (!decoder->scratch || decoder->stop_text.len > 0 || json_kind(value) != JSON_STRING)
        return NULL;
    TRY(read_text(decoder, value, &text));
    decoder->stop_text = arena_copy(decoder->arena, text);
    return decoder->stop_text.ptr ? NULL : arena_err(decoder->arena);
}

static err_t read_finish(const struct candidate *c, struct str reason, struct str message)
{
    struct decoder *d = c->decoder;
    struct str word = {reason.ptr + 1, reason.len - 2};
    struct str failure;
    enum stop_reason stop = stop_of(word, &failure);

    if (str_eq(word, STR("FINISH_REASON_UNSPECIFIED")))
        return NULL;
    if (failure.len && !d->has_content)
        return decode_reported(json_kind(message) == JSON_STRING ? message : reason);
    d->has_content = true;
    d->finished[0] |= 1ULL << c->index;
    set_byte(&d->seen[1], c->index, stop);
    if (failure.len)
        d->odd_end = failure;
    if (stop == STOP_FILTERED)
        return keep_stop_text(d, json_kind(message) == JSON_STRING ? message : reason);
    return NULL;
}

/* Tell of each candidate that has finished. */
static err_t add_finishes(struct decoder *decoder, struct event *event)
{
    for (uint64_t i = 0; decoder->scratch && i < MAX_CANDIDATES; i++) {
        struct candidate c = {decoder, event, i};
        struct delta *delta;
        if (!(decoder->seen[0] >> i & 1))
            continue;
        TRY(add(&c, DELTA_FINISH, &delta));
        delta->stop = (enum stop_reason)get_byte(decoder->seen[1], i);
        if (delta->stop == STOP_END && get_byte(decoder->finished[1], i) > 0)
            delta->stop = STOP_TOOL_CALLS;
        if (delta->stop == STOP_FILTERED)
            delta->text = decoder->stop_text;
    }
    return NULL;
}

/* ---- responses ---- */

static err_t read_candidate(struct decoder *decoder, struct str candidate, struct event *out)
{
    struct str parts = {0}, part, reason = {0}, message = {0}, logprobs = {0};
    struct candidate c = {.decoder = decoder, .event = out};
    struct json_member m;

    if (json_kind(candidate) != JSON_OBJECT)
        return invalid("holds a candidate that is not an object");
    for (size_t at = 0; json_object_next(candidate, &at, &m);) {
        if (json_key_is(&m, STR("content")))
            parts = json_get(m.value, STR("parts"));
        else if (json_key_is(&m, STR("finishReason")))
            reason = m.value;
        else if (json_key_is(&m, STR("finishMessage")))
            message = m.value;
        else if (json_key_is(&m, STR("logprobsResult")))
            logprobs = m.value;
        else if (json_key_is(&m, STR("index")) &&
                 (!json_u64(m.value, &c.index) || c.index >= MAX_CANDIDATES))
            return invalid("holds a candidate with an impossible index");
    }
    decoder->seen[0] |= 1ULL << c.index;
    for (size_t at = 0; json_array_next(parts, &at, &part);)
        TRY(read_part(&c, part));
    TRY(read_logprobs(&c, logprobs));
    return json_kind(reason) == JSON_STRING ? read_finish(&c, reason, message) : NULL;
}

/* Counts are running totals, and a missing one changes nothing. Thoughts are not among the
 * candidates' tokens. Counts beyond any context are not believed. */
static void read_usage(struct str value, struct usage *usage)
{
    const uint64_t absurd = 1000 * 1000 * 1000;
    uint64_t prompt = 0, tools = 0, n, words = usage->output - usage->reasoning;
    struct json_member m;

    for (size_t at = 0; json_object_next(value, &at, &m);) {
        if (!json_u64(m.value, &n) || n > absurd)
            continue;
        if (json_key_is(&m, STR("promptTokenCount")))
            prompt = n;
        else if (json_key_is(&m, STR("toolUsePromptTokenCount")))
            tools = n;
        else if (json_key_is(&m, STR("candidatesTokenCount")))
            words = n;
        else if (json_key_is(&m, STR("thoughtsTokenCount")))
            usage->reasoning = n;
        else if (json_key_is(&m, STR("cachedContentTokenCount")))
            usage->cached = n;
    }
    usage->output = words + usage->reasoning;
    if (prompt > 0) {
        usage->input = prompt + tools;
        usage->is_known = true;
        usage_count_fit(usage);
    }
}

/* The prompt was blocked: an answer of its own, which says nothing. */
static err_t read_feedback(struct decoder *decoder, struct str feedback)
{
    struct str reason = json_get(feedback, STR("blockReason"));
    struct str message = json_get(feedback, STR("blockReasonMessage"));

    if (json_kind(reason) != JSON_STRING || str_eq(reason, STR("\"BLOCKED_REASON_UNSPECIFIED\"")))
        return NULL;
    decoder->has_content = true;
    decoder->seen[0] |= 1;
    decoder->finished[0] |= 1;
    set_byte(&decoder->seen[1], 0, STOP_FILTERED);
    return keep_stop_text(decoder, json_kind(message) == JSON_STRING ? message : reason);
}

/* Names of the answer, kept from the first event that has them. */
static err_t keep_name(struct decoder *decoder, struct str value, struct str *name)
{
    struct str text;

    if (!decoder->scratch || name->len > 0)
        return NULL;
    TRY(read_text(decoder, value, &text));
    if (text.len == 0)
        return NULL;
    *name = arena_copy(decoder->arena, text);
    return name->ptr ? NULL : arena_err(decoder->arena);
}

static err_t read_member(struct decoder *decoder, const struct json_member *m, struct event *out)
{
    struct str candidate;

    if (json_key_is(m, STR("error")) && json_kind(m->value) != JSON_NULL)
        return decode_reported(m->value);
    if (json_key_is(m, STR("promptFeedback")))
        return read_feedback(decoder, m->value);
    if (json_key_is(m, STR("candidates")))
        for (size_t at = 0; json_array_next(m->value, &at, &candidate);)
            TRY(read_candidate(decoder, candidate, out));
    return NULL;
}

/* One response: first its names and counts, of which ids are made, then what it says. */
static err_t read_response(struct decoder *decoder, struct str text, struct event *out)
{
    /* Not on the stack, of which an open stream keeps no more than a page. */
    static _Thread_local struct json_member members[24];
    size_t count;
    bool is_object, has_usage = false, had_content = decoder->has_content;
    size_t said = 0;
    err_t err = json_members_read(text, members, 24, &count, &is_object);

    if (err || !is_object)
        return invalid(err ? "is not JSON" : "is not an object");
    count = count < 24 ? count : 24;
    for (size_t i = 0; i < count; i++) {
        if (json_key_is(&members[i], STR("usageMetadata"))) {
            read_usage(members[i].value, &decoder->usage);
            has_usage = true;
        } else if (json_key_is(&members[i], STR("responseId"))) {
            TRY(keep_name(decoder, members[i].value, &decoder->id));
        } else if (json_key_is(&members[i], STR("modelVersion"))) {
            TRY(keep_name(decoder, members[i].value, &decoder->model));
        } else if (json_key_is(&members[i], STR("candidates"))) {
            said += !json_is_empty(members[i].value);
        }
    }
    for (size_t i = 0; i < count; i++)
        TRY(read_member(decoder, &members[i], out));
    decoder->has_said_more =
        !has_usage && (decoder->has_said_more || (decoder->usage.is_known && out->delta_count > 0));
    if (decoder->has_content && (said || !had_content))
        out->kind = EVENT_CONTENT;
    else
        out->kind = has_usage && !said ? EVENT_USAGE : EVENT_QUIET;
    return NULL;
}

static bool is_complete(const struct decoder *decoder)
{
    return decoder->seen[0] != 0 && decoder->seen[0] == decoder->finished[0];
}

err_t provider_gemini_decode(struct decoder *decoder, const struct sse_event *in, struct event *out)
{
    out->raw = in->raw;
    out->has_id = in->has_id;
    return read_response(decoder, in->data, out);
}

err_t provider_gemini_decode_end(struct decoder *decoder, struct event *out)
{
    if (!is_complete(decoder))
        return err_new_detail(ERR_UPSTREAM, (.code = "upstream_truncated"),
                              "the provider's stream ended before the answer did");
    out->kind = EVENT_END;
    return add_finishes(decoder, out);
}

err_t provider_gemini_decode_whole(struct decoder *decoder, struct str body, struct event *out)
{
    if (decoder->protocol == PROTOCOL_EMBEDDINGS)
        return provider_gemini_decode_embeddings(decoder, body, out);
    TRY(read_response(decoder, body, out));
    if (decoder->seen[0] == 0)
        return invalid("holds no candidates");
    out->kind = EVENT_CONTENT;
    return add_finishes(decoder, out);
}
