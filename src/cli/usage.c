/* SPDX-License-Identifier: Apache-2.0 */
/* sluice usage and sluice budgets: tables for people, CSV for spreadsheets, from the admin API of a running server.
 *
 * The server says which columns there are: those of the first row. Pages are fetched until there are no more. */
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/json_members.h"
#include "cli/client.h"
#include "cli/command.h"
#include "fiber/fiber.h"

#define TARGET_MAX_BYTES ((size_t)64 * 1024)
#define MAX_COLUMNS      24
#define MAX_PAGES        1000
#define LIMIT_MS         60000

static const struct usage_option {
    const char *word, *parameter;
    const char *value; /* of options without one of their own */
    const char *commands;
} options[] = {{"--by", "by", NULL, "usage"},
               {"--from", "from", NULL, "usage"},
               {"--to", "to", NULL, "usage"},
               {"--model", "model", NULL, "usage"},
               {"--project", "project", NULL, "usage budgets"},
               {"--key", "key", NULL, "usage budgets"},
               {"--user", "user", NULL, "usage budgets"},
               {"--all", "all", "1", "budgets"},
               {"--check", "check", "1", "budgets"},
               {"--csv", "format", "csv", "usage budgets"}};
#define OPTION_COUNT (sizeof(options) / sizeof(*options))

struct usage_command {
    const char *name; /* and the last part of the path */
    const char *url;
    const char *values[OPTION_COUNT];
    bool as_json, as_csv;
    struct str pages[MAX_PAGES]; /* the lists */
    size_t page_count;
    struct client client;
};

/* ---- asking ---- */

static err_t add_encoded(struct buf *out, struct str text)
{
    for (size_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];
        bool is_plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                        (c >= '0' && c <= '9') || (c && strchr("-._~,/:", c));
        TRY(is_plain ? buf_add_byte(out, c) : buf_printf(out, "%%%02X", (unsigned char)c));
    }
    return NULL;
}

static err_t compose_target(const struct usage_command *c, struct str cursor, struct buf *target)
{
    TRY(buf_printf(target, "/admin/%s?limit=1000", c->name));
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        if (!c->values[i])
            continue;
        TRY(buf_printf(target, "&%s=", options[i].parameter));
        TRY(add_encoded(target, str_from(c->values[i])));
    }
    if (cursor.len > 0)
        TRY(buf_printf(target, "&cursor=%.*s", STR_ARG(cursor)));
    return buf_add_byte(target, '\0');
}

static err_t fetch(struct usage_command *c, struct str cursor, struct str *body)
{
    struct buf target = buf_make(MEM_TOOL, TARGET_MAX_BYTES);
    err_t err = compose_target(c, cursor, &target);
    int status = 0;

    if (!err)
        err = client_get(&c->client, target.ptr, loop_now_ms() + LIMIT_MS, &status, body);
    if (!err && status != 200)
        err = client_refusal(status, *body);
    buf_fini(&target);
    return err;
}

static err_t fetch_pages(struct usage_command *c)
{
    struct str cursor = STR(""), body;

    do {
        TRY(fetch(c, cursor, &body));
        TRY(json_check(body));
        c->pages[c->page_count++] = json_get(body, STR("data"));
        cursor = STR("");
        (void)json_text(json_get(body, STR("next_cursor")), fiber_arena(), &cursor);
    } while (cursor.len > 0 && c->page_count < MAX_PAGES);
    return NULL;
}

/* ---- printing ---- */

/* A cell as people read it: nothing as "-", and nothing that a terminal would obey. */
static err_t cell_text(struct str value, struct str *out)
{
    char *text;

    *out = value;
    if (json_kind(value) == JSON_STRING)
        (void)json_text(value, fiber_arena(), out);
    if (json_kind(value) == JSON_NULL || out->len == 0) {
        *out = STR("-");
        return NULL;
    }
    text = arena_cstr(fiber_arena(), *out);
    if (!text)
        return arena_err(fiber_arena());
    for (size_t i = 0; i < out->len; i++)
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
            text[i] = '?';
    out->ptr = text;
    return NULL;
}

struct column {
    struct str name;
    bool is_number;
    size_t width;
};

/* Characters, not bytes: those that do not continue one. */
static size_t width_of(struct str text)
{
    size_t width = 0;

    for (size_t i = 0; i < text.len; i++)
        width += ((unsigned char)text.ptr[i] & 0xc0) != 0x80;
    return width;
}

