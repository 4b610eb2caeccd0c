/* SPDX-License-Identifier: Apache-2.0 */
/* The pieces of other protocols' messages as Anthropic's content blocks.
 *
 * Images come in four formats or as an address, documents as PDF or plain text. Names and ids are
 * put into Anthropic's alphabet. The hard thing is thinking: only what Anthropic signed may be
 * shown to it again, byte by byte, and what others thought is left out. */
#include "model/encode.h"
#include "model/provider_anthropic.h"

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v';
}

struct str provider_anthropic_trim_end(struct str text)
{
    while (text.len > 0 && is_space(text.ptr[text.len - 1]))
        text.len--;
    return text;
}

static bool is_blank(struct str text)
{
    return provider_anthropic_trim_end(text).len == 0;
}

static void put_cache_control(struct json_writer *w, struct str cache_control)
{
    if (cache_control.len > 0)
        json_put_raw(w, "cache_control", cache_control);
}

static void put_text_block(struct json_writer *w, struct str text, struct str cache_control)
{
    json_open_object(w);
    json_put_text(w, "type", STR("text"));
    json_put_text(w, "text", text);
    put_cache_control(w, cache_control);
    json_close_object(w);
}

/* Where an image or a document comes from. */
static void put_source(struct json_writer *w, const struct part *part, struct str media_type)
{
    json_put_object(w, "source");
    if (part->data.ptr) {
        json_put_text(w, "type", STR("base64"));
        json_put_text(w, "media_type", media_type);
        json_put_text(w, "data", part->data);
    } else {
        json_put_text(w, "type", STR("url"));
        json_put_text(w, "url", part->url);
    }
    json_close_object(w);
}

static bool is_image_type(struct str type)
{
    return str_eq(type, STR("image/jpeg")) || str_eq(type, STR("image/png")) ||
           str_eq(type, STR("image/gif")) || str_eq(type, STR("image/webp"));
}

static err_t put_image(struct encoding *encoding, const struct part *part, struct json_writer *w)
{
    struct str type = part->media_type;

    if (str_eq(type, STR("image/jpg")))
        type = STR("image/jpeg");
    if (part->data.ptr ? !is_image_type(type) : part->url.len == 0)
        return encode_refuse(encoding, part->data.ptr ? type : STR("file_id"));
    if (part->detail.len > 0 && !str_eq(part->detail, STR("auto")))
        TRY(encode_drop(encoding, STR("detail")));
    json_open_object(w);
    json_put_text(w, "type", STR("image"));
    put_source(w, part, type);
    put_cache_control(w, part->cache_control);
    json_close_object(w);
    return NULL;
}

static int base64_value(char c)
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(alphabet, c) : NULL;

    return at ? (int)(at - alphabet) : -1;
}

/* Decode base64 (RFC 4648 §4): false if it is none. */
static err_t decode_base64(struct str data, struct arena *arena, struct str *out, bool *is_valid)
{
    char *text = arena_alloc(arena, data.len / 4 * 3 + 3);
    uint32_t bits = 0;
    size_t len = 0, have = 0;

    if (!text)
        return arena_err(arena);
    while (data.len > 0 && data.ptr[data.len - 1] == '=')
        data.len--;
    *is_valid = data.len % 4 != 1;
    for (size_t i = 0; i < data.len && *is_valid; i++) {
        int value = base64_value(data.ptr[i]);
        *is_valid = value >= 0;
        bits = bits << 6 | ((uint32_t)value & 63);
        have += 6;
        if (have >= 8) {
            have -= 8;
            text[len++] = (char)(bits >> have & 255);
        }
    }
    *out = (struct str){text, len};
    return NULL;
}

/* A document of plain text is told as such. */
static err_t put_text_source(struct encoding *encoding, const struct part *part,
                             struct json_writer *w)
{
    struct str text = part->text;
    bool is_valid = true;

    if (!text.ptr)
        TRY(decode_base64(part->data, encoding->arena, &text, &is_valid));
    if (!is_valid)
        return err_new_detail(ERR_BAD_REQUEST, (.code = "invalid_value", .param = "file_data"),
                              "Invalid 'file_data': it is not base64.");
    json_put_object(w, "source");
    json_put_text(w, "type", STR("text"));
    json_put_text(w, "media_type", STR("text/plain"));
    json_put_text(w, "data", text);
    json_close_object(w);
    return NULL;
}

