/* SPDX-License-Identifier: Apache-2.0 */
/* Printing admin tables.
 *
 * Cells lie one behind the other in a buffer, each with its length in front. Text for people shows
 * what callers sent (names of models, paths) on an operator's terminal, so everything but printable
 * ASCII becomes "?" there; JSON has the exact text. */
#include "gateway/admin_table.h"

#include <stdio.h>

#include "gateway/request.h"

#define TABLE_MAX_BYTES ((size_t)64 * 1024 * 1024)

struct cell {
    bool is_text; /* else a number or a boolean, printed as it is */
    struct str text;
};

/* ---- filling ---- */

struct admin_table admin_table_new(const char *name, const char **columns, size_t column_count)
{
    return (struct admin_table){.name = name,
                                .columns = columns,
                                .column_count = column_count,
                                .cells = buf_make(MEM_REQUEST, TABLE_MAX_BYTES)};
}

static void add_cell(struct admin_table *table, bool is_text, struct str text)
{
    uint32_t head = (uint32_t)text.len << 1 | is_text;

    table->cell_count++;
    if (table->err)
        return;
    if (buf_add(&table->cells, (struct str){(const char *)&head, sizeof(head)}) ||
        buf_add(&table->cells, text))
        table->err = err_no_memory();
}

void admin_table_text(struct admin_table *table, struct str text)
{
    add_cell(table, true, text);
}

void admin_table_cstr(struct admin_table *table, const char *text)
{
    add_cell(table, true, str_from(text));
}

void admin_table_u64(struct admin_table *table, uint64_t number)
{
    char text[24];
    int len = snprintf(text, sizeof(text), "%llu", (unsigned long long)number);

    add_cell(table, false, (struct str){text, (size_t)len});
}

void admin_table_bool(struct admin_table *table, bool value)
{
    add_cell(table, false, value ? STR("true") : STR("false"));
}

/* ---- printing ---- */

/* Take the next cell out of the rest of a table's cells. */
static struct cell next_cell(struct str *rest)
{
    struct cell cell;
    uint32_t head;

    memcpy(&head, rest->ptr, sizeof(head));
    cell.is_text = head & 1;
    cell.text = (struct str){rest->ptr + sizeof(head), head >> 1};
    *rest = str_after(*rest, sizeof(head) + cell.text.len);
    return cell;
}

static err_t print_json_row(const struct admin_table *table, struct str *rest, struct buf *out)
{
    for (size_t i = 0; i < table->column_count; i++) {
        struct cell cell = next_cell(rest);
        TRY(buf_printf(out, "%s\"%s\":", i ? "," : "{", table->columns[i]));
        TRY(cell.is_text ? buf_add_json(out, cell.text) : buf_add(out, cell.text));
    }
    return buf_add_byte(out, '}');
}

static err_t print_json(const struct admin_table *table, struct buf *out)
{
    struct str rest = buf_str(&table->cells);

    TRY(buf_printf(out, "\"%s\":[", table->name));
    for (bool is_first = true; rest.len > 0; is_first = false) {
        if (!is_first)
            TRY(buf_add_byte(out, ','));
        TRY(print_json_row(table, &rest, out));
    }
    return buf_add_byte(out, ']');
}

/* Print a cell `width` wide: numbers to the right; text to the left, with nothing behind the last
 * one. */
static err_t print_text_cell(struct cell cell, size_t width, bool is_last, struct buf *out)
{
    int gap = (int)(width - cell.text.len);

    if (!cell.is_text)
        TRY(buf_printf(out, "%*s", gap, ""));
    for (size_t i = 0; i < cell.text.len; i++) {
        char c = cell.text.ptr[i];
        TRY(buf_add_byte(out, c >= 0x20 && c < 0x7f ? c : '?'));
    }
    if (is_last)
        return buf_add_byte(out, '\n');
    return cell.is_text ? buf_printf(out, "%*s", gap + 2, "") : buf_add(out, STR("  "));
}

static struct cell shown(struct cell cell)
{
    if (cell.text.len == 0)
        cell.text = STR("-");
    return cell;
}

static void measure(const struct admin_table *table, size_t widths[ADMIN_MAX_COLUMNS])
{
    struct str rest = buf_str(&table->cells);

    for (size_t i = 0; i < table->column_count; i++)
        widths[i] = strlen(table->columns[i]);
    for (size_t i = 0; rest.len > 0; i++) {
        struct cell cell = shown(next_cell(&rest));
        size_t *width = &widths[i % table->column_count];
        if (cell.text.len > *width)
            *width = cell.text.len;
    }
}

static err_t print_text(const struct admin_table *table, struct buf *out)
{
    struct str rest = buf_str(&table->cells);
    size_t widths[ADMIN_MAX_COLUMNS], last = table->column_count - 1;

    measure(table, widths);
    for (size_t i = 0; i <= last; i++) {
        /* A heading stands over its column the way the first row does. */
        struct str peek = rest;
        bool is_text = rest.len == 0 || next_cell(&peek).is_text;
        TRY(print_text_cell((struct cell){is_text, str_from(table->columns[i])}, widths[i],
                            i == last, out));
        if (rest.len > 0)
            rest = peek;
    }
    rest = buf_str(&table->cells);
    for (size_t i = 0; rest.len > 0; i = i == last ? 0 : i + 1)
        TRY(print_text_cell(shown(next_cell(&rest)), widths[i], i == last, out));
    return NULL;
}

static err_t print_all(const struct admin_table *tables, size_t count, bool as_json,
                       struct buf *out)
{
    for (size_t i = 0; i < count; i++) {
        TRY(tables[i].err);
        if (as_json) {
            TRY(buf_add_byte(out, i ? ',' : '{'));
            TRY(print_json(&tables[i], out));
            continue;
        }
        if (count > 1)
            TRY(buf_printf(out, "%s%s:\n", i ? "\n" : "", tables[i].name));
        TRY(print_text(&tables[i], out));
    }
    return as_json ? buf_add(out, STR("}\n")) : NULL;
}

/* ---- answering ---- */

bool admin_wants_json(const struct request *r)
{
    const struct http_head *head = &r->exchange->head;
    struct str accept = http_header_get(head, STR("accept"));
    struct str format = http_query_get(head->query, STR("format"), r->arena);

    if (format.len > 0)
        return str_eq(format, STR("json"));
    return str_find(accept, STR("application/json")) < accept.len;
}

err_t admin_table_reply(struct request *r, struct admin_table *tables, size_t count)
{
    struct buf out = buf_make(MEM_REQUEST, TABLE_MAX_BYTES);
    bool as_json = admin_wants_json(r);
    err_t err = print_all(tables, count, as_json, &out);

    for (size_t i = 0; i < count; i++)
        buf_fini(&tables[i].cells);
    if (!err)
        err = as_json ? reply_json(r, 200, buf_str(&out))
                      : reply_text(r, 200, STR("text/plain; charset=utf-8"), buf_str(&out));
    buf_fini(&out);
    return err;
}
