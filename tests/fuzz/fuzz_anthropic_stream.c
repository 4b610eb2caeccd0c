/* SPDX-License-Identifier: Apache-2.0 */
/* Anthropic's event streams: read with and without their meaning, which must agree; written anew as
 * a messages stream, which must be read as the same answer. The first byte of an input says whether
 * the rest is a stream or a whole answer. */
#include <stdint.h>
#include <string.h>

#include "base/check.h"
#include "dialect/anthropic_messages.h"
#include "model/provider_anthropic.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#define ARENA_BYTES ((size_t)256 * 1024 * 1024)

/* One reading of a stream, and what came of it. */
struct reading {
    struct arena *arena, *scratch;
    struct decoder decoder, plain;
    struct answer_writer *writer; /* where the deltas are written, or NULL */
    struct answer answer;
    unsigned calls, finishes;
};

static struct reading reading_make(struct arena *arena, struct answer_writer *writer)
{
    struct reading r = {.arena = arena,
                        .scratch = arena_new(MEM_TOOL, ARENA_BYTES),
                        .writer = writer,
                        .answer = answer_make(arena)};

    check(r.scratch);
    r.decoder = (struct decoder){.protocol = PROTOCOL_MESSAGES,
                                 .scratch = r.scratch,
                                 .arena = arena,
                                 .from_encoder = PROVIDER_ANTHROPIC_ANSWER};
    r.plain = (struct decoder){.protocol = PROTOCOL_MESSAGES};
    return r;
}

static err_t take(struct reading *r, const struct event *event)
{
    for (size_t i = 0; i < event->delta_count; i++) {
        const struct delta *delta = &event->deltas[i];
        r->calls += delta->kind == DELTA_TOOL_CALL;
        r->finishes += delta->kind == DELTA_FINISH;
        check(delta->choice == 0 && r->finishes <= 1);
        if (delta->kind == DELTA_TOOL_CALL)
            check(delta->index == r->calls - 1);
        if (delta->kind == DELTA_ARGUMENTS)
            check(delta->index < r->calls);
    }
    TRY(answer_add(&r->answer, event->deltas, event->delta_count));
    if (!r->writer)
        return NULL;
    r->writer->usage = &r->decoder.usage;
    return r->writer->dialect->write_event(r->writer, event);
}

static err_t read_event(struct reading *r, const struct sse_event *in, struct event *out)
{
    struct event plain;
    err_t err;

    TRY(provider_anthropic->decode(&r->decoder, in, out));
    err = provider_anthropic->decode(&r->plain, in, &plain);
    check(!err && plain.kind == out->kind && plain.delta_count == 0);
    check(memcmp(&r->plain.usage, &r->decoder.usage, sizeof r->plain.usage) == 0);
    /* what commits to nothing is not written in other protocols, so it must say nothing */
    for (size_t i = 0; out->kind == EVENT_QUIET && i < out->delta_count; i++)
        check(out->deltas[i].kind != DELTA_TOOL_CALL && out->deltas[i].text.len == 0);
    return take(r, out);
}

/* Read to the end: the events up to the last one, or the end of the body. */
static err_t read_stream(struct reading *r, struct str stream)
{
    struct sse_reader reader;
    struct event event = {.kind = EVENT_QUIET};
    err_t err = NULL;

    sse_init(&reader);
    while (!err && event.kind != EVENT_END) {
        struct sse_event in;
        bool found;
        err = sse_next(&reader, &stream, &in, &found);
        if (err || !found)
            break;
        if (in.has_data && in.data.len > 0)
            err = read_event(r, &in, &event);
    }
    sse_fini(&reader);
    if (err || event.kind == EVENT_END)
        return err;
    event = (struct event){.kind = EVENT_END};
    TRY(provider_anthropic->decode_end(&r->decoder, &event));
    return take(r, &event);
}

static void add(struct buf *to, struct str s)
{
    check(!buf_add(to, s));
}

