/* SPDX-License-Identifier: Apache-2.0 */
/* What a piece of a chat answer means, delta by delta.
 *
 * The hard thing is which call a fragment belongs to. OpenAI numbers the calls and names each once;
 * others send every call whole with the number 0, leave the number out, or repeat id and name with
 * each fragment. A number that comes with another id than before is a new call, and so is a name
 * without a number. */
#include "model/encode.h"
#include "model/provider_openai.h"

/* More calls in one answer than this are no answer. */
#define MAX_CALLS 1000

/* The number of the one call that the old form has. */
#define OLD_CALL UINT64_MAX

/* A call that has begun. */
struct call {
    unsigned choice, index; /* the index is ours: 0, 1, 2 … in its choice */
    uint64_t number;        /* the provider's, if it gave one */
    struct str id;
    struct call *before;
};

/* A fragment of a call, as it came. */
struct fragment {
    bool has_number;
    uint64_t number;
    struct str id, name, arguments;
};

static err_t add_text(struct decoder *decoder, struct event *out, unsigned choice,
                      enum delta_kind kind, struct str text)
{
    struct delta *delta;

    if (text.len == 0)
        return NULL;
    delta = decode_add(decoder, out, kind);
    if (!delta)
        return arena_err(decoder->scratch);
    delta->choice = choice;
    delta->text = text;
    return NULL;
}

/* A value's text; empty if it is none. */
static err_t text_of(struct decoder *decoder, struct str value, struct str *text)
{
    *text = STR("");
    if (json_kind(value) != JSON_STRING || json_text(value, decoder->scratch, text))
        return NULL;
    return arena_err(decoder->scratch);
}

static err_t add_string(struct decoder *decoder, struct event *out, unsigned choice,
                        enum delta_kind kind, struct str value)
{
    struct str text;

    TRY(text_of(decoder, value, &text));
    return add_text(decoder, out, choice, kind, text);
}

/* ---- content ---- */

/* The text of a part, or the texts in its list: Mistral's models think in lists. */
static err_t add_part(struct decoder *decoder, struct event *out, unsigned choice,
                      enum delta_kind kind, struct str value)
{
    struct str element;

    TRY(add_string(decoder, out, choice, kind, value));
    for (size_t at = 0; json_array_next(value, &at, &element);)
        TRY(add_string(decoder, out, choice, kind, json_get(element, STR("text"))));
    return NULL;
}

/* Text, or a list of parts. */
static err_t add_content(struct decoder *decoder, struct event *out, unsigned choice,
                         struct str content)
{
    struct str part;

    TRY(add_string(decoder, out, choice, DELTA_TEXT, content));
    for (size_t at = 0; json_array_next(content, &at, &part);) {
        TRY(add_part(decoder, out, choice, DELTA_REASONING, json_get(part, STR("thinking"))));
        TRY(add_part(decoder, out, choice, DELTA_TEXT, json_get(part, STR("text"))));
    }
    return NULL;
}

/* ---- calls ---- */

static struct call *last_call(const struct decoder *decoder, unsigned choice)
{
    struct call *call = decoder->state;

    while (call && call->choice != choice)
        call = call->before;
    return call;
}

/* The call that a fragment goes on with, or NULL for a new one. */
static struct call *find_call(const struct decoder *decoder, unsigned choice,
                              const struct fragment *f)
{
    struct call *call = decoder->state;

    if (!f->has_number && f->id.len == 0)
        return f->name.len ? NULL : last_call(decoder, choice);
    for (; call; call = call->before) {
        if (call->choice != choice)
            continue;
        if (!f->has_number && str_eq(call->id, f->id))
            return call;
        if (f->has_number && call->number == f->number)
            return f->id.len == 0 || call->id.len == 0 || str_eq(f->id, call->id) ? call : NULL;
    }
    return NULL;
}

static err_t begin_call(struct decoder *decoder, struct event *out, unsigned choice,
                        const struct fragment *f, struct call **begun)
{
    struct call *before = last_call(decoder, choice), *call;
    struct delta *delta;

    if (before && before->index + 1 == MAX_CALLS)
        return provider_openai_invalid("the provider's answer holds too many tool calls");
    call = arena_new_struct(decoder->arena, struct call);
    if (!call)
        return arena_err(decoder->arena);
    *call = (struct call){choice, before ? before->index + 1 : 0, f->number, f->id, decoder->state};
    if (f->id.len > 0) {
        call->id = arena_copy(decoder->arena, f->id);
        if (!call->id.ptr)
            return arena_err(decoder->arena);
    }
    delta = decode_add(decoder, out, DELTA_TOOL_CALL);
    if (!delta)
        return arena_err(decoder->scratch);
    delta->choice = choice;
    delta->index = call->index;
    delta->id = call->id;
    delta->name = f->name;
    decoder->state = *begun = call;
    return NULL;
}

