/* SPDX-License-Identifier: Apache-2.0 */
/* The event stream parser: a table of streams, each read whole, cut at every byte, at every two
 * bytes and byte by byte, with the same events and the same raw bytes every time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "net/sse.h"

#define MARK "\xEF\xBB\xBF"

/* Events are printed as "type|data;" and those that are not to be dispatched left out. */
static const struct {
    const char *name, *stream, *events;
    bool is_unfinished;
} streams[] = {
    {"one event", "data: {\"a\":1}\n\n", "|{\"a\":1};", false},
    {"two events", "data: 1\n\ndata: 2\n\n", "|1;|2;", false},
    {"CR LF", "event: x\r\ndata: 1\r\n\r\ndata: 2\r\n\r\n", "x|1;|2;", false},
    {"CR alone", "event: x\rdata: 1\r\rdata: 2\r\r", "x|1;|2;", false},
    {"line ends mixed", "data: 1\r\n\ndata: 2\n\r\ndata: 3\r\r\ndata: 4\n\rdata: 5\r\n\r",
     "|1;|2;|3;|4;|5;", false},
    {"CR and LF in one event", "data: 1\rdata: 2\ndata: 3\r\ndata: 4\n\n", "|1\n2\n3\n4;", false},
    {"mark at the start", MARK "data: 1\n\n", "|1;", false},
    {"two marks", MARK MARK "data: 1\n\ndata: 2\n\n", "|2;", false},
    {"mark later", "data: 1\n\n" MARK "data: 2\n\ndata: " MARK "3\n\n", "|1;|" MARK "3;", false},
    {"half a mark",
     "\xEF\xBB"
     "data: 1\n\n",
     "", false},
    {"only a mark", MARK, "", false},
    {"cut mark", "\xEF\xBB", "", true},
    {"comments", ":\n\n: ping\n\ndata: 1\n:in between\ndata: 2\n\n:\n", "|1\n2;", true},
    {"unknown fields", "foo: 1\nretry: 10\nid: 7\nDATA: 2\n data: 3\n\nevent: e\n\ndata: 4\n\n",
     "|4;", false},
    {"id with NUL is ignored", "id: a\0b\ndata: 1\n\n", NULL, false},
    {"type", "event: ping\ndata: {}\n\nevent:a\nevent: b\ndata:\n\n", "ping|{};b|;", false},
    {"three data lines", "data: a\ndata: b\ndata: c\n\n", "|a\nb\nc;", false},
    {"data without colon", "data\n\ndata\ndata\n\ndata:test\n\n", "|;|\n;|test;", false},
    {"one space is removed", "data:x\n\ndata: x\n\ndata:  x\n\ndata:\tx\n\n", "|x;|x;| x;|\tx;",
     false},
    {"colons in data", "data: a: b\n\n: data: no\n\n::\n\n", "|a: b;", false},
    {"blank lines", "\n\n\ndata: 1\n\n\n\n\r\n\r\r\ndata: 2\n\n", "|1;|2;", false},
    {"no final blank line", "data: 1\n\ndata: 2\n", "|1;", true},
    {"no final line end", "data: 1\n\ndata: 2", "|1;", true},
    {"nothing", "", "", false},
    {"character in two parts", "data: \xF0\x9F\x98\x80\n\n", "|\xF0\x9F\x98\x80;", false},
    {"invalid UTF-8 is left alone", "data: \xFF\xC0\n\n", "|\xFF\xC0;", false},
    {"names that only begin alike", "dat: 1\ndatax: 2\nda\n\nevents: 3\ndata: 4\n\n", "|4;", false},
};

struct record {
    char events[256], raw[256];
    size_t events_len, raw_len;
};

static void add(char *to, size_t *len, struct str s)
{
    assert_true(*len + s.len < 256);
    if (s.len > 0)
        memcpy(to + *len, s.ptr, s.len);
    *len += s.len;
    to[*len] = '\0';
}

