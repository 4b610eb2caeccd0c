/* SPDX-License-Identifier: Apache-2.0 */
/* Statements and pages.
 *
 * Sums by any choice of columns are one statement: what is not asked for is an empty text in all rows, so
 * that grouping by all columns groups by those that were. A page begins behind the last row of the one
 * before, by value and not by number, so rows that come in between neither skip nor double any. */
#include "govern/ledger_query.h"

#include <inttypes.h>

#include "base/sys.h"
#include "govern/budget.h"
#include "govern/identity_page.h"
#include "govern/ledger_print.h"

#define HOUR_MS UINT64_C(3600000)
#define DAY_MS  (24 * HOUR_MS)

/* What all three know of the caller's realm: $1 and $2. */
#define REALM                                                                                      \
    "($1 = '' OR org_id = $1) AND ($2 = '' OR project_id = $2) AND ($3 = '' OR project_id = $3) "  \
    "AND ($4 = '' OR key_id = $4) AND ($5 = '' OR user_id = $5) AND ($6 = '' OR model = $6) "

/* ---- pages ---- */

struct page {
    const char *name; /* of the list, for cursors */
    const struct ledger_column *columns;
    size_t column_count;
    err_t (*place)(const struct ledger_query *q, const struct db_value *row,
                   struct identity_place *out); /* of a row, for the cursor */
    bool (*is_shown)(const struct ledger_query *q, const struct db_value *row); /* NULL: all are */
};

static bool is_shown(const struct ledger_query *q, const struct page *page,
                     const struct db_value *row)
{
    return !page->is_shown || page->is_shown(q, row);
}

static uint64_t rows_wanted(const struct ledger_query *q)
{
    return (q->as_csv ? LEDGER_MAX_CSV : q->limit) + 1;
}

static err_t print_csv(const struct ledger_query *q, const struct page *page,
                       const struct db_rows *rows)
{
    if (rows->count > LEDGER_MAX_CSV)
        return err_new_detail(
            ERR_BAD_REQUEST, (.code = "too_many_rows"),
            "these are more than %d rows: ask for a shorter time, or for pages of "
            "JSON",
            LEDGER_MAX_CSV);
    TRY(ledger_print_csv_head(page->columns, page->column_count, q->out));
    for (size_t i = 0; i < rows->count; i++)
        if (is_shown(q, page, db_cell(rows, i, 0)))
            TRY(ledger_print_csv(page->columns, page->column_count, db_cell(rows, i, 0), q->out));
    return NULL;
}

static err_t print_page(const struct ledger_query *q, const struct page *page,
                        const struct db_rows *rows)
{
    size_t count = rows->count > q->limit ? q->limit : rows->count;
    struct json_writer w = json_writer_make(q->out);
    struct identity_place last;

    if (q->as_csv)
        return print_csv(q, page, rows);
    json_open_object(&w);
    json_put_text(&w, "object", STR("list"));
    json_put_array(&w, "data");
    for (size_t i = 0; i < count; i++)
        if (is_shown(q, page, db_cell(rows, i, 0)))
            ledger_print_json(page->columns, page->column_count, db_cell(rows, i, 0), &w);
    json_close_array(&w);
    if (count < rows->count)
        TRY(page->place(q, db_cell(rows, count - 1, 0), &last));
    identity_place_write(page->name, count < rows->count ? &last : NULL, &w);
    json_close_object(&w);
    return json_writer_err(&w);
}

/* ---- usage ---- */

static const struct {
    struct str word;
    unsigned by;
} words[] = {{{"project", 7}, LEDGER_BY_PROJECT},   {{"key", 3}, LEDGER_BY_KEY},
             {{"user", 4}, LEDGER_BY_USER},         {{"model", 5}, LEDGER_BY_MODEL},
             {{"provider", 8}, LEDGER_BY_PROVIDER}, {{"upstream_model", 14}, LEDGER_BY_UPSTREAM},
             {{"day", 3}, LEDGER_BY_DAY},           {{"hour", 4}, LEDGER_BY_HOUR}};

