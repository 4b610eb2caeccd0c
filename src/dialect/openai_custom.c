/* SPDX-License-Identifier: Apache-2.0 */
/* Custom tools as functions, and the way back.
 *
 * The hard thing is the way back in a stream: arguments come as fragments of JSON that may be cut
 * anywhere, within an escape or between the halves of a surrogate pair, and callers want to see the
 * text grow. What is read is therefore only ever a prefix of the string in {"input":"…"}; what does
 * not begin like that is kept until its end and judged whole. */
#include "dialect/openai_custom.h"

#include "base/json_writer.h"
#include "model/answer.h"

/* The longest description of a grammar. */
#define SCHEMA_MAX_BYTES ((size_t)16 * 1024 * 1024)

/* ---- tools ---- */

static err_t text_of(struct str object, const char *member, struct arena *arena, struct str *out)
{
    struct str value = json_get(object, str_from(member));

    *out = (struct str){0};
    return json_kind(value) != JSON_STRING || json_text(value, arena, out) ? NULL
                                                                           : arena_err(arena);
}

/* {"type":"grammar","syntax","definition"}, or in chat completions the two within "grammar". */
static err_t read_grammar(struct str format, struct arena *arena, struct str *syntax,
                          struct str *definition)
{
    struct str inner = json_get(format, STR("grammar"));

    if (json_kind(inner) == JSON_OBJECT)
        format = inner;
    TRY(text_of(format, "syntax", arena, syntax));
    return text_of(format, "definition", arena, definition);
}

static void put_schema(struct json_writer *w, struct str syntax, struct str definition)
{
    json_open_object(w);
    json_put_text(w, "type", STR("object"));
    json_put_object(w, "properties");
    json_put_object(w, "input");
    json_put_text(w, "type", STR("string"));
    if (definition.len > 0) {
        json_name(w, "description");
        json_open_text(w);
        json_more_text(w, STR("Text that keeps to this grammar ("));
        json_more_text(w, syntax.len ? syntax : STR("lark"));
        json_more_text(w, STR("):\n"));
        json_more_text(w, definition);
        json_close_text(w);
    }
    json_close_object(w);
    json_close_object(w);
    json_put_raw(w, "required", STR("[\"input\"]"));
    json_put_bool(w, "additionalProperties", false);
    json_close_object(w);
}

/* What was written, in the arena. */
static err_t take(struct json_writer *w, struct arena *arena, struct str *out)
{
    err_t err = json_writer_err(w);

    if (!err) {
        *out = arena_copy(arena, buf_str(w->out));
        err = out->ptr ? NULL : arena_err(arena);
    }
    buf_fini(w->out);
    return err;
}

err_t openai_custom_make(struct str format, struct arena *arena, struct tool *tool)
{
    struct buf text = buf_make(MEM_REQUEST, SCHEMA_MAX_BYTES);
    struct json_writer w = json_writer_make(&text);
    struct str syntax, definition;

    TRY(read_grammar(format, arena, &syntax, &definition));
    tool->is_function = tool->is_custom = true;
    tool->has_grammar = definition.len > 0;
    /* the answer is written when the request's body may be gone */
    tool->name = arena_copy(arena, tool->name);
    if (!tool->name.ptr)
        return arena_err(arena);
    put_schema(&w, syntax, definition);
    return take(&w, arena, &tool->parameters);
}

err_t openai_custom_arguments(struct str input, struct arena *arena, struct str *out)
{
    struct buf text = buf_make(MEM_REQUEST, input.len * 6 + 16);
    struct json_writer w = json_writer_make(&text);

    json_open_object(&w);
    json_put_text(&w, "input", input);
    json_close_object(&w);
    return take(&w, arena, out);
}

bool openai_custom_is(const struct chat_request *ask, struct str name)
{
    const struct prompt *prompt = ask->prompt;

    for (size_t i = 0; prompt && i < prompt->tool_count; i++)
        if (prompt->tools[i].is_custom && str_eq(prompt->tools[i].name, name))
            return true;
    return false;
}

/* ---- the text within arguments ---- */

/* How many bytes lead up to the text: {"input":" with whatever blanks. More than there are if it
 * may yet turn out so, 0 if it cannot. */
static size_t lead_of(struct str arguments)
{
    static const struct str tokens[] = {{"{", 1}, {"\"input\"", 7}, {":", 1}, {"\"", 1}};
    size_t at = 0;

    for (size_t i = 0; i < sizeof(tokens) / sizeof(*tokens); i++) {
        while (at < arguments.len && strchr(" \t\r\n", arguments.ptr[at]) && arguments.ptr[at])
            at++;
        for (size_t k = 0; k < tokens[i].len; k++, at++)
            if (at == arguments.len)
                return at + 1;
            else if (arguments.ptr[at] != tokens[i].ptr[k])
                return 0;
    }
    return at;
}

static bool hex4(const char *digits, unsigned *out)
{
    *out = 0;
    for (int i = 0; i < 4; i++) {
        char c = digits[i];
        unsigned value = c >= '0' && c <= '9'   ? (unsigned)(c - '0')
                         : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a') + 10
                         : c >= 'A' && c <= 'F' ? (unsigned)(c - 'A') + 10
                                                : 16;
        if (value > 15)
            return false;
        *out = *out * 16 + value;
    }
    return true;
}

