/* SPDX-License-Identifier: Apache-2.0 */
/* What the kinds of provider share when they put a prompt into their own words: settings by the
 * table, what is dropped or refused, and the words of providers about their failures.
 *
 * The hard thing is to be honest: every setting that a provider will not hear of is either refused
 * or named to the caller, but for those that would change nothing. */
#include "model/encode.h"

/* How much of a provider's own words about its failure is told. */
#define REPORTED_MAX_BYTES 300

/* Longest list of what was dropped: it becomes a header. */
#define DROPPED_MAX_BYTES 1000

/* ---- requests ---- */

/* A name as it may stand in a header: callers choose the names of unknown members. */
static err_t plain_name(struct arena *arena, struct str name, struct str *out)
{
    char *copy = arena_cstr(arena, name);

    if (!copy)
        return arena_err(arena);
    for (size_t i = 0; i < name.len; i++)
        if (copy[i] <= ' ' || copy[i] > '~' || copy[i] == ',')
            copy[i] = '_';
    *out = (struct str){copy, name.len};
    return NULL;
}

static bool is_listed(struct str list, struct str name)
{
    struct str entry;

    while (list.ptr && str_split(&list, ',', &entry))
        if (str_eq(str_trim(entry), name))
            return true;
    return false;
}

static err_t report_dropped(struct encoding *encoding, struct str name)
{
    struct str plain;

    TRY(plain_name(encoding->arena, name, &plain));
    if (is_listed(encoding->dropped, plain) ||
        encoding->dropped.len + 2 + plain.len > DROPPED_MAX_BYTES)
        return NULL;
    const char *list = arena_printf(encoding->arena, "%.*s%s%.*s", STR_ARG(encoding->dropped),
                                    encoding->dropped.len ? ", " : "", STR_ARG(plain));
    if (!list)
        return arena_err(encoding->arena);
    encoding->dropped = str_from(list);
    return NULL;
}

static err_t refuse(struct encoding *encoding, struct str name)
{
    struct str plain;

    TRY(plain_name(encoding->arena, name, &plain));
    return err_new_detail(ERR_BAD_REQUEST, (.code = "unsupported_parameter", .param = plain.ptr),
                          "the provider of this model cannot take '%.*s'", STR_ARG(plain));
}

err_t encode_drop(struct encoding *encoding, struct str name)
{
    if (encoding->unsupported == CONF_UNSUPPORTED_ERROR)
        return refuse(encoding, name);
    return report_dropped(encoding, name);
}

err_t encode_refuse(struct encoding *encoding, struct str name)
{
    if (encoding->unsupported == CONF_UNSUPPORTED_DROP)
        return report_dropped(encoding, name);
    return refuse(encoding, name);
}

/* One setting that was given and is not what the API assumes anyway. */
static err_t encode_setting(struct encoding *encoding, enum setting setting, struct str value,
                            const struct setting_column *column, struct json_writer *w)
{
    struct str name = setting_name(setting);
    double number;

    switch (column->rule) {
    case SETTING_EXTRA:
        if (!encoding->provider->takes_extensions)
            return encode_drop(encoding, name);
        break;
    case SETTING_CLAMP_1:
        if (json_double(value, &number) && number > 1) {
            TRY(encode_drop(encoding, name));
            value = STR("1");
        }
        break;
    case SETTING_AS:
        break;
    case SETTING_DROP:
        return encode_drop(encoding, name);
    case SETTING_REFUSE:
        return encode_refuse(encoding, name);
    case SETTING_MADE:
    case SETTING_LOCAL:
        return NULL;
    }
    json_put_raw(w, column->name.ptr, value);
    return NULL;
}

err_t encode_settings(struct encoding *encoding, const struct prompt *prompt,
                      enum protocol protocol, struct json_writer *w)
{
    for (int i = 0; i < SETTING_COUNT; i++) {
        struct str value = prompt->settings[i];
        if (!value.ptr || setting_is_default((enum setting)i, value))
            continue;
        TRY(encode_setting(encoding, (enum setting)i, value, setting_in((enum setting)i, protocol),
                           w));
    }
    for (size_t i = 0; i < prompt->unknown_count; i++)
        TRY(encode_drop(encoding, prompt->unknown[i]));
    for (size_t i = 0; i < prompt->tool_count; i++)
        if (prompt->tools[i].has_grammar)
            TRY(encode_drop(encoding, STR("tools.format")));
    return json_writer_err(w);
}

