/* SPDX-License-Identifier: Apache-2.0 */
/* Statements of PostgreSQL: records per connection, values as libpq wants them, rows copied out. Everything travels in
 * binary form, so that nothing is quoted, escaped or parsed.
 *
 * The hard thing is the type of NULL. Parameters have the types of their values, because what the server would guess
 * from a comparison with a small number is too narrow. Of a NULL nothing is known, so that is left to the server; and
 * when a value comes there later, the statement is prepared anew with its type. */
#include <arpa/inet.h>
#include <endian.h>
#include <limits.h>
#include <stdio.h>

#include "base/check.h"
#include "base/mem.h"
#include "store/db_postgres.h"

#define SQL_MAX_BYTES  ((size_t)1024 * 1024)
#define PARAMETERS_MAX 65535

/* pg_type's numbers, which never change. */
enum {
    TYPE_BOOL = 16,
    TYPE_BYTEA = 17,
    TYPE_NAME = 19,
    TYPE_INT8 = 20,
    TYPE_INT2 = 21,
    TYPE_INT4 = 23,
    TYPE_TEXT = 25,
    TYPE_UNKNOWN = 705,
    TYPE_BPCHAR = 1042,
    TYPE_VARCHAR = 1043,
    TYPE_VOID = 2278,
};

static const Oid type_of[] = {
    [DB_NULL] = 0, [DB_INT] = TYPE_INT8, [DB_TEXT] = TYPE_TEXT, [DB_BLOB] = TYPE_BYTEA};

/* ---- records ---- */

static size_t size_of(size_t count)
{
    return sizeof(struct db_postgres_statement) + count * sizeof(Oid);
}

static struct db_postgres_statement **bucket_of(struct db_postgres_connection *connection,
                                                const char *text)
{
    return &connection->statements[((uintptr_t)text >> 4) % DB_POSTGRES_BUCKETS];
}

static struct db_postgres_statement *find(struct db_postgres_connection *connection,
                                          const char *text)
{
    struct db_postgres_statement *statement = *bucket_of(connection, text);

    while (statement && statement->text != text)
        statement = statement->next;
    return statement;
}

/* The highest N of parameters "$N" outside quotes. The server would not mind if too many values were given. */
static size_t parameter_count(const char *sql)
{
    size_t highest = 0;
    bool is_quoted = false;

    for (; *sql; sql++) {
        size_t n = 0;
        if (*sql == '\'')
            is_quoted = !is_quoted;
        if (*sql != '$' || is_quoted)
            continue;
        while (sql[1] >= '0' && sql[1] <= '9' && n <= PARAMETERS_MAX)
            n = n * 10 + (size_t)(*++sql - '0');
        if (n > highest)
            highest = n;
    }
    return highest;
}

/* A new record; *sql is its text as PostgreSQL speaks. */
static err_t make(struct db_postgres_connection *connection, const char *text, struct buf *sql,
                  struct db_postgres_statement **out)
{
    struct db_postgres_statement **bucket = bucket_of(connection, text);
    size_t count;

    TRY(db_expand(&db_postgres_ops, text, sql));
    count = parameter_count(sql->ptr);
    if (count > PARAMETERS_MAX)
        return db_err(DB_WRONG, "a statement has too many parameters");
    *out = mem_alloc_zero(MEM_STORE, size_of(count));
    if (!*out)
        return err_no_memory();
    (*out)->text = text;
    (*out)->count = count;
    (*out)->next = *bucket;
    *bucket = *out;
    return NULL;
}

/* Take the types of values that are there. Types that are new need a new preparation. */
static void take_types(struct db_postgres_statement *statement, struct db_ask ask)
{
    for (size_t i = 0; i < ask.count; i++) {
        Oid type = type_of[ask.values[i].type];
        if (type && statement->types[i] != type) {
            statement->types[i] = type;
            statement->is_prepared = false;
        }
    }
}

/* ---- values ---- */

static void values_free(struct db_postgres_values *values)
{
    mem_free(MEM_STORE, values->numbers, values->room * sizeof(*values->numbers));
    mem_free(MEM_STORE, values->pointers, values->room * sizeof(*values->pointers));
    mem_free(MEM_STORE, values->lengths, values->room * sizeof(*values->lengths));
    mem_free(MEM_STORE, values->formats, values->room * sizeof(*values->formats));
    *values = (struct db_postgres_values){0};
}

static err_t values_reserve(struct db_postgres_values *values, size_t count)
{
    if (count <= values->room)
        return NULL;
    values_free(values);
    values->room = count;
    values->numbers = mem_alloc(MEM_STORE, count * sizeof(*values->numbers));
    values->pointers = mem_alloc(MEM_STORE, count * sizeof(*values->pointers));
    values->lengths = mem_alloc(MEM_STORE, count * sizeof(*values->lengths));
    values->formats = mem_alloc(MEM_STORE, count * sizeof(*values->formats));
    if (values->numbers && values->pointers && values->lengths && values->formats)
        return NULL;
    values_free(values);
    return err_no_memory();
}

