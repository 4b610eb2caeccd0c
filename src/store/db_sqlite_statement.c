/* SPDX-License-Identifier: Apache-2.0 */
/* Statements of SQLite: prepared once per connection, bound, stepped, their rows copied out.
 *
 * Values are bound as they lie, without a copy: the caller waits until the statement has run. */
#include "store/db_sqlite.h"

#include <limits.h>
#include <string.h>

#include "base/mem.h"

#define SQL_MAX_BYTES   ((size_t)1024 * 1024)
#define CELLS_MAX_BYTES ((size_t)64 * 1024 * 1024)

static const char wrong_count[] = "a statement has other parameters than it was given";
static const char wrong_number[] = "a result is no whole number: CAST it to BIGINT";

/* ---- preparing ---- */

static struct db_sqlite_statement **bucket_of(struct db_sqlite_connection *connection,
                                              const char *text)
{
    return &connection->statements[((uintptr_t)text >> 4) % DB_SQLITE_BUCKETS];
}

static err_t compile(sqlite3 *handle, struct str sql, sqlite3_stmt **out, enum db_trouble *trouble)
{
    const char *tail;
    int code =
        sqlite3_prepare_v3(handle, sql.ptr, (int)sql.len, SQLITE_PREPARE_PERSISTENT, out, &tail);

    if (code != SQLITE_OK)
        return db_sqlite_err(handle, code, trouble);
    if (*out && tail[strspn(tail, " \n;")] == '\0')
        return NULL;
    sqlite3_finalize(*out);
    *trouble = DB_WRONG;
    return db_err(DB_WRONG, "a text that is not exactly one statement");
}

/* The value that parameter "$N" stands for, from 0. SQLite numbers $2 before $1 if it is met first. */
static uint16_t parameter_value(sqlite3_stmt *handle, int at)
{
    const char *name = sqlite3_bind_parameter_name(handle, at);
    uint64_t number;

    if (!name || name[0] != '$' || !str_to_u64(str_from(name + 1), &number) || number == 0 ||
        number > DB_SQLITE_NO_VALUE)
        return DB_SQLITE_NO_VALUE;
    return (uint16_t)(number - 1);
}

static size_t statement_bytes(size_t count)
{
    return sizeof(struct db_sqlite_statement) + count * sizeof(uint16_t);
}

/* Names of parameters are looked up here once, and not at each use. */
static struct db_sqlite_statement *statement_new(const char *text, sqlite3_stmt *handle)
{
    size_t count = (size_t)sqlite3_bind_parameter_count(handle);
    struct db_sqlite_statement *statement = mem_alloc(MEM_STORE, statement_bytes(count));

    if (!statement)
        return NULL;
    statement->text = text;
    statement->handle = handle;
    statement->count = count;
    for (size_t i = 0; i < count; i++)
        statement->values[i] = parameter_value(handle, (int)i + 1);
    return statement;
}

/* Make a statement and keep it. */
static err_t prepare(struct db_sqlite_connection *connection, const char *text,
                     struct db_sqlite_statement **out, enum db_trouble *trouble)
{
    struct db_sqlite_statement **bucket = bucket_of(connection, text), *statement;
    sqlite3_stmt *handle = NULL;
    struct buf sql = buf_make(MEM_STORE, SQL_MAX_BYTES);
    err_t err = db_expand(&db_sqlite_ops, text, &sql);

    *trouble = err_is(err, ERR_BUG) ? DB_WRONG : DB_FINE;
    if (!err)
        err = compile(connection->handle, buf_str(&sql), &handle, trouble);
    buf_fini(&sql);
    if (err)
        return err;
    statement = statement_new(text, handle);
    if (!statement) {
        sqlite3_finalize(handle);
        *trouble = DB_FAILED;
        return err_no_memory();
    }
    statement->next = *bucket;
    *bucket = *out = statement;
    return NULL;
}

static struct db_sqlite_statement *find(struct db_sqlite_connection *connection, const char *text)
{
    struct db_sqlite_statement *statement = *bucket_of(connection, text);

    while (statement && statement->text != text)
        statement = statement->next;
    return statement;
}

void db_sqlite_forget(struct db_sqlite_connection *connection)
{
    for (int i = 0; i < DB_SQLITE_BUCKETS; i++) {
        struct db_sqlite_statement *statement;
        while ((statement = connection->statements[i])) {
            connection->statements[i] = statement->next;
            sqlite3_finalize(statement->handle);
            mem_free(MEM_STORE, statement, statement_bytes(statement->count));
        }
    }
}

/* ---- binding ---- */

static int bind_one(sqlite3_stmt *handle, int at, const struct db_value *value)
{
    /* A null pointer would bind NULL. */
    const char *ptr = value->bytes.ptr ? value->bytes.ptr : "";

    switch (value->type) {
    case DB_INT:
        return sqlite3_bind_int64(handle, at, value->number);
    case DB_TEXT:
        return sqlite3_bind_text64(handle, at, ptr, value->bytes.len, SQLITE_STATIC, SQLITE_UTF8);
    case DB_BLOB:
        return sqlite3_bind_blob64(handle, at, ptr, value->bytes.len, SQLITE_STATIC);
    default:
        return sqlite3_bind_null(handle, at);
    }
}

