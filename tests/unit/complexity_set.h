/* SPDX-License-Identifier: Apache-2.0 */
/* Labelled prompts (tests/data/complexity), made into what complexity.c measures.
 *
 * A line is label, language, kind, options and text, parted by tabs. In the text \n is a new line and
 * {{name}} stands for the file pastes/name.txt; options add what is around it: tools=N, turns=N, schema,
 * image. */
#ifndef TESTS_UNIT_COMPLEXITY_SET_H
#define TESTS_UNIT_COMPLEXITY_SET_H

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/sys.h"
#include "model/complexity.h"

#define SET_FOLDER      "tests/data/complexity/"
#define SET_MAX_PROMPTS 400
#define SET_MAX_TURNS   32
#define SET_MAX_TOOLS   32

struct labelled {
    bool is_hard;
    struct str language, kind;
    size_t tokens; /* four bytes each: what knows of length alone goes by this */
    struct complexity complexity;
};

struct set {
    struct labelled prompts[SET_MAX_PROMPTS];
    size_t count;
};

/* A whole file, in the arena. */
static struct str set_read_file(const char *path, struct arena *arena)
{
    FILE *file = fopen(path, "r");
    size_t room = 1024 * 1024;
    char *text = arena_alloc(arena, room);

    if (!file || !text) {
        fprintf(stderr, "cannot read %s\n", path);
        exit(1);
    }
    size_t length = fread(text, 1, room, file);
    fclose(file);
    return (struct str){text, length};
}

/* The text with its new lines and pastes. */
static struct str set_unfold(struct str text, struct arena *arena)
{
    struct buf out = buf_make(MEM_TOOL, 1024 * 1024);
    struct str name, done;
    err_t err = NULL;

    while (text.len > 0 && !err) {
        if (str_starts(text, STR("\\n"))) {
            err = buf_add(&out, STR("\n"));
            text = str_after(text, 2);
        } else if (str_starts(text, STR("{{"))) {
            name = (struct str){text.ptr + 2, str_find(text, STR("}}")) - 2};
            const char *path = arena_printf(arena, SET_FOLDER "pastes/%.*s.txt", STR_ARG(name));
            err = buf_add(&out, set_read_file(path, arena));
            text = str_after(text, name.len + 4);
        } else {
            err = buf_add(&out, (struct str){text.ptr, 1});
            text = str_after(text, 1);
        }
    }
    done = arena_copy(arena, buf_str(&out));
    buf_fini(&out);
    return done;
}

/* The number of "name=N" among the options, 0 without it; 1 for "name". */
static size_t set_option(struct str options, struct str name)
{
    struct str option;
    uint64_t number = 0;

    while (options.ptr && str_split(&options, ',', &option)) {
        if (str_eq(option, name))
            return 1;
        if (str_starts(option, name) && option.ptr[name.len] == '=' &&
            str_to_u64(str_after(option, name.len + 1), &number))
            return number;
    }
    return 0;
}

static void set_measure(struct str text, struct str options, struct labelled *out)
{
    static struct part parts[SET_MAX_TURNS + 2];
    static struct message messages[SET_MAX_TURNS + 1];
    static struct tool tools[SET_MAX_TOOLS];
    size_t turns = set_option(options, STR("turns")), count = set_option(options, STR("tools"));
    struct prompt prompt = {.messages = messages, .message_count = turns + 1, .tools = tools};

    for (size_t i = 0; i < turns; i++) {
        parts[i] = (struct part){.kind = PART_TEXT, .text = STR("And then they went on talking.")};
        messages[i] = (struct message){
            .role = i % 2 ? ROLE_ASSISTANT : ROLE_USER, .parts = &parts[i], .part_count = 1};
    }
    parts[turns] = (struct part){.kind = PART_TEXT, .text = text};
    parts[turns + 1] = (struct part){.kind = PART_IMAGE};
    messages[turns] = (struct message){.role = ROLE_USER,
                                       .parts = &parts[turns],
                                       .part_count = 1 + set_option(options, STR("image"))};
    for (size_t i = 0; i < count; i++)
        tools[i] = (struct tool){.is_function = true,
                                 .name = STR("tool"),
                                 .parameters = STR("{\"type\":\"object\",\"properties\":{\"text\":"
                                                   "{\"type\":\"string\"}}}")};
    prompt.tool_count = count;
    prompt.format = set_option(options, STR("schema")) ? FORMAT_SCHEMA : FORMAT_TEXT;
    complexity_measure(&prompt, &out->complexity);
}

/* Read and measure a file of prompts. */
static void set_read(const char *path, struct arena *arena, struct set *set)
{
    struct str rest = set_read_file(path, arena), line, cell[5];

    set->count = 0;
    while (rest.ptr && str_split(&rest, '\n', &line)) {
        if (line.len == 0 || line.ptr[0] == '#')
            continue;
        for (size_t i = 0; i < 5; i++)
            if (!str_split(&line, '\t', &cell[i]) || set->count == SET_MAX_PROMPTS) {
                fprintf(stderr, "%s: line %zu is wrong\n", path, set->count + 1);
                exit(1);
            }
        struct labelled *prompt = &set->prompts[set->count++];
        struct str text = set_unfold(cell[4], arena);
        prompt->is_hard = str_eq(cell[0], STR("hard"));
        prompt->language = cell[1];
        prompt->kind = cell[2];
        prompt->tokens = text.len / 4;
        set_measure(text, cell[3], prompt);
    }
}

#endif