static err_t lay_out_one(struct db_postgres_values *to, size_t i, const struct db_value *value)
{
    to->formats[i] = 1;
    to->lengths[i] = 0;
    to->pointers[i] = NULL;
    if (value->type == DB_NULL)
        return NULL;
    if (value->type == DB_INT) {
        to->numbers[i] = htobe64((uint64_t)value->number);
        to->pointers[i] = (const char *)&to->numbers[i];
        to->lengths[i] = sizeof(to->numbers[i]);
        return NULL;
    }
    if (value->bytes.len > INT_MAX)
        return err_new(ERR_TOO_BIG, "a value of 2 GiB cannot be kept");
    to->pointers[i] = value->bytes.ptr ? value->bytes.ptr : ""; /* a null pointer would be NULL */
    to->lengths[i] = (int)value->bytes.len;
    return NULL;
}

err_t db_postgres_lay_out(struct db_postgres_connection *connection, struct db_ask ask,
                          struct buf *sql, struct db_postgres_statement **out)
{
    struct db_postgres_statement *statement = find(connection, ask.sql);

    *sql = buf_make(MEM_STORE, SQL_MAX_BYTES);
    if (!statement)
        TRY(make(connection, ask.sql, sql, &statement));
    if (statement->count != ask.count)
        return db_err(DB_WRONG, "a statement has other parameters than it was given");
    take_types(statement, ask);
    TRY(values_reserve(&connection->values, ask.count));
    for (size_t i = 0; i < ask.count; i++)
        TRY(lay_out_one(&connection->values, i, &ask.values[i]));
    *out = statement;
    if (statement->is_prepared)
        return NULL;
    /* A name is used once: the server may have seen it, even if its answer was a failure. */
    snprintf(statement->name, sizeof(statement->name), "s%u", ++connection->statement_count);
    return sql->len ? NULL : db_expand(&db_postgres_ops, ask.sql, sql);
}

void db_postgres_forget(struct db_postgres_connection *connection)
{
    for (int i = 0; i < DB_POSTGRES_BUCKETS; i++) {
        struct db_postgres_statement *statement;
        while ((statement = connection->statements[i])) {
            connection->statements[i] = statement->next;
            mem_free(MEM_STORE, statement, size_of(statement->count));
        }
    }
    values_free(&connection->values);
}

/* ---- rows ---- */

static err_t read_number(const char *bytes, int len, struct db_value *value)
{
    uint64_t number = 0;

    for (int i = 0; i < len; i++)
        number = number << 8 | (unsigned char)bytes[i];
    switch (len) {
    case 1:
        *value = DB_OF_INT(number); /* a truth value: 0 or 1, as with SQLite */
        return NULL;
    case 2:
        *value = DB_OF_INT((int16_t)number);
        return NULL;
    case 4:
        *value = DB_OF_INT((int32_t)number);
        return NULL;
    case 8:
        *value = DB_OF_INT((int64_t)number);
        return NULL;
    default:
        return db_err(DB_FAILED, "PostgreSQL sent a number of a strange length");
    }
}

static err_t read_cell(const PGresult *result, int row, int column, struct arena *arena,
                       struct db_value *value)
{
    const char *bytes = pq.get_value(result, row, column);
    int len = pq.get_length(result, row, column);

    *value = DB_OF_NULL;
    if (pq.get_is_null(result, row, column))
        return NULL;
    switch (pq.field_type(result, column)) {
    case TYPE_BOOL:
    case TYPE_INT2:
    case TYPE_INT4:
    case TYPE_INT8:
        return read_number(bytes, len, value);
    case TYPE_BYTEA:
        value->type = DB_BLOB;
        break;
    case TYPE_TEXT:
    case TYPE_VARCHAR:
    case TYPE_BPCHAR:
    case TYPE_NAME:
    case TYPE_UNKNOWN:
        value->type = DB_TEXT;
        break;
    case TYPE_VOID:
        return NULL;
    default:
        return db_err(DB_WRONG, "a result is no whole number: CAST it to BIGINT");
    }
    value->bytes = arena_copy(arena, (struct str){bytes, (size_t)len});
    return value->bytes.ptr ? NULL : arena_err(arena);
}

err_t db_postgres_read_rows(const PGresult *result, struct arena *arena, struct db_rows *rows)
{
    int count = pq.row_count(result), columns = pq.field_count(result);

    rows->count = (size_t)count;
    rows->columns = (size_t)columns;
    rows->cells = arena_alloc_array(arena, rows->count * rows->columns, sizeof(*rows->cells));
    if (!rows->cells)
        return arena_err(arena);
    for (int row = 0; row < count; row++)
        for (int column = 0; column < columns; column++)
            TRY(read_cell(result, row, column, arena, &rows->cells[row * columns + column]));
    return NULL;
}
