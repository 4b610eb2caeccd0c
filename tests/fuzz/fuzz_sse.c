/* SPDX-License-Identifier: Apache-2.0 */
/* The event stream parser against a second one that is slow and plain, and against itself when
 * the same bytes come cut. The first byte of an input says how to cut; the rest is the stream. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "net/sse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* Everything a reader says: per dispatched event its type, SOH, its data, STX. */
struct told {
    struct buf events, raw;
};

static void add(struct buf *to, struct str s)
{
    check(!buf_add(to, s));
}

static void add_event(struct told *told, struct str type, struct str data)
{
    add(&told->events, type);
    add(&told->events, STR("\1"));
    add(&told->events, data);
    add(&told->events, STR("\2"));
}

static struct told told_new(void)
{
    return (struct told){buf_make(MEM_TOOL, SIZE_MAX / 4), buf_make(MEM_TOOL, SIZE_MAX / 4)};
}

static void told_fini(struct told *told)
{
    buf_fini(&told->events);
    buf_fini(&told->raw);
}

/* A piece of the stream, in a block of its own: strs that outlive it are found by the sanitizer. */
static void feed(struct sse_reader *reader, struct str piece, struct told *told)
{
    struct buf copy = buf_make(MEM_TOOL, SIZE_MAX / 4);
    struct sse_event event;
    bool found;

    add(&copy, piece);
    struct str bytes = buf_str(&copy);
    for (;;) {
        check(!sse_next(reader, &bytes, &event, &found));
        if (!found)
            break;
        check(event.raw.len > 0);
        add(&told->raw, event.raw);
        if (event.has_data)
            add_event(told, event.type, event.data);
        else
            check(event.data.len == 0);
    }
    check(bytes.len == 0);
    buf_fini(&copy);
}

/* Read the stream in pieces whose lengths follow from `seed`; 0: whole. */
static void read_stream(struct str stream, uint32_t seed, struct told *told, bool *is_unfinished)
{
    struct sse_reader reader;

    sse_init(&reader);
    while (stream.len > 0) {
        size_t len = stream.len;

        if (seed) {
            seed = seed * 1103515245 + 12345;
            len = 1 + (seed >> 16) % ((seed >> 28) % 4 ? 3 : 40);
            len = len < stream.len ? len : stream.len;
        }
        feed(&reader, (struct str){stream.ptr, len}, told);
        stream = str_after(stream, len);
    }
    *is_unfinished = sse_is_unfinished(&reader);
    sse_fini(&reader);
}

/* One line by the standard's words: fields set the event under construction, an empty line
 * dispatches it. */
static void tell_line(struct str line, struct buf *type, struct buf *data, struct told *told)
{
    size_t colon = str_index(line, ':');
    struct str value = str_after(line, colon < line.len ? colon + 1 : colon);

    if (line.len == 0) {
        if (data->len > 0)
            add_event(told, buf_str(type), (struct str){data->ptr, data->len - 1});
        type->len = data->len = 0;
        return;
    }
    if (value.len > 0 && value.ptr[0] == ' ')
        value = str_after(value, 1);
    line.len = colon;
    if (str_eq(line, STR("data"))) {
        add(data, value);
        add(data, STR("\n"));
    } else if (str_eq(line, STR("event"))) {
        type->len = 0;
        add(type, value);
    }
}

/* The plain parser: line ends become LF first, then line after line is read. */
static void tell_plainly(struct str stream, struct told *told)
{
    struct buf lines = buf_make(MEM_TOOL, SIZE_MAX / 4);
    struct buf type = lines, data = lines;
    size_t start = 0;

    if (str_starts(stream, STR("\xEF\xBB\xBF")))
        stream = str_after(stream, 3);
    for (size_t i = 0; i < stream.len; i++) {
        if (stream.ptr[i] == '\n' && i > 0 && stream.ptr[i - 1] == '\r')
            continue;
        check(!buf_add_byte(&lines, stream.ptr[i] == '\r' ? '\n' : stream.ptr[i]));
    }
    for (size_t i = 0; i < lines.len; i++) {
        if (lines.ptr[i] != '\n')
            continue;
        tell_line((struct str){lines.ptr + start, i - start}, &type, &data, told);
        start = i + 1;
    }
    buf_fini(&lines);
    buf_fini(&type);
    buf_fini(&data);
}

/* The raw bytes are the stream's, but for a mark at its start, up to the end of the last event. */
static void check_raw(struct str stream, const struct told *told)
{
    if (str_starts(stream, STR("\xEF\xBB\xBF")))
        stream = str_after(stream, 3);
    check(told->raw.len <= stream.len);
    check(told->raw.len == 0 || memcmp(told->raw.ptr, stream.ptr, told->raw.len) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct told whole = told_new(), cut = told_new(), plain = told_new();
    struct str stream = {len > 0 ? (const char *)data + 1 : "", len > 0 ? len - 1 : 0};
    bool whole_unfinished, cut_unfinished;

    read_stream(stream, 0, &whole, &whole_unfinished);
    read_stream(stream, len > 0 ? data[0] + 1u : 1, &cut, &cut_unfinished);
    tell_plainly(stream, &plain);
    check(str_eq(buf_str(&whole.events), buf_str(&plain.events)));
    check(str_eq(buf_str(&cut.events), buf_str(&plain.events)));
    check(whole_unfinished == cut_unfinished);
    check_raw(stream, &whole);
    check_raw(stream, &cut);
    told_fini(&whole);
    told_fini(&cut);
    told_fini(&plain);
    return 0;
}