bool ledger_query_word(struct str word, unsigned *by)
{
    for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++) {
        *by = words[i].by;
        if (str_eq(word, words[i].word))
            return true;
    }
    return false;
}

/* $7, $8: time; $9: span of a row, or 0; $10 … $15: what to group by; $16 … $22: the last row of the page before. */
#define USAGE(table)                                                                               \
    "SELECT * FROM (SELECT CASE WHEN CAST($9 AS BIGINT) > 0 THEN begins_ms - begins_ms % "         \
    "CAST($9 AS BIGINT) ELSE 0 END AS begins, "                                                    \
    "CASE WHEN CAST($10 AS BIGINT) <> 0 THEN project_id ELSE '' END AS project, "                  \
    "CASE WHEN CAST($11 AS BIGINT) <> 0 THEN key_id ELSE '' END AS api_key, "                      \
    "CASE WHEN CAST($12 AS BIGINT) <> 0 THEN user_id ELSE '' END AS end_user, "                    \
    "CASE WHEN CAST($13 AS BIGINT) <> 0 THEN model ELSE '' END AS alias, "                         \
    "CASE WHEN CAST($14 AS BIGINT) <> 0 THEN provider ELSE '' END AS vendor, "                     \
    "CASE WHEN CAST($15 AS BIGINT) <> 0 THEN upstream_model ELSE '' END AS upstream, "             \
    "CAST(SUM(calls) AS BIGINT) AS calls, CAST(SUM(failed) AS BIGINT) AS failed, "                 \
    "CAST(SUM(unpriced) AS BIGINT) AS unpriced, CAST(SUM(input) AS BIGINT) AS input, "             \
    "CAST(SUM(output) AS BIGINT) AS output, CAST(SUM(cached) AS BIGINT) AS cached, "               \
    "CAST(SUM(cache_written) AS BIGINT) AS cache_written, "                                        \
    "CAST(SUM(reasoning) AS BIGINT) AS reasoning, CAST(SUM(cost_nano) AS BIGINT) AS cost "         \
    "FROM " table " WHERE " REALM                                                                  \
    "AND begins_ms >= $7 AND begins_ms < $8 GROUP BY 1, 2, 3, 4, 5, 6, 7) AS sums "                \
    "WHERE (begins, project, api_key, end_user, alias, vendor, upstream) > "                       \
    "($16, $17, $18, $19, $20, $21, $22) "                                                         \
    "ORDER BY begins, project, api_key, end_user, alias, vendor, upstream LIMIT $23"

#define USAGE_TEXTS 6 /* texts that rows are told apart by */

static const struct ledger_column usage_columns[] = {{"begins", LEDGER_MS, false},
                                                     {"project", LEDGER_TEXT, false},
                                                     {"key", LEDGER_TEXT, false},
                                                     {"user", LEDGER_TEXT, false},
                                                     {"model", LEDGER_TEXT, false},
                                                     {"provider", LEDGER_TEXT, false},
                                                     {"upstream_model", LEDGER_TEXT, false},
                                                     {"calls", LEDGER_COUNT, false},
                                                     {"failed", LEDGER_COUNT, false},
                                                     {"unpriced", LEDGER_COUNT, false},
                                                     {"input", LEDGER_COUNT, false},
                                                     {"output", LEDGER_COUNT, false},
                                                     {"cached", LEDGER_COUNT, false},
                                                     {"cache_written", LEDGER_COUNT, false},
                                                     {"reasoning", LEDGER_COUNT, false},
                                                     {"cost", LEDGER_MONEY, false}};
#define USAGE_COLUMNS (sizeof(usage_columns) / sizeof(*usage_columns))

