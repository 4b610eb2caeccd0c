/* SPDX-License-Identifier: Apache-2.0 */
/* Reading recorded exchanges. */
#include "wire_file.h"

#include <stdio.h>

#define MARK STR("=== ")

static const char *const names[] = {"source",  "provider", "ask",     "history", "sends",
                                    "refuses", "dropped",  "answers", "gives",   "fails",
                                    "usage",   "end",      "differs"};

static bool read_bytes(const char *path, struct arena *arena, struct str *out)
{
    FILE *file = fopen(path, "rb");
    long size;

    if (!file)
        return false;
    fseek(file, 0, SEEK_END);
    size = ftell(file);
    rewind(file);
    char *bytes = size >= 0 ? arena_alloc(arena, (size_t)size) : NULL;
    bool is_whole = bytes && fread(bytes, 1, (size_t)size, file) == (size_t)size;
    fclose(file);
    *out = (struct str){bytes, (size_t)size};
    return is_whole;
}

static bool is_known(struct str name)
{
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (str_eq(name, str_from(names[i])))
            return true;
    return false;
}

/* The rest of a line, without its end; *text goes on behind it. */
static struct str take_line(struct str *text)
{
    size_t len = str_index(*text, '\n');
    struct str line = {text->ptr, len};

    *text = str_after(*text, len < text->len ? len + 1 : len);
    return line;
}

/* How many bytes there are before the next line that begins a section. */
static size_t section_length(struct str text)
{
    struct str rest = text;

    while (rest.len > 0 && !str_starts(rest, MARK))
        take_line(&rest);
    return text.len - rest.len;
}

bool wire_file_read(const char *path, struct arena *arena, struct wire_file *out, const char **why)
{
    struct str text;

    *out = (struct wire_file){.path = path};
    *why = "the file cannot be read";
    if (!read_bytes(path, arena, &text))
        return false;
    *why = "there is text before the first section";
    if (!str_starts(text, MARK))
        return false;
    while (text.len > 0) {
        struct str head = str_trim(str_after(take_line(&text), MARK.len));
        size_t space = str_index(head, ' ');
        struct wire_section section = {
            .name = {head.ptr, space},
            .rest = str_trim(str_after(head, space)),
            .text = {text.ptr, section_length(text)},
        };
        *why = arena_printf(arena, "there is no section \"%.*s\"", STR_ARG(section.name));
        if (!is_known(section.name))
            return false;
        *why = "there are too many sections";
        if (out->count == WIRE_MAX_SECTIONS)
            return false;
        out->sections[out->count++] = section;
        text = str_after(text, section.text.len);
    }
    return true;
}

const struct wire_section *wire_file_get(const struct wire_file *file, const char *name)
{
    for (size_t i = 0; i < file->count; i++)
        if (str_eq(file->sections[i].name, str_from(name)))
            return &file->sections[i];
    return NULL;
}

bool wire_line(struct str *text, struct str *line)
{
    if (text->len == 0)
        return false;
    *line = str_trim(take_line(text));
    if (line->len > 0 && line->ptr[line->len - 1] == '\r')
        line->len--;
    return true;
}
