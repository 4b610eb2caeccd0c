/* SPDX-License-Identifier: Apache-2.0 */
/* Reading {"name","arguments"} or {"reply"} while the model still writes it.
 *
 * Until its first members have come nothing can be said; then the text of the reply, or the
 * arguments as they are written, go on piece by piece. What turns out to be neither is given out
 * as it is.
 *
 * The hard thing is that a piece may end anywhere: within an escape, or between the two halves of a
 * character outside the basic plane. Such a rest waits for the next piece. */
#include "model/local_reply.h"

#include "base/buf.h"
#include "model/answer.h"
#include "model/encode.h"

enum phase {
    AT_HEAD,  /* it may still become anything */
    IN_REPLY, /* within the text of the reply */
    IN_CALL,  /* within the arguments */
    IN_PLAIN, /* not JSON at all: text */
    IN_OTHER, /* an object, but none of ours: known when it is whole */
    AT_END    /* what follows is of no meaning */
};

/* One choice's answer. */
struct reply {
    unsigned choice;
    enum phase phase;
    struct buf raw; /* all that was written */
    size_t at;      /* how much of it was given out */
    bool is_call;
    unsigned call_index;   /* of the call that was written, behind those of the server's own */
    unsigned server_calls; /* that the server has told of as calls, which nobody had asked it for */
    size_t depth;          /* arguments: open brackets */
    bool in_string, after_backslash;
    struct reply *next;
};

struct reading {
    struct decoder *decoder;
    struct event *event;
    struct reply *reply;
};

static void free_raw(void *raw)
{
    buf_fini(raw);
}

/* The choice's answer, begun if it is new. */
static err_t find_reply(struct decoder *decoder, unsigned choice, struct reply **out)
{
    struct reply *reply = decoder->outer_state;

    while (reply && reply->choice != choice)
        reply = reply->next;
    if (!reply) {
        reply = arena_new_struct(decoder->arena, struct reply);
        if (!reply)
            return arena_err(decoder->arena);
        *reply = (struct reply){.choice = choice, .next = decoder->outer_state};
        reply->raw = buf_make(MEM_REQUEST, ANSWER_MAX_BYTES);
        TRY(arena_defer(decoder->arena, free_raw, &reply->raw));
        decoder->outer_state = reply;
    }
    *out = reply;
    return NULL;
}

static err_t emit(const struct reading *r, enum delta_kind kind, struct str text)
{
    struct delta *delta;

    if (text.len == 0)
        return NULL;
    /* the buffer may move before the deltas are read */
    text = arena_copy(r->decoder->scratch, text);
    delta = text.ptr ? decode_add(r->decoder, r->event, kind) : NULL;
    if (!delta)
        return arena_err(r->decoder->scratch);
    delta->choice = r->reply->choice;
    delta->index = kind == DELTA_ARGUMENTS ? r->reply->call_index : 0;
    delta->text = text;
    return NULL;
}

/* An id made from the answer's own, so that it is another one in each answer; where there is none,
 * the dialects make one up. */
static err_t emit_call(const struct reading *r, struct str name)
{
    struct delta *delta = decode_add(r->decoder, r->event, DELTA_TOOL_CALL);
    struct str id = r->decoder->id;
    size_t dash = str_index(id, '-');

    if (!delta)
        return arena_err(r->decoder->scratch);
    delta->choice = r->reply->choice;
    delta->index = r->reply->call_index = r->reply->server_calls;
    r->reply->is_call = true;
    name = arena_copy(r->decoder->scratch, name); /* the buffer may move, as above */
    if (!name.ptr || !json_text(name, r->decoder->scratch, &delta->name))
        return arena_err(r->decoder->scratch);
    if (id.len == 0)
        return NULL;
    id = dash < id.len ? str_after(id, dash + 1) : id;
    delta->id =
        str_from(arena_printf(r->decoder->scratch, "call_%.*s_%u", STR_ARG(id), r->reply->choice));
    return delta->id.ptr ? NULL : arena_err(r->decoder->scratch);
}

/* ---- the head ---- */

enum step { STEP_OK, STEP_MORE, STEP_OTHER };

static struct str skip_space(struct str text)
{
    while (text.len > 0 && (text.ptr[0] == ' ' || (text.ptr[0] >= '\t' && text.ptr[0] <= '\r')))
        text = str_after(text, 1);
    return text;
}

/* Take one character, white space before it skipped. */
static enum step take(struct str *rest, char c)
{
    *rest = skip_space(*rest);
    if (rest->len == 0)
        return STEP_MORE;
    if (rest->ptr[0] != c)
        return STEP_OTHER;
    *rest = str_after(*rest, 1);
    return STEP_OK;
}