/* The texts of a row, each behind its length in two hexadecimal digits times two. */
static err_t usage_place(const struct ledger_query *q, const struct db_value *row,
                         struct identity_place *out)
{
    const char *id = arena_printf(
        q->arena, "%04zx%.*s%04zx%.*s%04zx%.*s%04zx%.*s%04zx%.*s%04zx%.*s", row[1].bytes.len,
        STR_ARG(row[1].bytes), row[2].bytes.len, STR_ARG(row[2].bytes), row[3].bytes.len,
        STR_ARG(row[3].bytes), row[4].bytes.len, STR_ARG(row[4].bytes), row[5].bytes.len,
        STR_ARG(row[5].bytes), row[6].bytes.len, STR_ARG(row[6].bytes));

    *out = (struct identity_place){row[0].number, str_from(id)};
    return id ? NULL : arena_err(q->arena);
}

static size_t hex_of(const char *at)
{
    size_t n = 0;

    for (int i = 0; i < 4; i++)
        n = n << 4 | (size_t)(at[i] <= '9' ? at[i] - '0' : at[i] - 'a' + 10);
    return n;
}

/* A checksum says that the cursor is one of ours; broken ones end here all the same. */
static void read_place(struct str rest, struct str texts[USAGE_TEXTS])
{
    for (size_t i = 0; i < USAGE_TEXTS; i++) {
        size_t len = rest.len >= 4 ? hex_of(rest.ptr) : 0;
        texts[i] = STR("");
        if (rest.len < 4 || len > rest.len - 4)
            continue;
        texts[i] = (struct str){rest.ptr + 4, len};
        rest = str_after(rest, 4 + len);
    }
}

/* Days are kept longer than hours: a sum of those that are left would be taken for the whole. */
static err_t check_hours(const struct ledger_query *q)
{
    if (q->hourly_ms == 0 || q->from_ms + q->hourly_ms + HOUR_MS >= sys_wall_ms())
        return NULL;
    return err_new_detail(ERR_BAD_REQUEST, (.code = "hours_not_kept"),
                          "hours are kept for `ledger.hourly_sums` (%" PRIu64
                          " days): before that, ask for whole days",
                          q->hourly_ms / DAY_MS);
}

static err_t run_usage(struct db *db, const struct ledger_query *q, uint64_t span_ms,
                       const struct identity_place *after, struct db_rows *rows)
{
    bool is_daily = span_ms != HOUR_MS && q->from_ms % DAY_MS == 0 && q->to_ms % DAY_MS == 0;
    uint64_t step_ms = is_daily ? DAY_MS : HOUR_MS;
    struct str last[USAGE_TEXTS];
    unsigned by = q->by;

    if (!is_daily)
        TRY(check_hours(q));
    read_place(after->id, last);
    const struct db_value values[] = {
        DB_OF_TEXT(q->realm_org),
        DB_OF_TEXT(q->realm_project),
        DB_OF_TEXT(q->project),
        DB_OF_TEXT(q->key),
        DB_OF_TEXT(q->user),
        DB_OF_TEXT(q->model),
        DB_OF_INT(q->from_ms - q->from_ms % step_ms),
        DB_OF_INT((q->to_ms + step_ms - 1) / step_ms * step_ms),
        DB_OF_INT(span_ms),
        DB_OF_INT(by & LEDGER_BY_PROJECT),
        DB_OF_INT(by & LEDGER_BY_KEY),
        DB_OF_INT(by & LEDGER_BY_USER),
        DB_OF_INT(by & LEDGER_BY_MODEL),
        DB_OF_INT(by & LEDGER_BY_PROVIDER),
        DB_OF_INT(by & LEDGER_BY_UPSTREAM),
        DB_OF_INT(after->number),
        DB_OF_TEXT(last[0]),
        DB_OF_TEXT(last[1]),
        DB_OF_TEXT(last[2]),
        DB_OF_TEXT(last[3]),
        DB_OF_TEXT(last[4]),
        DB_OF_TEXT(last[5]),
        DB_OF_INT(rows_wanted(q)),
    };
    return db_run(db, DB_REPORT,
                  (struct db_ask){is_daily ? USAGE("usage_day_parts") : USAGE("usage_hour_parts"),
                                  values, sizeof(values) / sizeof(*values)},
                  q->arena, rows);
}