static err_t add_fragment(struct decoder *decoder, struct event *out, unsigned choice,
                          const struct fragment *f, bool is_new)
{
    struct call *call = is_new ? NULL : find_call(decoder, choice, f);
    struct delta *delta;

    if (!call)
        TRY(begin_call(decoder, out, choice, f, &call));
    if (f->arguments.len == 0)
        return NULL;
    delta = decode_add(decoder, out, DELTA_ARGUMENTS);
    if (!delta)
        return arena_err(decoder->scratch);
    delta->choice = choice;
    delta->index = call->index;
    delta->text = f->arguments;
    return NULL;
}

/* Name and arguments; a few servers send the arguments as an object. */
static err_t read_function(struct decoder *decoder, struct str function, struct fragment *f)
{
    struct str arguments = json_get(function, STR("arguments"));

    TRY(text_of(decoder, json_get(function, STR("name")), &f->name));
    if (json_kind(arguments) == JSON_OBJECT)
        f->arguments = arguments;
    else
        TRY(text_of(decoder, arguments, &f->arguments));
    return NULL;
}

static err_t add_calls(struct decoder *decoder, struct event *out, unsigned choice,
                       struct str calls, bool is_whole)
{
    struct str value;

    for (size_t at = 0; json_array_next(calls, &at, &value);) {
        struct fragment f = {0};
        f.has_number = json_u64(json_get(value, STR("index")), &f.number);
        TRY(text_of(decoder, json_get(value, STR("id")), &f.id));
        TRY(read_function(decoder, json_get(value, STR("function")), &f));
        TRY(add_fragment(decoder, out, choice, &f, is_whole));
    }
    return NULL;
}

/* ---- choices ---- */

static err_t add_citations(struct decoder *decoder, struct event *out, unsigned choice,
                           struct str list)
{
    struct str value;

    for (size_t at = 0; json_array_next(list, &at, &value);)
        TRY(add_text(decoder, out, choice, DELTA_CITATION, value));
    return NULL;
}

err_t provider_openai_read_delta(struct decoder *decoder, struct event *out, unsigned choice,
                                 struct str delta, bool is_whole)
{
    struct str reasoning = json_get(delta, STR("reasoning_content"));
    struct str function = json_get(delta, STR("function_call"));

    if (json_kind(reasoning) != JSON_STRING)
        reasoning = json_get(delta, STR("reasoning"));
    TRY(add_string(decoder, out, choice, DELTA_REASONING, reasoning));
    TRY(add_content(decoder, out, choice, json_get(delta, STR("content"))));
    TRY(add_string(decoder, out, choice, DELTA_REFUSAL, json_get(delta, STR("refusal"))));
    TRY(add_citations(decoder, out, choice, json_get(delta, STR("annotations"))));
    TRY(add_calls(decoder, out, choice, json_get(delta, STR("tool_calls")), is_whole));
    if (json_kind(function) == JSON_OBJECT) {
        struct fragment f = {.has_number = true, .number = OLD_CALL};
        TRY(read_function(decoder, function, &f));
        TRY(add_fragment(decoder, out, choice, &f, false));
    }
    return NULL;
}

static enum stop_reason stop_of(struct str reason)
{
    static const struct {
        const char *word;
        enum stop_reason stop;
    } words[] = {
        {"length", STOP_LENGTH},           {"model_length", STOP_LENGTH}, /* Mistral */
        {"tool_calls", STOP_TOOL_CALLS},   {"function_call", STOP_TOOL_CALLS},
        {"content_filter", STOP_FILTERED},
    };

    for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++)
        if (str_eq(reason, str_from(words[i].word)))
            return words[i].stop;
    return STOP_END;
}

/* "stop" is also what a named tool's call ends with. vLLM tells which stop sequence was met. */
err_t provider_openai_read_finish(struct decoder *decoder, struct event *out, unsigned choice,
                                  struct str reason, struct str stop_sequence)
{
    struct delta *delta = decode_add(decoder, out, DELTA_FINISH);
    struct str word;

    if (!delta)
        return arena_err(decoder->scratch);
    TRY(text_of(decoder, reason, &word));
    delta->choice = choice;
    delta->stop = stop_of(word);
    if (delta->stop == STOP_END && last_call(decoder, choice))
        delta->stop = STOP_TOOL_CALLS;
    if (delta->stop == STOP_END && json_kind(stop_sequence) == JSON_STRING) {
        delta->stop = STOP_SEQUENCE;
        TRY(text_of(decoder, stop_sequence, &delta->text));
    }
    if (choice == 0)
        decoder->stop = delta->stop;
    return NULL;
}