static size_t put_utf8(unsigned code, char *out)
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xC0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3F));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (char)(0xE0 | code >> 12);
        out[1] = (char)(0x80 | (code >> 6 & 0x3F));
        out[2] = (char)(0x80 | (code & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | code >> 18);
    out[1] = (char)(0x80 | (code >> 12 & 0x3F));
    out[2] = (char)(0x80 | (code >> 6 & 0x3F));
    out[3] = (char)(0x80 | (code & 0x3F));
    return 4;
}

/* \uXXXX, or two of them that make a pair. What is no character becomes U+FFFD. Returns how many
 * bytes were read, 0 if they are not all there. */
static size_t read_unicode(struct str text, char *out, size_t *len)
{
    unsigned high, low;
    size_t used = 6;

    if (text.len < 6)
        return 0;
    if (!hex4(text.ptr + 2, &high)) { /* nonsense: the letter */
        out[(*len)++] = 'u';
        return 2;
    }
    if (high >= 0xD800 && high < 0xDC00) {
        if (text.len < 12 &&
            str_starts(STR("\\u"), (struct str){text.ptr + 6, text.len < 8 ? text.len - 6 : 2}))
            return 0;
        if (text.len >= 12 && text.ptr[6] == '\\' && text.ptr[7] == 'u' &&
            hex4(text.ptr + 8, &low) && low >= 0xDC00 && low < 0xE000) {
            high = 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
            used = 12;
        }
    }
    if (high >= 0xD800 && high < 0xE000)
        high = 0xFFFD;
    *len += put_utf8(high, out + *len);
    return used;
}

/* An escape. As read_unicode. */
static size_t read_escape(struct str text, char *out, size_t *len)
{
    static const char escapes[] = "b\bf\fn\nr\rt\t";
    char c;

    if (text.len < 2)
        return 0;
    if (text.ptr[1] == 'u')
        return read_unicode(text, out, len);
    c = text.ptr[1];
    for (size_t i = 0; i + 1 < sizeof(escapes) - 1; i += 2)
        if (escapes[i] == text.ptr[1])
            c = escapes[i + 1];
    out[(*len)++] = c;
    return 2;
}

/* The text that is held so far, up to its closing quote; what cannot be read yet stays. */
static err_t read_within(struct openai_custom_input *input, struct arena *arena, struct str *more)
{
    struct str text = buf_str(&input->held);
    char *out = arena_alloc(arena, text.len + 1); /* escapes are longer than what they stand for */
    size_t len = 0, at = 0, used = 1;

    if (!out)
        return arena_err(arena);
    for (; at < text.len && used > 0 && text.ptr[at] != '"'; at += used)
        if (text.ptr[at] == '\\') {
            used = read_escape(str_after(text, at), out, &len);
        } else {
            out[len++] = text.ptr[at];
            used = 1;
        }
    if (at < text.len && text.ptr[at] == '"')
        input->where = CUSTOM_BEHIND;
    buf_drop(&input->held, at);
    *more = (struct str){out, len};
    return NULL;
}

static void free_held(void *held)
{
    buf_fini(held);
}

err_t openai_custom_begin(struct openai_custom_input *input, struct arena *arena)
{
    *input = (struct openai_custom_input){.held = buf_make(MEM_REQUEST, ANSWER_MAX_BYTES)};
    return arena_defer(arena, free_held, &input->held);
}

err_t openai_custom_add(struct openai_custom_input *input, struct str fragment, struct arena *arena,
                        struct str *more)
{
    size_t lead;

    *more = (struct str){0};
    if (input->where == CUSTOM_BEHIND)
        return NULL;
    TRY(buf_add(&input->held, fragment));
    if (input->where == CUSTOM_BEFORE) {
        lead = lead_of(buf_str(&input->held));
        if (lead == 0 || lead > input->held.len)
            return NULL;
        buf_drop(&input->held, lead);
        input->where = CUSTOM_WITHIN;
    }
    return read_within(input, arena, more);
}

err_t openai_custom_end(struct openai_custom_input *input, struct arena *arena, struct str *more)
{
    struct str all = buf_str(&input->held), value;

    *more = (struct str){0};
    if (input->where != CUSTOM_BEFORE || lead_of(all) > all.len || str_eq(str_trim(all), STR("{}")))
        return NULL;
    all = arena_copy(arena, all);
    if (!all.ptr)
        return arena_err(arena);
    *more = all;
    all = str_trim(all);
    if (json_kind(all) != JSON_OBJECT || json_check(all))
        return NULL;
    value = json_get(all, STR("input"));
    if (json_kind(value) == JSON_STRING && !json_text(value, arena, more))
        return arena_err(arena);
    return NULL;
}

err_t openai_custom_whole(struct str arguments, struct arena *arena, struct str *out)
{
    struct openai_custom_input input = {.held = buf_make(MEM_REQUEST, ANSWER_MAX_BYTES)};
    err_t err = openai_custom_add(&input, arguments, arena, out);

    if (!err && out->len == 0)
        err = openai_custom_end(&input, arena, out);
    buf_fini(&input.held);
    return err;
}