err_t ledger_query_usage(struct db *db, const struct ledger_query *q)
{
    static const unsigned shown_by[] = {LEDGER_BY_DAY | LEDGER_BY_HOUR,
                                        LEDGER_BY_PROJECT,
                                        LEDGER_BY_KEY,
                                        LEDGER_BY_USER,
                                        LEDGER_BY_MODEL,
                                        LEDGER_BY_PROVIDER,
                                        LEDGER_BY_UPSTREAM};
    struct ledger_column columns[USAGE_COLUMNS];
    struct page page = {"usage", columns, USAGE_COLUMNS, usage_place, NULL};
    uint64_t span_ms = q->by & LEDGER_BY_HOUR ? HOUR_MS : q->by & LEDGER_BY_DAY ? DAY_MS : 0;
    struct identity_place after;
    struct db_rows rows;

    memcpy(columns, usage_columns, sizeof(columns));
    for (size_t i = 0; i < sizeof(shown_by) / sizeof(*shown_by); i++)
        columns[i].is_left_out = !(q->by & shown_by[i]);
    TRY(identity_place_read(page.name, q->cursor, q->arena, &after));
    TRY(run_usage(db, q, span_ms, &after, &rows));
    return print_page(q, &page, &rows);
}

/* ---- rows ---- */

static const char select_rows[] =
    "SELECT id, at_ms, request_id, org_id, project_id, key_id, user_id, model, provider, "
    "upstream_model, route, outcome, status, duration_ms, attempts, input, output, cached, "
    "cache_written, reasoning, is_estimated, cost_nano, booked FROM ledger WHERE " REALM
    "AND at_ms >= $7 AND at_ms < $8 AND id < $9 ORDER BY id DESC LIMIT $10";

static const struct ledger_column row_columns[] = {{"id", LEDGER_COUNT, false},
                                                   {"at", LEDGER_MS, false},
                                                   {"request_id", LEDGER_TEXT, false},
                                                   {"org", LEDGER_TEXT, false},
                                                   {"project", LEDGER_TEXT, false},
                                                   {"key", LEDGER_TEXT, false},
                                                   {"user", LEDGER_TEXT, false},
                                                   {"model", LEDGER_TEXT, false},
                                                   {"provider", LEDGER_TEXT, false},
                                                   {"upstream_model", LEDGER_TEXT, false},
                                                   {"route", LEDGER_TEXT, false},
                                                   {"outcome", LEDGER_TEXT, false},
                                                   {"status", LEDGER_COUNT, false},
                                                   {"ms", LEDGER_COUNT, false},
                                                   {"attempts", LEDGER_COUNT, false},
                                                   {"input", LEDGER_COUNT, false},
                                                   {"output", LEDGER_COUNT, false},
                                                   {"cached", LEDGER_COUNT, false},
                                                   {"cache_written", LEDGER_COUNT, false},
                                                   {"reasoning", LEDGER_COUNT, false},
                                                   {"estimated", LEDGER_FLAG, false},
                                                   {"cost", LEDGER_MONEY, false},
                                                   {"budgets", LEDGER_TEXT, false}};

static err_t row_place(const struct ledger_query *q, const struct db_value *row,
                       struct identity_place *out)
{
    (void)q;
    *out = (struct identity_place){row[0].number, STR("")};
    return NULL;
}