/* Take a string, quotes included; names have no quotes in them. */
static enum step take_string(struct str *rest, struct str *string)
{
    enum step step = take(rest, '"');
    size_t quote = str_index(*rest, '"');

    if (step != STEP_OK)
        return step;
    if (quote == rest->len)
        return STEP_MORE;
    *string = (struct str){rest->ptr - 1, quote + 2};
    *rest = str_after(*rest, quote + 1);
    return STEP_OK;
}

#define TAKE(call)                                                                                 \
    do {                                                                                           \
        enum step step_ = (call);                                                                  \
        if (step_ != STEP_OK)                                                                      \
            return step_;                                                                          \
    } while (0)

/* Read as far as needed to know what this is; *rest is then what follows: the text of the reply
 * behind its quote, or the arguments with their bracket. *name stays empty for a reply. */
static enum step read_head(struct str *rest, struct str *name)
{
    struct str key, at_bracket;

    TAKE(take(rest, '{'));
    TAKE(take_string(rest, &key));
    TAKE(take(rest, ':'));
    if (str_eq(key, STR("\"reply\"")))
        return take(rest, '"');
    if (!str_eq(key, STR("\"name\"")))
        return STEP_OTHER;
    TAKE(take_string(rest, name));
    TAKE(take(rest, ','));
    TAKE(take_string(rest, &key));
    if (!str_eq(key, STR("\"arguments\"")))
        return STEP_OTHER;
    TAKE(take(rest, ':'));
    at_bracket = *rest;
    TAKE(take(&at_bracket, '{'));
    *rest = (struct str){at_bracket.ptr - 1, at_bracket.len + 1};
    return STEP_OK;
}

static err_t begin(const struct reading *r)
{
    struct reply *reply = r->reply;
    struct str raw = buf_str(&reply->raw), rest = raw, name = {0};

    switch (read_head(&rest, &name)) {
    case STEP_MORE:
        return NULL;
    case STEP_OTHER:
        rest = skip_space(raw);
        reply->phase = rest.len > 0 && rest.ptr[0] == '{' ? IN_OTHER : IN_PLAIN;
        return NULL;
    case STEP_OK:
        break;
    }
    reply->at = (size_t)(rest.ptr - raw.ptr);
    reply->phase = name.len > 0 ? IN_CALL : IN_REPLY;
    return name.len > 0 ? emit_call(r, name) : NULL;
}

/* ---- what follows it ---- */

/* How much of a string's inside is whole: up to its closing quote (*ended), or to an escape that is
 * not all there. */
static size_t whole_text(struct str text, bool *ended)
{
    size_t at = 0;

    *ended = false;
    while (at < text.len && text.ptr[at] != '"') {
        size_t need = 1;
        if (text.ptr[at] == '\\') {
            bool is_unit = at + 1 < text.len && text.ptr[at + 1] == 'u';
            bool is_half = is_unit && at + 3 < text.len && (text.ptr[at + 2] | 32) == 'd' &&
                           ((text.ptr[at + 3] | 32) >= 'a' || text.ptr[at + 3] >= '8');
            need = is_half ? 12 : is_unit ? 6 : 2;
        }
        if (at + need > text.len)
            return at;
        at += need;
    }
    *ended = at < text.len;
    return at;
}

/* A piece of a string's inside, decoded; as it is if it is not what JSON allows. */
static err_t emit_inside(const struct reading *r, struct str inside)
{
    struct arena *scratch = r->decoder->scratch;
    char *quoted = arena_alloc(scratch, inside.len + 2);
    struct str whole = {quoted, inside.len + 2}, text;

    if (!quoted)
        return arena_err(scratch);
    if (inside.len == 0)
        return NULL;
    quoted[0] = quoted[inside.len + 1] = '"';
    memcpy(quoted + 1, inside.ptr, inside.len);
    if (json_check(whole))
        return emit(r, DELTA_TEXT, inside);
    if (!json_text(whole, scratch, &text))
        return arena_err(scratch);
    return emit(r, DELTA_TEXT, text);
}

static err_t continue_reply(const struct reading *r)
{
    struct reply *reply = r->reply;
    bool ended;
    struct str inside = str_after(buf_str(&reply->raw), reply->at);

    inside.len = whole_text(inside, &ended);
    reply->at += inside.len;
    if (ended)
        reply->phase = AT_END;
    return emit_inside(r, inside);
}

