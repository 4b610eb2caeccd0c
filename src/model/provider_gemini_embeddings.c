/* SPDX-License-Identifier: Apache-2.0 */
/* Embeddings by Gemini (ai.google.dev/api/embeddings, v1beta): models/M:batchEmbedContents.
 *
 * Callers ask in OpenAI's words and are answered in them, whole, so there is nothing to be read as
 * deltas: the answer's text is written here. Gemini's own answer holds the vectors and nothing else;
 * what the caller's has to say besides is kept from the request (struct asked).
 *
 * The hard thing is input that is tokens already. Gemini takes texts only, so they are put back into
 * one; numbers do not say of which encoding they are. All of OpenAI's embedding models have cl100k,
 * and callers take that for models they do not know. */
#include "model/provider_gemini.h"

#include <openssl/evp.h>

#include "model/tokens.h"

/* The longest text of a request or an answer: 2048 vectors of 3072 numbers with all their digits. */
#define TEXT_MAX_BYTES ((size_t)128 * 1024 * 1024)

#define MAX_TOKENS_OF_TEXT ((size_t)1024 * 1024)

#define invalid(what)                                                                              \
    err_new_detail(ERR_UPSTREAM, (.code = "upstream_invalid"), "the provider's answer " what)

/* What the answer must be told of the request. */
struct asked {
    struct str model;
    bool is_base64;
    size_t count;    /* of texts */
    uint64_t tokens; /* of all of them, as we count */
};

static void fini_text(void *text)
{
    buf_fini(text);
}

/* An empty text that lives as long as the arena. */
static err_t new_text(struct arena *arena, struct buf **out)
{
    *out = arena_new_struct(arena, struct buf);
    if (!*out)
        return arena_err(arena);
    **out = buf_make(MEM_REQUEST, TEXT_MAX_BYTES);
    return arena_defer(arena, fini_text, *out);
}

/* ---- the request ---- */

struct asking {
    struct encoding *encoding;
    struct json_writer *w;
    struct asked *asked;
    struct str dimensions; /* JSON, or empty */
    enum token_family tokens_of;
};

static void put_text(struct asking *a, struct str json)
{
    struct json_writer *w = a->w;

    json_open_object(w);
    json_name(w, "model");
    json_open_text(w);
    if (!str_starts(a->encoding->model, STR("models/")))
        json_more_text(w, STR("models/"));
    json_more_text(w, a->encoding->model);
    json_close_text(w);
    json_put_object(w, "content");
    json_put_array(w, "parts");
    json_open_object(w);
    json_put_raw(w, "text", json);
    json_close_object(w);
    json_close_array(w);
    json_close_object(w);
    if (a->dimensions.len > 0)
        json_put_raw(w, "outputDimensionality", a->dimensions);
    json_close_object(w);
    a->asked->count++;
}

/* The text that a list of tokens stands for, as JSON. */
static err_t decode_tokens(struct asking *a, struct str list, struct buf *text, struct buf *json)
{
    struct str element;
    uint64_t number, count = 0;
    uint32_t token;
    err_t err;

    for (size_t at = 0; json_array_next(list, &at, &element); count++) {
        if (!json_u64(element, &number) || number > UINT32_MAX || count >= MAX_TOKENS_OF_TEXT)
            return err_new_detail(ERR_BAD_REQUEST, (.code = "invalid_value", .param = "input"),
                                  "Invalid 'input': a list of tokens holds %.*s.",
                                  STR_ARG(element));
        token = (uint32_t)number;
        err = tokens_decode(a->tokens_of, &token, 1, text);
        if (err_is(err, ERR_NOT_FOUND))
            return encode_refuse(a->encoding, STR("input"));
        if (err_is(err, ERR_BAD_REQUEST))
            return err_new_detail(ERR_BAD_REQUEST, (.code = "invalid_value", .param = "input"),
                                  "Invalid 'input': there is no token %u.", token);
        TRY(err);
    }
    a->asked->tokens += count;
    return buf_add_json(json, buf_str(text));
}

