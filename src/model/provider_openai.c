/* SPDX-License-Identifier: Apache-2.0 */
/* OpenAI's chat completions (platform.openai.com/docs/api-reference/chat), and everyone who speaks
 * them: vLLM, Ollama, Groq …
 *
 * A request goes out as the caller's bytes with three members spliced: `model` gets the provider's
 * name, a stream always asks for usage, and the configured extra members are added. An answer is
 * read just deeply enough to know whether it commits us (the first content), counts (usage) and is
 * complete (every choice has a finish reason).
 *
 * The hard thing is what counts as meaningful. A chunk that holds only the role says nothing yet:
 * an error after it may still become an ordinary HTTP error. */
#include "model/provider_openai.h"

#include "base/buf.h"
#include "base/check.h"

/* ---- requests ---- */

/* A body under construction. Neighbours in memory are joined, so an unchanged request is one
 * piece. */
struct splice {
    struct arena *arena;
    struct str *pieces;
    size_t count, capacity;
};

static void splice_add(struct splice *s, struct str piece)
{
    struct str *last = s->count ? &s->pieces[s->count - 1] : NULL;

    if (piece.len == 0)
        return;
    if (last && last->ptr + last->len == piece.ptr) {
        last->len += piece.len;
        return;
    }
    check(s->count < s->capacity);
    s->pieces[s->count++] = piece;
}

/* Room for the worst case: each value that we replace cuts the body in two, each member of ours is
 * a piece and a comma; where members are left out, each kept one stands alone. */
static err_t splice_init(struct splice *s, struct arena *arena, const struct chat_request *ask,
                         struct str extra, bool leaves_out)
{
    struct json_member m;
    size_t capacity = 8 + (leaves_out ? 4 * ask->member_count : 0);

    for (size_t at = 0; json_object_next(extra, &at, &m);)
        capacity += 2;
    *s = (struct splice){.arena = arena, .capacity = capacity};
    s->pieces = arena_alloc_array(arena, capacity, sizeof(*s->pieces));
    return s->pieces ? NULL : arena_err(arena);
}

/* Copy everything into one piece where there are more than a system call should be given. */
static err_t splice_join(struct splice *s)
{
    size_t len = 0;
    char *joined;

    if (s->count <= PROVIDER_MAX_PIECES)
        return NULL;
    for (size_t i = 0; i < s->count; i++)
        len += s->pieces[i].len;
    joined = arena_alloc(s->arena, len);
    if (!joined)
        return arena_err(s->arena);
    len = 0;
    for (size_t i = 0; i < s->count; i++) {
        memcpy(joined + len, s->pieces[i].ptr, s->pieces[i].len);
        len += s->pieces[i].len;
    }
    s->pieces[0] = (struct str){joined, len};
    s->count = 1;
    return NULL;
}

/* From the opening quote of a member's key to the end of its value. */
static struct str member_span(const struct json_member *m)
{
    const char *start = m->key.ptr - 1;

    return (struct str){start, (size_t)(m->value.ptr + m->value.len - start)};
}

static const struct json_member *find_member(const struct chat_request *ask, struct str key)
{
    for (size_t i = 0; i < ask->member_count; i++)
        if (json_key_is(&ask->members[i], key))
            return &ask->members[i];
    return NULL;
}

static err_t quote(struct arena *arena, struct str text, struct str *out)
{
    struct buf quoted = buf_make(MEM_REQUEST, text.len * 6 + 2);
    err_t err = buf_add_json(&quoted, text);

    *out = err ? (struct str){0} : arena_copy(arena, buf_str(&quoted));
    buf_fini(&quoted);
    return err ? err : out->ptr ? NULL : arena_err(arena);
}

