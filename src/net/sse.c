/* SPDX-License-Identifier: Apache-2.0 */
/* The event stream parser.
 *
 * First the end of an event is looked for, in the new bytes alone: whether a line starts there
 * is told by the byte before them, so nothing is searched twice however finely the network cuts.
 * Then the event's lines are read, in one contiguous text: the bytes given, or what was held of
 * earlier ones with the new part added. */
#include "net/sse.h"

/* Line ends are searched for in windows, LF first and then CR before it: memchr is fast, and
 * with a window a stream that uses only one of the two does not make the search for the other
 * one quadratic. */
#define WINDOW 1024

static const struct str byte_order_mark = {"\xEF\xBB\xBF", 3};

void sse_init(struct sse_reader *reader)
{
    *reader = (struct sse_reader){
        .held = buf_make(MEM_UPSTREAM, SSE_MAX_EVENT_BYTES),
        .joined = buf_make(MEM_UPSTREAM, SSE_MAX_EVENT_BYTES),
    };
}

void sse_fini(struct sse_reader *reader)
{
    buf_fini(&reader->held);
    buf_fini(&reader->joined);
}

/* Position of the first CR or LF, or text.len. */
static size_t find_line_end(struct str text)
{
    for (size_t at = 0; at < text.len; at += WINDOW) {
        size_t len = text.len - at < WINDOW ? text.len - at : WINDOW;
        const char *lf = memchr(text.ptr + at, '\n', len);
        const char *cr;

        if (lf)
            len = (size_t)(lf - text.ptr) - at;
        cr = memchr(text.ptr + at, '\r', len);
        if (cr || lf)
            return (size_t)((cr ? cr : lf) - text.ptr);
    }
    return text.len;
}

/* Length of `text` up to and with its first blank line, or 0. `before` is the byte before
 * `text`. */
static size_t find_event_end(char before, struct str text)
{
    size_t at = before == '\r' && text.len > 0 && text.ptr[0] == '\n';
    bool starts_line = before == '\n' || before == '\r';

    while (at < text.len) {
        size_t end = at + find_line_end(str_after(text, at));

        if (end == text.len)
            return 0;
        bool is_blank = starts_line && end == at;
        at = end + 1;
        if (text.ptr[end] == '\r' && at < text.len && text.ptr[at] == '\n')
            at++;
        if (is_blank)
            return at;
        starts_line = true;
    }
    return 0;
}

/* Join another data line to those before it. */
static err_t add_data(struct sse_reader *reader, struct sse_event *event, struct str value)
{
    if (!event->has_data) {
        event->has_data = true;
        event->data = value;
        return NULL;
    }
    if (reader->joined.len == 0)
        TRY(buf_add(&reader->joined, event->data));
    TRY(buf_add_byte(&reader->joined, '\n'));
    TRY(buf_add(&reader->joined, value));
    event->data = buf_str(&reader->joined);
    return NULL;
}

/* One line without its end: a field with its value, a comment (no name) or a name alone. Of the
 * standard's fields "retry" means nothing here: streams are not resumed. */
static err_t read_line(struct sse_reader *reader, struct sse_event *event, struct str line)
{
    size_t colon = str_index(line, ':');
    struct str name = {line.ptr, colon};
    struct str value = str_after(line, colon + (colon < line.len));

    if (value.len > 0 && value.ptr[0] == ' ')
        value = str_after(value, 1);
    if (str_eq(name, STR("data")))
        return add_data(reader, event, value);
    if (str_eq(name, STR("event")))
        event->type = value;
    else if (str_eq(name, STR("id")))
        event->has_id = true;
    return NULL;
}

/* Read the lines of a complete event. A LF that leads it is an empty line and says nothing. */
static err_t read_event(struct sse_reader *reader, struct str raw, struct sse_event *event)
{
    struct str rest = raw;

    *event = (struct sse_event){.raw = raw};
    while (rest.len > 0) {
        size_t end = find_line_end(rest);

        if (end > 0)
            TRY(read_line(reader, event, (struct str){rest.ptr, end}));
        rest = str_after(rest, end + 1); /* a LF after CR is one more empty line */
    }
    reader->after_cr = raw.ptr[raw.len - 1] == '\r';
    return NULL;
}

/* Hold `part`, the next bytes of an event that is cut. */
static err_t hold(struct sse_reader *reader, struct str part)
{
    if (part.len > SSE_MAX_EVENT_BYTES - reader->held.len) {
        sse_fini(reader);
        return err_new(ERR_UPSTREAM, "an event is larger than %zu MiB", SSE_MAX_EVENT_BYTES >> 20);
    }
    return part.len > 0 ? buf_add(&reader->held, part) : NULL;
}

/* Skip a byte-order mark at the start of the stream, which may come in parts. Parts of one are
 * held until it is clear what they are; then *bytes is what follows, or `held` the start of the
 * first event. */
static err_t skip_mark(struct sse_reader *reader, struct str *bytes)
{
    while (!reader->past_start && bytes->len > 0) {
        if (bytes->ptr[0] != byte_order_mark.ptr[reader->held.len]) {
            reader->past_start = true;
            break;
        }
        TRY(hold(reader, (struct str){bytes->ptr, 1}));
        *bytes = str_after(*bytes, 1);
        if (reader->held.len == byte_order_mark.len) {
            reader->past_start = true;
            buf_fini(&reader->held);
        }
    }
    return NULL;
}

err_t sse_next(struct sse_reader *reader, struct str *bytes, struct sse_event *event, bool *found)
{
    struct str raw;
    char before;

    *found = false;
    if (reader->was_given)
        buf_fini(&reader->held);
    if (reader->joined.cap > 0)
        buf_fini(&reader->joined);
    reader->was_given = false;
    if (!reader->past_start)
        TRY(skip_mark(reader, bytes));
    if (bytes->len == 0)
        return NULL;

    before = reader->after_cr ? '\r' : '\n';
    if (reader->held.len > 0)
        before = reader->held.ptr[reader->held.len - 1];
    raw = (struct str){bytes->ptr, find_event_end(before, *bytes)};
    *found = raw.len > 0;
    if (!*found || reader->held.len > 0) {
        TRY(hold(reader, *found ? raw : *bytes));
        reader->was_given = *found;
    }
    if (!*found) {
        *bytes = str_after(*bytes, bytes->len);
        return NULL;
    }
    *bytes = str_after(*bytes, raw.len);
    if (reader->was_given)
        raw = buf_str(&reader->held);
    return read_event(reader, raw, event);
}

bool sse_is_unfinished(const struct sse_reader *reader)
{
    bool is_late_lf = reader->after_cr && reader->held.len == 1 && reader->held.ptr[0] == '\n';

    return !reader->was_given && reader->held.len > 0 && !is_late_lf;
}

err_t sse_begin(struct buf *out, const char *type)
{
    TRY(buf_add(out, STR("event: ")));
    TRY(buf_add(out, str_from(type)));
    return buf_add(out, STR("\ndata: "));
}