static err_t put_tokens(struct asking *a, struct str list)
{
    struct buf text = buf_make(MEM_REQUEST, TEXT_MAX_BYTES);
    struct buf json = buf_make(MEM_REQUEST, TEXT_MAX_BYTES);
    err_t err = decode_tokens(a, list, &text, &json);

    if (!err)
        put_text(a, buf_str(&json));
    buf_fini(&text);
    buf_fini(&json);
    return err;
}

/* A text or a list of tokens. */
static err_t put_input(struct asking *a, struct str input)
{
    struct str text;

    if (json_kind(input) == JSON_ARRAY)
        return put_tokens(a, input);
    if (json_kind(input) != JSON_STRING)
        return err_new_detail(ERR_BAD_REQUEST, (.code = "invalid_type", .param = "input"),
                              "Invalid 'input': texts and tokens cannot be mixed.");
    if (!json_text(input, a->encoding->arena, &text))
        return arena_err(a->encoding->arena);
    a->asked->tokens += tokens_count(tokens_family(a->encoding->model), text);
    put_text(a, input);
    return NULL;
}

static err_t put_inputs(struct asking *a, struct str input)
{
    struct str element;
    size_t at = 0;
    bool is_list = json_array_next(input, &at, &element) && json_kind(element) != JSON_NUMBER;

    if (!is_list) /* one text, or one list of tokens */
        return put_input(a, input);
    for (at = 0; json_array_next(input, &at, &element);)
        TRY(put_input(a, element));
    return NULL;
}

/* The caller's members; what Gemini has no word for is dropped and told. `user` is between the
 * caller and us. */
static err_t read_members(struct asking *a, struct str *input)
{
    const struct chat_request *ask = a->encoding->ask;

    for (size_t i = 0; i < ask->member_count; i++) {
        const struct json_member *m = &ask->members[i];
        if (json_key_is(m, STR("input")))
            *input = m->value;
        else if (json_key_is(m, STR("encoding_format")))
            a->asked->is_base64 = str_eq(m->value, STR("\"base64\""));
        else if (json_kind(m->value) == JSON_NULL || json_key_is(m, STR("model")) ||
                 json_key_is(m, STR("user")))
            continue;
        else if (json_key_is(m, STR("dimensions")))
            a->dimensions = m->value;
        else
            TRY(encode_drop(a->encoding, m->key));
    }
    return NULL;
}

static err_t write_body(struct asking *a)
{
    struct str target, input = {0};

    TRY(provider_gemini_target(a->encoding, "batchEmbedContents", &target));
    TRY(read_members(a, &input));
    json_open_object(a->w);
    json_put_array(a->w, "requests");
    TRY(put_inputs(a, input));
    json_close_array(a->w);
    json_close_object(a->w);
    return encode_finish(a->encoding, a->w, target);
}

/* extra_body is left out: what operators add to generateContent would be refused here. */
err_t provider_gemini_encode_embeddings(struct encoding *encoding)
{
    struct asked *asked = arena_new_struct(encoding->arena, struct asked);
    struct buf body = buf_make(MEM_REQUEST, TEXT_MAX_BYTES);
    struct json_writer w = json_writer_make(&body);
    struct asking a = {.encoding = encoding, .w = &w, .asked = asked, .tokens_of = TOKENS_CL100K};
    err_t err;

    if (!asked)
        return arena_err(encoding->arena);
    asked->model = encoding->model;
    if (tokens_family(encoding->ask->model) == TOKENS_O200K)
        a.tokens_of = TOKENS_O200K;
    err = write_body(&a);
    buf_fini(&body);
    encoding->for_decoder = asked;
    return err;
}

/* ---- the answer ---- */