/* The caller's stream_options with include_usage switched on, whatever else they hold. */
static err_t usage_options(struct arena *arena, struct str given, struct str *out)
{
    struct json_member m;
    const char *text = "{\"include_usage\":true";

    for (size_t at = 0; json_object_next(given, &at, &m);) {
        if (json_key_is(&m, STR("include_usage")))
            continue;
        struct str span = member_span(&m);
        text = arena_printf(arena, "%s,%.*s", text, STR_ARG(span));
        if (!text)
            return arena_err(arena);
    }
    text = arena_printf(arena, "%s}", text);
    *out = str_from(text);
    return text ? NULL : arena_err(arena);
}

/* Whether the stream's token counts are to be asked for. */
static bool asks_usage(const struct conf_provider *provider, const struct chat_request *ask)
{
    return ask->is_stream && provider->stream_usage;
}

/* What replaces a member's value, or its own value. */
static err_t replaced_value(const struct conf_provider *provider, const struct chat_request *ask,
                            const struct json_member *m, struct str model, struct arena *arena,
                            struct str *value)
{
    *value = m->value;
    if (json_key_is(m, STR("model")))
        return str_eq(ask->model, model) ? NULL : quote(arena, model, value);
    if (asks_usage(provider, ask) && !ask->wants_usage && json_key_is(m, STR("stream_options")))
        return usage_options(arena, m->value, value);
    return NULL;
}

/* Members of ours that the caller did not send: configured extras, and the wish for usage. They go
 * first, each followed by a comma: a request always has members of its own (model, messages). */
static void add_own_members(struct splice *s, const struct conf_provider *provider,
                            const struct chat_request *ask)
{
    struct json_member m;

    if (asks_usage(provider, ask) && !find_member(ask, STR("stream_options")))
        splice_add(s, STR("\"stream_options\":{\"include_usage\":true},"));
    for (size_t at = 0; json_object_next(provider->extra_body, &at, &m);) {
        if (find_member(ask, m.key))
            continue;
        splice_add(s, member_span(&m));
        splice_add(s, STR(","));
    }
}

/* The whole body with nothing left out: the caller's bytes, cut only where a value is replaced. */
static err_t splice_all(struct splice *s, const struct conf_provider *provider,
                        const struct chat_request *ask, struct str model)
{
    const char *at = ask->members[0].key.ptr - 1;
    const char *end = ask->body.ptr + ask->body.len;

    splice_add(s, (struct str){ask->body.ptr, (size_t)(at - ask->body.ptr)});
    add_own_members(s, provider, ask);
    for (size_t i = 0; i < ask->member_count; i++) {
        const struct json_member *m = &ask->members[i];
        struct str value;
        TRY(replaced_value(provider, ask, m, model, s->arena, &value));
        if (value.ptr == m->value.ptr)
            continue;
        splice_add(s, (struct str){at, (size_t)(m->value.ptr - at)});
        splice_add(s, value);
        at = m->value.ptr + m->value.len;
    }
    splice_add(s, (struct str){at, (size_t)(end - at)});
    return NULL;
}

/* Only the members for which keep() holds, comma by comma. */
static err_t splice_kept(struct splice *s, const struct conf_provider *provider,
                         const struct chat_request *ask, struct str model,
                         bool (*keep)(struct str key))
{
    bool first = true;

    splice_add(s, STR("{"));
    add_own_members(s, provider, ask);
    for (size_t i = 0; i < ask->member_count; i++) {
        const struct json_member *m = &ask->members[i];
        struct str value;
        if (m->key_has_escapes || !keep(m->key))
            continue;
        TRY(replaced_value(provider, ask, m, model, s->arena, &value));
        if (!first)
            splice_add(s, STR(","));
        first = false;
        const char *start = m->key.ptr - 1;
        splice_add(s, (struct str){start, (size_t)(m->value.ptr - start)});
        splice_add(s, value);
    }
    splice_add(s, STR("}"));
    return NULL;
}

err_t provider_openai_encode_kept(const struct conf_provider *provider,
                                  const struct chat_request *ask, struct str model,
                                  bool (*keep)(struct str key), struct arena *arena,
                                  struct provider_request *out)
{
    struct splice s;