err_t encode_extra(struct encoding *encoding, struct json_writer *w)
{
    struct str extra = encoding->provider->extra_body;
    size_t len = w->out->len;
    struct json_member m;

    TRY(json_writer_err(w));
    for (size_t at = 0; json_object_next(extra, &at, &m);) {
        /* closed for a look at what it holds by now, and opened again */
        TRY(buf_add(w->out, STR("}")));
        bool is_written = json_get(buf_str(w->out), m.key).ptr != NULL;
        w->out->len = len;
        if (is_written)
            continue;
        if (w->needs_comma)
            TRY(buf_add(w->out, STR(",")));
        TRY(buf_add(w->out, (struct str){m.key.ptr - 1,
                                         (size_t)(m.value.ptr + m.value.len - (m.key.ptr - 1))}));
        w->needs_comma = true;
        len = w->out->len;
    }
    return NULL;
}

err_t encode_finish(struct encoding *encoding, struct json_writer *w, struct str target)
{
    TRY(json_writer_err(w));
    encoding->body = arena_new_struct(encoding->arena, struct str);
    if (!encoding->body)
        return arena_err(encoding->arena);
    encoding->body[0] = arena_copy(encoding->arena, buf_str(w->out));
    if (!encoding->body[0].ptr)
        return arena_err(encoding->arena);
    encoding->body_count = 1;
    encoding->target = target;
    return NULL;
}

/* ---- answers ---- */

struct delta *decode_add(struct decoder *decoder, struct event *event, enum delta_kind kind)
{
    size_t count = event->delta_count;
    struct delta *deltas = (struct delta *)event->deltas;

    /* full at 4, 8, 16 …: the room doubles there */
    if (count == 0 || (count >= 4 && (count & (count - 1)) == 0)) {
        struct delta *more =
            arena_alloc_array(decoder->scratch, count ? count * 2 : 4, sizeof(*more));
        if (!more)
            return NULL;
        if (count > 0)
            memcpy(more, deltas, count * sizeof(*more));
        event->deltas = deltas = more;
    }
    event->delta_count = count + 1;
    deltas[count] = (struct delta){.kind = kind};
    return &deltas[count];
}

err_t decode_reported(struct str error)
{
    struct str text = json_kind(error) == JSON_OBJECT ? json_get(error, STR("message")) : error;

    if (json_kind(text) == JSON_STRING)
        text = (struct str){text.ptr + 1, text.len - 2};
    else
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

/* A text, decoded; empty if it is none. */
static err_t text_of(struct str value, struct arena *arena, struct str *out)
{
    *out = (struct str){0};
    return json_kind(value) != JSON_STRING || json_text(value, arena, out) ? NULL
                                                                           : arena_err(arena);
}

/* The first of an object's members that is a text which is not empty, decoded. */
static err_t first_text(struct str object, const char *const *keys, struct arena *arena,
                        struct str *out)
{
    for (*out = (struct str){0}; *keys && out->len == 0; keys++)
        TRY(text_of(json_get(object, str_from(*keys)), arena, out));
    return NULL;
}

/* How providers say that a prompt is too long, who have no code for it. */
static bool says_too_long(struct str message)
{
    static const char *const wordings[] = {
        "maximum context length",                       /* OpenAI, vLLM, Mistral */
        "prompt is too long",                           /* Anthropic */
        "exceed context limit",                         /* Anthropic, with max_tokens */
        "exceeds the maximum number of tokens allowed", /* Gemini */
        "exceeds the available context size",           /* llama.cpp */
    };

    for (size_t i = 0; i < sizeof wordings / sizeof *wordings; i++)
        if (str_find(message, str_from(wordings[i])) < message.len)
            return true;
    return false;
}

err_t decode_refusal(struct str body, struct arena *arena, struct str *message, struct str *code)
{
    /* status is Gemini's; detail is FastAPI's, in front of many a local model */
    static const char *const message_keys[] = {"message", "detail", NULL};
    static const char *const code_keys[] = {"code", "status", "type", NULL};
    struct str element, error;
    size_t at = 0;

    *message = *code = (struct str){0};
    if (json_check(body))
        return NULL;
    body = str_trim(body);
    /* Gemini's streams without events are lists */
    if (json_array_next(body, &at, &element))
        body = element;
    error = json_get(body, STR("error"));
    if (json_kind(error) == JSON_STRING) {
        TRY(text_of(error, arena, message));
    } else {
        if (json_kind(error) != JSON_OBJECT)
            error = body;
        TRY(first_text(error, message_keys, arena, message));
        TRY(first_text(error, code_keys, arena, code));
    }
    if (says_too_long(*message) || str_eq(*code, STR("exceed_context_size_error")))
        *code = STR("context_length_exceeded");
    return NULL;
}
