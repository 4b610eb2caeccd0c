/* SPDX-License-Identifier: Apache-2.0 */
/* OpenAI's answers, whatever their bytes: the same verdict and counts with and without deltas,
 * deltas that keep their promises, and a chat stream written from them that means the same when it
 * is read again. The first byte of an input says in which protocol, and whether a small model's
 * tools are in it; the second how the stream is cut; the rest is the stream, and once more a whole
 * answer. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/text.h"
#include "dialect/dialect.h"
#include "model/provider.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* One way of reading. */
struct reading {
    const struct provider_ops *ops;
    struct arena *arena, *scratch;
    struct decoder decoder;
    struct answer answer;
    struct answer_writer writer;
    uint64_t finished[2];
    bool has_citations, is_ended;
    err_t err;
};

static const struct chat_request asked = {.is_stream = true, .wants_usage = true};

static struct answer_writer writer_make(struct reading *r)
{
    return (struct answer_writer){.dialect = dialect_chat,
                                  .ask = (struct chat_request *)&asked,
                                  .arena = r->arena,
                                  .id = STR("ID"),
                                  .model = STR("m"),
                                  .usage = &r->decoder.usage,
                                  .out = buf_make(MEM_TOOL, SIZE_MAX / 4)};
}

static void reading_init(struct reading *r, uint8_t how, bool has_deltas)
{
    static const enum protocol protocols[] = {PROTOCOL_CHAT, PROTOCOL_CHAT, PROTOCOL_COMPLETIONS,
                                              PROTOCOL_RESPONSES};

    *r = (struct reading){.ops = how & 4 ? provider_local : provider_openai,
                          .arena = arena_new(MEM_TOOL, SIZE_MAX / 4)};
    if (has_deltas)
        r->scratch = arena_new(MEM_TOOL, SIZE_MAX / 4);
    err_scope_set(r->arena);
    r->answer = answer_make(r->arena);
    r->decoder = (struct decoder){.protocol = protocols[how & 3],
                                  .scratch = r->scratch,
                                  .arena = r->arena,
                                  .must_translate = has_deltas && how & 4};
    r->writer = writer_make(r);
}

static void reading_fini(struct reading *r)
{
    err_scope_set(NULL);
    buf_fini(&r->writer.out);
    arena_free(r->arena);
    arena_free(r->scratch);
}

/* What may be said of any delta. */
static void check_delta(struct reading *r, const struct delta *delta)
{
    uint64_t bit = 1ULL << (delta->choice % 64), *finished;

    check(delta->choice < 128);
    check(text_is_utf8(delta->text) && text_is_utf8(delta->id) && text_is_utf8(delta->name));
    finished = &r->finished[delta->choice / 64];
    check(delta->kind == DELTA_FINISH || delta->kind == DELTA_TOOL_CALL || delta->text.len > 0);
    if (delta->kind == DELTA_FINISH) {
        check(!(*finished & bit));
        *finished |= bit;
    }
    if (delta->kind == DELTA_CITATION || delta->kind == DELTA_LOGPROBS)
        check(!json_check(delta->text));
    r->has_citations |= delta->kind == DELTA_CITATION;
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
    r->is_ended = event->kind == EVENT_END;
    for (size_t i = 0; i < event->delta_count; i++)
        check_delta(r, &event->deltas[i]);
    if (event->kind != EVENT_CONTENT && event->kind != EVENT_END)
        check_silence(event);
    if (r->scratch)
        check(!dialect_chat->write_event(&r->writer, event));
    return answer_add(&r->answer, event->deltas, event->delta_count);
}

/* The events of a piece, which lies in a block of its own. */
static err_t read_piece(struct reading *r, struct sse_reader *reader, struct str bytes)
{
    struct sse_event in;
    bool found;

    while (!r->is_ended) {
        struct event event = {0};
        if (r->scratch)
            arena_reset(r->scratch);
        TRY(sse_next(reader, &bytes, &in, &found));
        if (!found)
            return NULL;
        if (!in.has_data || in.data.len == 0)
            continue;
        TRY(r->ops->decode(&r->decoder, &in, &event));
        TRY(take(r, &event));
    }
    return NULL;
}