/* A vector's numbers as 32-bit floats, little-endian, in base64. */
static err_t put_base64(struct json_writer *w, struct str values)
{
    struct buf floats = buf_make(MEM_REQUEST, TEXT_MAX_BYTES);
    struct buf *out = w->out;
    struct str number;
    double value;
    err_t err = NULL;

    for (size_t at = 0; !err && json_array_next(values, &at, &number);) {
        uint32_t bits;
        if (!json_double(number, &value)) {
            err = invalid("holds a vector of something else than numbers");
            break;
        }
        float narrow = (float)value;
        memcpy(&bits, &narrow, sizeof(bits));
        char bytes[4] = {(char)bits, (char)(bits >> 8), (char)(bits >> 16), (char)(bits >> 24)};
        err = buf_add(&floats, (struct str){bytes, sizeof(bytes)});
    }
    json_open_text(w);
    if (!err)
        err = buf_reserve(out, (floats.len + 2) / 3 * 4 + 1);
    if (!err)
        out->len += (size_t)EVP_EncodeBlock((unsigned char *)out->ptr + out->len,
                                            (const unsigned char *)floats.ptr, (int)floats.len);
    json_close_text(w);
    buf_fini(&floats);
    return err;
}

static err_t put_vectors(const struct asked *asked, struct json_writer *w, struct str embeddings)
{
    struct str embedding;
    uint64_t index = 0;

    for (size_t at = 0; json_array_next(embeddings, &at, &embedding); index++) {
        struct str values = json_get(embedding, STR("values"));
        if (json_kind(values) != JSON_ARRAY || json_is_empty(values))
            return invalid("holds an embedding without values");
        json_open_object(w);
        json_put_text(w, "object", STR("embedding"));
        json_put_u64(w, "index", index);
        json_name(w, "embedding");
        if (asked->is_base64)
            TRY(put_base64(w, values));
        else
            json_add_raw(w, values);
        json_close_object(w);
    }
    return index == asked->count ? NULL : invalid("holds another number of embeddings than asked");
}

static err_t write_answer(const struct asked *asked, uint64_t tokens, struct str embeddings,
                          struct buf *out)
{
    struct json_writer w = json_writer_make(out);

    json_open_object(&w);
    json_put_text(&w, "object", STR("list"));
    json_put_text(&w, "model", asked->model);
    json_put_array(&w, "data");
    TRY(put_vectors(asked, &w, embeddings));
    json_close_array(&w);
    json_put_object(&w, "usage");
    json_put_u64(&w, "prompt_tokens", tokens);
    json_put_u64(&w, "total_tokens", tokens);
    json_close_object(&w);
    json_close_object(&w);
    return json_writer_err(&w);
}

/* Newer models tell what they have read (EmbeddingUsageMetadata); else it is our own count. What no context holds is not
 * believed. */
static void read_usage(struct usage *usage, struct str told, const struct asked *asked)
{
    const uint64_t absurd = 1000 * 1000 * 1000;

    usage->is_known = true;
    if (json_u64(json_get(told, STR("promptTokenCount")), &usage->input) && usage->input > 0 &&
        usage->input <= absurd)
        return;
    usage->input = asked->tokens;
    usage->is_estimated = true;
}

err_t provider_gemini_decode_embeddings(struct decoder *decoder, struct str body, struct event *out)
{
    const struct asked *asked = decoder->from_encoder;
    struct json_member members[8];
    struct str embeddings = {0}, usage = {0};
    struct buf *text;
    size_t count;
    bool is_object;

    if (json_members_read(body, members, 8, &count, &is_object))
        return invalid("is not JSON");
    for (size_t i = 0; i < count && i < 8; i++) {
        if (json_key_is(&members[i], STR("error")) && json_kind(members[i].value) != JSON_NULL)
            return decode_reported(members[i].value);
        if (json_key_is(&members[i], STR("embeddings")))
            embeddings = members[i].value;
        else if (json_key_is(&members[i], STR("usageMetadata")))
            usage = members[i].value;
    }
    if (json_kind(embeddings) != JSON_ARRAY)
        return invalid("holds no embeddings");
    read_usage(&decoder->usage, usage, asked);
    TRY(new_text(decoder->arena, &text));
    TRY(write_answer(asked, decoder->usage.input, embeddings, text));
    decoder->has_content = true;
    *out = (struct event){.kind = EVENT_CONTENT, .raw = buf_str(text)};
    return NULL;
}
