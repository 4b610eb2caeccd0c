/* SPDX-License-Identifier: Apache-2.0 */
/* Counting what a provider did not tell.
 *
 * The text of a stream is tallied while it passes (model/tokens.h), a few bytes at a time, because
 * nobody knows beforehand whether the count will be needed: a stream that is cut has told nothing.
 * The prompt is counted only when it is needed. */
#include "model/usage_count.h"

#include "model/prompt_tokens.h"

/* ---- text in JSON ---- */

/* What a short escape stands for. */
static char unescaped(char c)
{
    switch (c) {
    case 'b':
        return '\b';
    case 'f':
        return '\f';
    case 'n':
        return '\n';
    case 'r':
        return '\r';
    case 't':
        return '\t';
    default:
        return c;
    }
}

static unsigned hex4(const char *at)
{
    unsigned n = 0;

    for (int i = 0; i < 4; i++) {
        char c = at[i];
        n = n * 16 + (unsigned)(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    return n;
}

static size_t put_utf8(char *to, unsigned point)
{
    if (point < 0x80) {
        to[0] = (char)point;
        return 1;
    }
    if (point < 0x800) {
        to[0] = (char)(0xC0 | point >> 6);
        to[1] = (char)(0x80 | (point & 0x3F));
        return 2;
    }
    if (point < 0x10000) {
        to[0] = (char)(0xE0 | point >> 12);
        to[1] = (char)(0x80 | (point >> 6 & 0x3F));
        to[2] = (char)(0x80 | (point & 0x3F));
        return 3;
    }
    to[0] = (char)(0xF0 | point >> 18);
    to[1] = (char)(0x80 | (point >> 12 & 0x3F));
    to[2] = (char)(0x80 | (point >> 6 & 0x3F));
    to[3] = (char)(0x80 | (point & 0x3F));
    return 4;
}

/* Add one escape of a valid JSON text, which begins at its backslash; its length. */
static size_t add_escape(struct tokens_tally *tally, struct str text)
{
    char utf8[4];
    unsigned point;
    size_t used = 6;

    if (text.ptr[1] != 'u') {
        utf8[0] = unescaped(text.ptr[1]);
        tokens_tally_add(tally, (struct str){utf8, 1});
        return 2;
    }
    point = hex4(text.ptr + 2);
    if (point >= 0xD800 && point < 0xDC00 && text.len >= 12) { /* a pair */
        point = 0x10000 + ((point - 0xD800) << 10) + (hex4(text.ptr + 8) - 0xDC00);
        used = 12;
    }
    tokens_tally_add(tally, (struct str){utf8, put_utf8(utf8, point)});
    return used;
}

void usage_count_json(struct tokens_tally *tally, struct str string)
{
    struct str text;

    if (json_kind(string) != JSON_STRING)
        return;
    text = (struct str){string.ptr + 1, string.len - 2};
    while (text.len > 0) {
        size_t run = str_index(text, '\\');
        if (run > 0)
            tokens_tally_add(tally, (struct str){text.ptr, run});
        text = str_after(text, run);
        if (text.len > 1)
            text = str_after(text, add_escape(tally, text));
    }
}

void usage_count_deltas(struct tokens_tally *tally, const struct delta *deltas, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        switch (deltas[i].kind) {
        case DELTA_TEXT:
        case DELTA_REASONING:
        case DELTA_REFUSAL:
        case DELTA_ARGUMENTS:
            tokens_tally_add(tally, deltas[i].text);
            break;
        case DELTA_TOOL_CALL:
            tokens_tally_add(tally, deltas[i].name);
            break;
        default:
            break;
        }
    }
}

/* ---- completing ---- */

static bool is_text(enum protocol asked)
{
    return asked == PROTOCOL_CHAT || asked == PROTOCOL_COMPLETIONS || asked == PROTOCOL_RESPONSES ||
           asked == PROTOCOL_MESSAGES;
}

/* The output of a whole answer that broke off: it cannot be read, so all of it counts that came. */
static uint64_t count_broken(enum protocol asked, struct str model, struct str came)
{
    return is_text(asked) ? tokens_count(tokens_family(model), came) : 0;
}

/* The output of a whole answer that was passed on unread: read it now. */
static uint64_t count_whole(const struct decoder *decoder, const struct provider_ops *ops,
                            struct str model, struct str whole)
{
    struct arena *scratch = arena_new(MEM_REQUEST, 4 * SSE_MAX_EVENT_BYTES);
    struct tokens_tally tally = {.family = tokens_family(model)};
    struct decoder again = {
        .protocol = decoder->protocol, .scratch = scratch, .arena = scratch, .tally = &tally};
    struct event event = {0};
    uint64_t count;

    if (scratch && !ops->decode_whole(&again, whole, &event))
        usage_count_deltas(&tally, event.deltas, event.delta_count);
    arena_free(scratch);
    count = tokens_tally_count(&tally);
    tokens_tally_fini(&tally);
    return count;
}

/* Whether what was told of the output may be less than what was said. */
static bool may_be_more(const struct decoder *decoder, enum protocol asked, bool is_cut)
{
    if (is_cut && !decoder->tally)
        return false; /* what told its usage came whole, and was a failure */
    return is_cut || decoder->has_said_more || (decoder->usage.output == 0 && is_text(asked));
}

/* What cannot be read here may have been read there: then all that was written counts. Without memory nothing does. */
static uint64_t count_prompt(struct chat_request *ask, struct str model, struct arena *arena)
{
    uint64_t tokens;
    err_t err = prompt_tokens_of(ask, model, arena, &tokens);

    if (!err)
        return tokens;
    return err_is(err, ERR_BAD_REQUEST) ? prompt_tokens_written(ask, model) : 0;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

void usage_count_fit(struct usage *usage)
{
    usage->cached = least(usage->cached, usage->input);
    usage->cache_written = least(usage->cache_written, usage->input - usage->cached);
    usage->reasoning = least(usage->reasoning, usage->output);
}

void usage_count_complete(struct decoder *decoder, const struct provider_ops *ops,
                          struct chat_request *ask, struct str model, struct arena *arena,
                          bool is_cut, struct str whole)
{
    struct usage *usage = &decoder->usage;
    uint64_t output = 0;

    if (usage->is_known && !may_be_more(decoder, ask->protocol, is_cut))
        return;
    if (decoder->tally)
        output = tokens_tally_count(decoder->tally);
    else if (is_cut)
        output = count_broken(ask->protocol, model, whole);
    else if (whole.len > 0)
        output = count_whole(decoder, ops, model, whole);
    if (usage->is_known && usage->input > 0 && output <= usage->output)
        return;
    if (output > usage->output)
        usage->output = output;
    if (usage->input == 0)
        usage->input = count_prompt(ask, model, arena);
    usage_count_fit(usage);
    usage->is_estimated = true;
}

void usage_count_add(struct usage *total, const struct usage *more)
{
    if (!more->is_known && !more->is_estimated)
        return;
    if (!total->is_known && !total->is_estimated) {
        *total = *more;
        return;
    }
    total->is_known &= more->is_known;
    total->is_estimated |= more->is_estimated;
    total->input += more->input;
    total->output += more->output;
    total->cached += more->cached;
    total->cache_written += more->cache_written;
    total->reasoning += more->reasoning;
}
