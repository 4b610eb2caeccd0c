/* SPDX-License-Identifier: Apache-2.0 */
/* Cells as text. JSON and CSV differ in quotes and in how they say that there is nothing. */
#include "govern/ledger_print.h"

#include <inttypes.h>

#include "base/text.h"
#include "conf/quota.h"

#define MAX_CELL_BYTES ((size_t)256)

/* Whether a cell is shown without quotes. */
static bool is_bare(enum ledger_cell kind)
{
    return kind != LEDGER_TEXT && kind != LEDGER_MS && kind != LEDGER_SECOND;
}

static bool is_nothing(enum ledger_cell kind, const struct db_value *cell)
{
    return cell->type == DB_NULL || (kind == LEDGER_SECOND && cell->number == INT64_MAX);
}

static bool is_money(const struct ledger_column *columns, size_t count, const struct db_value *row)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(columns[i].name, "unit") == 0)
            return str_eq(row[i].bytes, STR("money"));
    return false;
}

static err_t print_money(int64_t nano, struct buf *out)
{
    uint64_t amount = nano < 0 ? 0 - (uint64_t)nano : (uint64_t)nano;

    if (nano < 0)
        TRY(buf_add_byte(out, '-'));
    return quota_print_money(amount, out);
}

static err_t print_moment(uint64_t ms, struct buf *out)
{
    char text[25];

    text_iso_date(ms, text);
    return buf_add(out, str_from(text));
}

/* A cell that is there and is no text. */
static err_t print_cell(enum ledger_cell kind, bool is_row_money, int64_t number, struct buf *out)
{
    switch (kind) {
    case LEDGER_MONEY:
        return print_money(number, out);
    case LEDGER_AMOUNT:
        return is_row_money ? print_money(number, out) : buf_printf(out, "%" PRId64, number);
    case LEDGER_MS:
        return print_moment((uint64_t)number, out);
    case LEDGER_SECOND:
        return print_moment((uint64_t)number * 1000, out);
    case LEDGER_FLAG:
        return buf_add(out, number ? STR("true") : STR("false"));
    default:
        return buf_printf(out, "%" PRId64, number);
    }
}

/* ---- JSON ---- */

void ledger_print_json(const struct ledger_column *columns, size_t count,
                       const struct db_value *row, struct json_writer *w)
{
    struct buf text = buf_make(MEM_GOVERN, MAX_CELL_BYTES);
    bool is_row_money = is_money(columns, count, row);

    json_open_object(w);
    for (size_t i = 0; i < count && !w->err; i++) {
        const struct ledger_column *c = &columns[i];
        if (c->is_left_out)
            continue;
        text.len = 0;
        if (is_nothing(c->kind, &row[i])) {
            json_put_null(w, c->name);
        } else if (c->kind == LEDGER_TEXT) {
            json_put_text(w, c->name, row[i].bytes);
        } else if ((w->err = print_cell(c->kind, is_row_money, row[i].number, &text)) == NULL) {
            if (is_bare(c->kind))
                json_put_raw(w, c->name, buf_str(&text));
            else
                json_put_text(w, c->name, buf_str(&text));
        }
    }
    json_close_object(w);
    buf_fini(&text);
}

/* ---- CSV ---- */

err_t ledger_print_csv_head(const struct ledger_column *columns, size_t count, struct buf *out)
{
    const char *separator = "";

    for (size_t i = 0; i < count; i++) {
        if (columns[i].is_left_out)
            continue;
        TRY(buf_printf(out, "%s%s", separator, columns[i].name));
        separator = ",";
    }
    return buf_add(out, STR("\r\n"));
}

static bool is_formula(struct str text)
{
    return text.len > 0 && memchr("=+-@\t\r", text.ptr[0], 6);
}

static err_t print_csv_text(struct str text, struct buf *out)
{
    bool is_plain = !is_formula(text);

    for (size_t i = 0; i < text.len && is_plain; i++)
        is_plain = !memchr(",\"\r\n", text.ptr[i], 4);
    if (is_plain)
        return buf_add(out, text);
    TRY(buf_add_byte(out, '"'));
    if (is_formula(text))
        TRY(buf_add_byte(out, '\''));
    for (size_t i = 0; i < text.len; i++) {
        if (text.ptr[i] == '"')
            TRY(buf_add_byte(out, '"'));
        TRY(buf_add_byte(out, text.ptr[i]));
    }
    return buf_add_byte(out, '"');
}

err_t ledger_print_csv(const struct ledger_column *columns, size_t count,
                       const struct db_value *row, struct buf *out)
{
    bool is_row_money = is_money(columns, count, row), is_first = true;

    for (size_t i = 0; i < count; i++) {
        const struct ledger_column *c = &columns[i];
        if (c->is_left_out)
            continue;
        if (!is_first)
            TRY(buf_add_byte(out, ','));
        is_first = false;
        if (is_nothing(c->kind, &row[i]))
            continue;
        TRY(c->kind == LEDGER_TEXT ? print_csv_text(row[i].bytes, out)
                                   : print_cell(c->kind, is_row_money, row[i].number, out));
    }
    return buf_add(out, STR("\r\n"));
}
