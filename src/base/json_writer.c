/* SPDX-License-Identifier: Apache-2.0 */
/* JSON text, written member by member. */
#include "base/json_writer.h"

static void add(struct json_writer *w, struct str text)
{
    if (!w->err)
        w->err = buf_add(w->out, text);
}

/* A value begins: separate it from the one before it. */
static void begin_value(struct json_writer *w)
{
    if (w->needs_comma)
        add(w, STR(","));
    w->needs_comma = true;
}

static void open(struct json_writer *w, struct str bracket)
{
    begin_value(w);
    add(w, bracket);
    w->needs_comma = false;
}

static void close(struct json_writer *w, struct str bracket)
{
    add(w, bracket);
    w->needs_comma = true;
}

void json_open_object(struct json_writer *w)
{
    open(w, STR("{"));
}

void json_close_object(struct json_writer *w)
{
    close(w, STR("}"));
}

void json_open_array(struct json_writer *w)
{
    open(w, STR("["));
}

void json_close_array(struct json_writer *w)
{
    close(w, STR("]"));
}

void json_add_text(struct json_writer *w, struct str text)
{
    begin_value(w);
    if (!w->err)
        w->err = buf_add_json(w->out, text);
}

void json_add_raw(struct json_writer *w, struct str json)
{
    begin_value(w);
    add(w, json);
}

void json_open_text(struct json_writer *w)
{
    begin_value(w);
    add(w, STR("\""));
}

/* Written as a text of its own, whose quotes are then taken away. */
void json_more_text(struct json_writer *w, struct str piece)
{
    size_t start = w->out->len;

    if (!w->err)
        w->err = buf_add_json(w->out, piece);
    if (w->err)
        return;
    w->out->len -= 2;
    memmove(w->out->ptr + start, w->out->ptr + start + 1, w->out->len - start);
}

void json_close_text(struct json_writer *w)
{
    add(w, STR("\""));
}

void json_name(struct json_writer *w, const char *name)
{
    begin_value(w);
    add(w, STR("\""));
    add(w, str_from(name));
    add(w, STR("\":"));
    w->needs_comma = false;
}

void json_put_object(struct json_writer *w, const char *name)
{
    json_name(w, name);
    json_open_object(w);
}

void json_put_array(struct json_writer *w, const char *name)
{
    json_name(w, name);
    json_open_array(w);
}

void json_put_text(struct json_writer *w, const char *name, struct str text)
{
    json_name(w, name);
    json_add_text(w, text);
}

void json_put_raw(struct json_writer *w, const char *name, struct str json)
{
    json_name(w, name);
    json_add_raw(w, json);
}

void json_put_u64(struct json_writer *w, const char *name, uint64_t n)
{
    json_name(w, name);
    begin_value(w);
    if (!w->err)
        w->err = buf_add_u64(w->out, n);
}

void json_put_bool(struct json_writer *w, const char *name, bool yes)
{
    json_put_raw(w, name, yes ? STR("true") : STR("false"));
}

void json_put_null(struct json_writer *w, const char *name)
{
    json_put_raw(w, name, STR("null"));
}

void json_put_text_or_null(struct json_writer *w, const char *name, struct str text)
{
    if (text.len)
        json_put_text(w, name, text);
    else
        json_put_null(w, name);
}

void json_put_text_if(struct json_writer *w, const char *name, struct str text)
{
    if (text.len)
        json_put_text(w, name, text);
}