static err_t put_document(struct encoding *encoding, const struct part *part, struct json_writer *w)
{
    bool is_text = part->text.ptr || str_starts(part->media_type, STR("text/"));
    bool is_pdf = str_eq(part->media_type, STR("application/pdf"));

    if (!is_text && (part->data.ptr ? !is_pdf : part->url.len == 0))
        return encode_refuse(encoding, part->data.ptr ? part->media_type : STR("file_id"));
    json_open_object(w);
    json_put_text(w, "type", STR("document"));
    if (is_text && (part->text.ptr || part->data.ptr))
        TRY(put_text_source(encoding, part, w));
    else
        put_source(w, part, part->media_type);
    json_put_text_if(w, "title", part->name);
    put_cache_control(w, part->cache_control);
    json_close_object(w);
    return NULL;
}

static err_t put_call(struct encoding *encoding, const struct part *part, struct json_writer *w)
{
    json_open_object(w);
    json_put_text(w, "type", STR("tool_use"));
    TRY(provider_anthropic_name_put(encoding, w, "id", part->id));
    TRY(provider_anthropic_name_put(encoding, w, "name", part->name));
    json_put_raw(w, "input", part->arguments);
    put_cache_control(w, part->cache_control);
    json_close_object(w);
    return NULL;
}

static void put_thought(struct json_writer *w, const struct part *part)
{
    json_open_object(w);
    if (part->kind == PART_REDACTED) {
        json_put_text(w, "type", STR("redacted_thinking"));
        json_put_text(w, "data", part->data);
    } else {
        json_put_text(w, "type", STR("thinking"));
        json_put_text(w, "thinking", part->text);
        json_put_text(w, "signature", part->signature);
    }
    json_close_object(w);
}

bool provider_anthropic_part_is_told(const struct part *part)
{
    switch (part->kind) {
    case PART_TEXT:
    case PART_REFUSAL:
        return !is_blank(part->text);
    case PART_REASONING:
        return part->signature.len > 0 && part->id.len == 0;
    case PART_REDACTED:
        return part->data.len > 0;
    default:
        return true;
    }
}

static err_t put_result(struct encoding *encoding, const struct part *part, struct json_writer *w);

err_t provider_anthropic_part_write(struct encoding *encoding, const struct part *part,
                                    struct json_writer *w)
{
    if (!provider_anthropic_part_is_told(part))
        return NULL;
    switch (part->kind) {
    case PART_TEXT:
    case PART_REFUSAL:
        put_text_block(w, part->text, part->cache_control);
        return NULL;
    case PART_IMAGE:
        return put_image(encoding, part, w);
    case PART_FILE:
        return put_document(encoding, part, w);
    case PART_TOOL_CALL:
        return put_call(encoding, part, w);
    case PART_TOOL_RESULT:
        return put_result(encoding, part, w);
    case PART_REASONING:
    case PART_REDACTED:
        put_thought(w, part);
        return NULL;
    case PART_AUDIO:
        return encode_refuse(encoding, STR("input_audio"));
    case PART_OTHER:
        break;
    }
    return encode_refuse(encoding, part->name.len ? part->name : STR("messages"));
}

static bool is_in_result(const struct part *part)
{
    return part->kind != PART_TOOL_RESULT && provider_anthropic_part_is_told(part);
}

/* One text is a text, and nothing is left out: what is told alone decides, so that a translation of a translation is the same. */
static err_t put_result_content(struct encoding *encoding, const struct part *result,
                                struct json_writer *w)
{
    const struct part *last = result->part_count == 1 ? result->parts : NULL;
    size_t told = 0;

    for (size_t i = 0; i < result->part_count; i++) {
        if (is_in_result(&result->parts[i])) {
            last = &result->parts[i];
            told++;
        }
    }
    if (told <= 1 && last && last->kind == PART_TEXT) { /* which may be empty */
        json_put_text(w, "content", last->text);
        return NULL;
    }
    if (told == 0)
        return NULL;
    json_put_array(w, "content");
    for (size_t i = 0; i < result->part_count; i++)
        if (is_in_result(&result->parts[i]))
            TRY(provider_anthropic_part_write(encoding, &result->parts[i], w));
    json_close_array(w);
    return NULL;
}

static err_t put_result(struct encoding *encoding, const struct part *part, struct json_writer *w)
{
    json_open_object(w);
    json_put_text(w, "type", STR("tool_result"));
    TRY(provider_anthropic_name_put(encoding, w, "tool_use_id", part->id));
    TRY(put_result_content(encoding, part, w));
    if (part->is_error)
        json_put_bool(w, "is_error", true);
    put_cache_control(w, part->cache_control);
    json_close_object(w);
    return NULL;
}