    TRY(splice_init(&s, arena, ask, provider->extra_body, keep != NULL));
    if (keep)
        TRY(splice_kept(&s, provider, ask, model, keep));
    else
        TRY(splice_all(&s, provider, ask, model));
    TRY(splice_join(&s));
    out->target = STR("/chat/completions");
    out->body = s.pieces;
    out->body_count = s.count;
    return NULL;
}

static err_t encode(const struct conf_provider *provider, const struct chat_request *ask,
                    struct str model, struct arena *arena, struct provider_request *out)
{
    return provider_openai_encode_kept(provider, ask, model, NULL, arena, out);
}

/* ---- answers ---- */

/* How much of a provider's own words about its failure is told. */
#define REPORTED_MAX_BYTES 300

static uint64_t count_of(struct str object, struct str key)
{
    uint64_t n = 0;

    return json_u64(json_get(object, key), &n) ? n : 0;
}

/* Token counts that cannot be true (missing, a prompt of nothing, beyond any context) are treated
 * as not told. */
static void read_usage(struct str value, struct usage *usage)
{
    const uint64_t absurd = 1000 * 1000 * 1000;
    struct usage told = {0};
    struct json_member m;
    bool has_input = false, has_output = false;

    for (size_t at = 0; json_object_next(value, &at, &m);) {
        if (json_key_is(&m, STR("prompt_tokens")))
            has_input = json_u64(m.value, &told.input);
        else if (json_key_is(&m, STR("completion_tokens")))
            has_output = json_u64(m.value, &told.output);
        else if (json_key_is(&m, STR("prompt_tokens_details")))
            told.cached = count_of(m.value, STR("cached_tokens"));
        else if (json_key_is(&m, STR("completion_tokens_details")))
            told.reasoning = count_of(m.value, STR("reasoning_tokens"));
    }
    told.is_known =
        has_input && has_output && told.input > 0 && told.input <= absurd && told.output <= absurd;
    if (told.is_known)
        *usage = told;
}

/* An error object inside a 200 answer: the provider failed after it had promised not to. */
static err_t reported_error(struct str error)
{
    struct str text = json_kind(error) == JSON_OBJECT ? json_get(error, STR("message")) : error;

    if (json_kind(text) != JSON_STRING)
        text = error;
    /* cut between words: half a key could not be masked any more */
    if (text.len > REPORTED_MAX_BYTES) {
        text.len = REPORTED_MAX_BYTES;
        while (text.len > 0 && text.ptr[text.len - 1] != ' ')
            text.len--;
    }
    return err_new_detail(ERR_UPSTREAM, (.code = "upstream_error"),
                          "the provider reported an error: %.*s", STR_ARG(text));
}

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

/* Note one choice of a chunk. Whether a delta says anything matters only until the first does. */
static err_t read_choice(struct decoder *decoder, struct str choice)
{
    struct str position = {0}, finish = {0}, delta = {0};
    uint64_t index = 0;
    struct json_member m;

    if (json_kind(choice) != JSON_OBJECT)
        return err_new(ERR_UPSTREAM, "a choice in the stream is not an object");
    for (size_t at = 0; json_object_next(choice, &at, &m);) {
        if (json_key_is(&m, STR("index")))
            position = m.value;
        else if (json_key_is(&m, STR("finish_reason")))
            finish = m.value;
        else if (json_key_is(&m, STR("delta")))
            delta = m.value;
    }
    if (position.ptr && (!json_u64(position, &index) || index >= 128))
        return err_new(ERR_UPSTREAM, "a choice in the stream has the index %.*s",
                       STR_ARG(position));
    decoder->seen[index / 64] |= 1ULL << (index % 64);
    if (json_kind(finish) == JSON_STRING) {
        decoder->finished[index / 64] |= 1ULL << (index % 64);
        decoder->has_content = true;
    }
    if (!decoder->has_content)
        decoder->has_content = delta_is_meaningful(delta);
    return NULL;
}