err_t ledger_query_rows(struct db *db, const struct ledger_query *q)
{
    struct page page = {"ledger", row_columns, sizeof(row_columns) / sizeof(*row_columns),
                        row_place, NULL};
    struct identity_place after;
    struct db_rows rows;

    TRY(identity_place_read(page.name, q->cursor, q->arena, &after));
    TRY(db_run(db, DB_REPORT,
               DB_ASK(select_rows, DB_OF_TEXT(q->realm_org), DB_OF_TEXT(q->realm_project),
                      DB_OF_TEXT(q->project), DB_OF_TEXT(q->key), DB_OF_TEXT(q->user),
                      DB_OF_TEXT(q->model), DB_OF_INT(q->from_ms), DB_OF_INT(q->to_ms),
                      DB_OF_INT(after.number < 0 ? INT64_MAX : after.number),
                      DB_OF_INT(rows_wanted(q))),
               q->arena, &rows));
    return print_page(q, &page, &rows);
}

/* ---- budgets ---- */

/* $1, $2: the realm; $3 project, $4 key, $5 user; $6: periods that end later; $7: the last account of the page before; $8: how
 * many; $9: rows of the ledger from then on are all there. `drift` is NULL where nobody asks. */
#define BUDGETS(drift)                                                                             \
    "SELECT account, scope, owner, project_id, unit, period, begins_s, ends_s, cap, spent, "       \
    "leased, " drift " AS drift FROM budget_periods p WHERE "                                      \
    "($1 = '' OR project_id IN (SELECT id FROM projects WHERE org_id = $1)) "                      \
    "AND ($2 = '' OR project_id = $2) AND ($3 = '' OR project_id = $3) "                           \
    "AND ($4 = '' OR (scope = 'key' AND owner = $4)) "                                             \
    "AND ($5 = '' OR (scope = 'user' AND owner = project_id || '/' || $5)) "                       \
    "AND ends_s > $6 AND account > $7 AND CAST($9 AS BIGINT) >= 0 ORDER BY account LIMIT $8"

#define DRIFT                                                                                      \
    "CASE WHEN p.opened_ms < $9 THEN NULL ELSE p.spent - (SELECT "                                 \
    "CAST(coalesce(SUM(CASE WHEN p.unit = 'money' THEN coalesce(l.cost_nano, 0) "                  \
    "ELSE l.input + l.output END), 0) AS BIGINT) FROM ledger l "                                   \
    "WHERE l.at_ms >= p.opened_ms - 86400000 AND l.project_id = p.project_id "                     \
    "AND (p.scope <> 'key' OR l.key_id = p.owner) "                                                \
    "AND (p.scope <> 'user' OR p.owner = l.project_id || '/' || l.user_id) "                       \
    "AND ' ' || l.booked || ' ' LIKE '% ' || p.scope || '/' || p.unit || '/' || p.period || '/' "  \
    "|| p.begins_s || ' %') END"

enum budget_cell {
    CELL_ACCOUNT,
    CELL_SCOPE,
    CELL_OWNER,
    CELL_PROJECT,
    CELL_UNIT,
    CELL_PERIOD,
    CELL_BEGINS,
    CELL_ENDS,
    CELL_CAP,
    CELL_SPENT,
    CELL_LEASED,
    CELL_DRIFT,
    CELL_LEFT, /* from here on computed */
    CELL_PERCENT,
    BUDGET_CELLS
};

static const struct ledger_column budget_columns[BUDGET_CELLS] = {
    {"account", LEDGER_TEXT, true},   {"scope", LEDGER_TEXT, false},
    {"owner", LEDGER_TEXT, false},    {"project", LEDGER_TEXT, false},
    {"unit", LEDGER_TEXT, false},     {"period", LEDGER_TEXT, false},
    {"begins", LEDGER_SECOND, false}, {"ends", LEDGER_SECOND, false},
    {"cap", LEDGER_AMOUNT, false},    {"spent", LEDGER_AMOUNT, false},
    {"leased", LEDGER_AMOUNT, false}, {"drift", LEDGER_AMOUNT, false},
    {"left", LEDGER_AMOUNT, false},   {"percent", LEDGER_NUMBER, false}};