/* Feed one piece, in a block of its own so that a sanitizer sees whatever is used too long. */
static void feed(struct sse_reader *reader, struct str piece, struct record *record)
{
    char *copy = mem_alloc(MEM_TOOL, piece.len + 1);
    struct str bytes = {copy, piece.len};
    struct sse_event event;
    bool found;

    assert_non_null(copy);
    memcpy(copy, piece.ptr, piece.len);
    for (;;) {
        assert_null(sse_next(reader, &bytes, &event, &found));
        if (!found)
            break;
        add(record->raw, &record->raw_len, event.raw);
        if (!event.has_data)
            continue;
        add(record->events, &record->events_len, event.type);
        add(record->events, &record->events_len, STR("|"));
        add(record->events, &record->events_len, event.data);
        add(record->events, &record->events_len, STR(";"));
    }
    assert_int_equal(bytes.len, 0);
    mem_free(MEM_TOOL, copy, piece.len + 1);
}

/* Read a stream in pieces that end at the given places and compare. */
static void read_cut(size_t row, struct str stream, const size_t *cuts, size_t count)
{
    struct sse_reader reader;
    struct record record = {0};
    size_t from = 0, skip = str_starts(stream, STR(MARK)) ? 3 : 0;

    sse_init(&reader);
    for (size_t i = 0; i <= count; i++) {
        size_t to = i < count ? cuts[i] : stream.len;

        feed(&reader, (struct str){stream.ptr + from, to - from}, &record);
        from = to;
    }
    if (streams[row].events)
        assert_string_equal(record.events, streams[row].events);
    assert_int_equal(sse_is_unfinished(&reader), streams[row].is_unfinished);
    assert_memory_equal(record.raw, stream.ptr + skip, record.raw_len);
    if (!streams[row].is_unfinished && stream.len > 0) {
        size_t missing = stream.len - skip - record.raw_len;
        /* The LF of a last CR LF that was cut is left over. */
        assert_true(missing == 0 || (missing == 1 && stream.ptr[stream.len - 1] == '\n'));
    }
    sse_fini(&reader);
    assert_int_equal(mem_in_use(MEM_UPSTREAM), 0);
}

static struct str stream_of(size_t row)
{
    if (!streams[row].events) /* the one with a NUL inside */
        return STR("id: a\0b\ndata: 1\n\n");
    return str_from(streams[row].stream);
}

static void reads_every_stream_however_cut(void **state)
{
    for (size_t row = 0; row < sizeof(streams) / sizeof(*streams); row++) {
        struct str stream = stream_of(row);
        size_t all[128];

        assert_true(stream.len < 128);
        read_cut(row, stream, NULL, 0);
        for (size_t a = 0; a <= stream.len; a++) {
            read_cut(row, stream, &a, 1);
            for (size_t b = a; b <= stream.len; b++)
                read_cut(row, stream, (size_t[]){a, b}, 2);
            if (a < stream.len)
                all[a] = a + 1;
        }
        read_cut(row, stream, all, stream.len > 0 ? stream.len - 1 : 0);
    }
}

static void does_not_copy_a_whole_event(void **state)
{
    struct sse_reader reader;
    struct str bytes = STR("data: {\"x\":1}\n\ndata: 2\n\n");
    const char *start = bytes.ptr;
    struct sse_event event;
    bool found;

    sse_init(&reader);
    assert_null(sse_next(&reader, &bytes, &event, &found));
    assert_true(found);
    assert_ptr_equal(event.raw.ptr, start);
    assert_ptr_equal(event.data.ptr, start + 6);
    assert_int_equal(mem_in_use(MEM_UPSTREAM), 0);
    sse_fini(&reader);
}