/* The arguments up to the bracket that closes them. */
static err_t continue_call(const struct reading *r)
{
    struct reply *reply = r->reply;
    struct str text = str_after(buf_str(&reply->raw), reply->at);
    size_t i = 0;

    while (i < text.len && reply->phase == IN_CALL) {
        char c = text.ptr[i++];
        if (reply->in_string) {
            reply->in_string = c != '"' || reply->after_backslash;
            reply->after_backslash = c == '\\' && !reply->after_backslash;
        } else if (c == '"') {
            reply->in_string = true;
        } else if (c == '{' || c == '[') {
            reply->depth++;
        } else if ((c == '}' || c == ']') && --reply->depth == 0) {
            reply->phase = AT_END;
        }
    }
    reply->at += i;
    return emit(r, DELTA_ARGUMENTS, (struct str){text.ptr, i});
}

static err_t add_piece(const struct reading *r, struct str piece)
{
    struct reply *reply = r->reply;
    err_t err = buf_add(&reply->raw, piece);

    if (err_is(err, ERR_TOO_BIG))
        return err_new_detail(ERR_UPSTREAM, (.code = "upstream_invalid"),
                              "the model's answer is longer than %zu bytes", ANSWER_MAX_BYTES);
    TRY(err);
    if (reply->phase == AT_HEAD)
        TRY(begin(r));
    if (reply->phase == IN_REPLY)
        return continue_reply(r);
    if (reply->phase == IN_CALL)
        return continue_call(r);
    if (reply->phase == IN_PLAIN) {
        struct str text = str_after(buf_str(&reply->raw), reply->at);
        reply->at = reply->raw.len;
        return emit(r, DELTA_TEXT, text);
    }
    return NULL;
}

/* ---- the end ---- */

/* An object of ours after all, but with its members in another order, or a reply that is no text.
 * Anything else is given out as it is. */
static err_t give_object(const struct reading *r, struct str object)
{
    struct str name = json_get(object, STR("name"));
    struct str arguments = json_get(object, STR("arguments"));
    struct str reply = json_get(object, STR("reply"));

    if (json_kind(name) != JSON_STRING)
        return emit(r, DELTA_TEXT, reply.len ? reply : object);
    TRY(emit_call(r, name));
    return json_kind(arguments) == JSON_OBJECT ? emit(r, DELTA_ARGUMENTS, arguments) : NULL;
}

/* What was held back. The beginning of an object that ran out of tokens says nothing. */
static err_t give_rest(const struct reading *r, enum stop_reason stop)
{
    struct reply *reply = r->reply;
    struct str raw = skip_space(buf_str(&reply->raw));
    bool is_held = reply->phase == AT_HEAD || reply->phase == IN_OTHER;

    reply->phase = AT_END;
    if (!is_held || raw.len == 0)
        return NULL;
    if (!json_check(raw))
        return give_object(r, raw);
    return stop == STOP_LENGTH ? NULL : emit(r, DELTA_TEXT, raw);
}

static err_t finish(const struct reading *r, const struct delta *given)
{
    struct delta *delta;

    TRY(give_rest(r, given->stop));
    delta = decode_add(r->decoder, r->event, DELTA_FINISH);
    if (!delta)
        return arena_err(r->decoder->scratch);
    *delta = *given;
    if (r->reply->is_call && delta->stop == STOP_END)
        delta->stop = STOP_TOOL_CALLS;
    return NULL;
}

/* What is neither text nor end goes on as it is; calls that the server begins after the written one stand behind it. */
static err_t pass(const struct reading *r, const struct delta *given)
{
    struct delta *delta = decode_add(r->decoder, r->event, given->kind);
    struct reply *reply = r->reply;

    if (!delta)
        return arena_err(r->decoder->scratch);
    *delta = *given;
    if (given->kind == DELTA_TOOL_CALL && given->index >= reply->server_calls)
        reply->server_calls = given->index + 1;
    if ((given->kind == DELTA_TOOL_CALL || given->kind == DELTA_ARGUMENTS) && reply->is_call &&
        given->index >= reply->call_index)
        delta->index++;
    return NULL;
}

err_t local_reply_read(struct decoder *decoder, struct event *event)
{
    const struct delta *given = event->deltas;
    size_t count = event->delta_count;
    struct reading r = {decoder, event, NULL};

    event->deltas = NULL;
    event->delta_count = 0;
    for (size_t i = 0; i < count; i++) {
        TRY(find_reply(decoder, given[i].choice, &r.reply));
        if (given[i].kind == DELTA_TEXT) {
            TRY(add_piece(&r, given[i].text));
        } else if (given[i].kind == DELTA_FINISH) {
            TRY(finish(&r, &given[i]));
        } else if (given[i].kind != DELTA_LOGPROBS) { /* of tokens that nobody gets to see */
            TRY(pass(&r, &given[i]));
        }
    }
    if (event->kind == EVENT_CONTENT && event->delta_count == 0)
        event->kind = EVENT_QUIET;
    return NULL;
}