static err_t budget_place(const struct ledger_query *q, const struct db_value *row,
                          struct identity_place *out)
{
    (void)q;
    *out = (struct identity_place){0, row[CELL_ACCOUNT].bytes};
    return NULL;
}

static bool is_budget_shown(const struct ledger_query *q, const struct db_value *row)
{
    struct budget_words budget = {row[CELL_SCOPE].bytes, row[CELL_OWNER].bytes,
                                  row[CELL_UNIT].bytes, row[CELL_PERIOD].bytes,
                                  (uint64_t)row[CELL_BEGINS].number};

    return q->is_all || row[CELL_DRIFT].number != 0 ||
           budget_is_in_force(q->conf, q->identity, &budget);
}

/* Rows with what is computed from them. */
static err_t complete(const struct ledger_query *q, struct db_rows *rows)
{
    struct db_value *cells =
        arena_alloc_array(q->arena, rows->count * BUDGET_CELLS, sizeof(*cells));

    if (!cells)
        return arena_err(q->arena);
    for (size_t i = 0; i < rows->count; i++) {
        struct db_value *row = cells + i * BUDGET_CELLS;
        memcpy(row, db_cell(rows, i, 0), CELL_LEFT * sizeof(*row));
        int64_t cap = row[CELL_CAP].number, spent = row[CELL_SPENT].number,
                used = spent + row[CELL_LEASED].number;
        if (str_eq(row[CELL_SCOPE].bytes, STR("user"))) /* the name alone */
            row[CELL_OWNER].bytes =
                str_after(row[CELL_OWNER].bytes, row[CELL_PROJECT].bytes.len + 1);
        if (row[CELL_BEGINS].number == 0) /* a total */
            row[CELL_BEGINS] = DB_OF_NULL;
        row[CELL_LEFT] = DB_OF_INT(used < cap ? cap - used : 0);
        row[CELL_PERCENT] = cap > 0 ? DB_OF_INT((double)spent * 100 / (double)cap) : DB_OF_NULL;
    }
    rows->cells = cells;
    rows->columns = BUDGET_CELLS;
    return NULL;
}

err_t ledger_query_budgets(struct db *db, const struct ledger_query *q, uint64_t *drifted)
{
    struct ledger_column columns[BUDGET_CELLS];
    struct page page = {"budgets", columns, BUDGET_CELLS, budget_place, is_budget_shown};
    uint64_t now_ms = sys_wall_ms();
    struct identity_place after;
    struct db_rows rows;

    memcpy(columns, budget_columns, sizeof(columns));
    columns[CELL_DRIFT].is_left_out = !q->is_checked;
    TRY(identity_place_read(page.name, q->cursor, q->arena, &after));
    const struct db_value values[] = {
        DB_OF_TEXT(q->realm_org),
        DB_OF_TEXT(q->realm_project),
        DB_OF_TEXT(q->project),
        DB_OF_TEXT(q->key),
        DB_OF_TEXT(q->user),
        DB_OF_INT(q->is_all ? 0 : now_ms / 1000),
        DB_OF_TEXT(after.id),
        DB_OF_INT(rows_wanted(q)),
        DB_OF_INT(now_ms > q->retention_ms ? now_ms - q->retention_ms : 0),
    };
    TRY(db_run(db, DB_REPORT,
               (struct db_ask){q->is_checked ? BUDGETS(DRIFT) : BUDGETS("CAST(NULL AS BIGINT)"),
                               values, sizeof(values) / sizeof(*values)},
               q->arena, &rows));
    TRY(complete(q, &rows));
    *drifted = 0;
    for (size_t i = 0; i < rows.count; i++)
        *drifted += db_int(&rows, i, CELL_DRIFT) != 0;
    return print_page(q, &page, &rows);
}
