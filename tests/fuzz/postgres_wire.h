/* SPDX-License-Identifier: Apache-2.0 */
/* PostgreSQL's side of a statement, without a server: what db_postgres_lay_out would send is taken as strictly as a server
 * takes it, and can be read back through db_postgres_read_rows. libpq's functions that this needs are replaced. */
#ifndef TESTS_FUZZ_POSTGRES_WIRE_H
#define TESTS_FUZZ_POSTGRES_WIRE_H

#include "base/check.h"
#include "store/db_postgres.h"

/* pg_type's numbers. */
enum { WIRE_BYTEA = 17, WIRE_INT8 = 20, WIRE_TEXT = 25 };

static struct {
    struct db_postgres_connection connection; /* never connected: it keeps statements and values */
    size_t count;
    Oid types[256];
} wire;

/* Whether PostgreSQL takes it for a text: UTF-8 (RFC 3629) without NUL. Code points are worked out, not looked up. */
static bool wire_is_text(struct str s)
{
    static const uint32_t least[] = {0, 1, 0x80, 0x800, 0x10000};

    for (size_t at = 0, len; at < s.len; at += len) {
        unsigned char first = (unsigned char)s.ptr[at];
        uint32_t code;

        len = first < 0x80 ? 1 : first < 0xc0 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
        if (len == 0 || len > s.len - at || first >= 0xf8)
            return false;
        code = len == 1 ? first : first & (0x7fu >> len);
        for (size_t i = 1; i < len; i++) {
            unsigned char next = (unsigned char)s.ptr[at + i];
            if ((next & 0xc0) != 0x80)
                return false;
            code = code << 6 | (next & 0x3f);
        }
        if (code < least[len] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
            return false;
    }
    return true;
}

/* One value as it travels: in binary, with the type of the value, and nothing lost. */
static void wire_check(size_t i, const struct db_value *value, Oid type)
{
    const char *bytes = wire.connection.values.pointers[i];
    struct str sent = {bytes, (size_t)wire.connection.values.lengths[i]};
    uint64_t number = 0;

    check(wire.connection.values.formats[i] == 1);
    check((bytes == NULL) == (value->type == DB_NULL));
    switch (value->type) {
    case DB_NULL:
        check(sent.len == 0);
        return;
    case DB_INT:
        check(type == WIRE_INT8 && sent.len == 8);
        for (size_t at = 0; at < 8; at++)
            number = number << 8 | (unsigned char)bytes[at];
        check((int64_t)number == value->number);
        return;
    case DB_TEXT:
        check(type == WIRE_TEXT && str_eq(sent, value->bytes) && wire_is_text(sent));
        return;
    case DB_BLOB:
        check(type == WIRE_BYTEA && str_eq(sent, value->bytes));
        return;
    }
}

/* Lay a statement out and look at each of its values. */
static void wire_send(struct db_ask ask)
{
    struct db_postgres_statement *statement = NULL;
    struct buf sql;
    bool is_new;

    check(ask.count <= sizeof(wire.types) / sizeof(*wire.types));
    check(!db_postgres_lay_out(&wire.connection, ask, &sql, &statement));
    is_new = sql.len > 0;
    check(is_new == !statement->is_prepared && statement->count == ask.count);
    check(!is_new || (sql.ptr[sql.len - 1] == 0 && strlen(sql.ptr) == sql.len - 1));
    check(!is_new || !strstr(sql.ptr, "{{"));
    for (size_t i = 0; i < ask.count; i++)
        wire_check(i, &ask.values[i], wire.types[i] = statement->types[i]);
    statement->is_prepared = true;
    wire.count = ask.count;
    buf_fini(&sql);
}

/* ---- in the place of libpq: a result of one row, which is what was sent ---- */

static int wire_row_count(const PGresult *result)
{
    (void)result;
    return 1;
}

static int wire_field_count(const PGresult *result)
{
    (void)result;
    return (int)wire.count;
}

static Oid wire_field_type(const PGresult *result, int column)
{
    (void)result;
    return wire.types[column];
}

static int wire_is_null(const PGresult *result, int row, int column)
{
    (void)result, (void)row;
    return wire.connection.values.pointers[column] == NULL;
}

static char *wire_value(const PGresult *result, int row, int column)
{
    (void)result, (void)row;
    return (char *)(uintptr_t)wire.connection.values.pointers[column];
}

static int wire_length(const PGresult *result, int row, int column)
{
    (void)result, (void)row;
    return wire.connection.values.lengths[column];
}

static void wire_open(void)
{
    pq.row_count = wire_row_count;
    pq.field_count = wire_field_count;
    pq.field_type = wire_field_type;
    pq.get_is_null = wire_is_null;
    pq.get_value = wire_value;
    pq.get_length = wire_length;
}

/* Read what was sent last. */
static err_t wire_receive(struct arena *arena, struct db_rows *rows)
{
    return db_postgres_read_rows(NULL, arena, rows);
}

#endif