static err_t read_chunk(struct decoder *decoder, const struct json_member *members, size_t count,
                        struct event *out)
{
    bool has_choices = false, has_usage = false;

    for (size_t i = 0; i < count; i++) {
        const struct json_member *m = &members[i];
        if (json_key_is(m, STR("error")) && json_kind(m->value) != JSON_NULL)
            return reported_error(m->value);
        if (json_key_is(m, STR("usage")) && json_kind(m->value) == JSON_OBJECT) {
            read_usage(m->value, &decoder->usage);
            has_usage = true;
        }
        if (!json_key_is(m, STR("choices")))
            continue;
        struct str choice;
        for (size_t at = 0; json_array_next(m->value, &at, &choice);) {
            has_choices = true;
            TRY(read_choice(decoder, choice));
        }
    }
    if (has_choices && decoder->has_content)
        out->kind = EVENT_CONTENT;
    else
        out->kind = has_usage && !has_choices ? EVENT_USAGE : EVENT_QUIET;
    return NULL;
}

static bool is_complete(const struct decoder *d)
{
    return (d->seen[0] | d->seen[1]) != 0 && d->seen[0] == d->finished[0] &&
           d->seen[1] == d->finished[1];
}

err_t provider_openai_decode_end(const struct decoder *decoder)
{
    if (is_complete(decoder))
        return NULL;
    return err_new_detail(ERR_UPSTREAM, (.code = "upstream_truncated"),
                          "the provider's stream ended before the answer did");
}

err_t provider_openai_decode(struct decoder *decoder, const struct sse_event *in, struct event *out)
{
    struct json_member members[24];
    size_t count;
    bool is_object;
    err_t err;

    out->raw = in->raw;
    out->has_id = in->has_id;
    if (str_eq(str_trim(in->data), STR("[DONE]"))) {
        out->kind = EVENT_END;
        return provider_openai_decode_end(decoder);
    }
    err = json_members_read(in->data, members, 24, &count, &is_object);
    if (err)
        return err_new_detail(ERR_UPSTREAM, (.code = "upstream_invalid"),
                              "the provider's stream holds an event that is not JSON: %s",
                              err->text);
    if (!is_object)
        return err_new_detail(ERR_UPSTREAM, (.code = "upstream_invalid"),
                              "the provider's stream holds an event that is not an object");
    return read_chunk(decoder, members, count < 24 ? count : 24, out);
}

err_t provider_openai_decode_whole(struct str body, struct usage *usage)
{
    struct json_member members[32];
    size_t count;
    bool is_object, has_choices = false;
    err_t err = json_members_read(body, members, 32, &count, &is_object);

    if (err || !is_object)
        return err_new_detail(ERR_UPSTREAM, (.code = "upstream_invalid"),
                              "the provider's answer is not a JSON object%s%s", err ? ": " : "",
                              err ? err->text : "");
    for (size_t i = 0; i < count && i < 32; i++) {
        if (json_key_is(&members[i], STR("error")) && json_kind(members[i].value) != JSON_NULL)
            return reported_error(members[i].value);
        if (json_key_is(&members[i], STR("usage")))
            read_usage(members[i].value, usage);
        if (json_key_is(&members[i], STR("choices")))
            has_choices =
                json_kind(members[i].value) == JSON_ARRAY && !json_is_empty(members[i].value);
    }
    if (!has_choices)
        return err_new_detail(ERR_UPSTREAM, (.code = "upstream_invalid"),
                              "the provider's answer holds no choices");
    return NULL;
}

static const struct provider_ops openai_ops = {
    .name = "openai",
    .encode = encode,
    .decode = provider_openai_decode,
    .decode_end = provider_openai_decode_end,
    .decode_whole = provider_openai_decode_whole,
};

const struct provider_ops *const provider_openai = &openai_ops;