static void holds_only_the_cut_event(void **state)
{
    struct sse_reader reader;
    struct str bytes = STR("data: 1\n\ndata: 2\n\nda");
    struct sse_event event;
    bool found = true;

    sse_init(&reader);
    while (found)
        assert_null(sse_next(&reader, &bytes, &event, &found));
    assert_int_equal(reader.held.len, 2);
    bytes = STR("ta: 3\n\n");
    assert_null(sse_next(&reader, &bytes, &event, &found));
    assert_true(found && str_eq(event.data, STR("3")));
    assert_false(sse_is_unfinished(&reader));
    assert_null(sse_next(&reader, &bytes, &event, &found));
    assert_false(found);
    assert_int_equal(mem_in_use(MEM_UPSTREAM), 0);
    sse_fini(&reader);
}

static void refuses_an_event_over_the_limit(void **state)
{
    struct sse_reader reader;
    static char block[1024 * 1024];
    struct sse_event event;
    err_t err = NULL;
    size_t fed = 0;
    bool found;

    sse_init(&reader);
    memset(block, 'x', sizeof(block));
    while (!err && fed <= 2 * SSE_MAX_EVENT_BYTES) {
        struct str bytes = {block, sizeof(block)};

        err = sse_next(&reader, &bytes, &event, &found);
        fed += sizeof(block);
    }
    assert_true(err_is(err, ERR_UPSTREAM));
    assert_int_equal(fed, SSE_MAX_EVENT_BYTES + sizeof(block));
    assert_int_equal(mem_in_use(MEM_UPSTREAM), 0);
    sse_fini(&reader);
}

static void takes_an_event_of_the_limit(void **state)
{
    struct sse_reader reader;
    size_t half = SSE_MAX_EVENT_BYTES / 2;
    char *block = mem_alloc(MEM_TOOL, half);
    struct sse_event event;
    bool found;

    assert_non_null(block);
    sse_init(&reader);
    memset(block, 'x', half);
    memcpy(block, "data: ", 6);
    struct str bytes = {block, half};
    assert_null(sse_next(&reader, &bytes, &event, &found));
    assert_false(found);
    memset(block, 'x', half);
    memcpy(block + half - 2, "\n\n", 2);
    bytes = (struct str){block, half};
    assert_null(sse_next(&reader, &bytes, &event, &found));
    assert_true(found);
    assert_int_equal(event.data.len, SSE_MAX_EVENT_BYTES - 8);
    sse_fini(&reader);
    mem_free(MEM_TOOL, block, half);
}

static void reads_a_million_empty_events(void **state)
{
    static char block[64 * 1024];
    struct sse_reader reader;
    struct sse_event event;
    size_t count = 0;
    bool found;

    sse_init(&reader);
    for (int round = 0; round < 48; round++) {
        struct str bytes = {block, sizeof(block)};

        memset(block, "\r\n\n"[round % 3], sizeof(block));
        do {
            assert_null(sse_next(&reader, &bytes, &event, &found));
            count += found;
        } while (found);
    }
    assert_true(count > 3000000);
    sse_fini(&reader);
}

static void reports_missing_memory(void **state)
{
    for (uint64_t nth = 1;; nth++) {
        struct sse_reader reader;
        struct str pieces[] = {STR("data: 1\nda"), STR("ta: 2\n\n")};
        struct sse_event event;
        err_t err = NULL;
        bool found;

        sse_init(&reader);
        mem_fail_nth(nth);
        for (size_t i = 0; i < 2 && !err; i++)
            err = sse_next(&reader, &pieces[i], &event, &found);
        mem_fail_nth(0);
        sse_fini(&reader);
        assert_int_equal(mem_in_use(MEM_UPSTREAM), 0);
        if (!err)
            break;
        assert_true(err_is(err, ERR_BUSY));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_every_stream_however_cut),
        cmocka_unit_test(does_not_copy_a_whole_event),
        cmocka_unit_test(holds_only_the_cut_event),
        cmocka_unit_test(refuses_an_event_over_the_limit),
        cmocka_unit_test(takes_an_event_of_the_limit),
        cmocka_unit_test(reads_a_million_empty_events),
        cmocka_unit_test(reports_missing_memory),
    };

    return cmocka_run_group_tests_name("sse", tests, NULL, NULL);
}