static void print_cell(const struct column *column, struct str text, bool is_last)
{
    int gap = (int)(column->width - width_of(text));

    if (column->is_number)
        printf("%*s%.*s", gap, "", STR_ARG(text));
    else
        printf("%.*s%*s", STR_ARG(text), is_last ? 0 : gap, "");
    fputs(is_last ? "\n" : "  ", stdout);
}

/* Step through all rows of all pages. */
static bool next_row(const struct usage_command *c, size_t *page, size_t *at, struct str *row)
{
    for (; *page < c->page_count; ++*page, *at = 0)
        if (json_array_next(c->pages[*page], at, row))
            return true;
    return false;
}

static err_t measure(const struct usage_command *c, struct column *columns, size_t *count)
{
    struct json_member member;
    struct str row, text;

    *count = 0;
    for (size_t page = 0, at = 0; next_row(c, &page, &at, &row);) {
        size_t i = 0;
        for (size_t in = 0; i < MAX_COLUMNS && json_object_next(row, &in, &member); i++) {
            if (i == *count)
                columns[(*count)++] = (struct column){member.key, false, width_of(member.key)};
            TRY(cell_text(member.value, &text));
            columns[i].is_number |= json_kind(member.value) == JSON_NUMBER;
            if (width_of(text) > columns[i].width)
                columns[i].width = width_of(text);
        }
    }
    return NULL;
}

static err_t print_table(const struct usage_command *c)
{
    struct column columns[MAX_COLUMNS];
    struct json_member member;
    struct str row, text;
    size_t count;

    TRY(measure(c, columns, &count));
    if (count == 0)
        fprintf(stderr, "There is nothing to show.\n");
    for (size_t i = 0; i < count; i++)
        print_cell(&columns[i], columns[i].name, i + 1 == count);
    for (size_t page = 0, at = 0; next_row(c, &page, &at, &row);) {
        size_t i = 0;
        for (size_t in = 0; i < count && json_object_next(row, &in, &member); i++) {
            TRY(cell_text(member.value, &text));
            print_cell(&columns[i], text, i + 1 == count);
        }
    }
    return NULL;
}

static void print_json(const struct usage_command *c)
{
    const char *separator = "";
    struct str row;

    printf("[");
    for (size_t page = 0, at = 0; next_row(c, &page, &at, &row); separator = ",")
        printf("%s\n%.*s", separator, STR_ARG(row));
    printf("\n]\n");
}

static err_t show(struct usage_command *c)
{
    struct str body;

    if (c->as_csv) {
        TRY(fetch(c, STR(""), &body));
        fwrite(body.ptr, 1, body.len, stdout);
        return NULL;
    }
    TRY(fetch_pages(c));
    if (!c->as_json)
        return print_table(c);
    print_json(c);
    return NULL;
}

/* ---- the commands ---- */

static int run(void *arg)
{
    struct usage_command *c = arg;
    err_t err = client_open_admin(c->url, &c->client);

    if (!err)
        err = show(c);
    client_close(&c->client);
    return err ? command_fail(c->name, err) : COMMAND_OK;
}

static const struct usage_option *option_of(const struct usage_command *c, const char *word)
{
    for (size_t i = 0; i < OPTION_COUNT; i++)
        if (strcmp(options[i].word, word) == 0 && strstr(options[i].commands, c->name))
            return &options[i];
    return NULL;
}

static int read_words(struct usage_command *c, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const struct usage_option *option = option_of(c, argv[i]);
        bool is_url = strcmp(argv[i], "--url") == 0;
        if (strcmp(argv[i], "--json") == 0) {
            c->as_json = true;
        } else if (option && option->value) {
            c->values[option - options] = option->value;
        } else if (!option && !is_url) {
            return command_misuse(c->name, "unknown option", argv[i]);
        } else if (i + 1 == argc) {
            return command_misuse(c->name, "a value must follow", argv[i]);
        } else if (is_url) {
            c->url = argv[++i];
        } else {
            c->values[option - options] = argv[++i];
        }
    }
    c->as_csv = c->values[OPTION_COUNT - 1] != NULL;
    return COMMAND_OK;
}

static int command_of(const char *name, int argc, char **argv)
{
    static struct usage_command c; /* too large for a stack */
    int exit_code;

    c.name = name;
    exit_code = read_words(&c, argc, argv);
    return exit_code == COMMAND_OK ? command_run_in_fiber(run, &c) : exit_code;
}

int command_usage(int argc, char **argv)
{
    return command_of("usage", argc, argv);
}

int command_budgets(int argc, char **argv)
{
    return command_of("budgets", argc, argv);
}