/* What was bound before is bound over, all of it, so that it need not be cleared after use. */
static int bind_all(const struct db_sqlite_statement *statement, struct db_ask ask)
{
    int code = statement->count == ask.count ? SQLITE_OK : SQLITE_RANGE;

    for (size_t i = 0; code == SQLITE_OK && i < ask.count; i++) {
        size_t value = statement->values[i];
        code = value < ask.count ? bind_one(statement->handle, (int)i + 1, &ask.values[value])
                                 : SQLITE_RANGE;
    }
    return code;
}

/* ---- rows ---- */

static err_t copy_bytes(struct arena *arena, const void *ptr, int len, struct str *out)
{
    if (len > 0 && !ptr)
        return err_no_memory();
    *out = arena_copy(arena, (struct str){len > 0 ? ptr : "", (size_t)len});
    return out->ptr ? NULL : arena_err(arena);
}

static err_t read_cell(sqlite3_stmt *handle, int column, struct arena *arena,
                       struct db_value *value)
{
    *value = DB_OF_NULL;
    switch (sqlite3_column_type(handle, column)) {
    case SQLITE_INTEGER:
        *value = DB_OF_INT(sqlite3_column_int64(handle, column));
        return NULL;
    case SQLITE_TEXT:
        value->type = DB_TEXT;
        return copy_bytes(arena, sqlite3_column_text(handle, column),
                          sqlite3_column_bytes(handle, column), &value->bytes);
    case SQLITE_BLOB:
        value->type = DB_BLOB;
        return copy_bytes(arena, sqlite3_column_blob(handle, column),
                          sqlite3_column_bytes(handle, column), &value->bytes);
    case SQLITE_NULL:
        return NULL;
    default:
        return db_err(DB_WRONG, wrong_number);
    }
}

static err_t read_row(sqlite3_stmt *handle, struct arena *arena, size_t columns, struct buf *cells)
{
    for (size_t column = 0; column < columns; column++) {
        struct db_value value;
        TRY(read_cell(handle, (int)column, arena, &value));
        TRY(buf_add(cells, (struct str){(const char *)&value, sizeof(value)}));
    }
    return NULL;
}

/* Step to the end. Cells gather in a buffer, as their number is not known. */
static err_t step_all(sqlite3 *db, sqlite3_stmt *handle, struct arena *arena, struct buf *cells,
                      enum db_trouble *trouble)
{
    size_t columns = (size_t)sqlite3_column_count(handle);
    err_t err = NULL;
    int code;

    while (!err && (code = sqlite3_step(handle)) != SQLITE_DONE) {
        if (code != SQLITE_ROW)
            return db_sqlite_err(db, code, trouble);
        if (arena)
            err = read_row(handle, arena, columns, cells);
    }
    if (err)
        *trouble = err_is(err, ERR_BUG) ? DB_WRONG : DB_FINE;
    return err;
}

static err_t take_cells(const struct buf *cells, size_t columns, struct arena *arena,
                        struct db_rows *rows)
{
    size_t count = cells->len / sizeof(struct db_value);

    rows->columns = columns;
    rows->count = columns > 0 ? count / columns : 0;
    if (count == 0)
        return NULL;
    rows->cells = arena_alloc(arena, cells->len);
    if (!rows->cells)
        return arena_err(arena);
    memcpy(rows->cells, cells->ptr, cells->len);
    return NULL;
}

err_t db_sqlite_step(struct db_sqlite_connection *connection, struct db_ask ask,
                     struct arena *arena, struct db_rows *rows, enum db_trouble *trouble)
{
    struct buf cells = buf_make(MEM_STORE, CELLS_MAX_BYTES);
    struct db_sqlite_statement *statement = find(connection, ask.sql);
    sqlite3_stmt *handle;
    err_t err;
    int code;

    *rows = (struct db_rows){0};
    *trouble = DB_FINE;
    if (!statement)
        TRY(prepare(connection, ask.sql, &statement, trouble));
    handle = statement->handle;
    code = bind_all(statement, ask);
    if (code == SQLITE_RANGE)
        err = db_err(*trouble = DB_WRONG, wrong_count);
    else if (code != SQLITE_OK)
        err = db_sqlite_err(connection->handle, code, trouble);
    else
        err = step_all(connection->handle, handle, arena, &cells, trouble);
    if (!err && !sqlite3_stmt_readonly(handle))
        rows->changed = (uint64_t)sqlite3_changes64(connection->handle);
    if (!err && arena)
        err = take_cells(&cells, (size_t)sqlite3_column_count(handle), arena, rows);
    /* Ends the statement's own transaction, if it has one: what fails here fails the statement. */
    code = sqlite3_reset(handle);
    if (!err && code != SQLITE_OK)
        err = db_sqlite_err(connection->handle, code, trouble);
    buf_fini(&cells);
    return err;
}