static struct str trim(struct str s)
{
    while (s.len > 0 && strchr(" \t\r\n", s.ptr[0]) && s.ptr[0])
        s = str_after(s, 1);
    while (s.len > 0 && strchr(" \t\r\n", s.ptr[s.len - 1]) && s.ptr[s.len - 1])
        s.len--;
    return s;
}

/* What an answer says, kind by kind, however it is cut into pieces. */
static struct buf digest(const struct answer *answer)
{
    struct buf out = buf_make(MEM_TOOL, SIZE_MAX / 4);
    const struct answer_choice *choice = answer_first(answer);

    for (int kind = 0; choice && kind <= ANSWER_CALL; kind++)
        for (const struct answer_part *p = choice->parts; p; p = p->next) {
            if ((int)p->kind != kind)
                continue;
            add(&out, kind == ANSWER_CALL ? trim(buf_str(&p->text)) : buf_str(&p->text));
            add(&out, p->id);
            add(&out, p->name);
        }
    for (const struct answer_part *p = choice ? choice->parts : NULL; p; p = p->next)
        add(&out, p->signature);
    return out;
}

static struct answer_writer writer_make(struct arena *arena, const struct usage *usage)
{
    return (struct answer_writer){.dialect = dialect_messages,
                                  .arena = arena,
                                  .id = STR("0123456789abcdefghijklmn"),
                                  .model = STR("m"),
                                  .usage = usage,
                                  .out = buf_make(MEM_TOOL, SIZE_MAX / 4)};
}

/* Names that look rewritten are read once more, and an id that was missing is made. */
static bool is_comparable(struct str stream, const struct reading *r)
{
    const struct answer_choice *choice = answer_first(&r->answer);

    for (const struct answer_part *p = choice ? choice->parts : NULL; p; p = p->next)
        if (p->kind == ANSWER_CALL && p->id.len == 0)
            return false;
    return str_find(stream, STR("_x")) == stream.len && str_find(stream, STR("\\u")) == stream.len;
}

static void check_stream(struct arena *arena, struct str stream)
{
    struct usage none = {0};
    struct answer_writer writer = writer_make(arena, &none);
    struct reading first = reading_make(arena, &writer), second = reading_make(arena, NULL);

    if (!read_stream(&first, stream)) {
        check(first.finishes == 1);
        check(!read_stream(&second, buf_str(&writer.out)));
        check(first.calls == second.calls);
        if (is_comparable(stream, &first)) {
            struct buf a = digest(&first.answer), b = digest(&second.answer);
            check(str_eq(buf_str(&a), buf_str(&b)));
            buf_fini(&a);
            buf_fini(&b);
        }
    }
    buf_fini(&writer.out);
    arena_free(first.scratch);
    arena_free(second.scratch);
}

static void check_whole(struct arena *arena, struct str body)
{
    struct reading r = reading_make(arena, NULL);
    struct event event, again;
    struct answer_writer writer = writer_make(arena, &r.decoder.usage);

    if (!provider_anthropic->decode_whole(&r.decoder, body, &event)) {
        check(!provider_anthropic->decode_whole(&r.plain, body, &again));
        check(!take(&r, &event));
        check(r.finishes == 1);
        check(!dialect_messages->write_answer(&writer, &r.answer));
        check(!json_check(buf_str(&writer.out)));
    }
    buf_fini(&writer.out);
    arena_free(r.scratch);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct arena *arena = arena_new(MEM_TOOL, ARENA_BYTES);
    struct str rest = {len > 0 ? (const char *)data + 1 : "", len > 0 ? len - 1 : 0};

    check(arena);
    err_scope_set(arena);
    if (len > 0 && data[0] == 'w')
        check_whole(arena, rest);
    else
        check_stream(arena, rest);
    err_scope_set(NULL);
    arena_free(arena);
    return 0;
}
