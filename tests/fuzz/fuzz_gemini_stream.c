/* SPDX-License-Identifier: Apache-2.0 */
/* Gemini's answers, whatever their bytes: the same verdict and counts with and without deltas, and
 * deltas that keep their promises. The first byte of an input says how the stream is cut; the rest
 * is the stream, and once more a whole answer. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/text.h"
#include "model/answer.h"
#include "model/provider.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* One way of reading. */
struct reading {
    struct arena *arena, *scratch;
    struct decoder decoder;
    struct answer answer;
    unsigned calls[8];
    unsigned finishes;
    err_t err;
};

static void reading_init(struct reading *r, bool has_deltas)
{
    *r = (struct reading){.arena = arena_new(MEM_TOOL, SIZE_MAX / 4)};
    if (has_deltas)
        r->scratch = arena_new(MEM_TOOL, SIZE_MAX / 4);
    err_scope_set(r->arena);
    r->answer = answer_make(r->arena);
    r->decoder =
        (struct decoder){.protocol = PROTOCOL_GEMINI, .scratch = r->scratch, .arena = r->arena};
}

static void reading_fini(struct reading *r)
{
    err_scope_set(NULL);
    arena_free(r->arena);
    arena_free(r->scratch);
}

/* What may be said of any delta. */
static void check_delta(struct reading *r, const struct delta *delta)
{
    check(delta->choice < 8);
    check(text_is_utf8(delta->text) && text_is_utf8(delta->id) && text_is_utf8(delta->name));
    switch (delta->kind) {
    case DELTA_TOOL_CALL:
        check(delta->index == r->calls[delta->choice]++);
        check(delta->id.len > 0);
        break;
    case DELTA_ARGUMENTS:
        check(delta->index + 1 == r->calls[delta->choice]);
        check(!json_check(delta->text) && json_kind(delta->text) == JSON_OBJECT);
        break;
    case DELTA_LOGPROBS:
        check(!json_check(delta->text) && json_kind(delta->text) == JSON_ARRAY);
        break;
    case DELTA_FINISH:
        check(!(r->finishes >> delta->choice & 1));
        check(delta->stop != STOP_UNKNOWN || r->decoder.seen[0] != r->decoder.finished[0]);
        r->finishes |= 1u << delta->choice;
        break;
    case DELTA_TEXT:
    case DELTA_REASONING:
        check(delta->text.len > 0);
        break;
    default:
        break;
    }
}

/* What commits to nothing is not written in other protocols, so it must say nothing. */
static void check_silence(const struct event *event)
{
    for (size_t i = 0; i < event->delta_count; i++)
        check(event->deltas[i].kind != DELTA_TOOL_CALL && event->deltas[i].kind != DELTA_FINISH &&
              event->deltas[i].text.len == 0);
}

static err_t take(struct reading *r, const struct event *event)
{
    check(r->scratch || event->delta_count == 0);
    for (size_t i = 0; i < event->delta_count; i++)
        check_delta(r, &event->deltas[i]);
    if (event->kind != EVENT_CONTENT && event->kind != EVENT_END)
        check_silence(event);
    return answer_add(&r->answer, event->deltas, event->delta_count);
}

/* The events of a piece, which lies in a block of its own. */
static err_t read_piece(struct reading *r, struct sse_reader *reader, struct str bytes)
{
    struct sse_event in;
    bool found;

    for (;;) {
        struct event event = {0};
        if (r->scratch)
            arena_reset(r->scratch);
        TRY(sse_next(reader, &bytes, &in, &found));
        if (!found)
            return NULL;
        if (!in.has_data || in.data.len == 0)
            continue;
        TRY(provider_gemini->decode(&r->decoder, &in, &event));
        TRY(take(r, &event));
    }
}

/* Read the stream in pieces whose lengths follow from `seed`. */
static err_t read_stream(struct reading *r, struct str stream, uint32_t seed)
{
    struct event end = {.kind = EVENT_END};
    struct sse_reader reader;
    err_t err = NULL;

    sse_init(&reader);
    while (stream.len > 0 && !err) {
        seed = seed * 1103515245 + 12345;
        size_t len = seed % 4 ? stream.len : 1 + (seed >> 16) % stream.len;
        char *piece = malloc(len);
        memcpy(piece, stream.ptr, len);
        err = read_piece(r, &reader, (struct str){piece, len});
        free(piece);
        stream = str_after(stream, len);
    }
    sse_fini(&reader);
    TRY(err);
    if (r->scratch)
        arena_reset(r->scratch);
    TRY(provider_gemini->decode_end(&r->decoder, &end));
    check(end.kind == EVENT_END);
    return take(r, &end);
}

static err_t read_whole(struct reading *r, struct str body)
{
    struct event event = {0};

    TRY(provider_gemini->decode_whole(&r->decoder, body, &event));
    check(event.kind == EVENT_CONTENT);
    return take(r, &event);
}

static void check_same(const struct reading *a, const struct reading *b)
{
    const struct usage *x = &a->decoder.usage, *y = &b->decoder.usage;

    check(!a->err == !b->err);
    check(!a->err || a->err->kind == b->err->kind);
    check(!a->err || a->err->code == b->err->code || strcmp(a->err->code, b->err->code) == 0);
    check(x->is_known == y->is_known && x->input == y->input && x->output == y->output);
    check(x->cached == y->cached && x->reasoning == y->reasoning && x->reasoning <= x->output);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct str stream = {len > 0 ? (const char *)data + 1 : "", len > 0 ? len - 1 : 0};

    for (int is_whole = 0; is_whole < 2; is_whole++) {
        struct reading with, without;

        reading_init(&without, false);
        without.err = is_whole ? read_whole(&without, stream) : read_stream(&without, stream, 1);
        reading_init(&with, true);
        with.err =
            is_whole ? read_whole(&with, stream) : read_stream(&with, stream, len ? data[0] : 0);
        check_same(&with, &without);
        reading_fini(&with);
        reading_fini(&without);
    }
    return 0;
}
