/* SPDX-License-Identifier: Apache-2.0 */
/* Writes the lines of a message's head into room that somebody else owns.
 *
 * What does not fit is left out and noted, so that whoever sends looks once, at the end. Names are our own; so are
 * values of http_pen_line. What others have a hand in goes through http_pen_line_of, which leaves out what would
 * break the head. Names come with their colon, as HTTP_LINE has them: they are copied in one go. */
#ifndef NET_HTTP_PEN_H
#define NET_HTTP_PEN_H

#include "base/text.h"
#include "net/http_parse.h"

struct http_pen {
    char *start, *at, *end;
    bool is_full;
};

/* A name of ours as it stands in a line. */
#define HTTP_LINE(name) STR(name ": ")

static inline struct http_pen http_pen_at(char *room, size_t size)
{
    return (struct http_pen){.start = room, .at = room, .end = room + size};
}

/* What was written. */
static inline struct str http_pen_text(const struct http_pen *pen)
{
    return (struct str){pen->start, (size_t)(pen->at - pen->start)};
}

/* Whether there is room for `size` bytes more; from the first time that there is not, never again. */
static inline bool http_pen_has_room(struct http_pen *pen, size_t size)
{
    pen->is_full |= size > (size_t)(pen->end - pen->at);
    return !pen->is_full;
}

/* Append what was found to have room. */
static inline void http_pen_add(struct http_pen *pen, struct str s)
{
    if (s.len > 0)
        memcpy(pen->at, s.ptr, s.len);
    pen->at += s.len;
}

static inline void http_pen_put(struct http_pen *pen, struct str s)
{
    if (http_pen_has_room(pen, s.len))
        http_pen_add(pen, s);
}

/* A line of ours: `name` is HTTP_LINE("…"). */
static inline void http_pen_line(struct http_pen *pen, struct str name, struct str value)
{
    if (!http_pen_has_room(pen, name.len + value.len + 2))
        return;
    http_pen_add(pen, name);
    http_pen_add(pen, value);
    http_pen_add(pen, STR("\r\n"));
}

static inline void http_pen_line_u64(struct http_pen *pen, struct str name, uint64_t value)
{
    if (!http_pen_has_room(pen, name.len + TEXT_U64_BYTES + 2))
        return;
    http_pen_add(pen, name);
    pen->at += text_put_u64(value, pen->at);
    http_pen_add(pen, STR("\r\n"));
}

/* The same with a value that is not ours alone: a line that cannot be sent is left out. */
static inline void http_pen_line_of(struct http_pen *pen, struct str name, struct str value)
{
    if (http_value_is_clean(value))
        http_pen_line(pen, name, value);
}

#endif