/* Read the stream in pieces whose lengths follow from `seed`; 0: whole. */
static err_t read_stream(struct reading *r, struct str stream, uint32_t seed)
{
    struct event end = {.kind = EVENT_END};
    struct sse_reader reader;
    err_t err = NULL;

    sse_init(&reader);
    while (stream.len > 0 && !err) {
        seed = seed * 1103515245 + 12345 * !!seed;
        size_t len = seed % 4 == 0 ? stream.len : 1 + (seed >> 16) % stream.len;
        char *piece = malloc(len);
        memcpy(piece, stream.ptr, len);
        err = read_piece(r, &reader, (struct str){piece, len});
        free(piece);
        stream = str_after(stream, len);
    }
    sse_fini(&reader);
    TRY(err);
    if (r->is_ended)
        return NULL;
    if (r->scratch)
        arena_reset(r->scratch);
    TRY(r->ops->decode_end(&r->decoder, &end));
    return take(r, &end);
}

static struct str print_answer(struct reading *r, struct buf *out)
{
    struct answer_writer writer = writer_make(r);

    check(!dialect_chat->write_answer(&writer, &r->answer));
    *out = writer.out;
    check(!json_check(buf_str(out)));
    return buf_str(out);
}

/* What was written means what was read. */
static void check_written(struct reading *first)
{
    struct reading again;
    struct buf one, two;

    reading_init(&again, 0, true);
    check(!read_stream(&again, buf_str(&first->writer.out), 0));
    again.decoder.usage = first->decoder.usage;
    check(str_eq(print_answer(first, &one), print_answer(&again, &two)));
    buf_fini(&one);
    buf_fini(&two);
    reading_fini(&again);
    err_scope_set(first->arena);
}

static bool is_same(const struct reading *a, const struct reading *b)
{
    const struct usage *x = &a->decoder.usage, *y = &b->decoder.usage;
    const char *code_a = a->err && a->err->code ? a->err->code : "";
    const char *code_b = b->err && b->err->code ? b->err->code : "";

    return !a->err == !b->err && strcmp(code_a, code_b) == 0 && x->is_known == y->is_known &&
           x->input == y->input && x->output == y->output && x->cached == y->cached;
}

/* More calls than anyone makes are seen only where calls are looked at. */
static bool is_seen_by_deltas_only(err_t err)
{
    return err && (strstr(err->text, "too many tool calls") || strstr(err->text, "longer than"));
}

static void check_whole(struct str body, uint8_t how)
{
    struct reading r;
    struct event event = {0};
    struct buf out;

    reading_init(&r, how, true);
    r.err = r.ops->decode_whole(&r.decoder, body, &event);
    if (!r.err) {
        for (size_t i = 0; i < event.delta_count; i++)
            check_delta(&r, &event.deltas[i]);
        check(!answer_add(&r.answer, event.deltas, event.delta_count));
        print_answer(&r, &out);
        buf_fini(&out);
    }
    reading_fini(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct reading with, without;
    struct str stream = {(const char *)data + 2, len - 2};

    if (len < 2 || len > 1024 * 1024)
        return 0;
    reading_init(&with, data[0], true);
    with.err = read_stream(&with, stream, data[1]);
    reading_init(&without, data[0], false);
    without.err = read_stream(&without, stream, data[1] * 7u + 1);
    check(is_same(&with, &without) || is_seen_by_deltas_only(with.err));
    reading_fini(&without);
    err_scope_set(with.arena);
    if (!with.err && with.answer.choices && !with.has_citations &&
        with.decoder.protocol != PROTOCOL_RESPONSES)
        check_written(&with);
    reading_fini(&with);
    check_whole(stream, data[0]);
    return 0;
}
