/* SPDX-License-Identifier: Apache-2.0 */
/* Tables on their way. Rows are read along the primary key, each batch from behind the last row of the one before, which
 * costs the same at the end of a large table as at its beginning. */
#include "cli/migrate_table.h"

#include "base/buf.h"
#include "base/text.h"

#define SQL_MAX_BYTES   ((size_t)1024 * 1024)
#define BATCH_MAX_BYTES ((size_t)2 * 1024 * 1024 * 1024)

/* ---- SQL ---- */

static err_t add_names(const struct migrate_table *table, const size_t *which, size_t count,
                       struct buf *sql)
{
    for (size_t i = 0; i < count; i++)
        TRY(buf_printf(sql, "%s%.*s", i > 0 ? ", " : "",
                       STR_ARG(table->columns[which ? which[i] : i])));
    return NULL;
}

static err_t add_parameters(size_t first, size_t count, struct buf *sql)
{
    for (size_t i = 0; i < count; i++)
        TRY(buf_printf(sql, "%s$%zu", i > 0 ? ", " : "", first + i));
    return NULL;
}

static err_t make_select(const struct migrate_table *table, bool is_first, struct buf *sql)
{
    TRY(buf_add(sql, STR("SELECT ")));
    TRY(add_names(table, NULL, table->column_count, sql));
    TRY(buf_printf(sql, " FROM %.*s", STR_ARG(table->name)));
    if (!is_first) {
        TRY(buf_add(sql, STR(" WHERE (")));
        TRY(add_names(table, table->keys, table->key_count, sql));
        TRY(buf_add(sql, STR(") > (")));
        TRY(add_parameters(1, table->key_count, sql));
        TRY(buf_add(sql, STR(")")));
    }
    TRY(buf_add(sql, STR(" ORDER BY ")));
    TRY(add_names(table, table->keys, table->key_count, sql));
    return buf_printf(sql, " LIMIT %d", MIGRATE_BATCH);
}

static err_t make_insert(const struct migrate_table *table, size_t rows, struct buf *sql)
{
    TRY(buf_printf(sql, "INSERT INTO %.*s (", STR_ARG(table->name)));
    TRY(add_names(table, NULL, table->column_count, sql));
    TRY(buf_add(sql, STR(") VALUES ")));
    for (size_t row = 0; row < rows; row++) {
        TRY(buf_add(sql, row > 0 ? STR(", (") : STR("(")));
        TRY(add_parameters(1 + row * table->column_count, table->column_count, sql));
        TRY(buf_add_byte(sql, ')'));
    }
    return NULL;
}

/* Move a text into the arena. */
static err_t keep(struct buf *sql, err_t err, struct arena *arena, const char **out)
{
    if (!err) {
        *out = arena_cstr(arena, buf_str(sql));
        err = *out ? NULL : arena_err(arena);
    }
    buf_fini(sql);
    return err;
}

static err_t make_statements(struct migrate_table *table, struct arena *arena)
{
    struct buf sql = buf_make(MEM_TOOL, SQL_MAX_BYTES);

    TRY(keep(&sql, make_select(table, true, &sql), arena, &table->select_first));
    TRY(keep(&sql, make_select(table, false, &sql), arena, &table->select_next));
    TRY(keep(&sql, make_insert(table, 1, &sql), arena, &table->insert_one));
    TRY(keep(&sql, make_insert(table, MIGRATE_BATCH, &sql), arena, &table->insert_batch));
    return keep(&sql, buf_printf(&sql, "DELETE FROM %.*s", STR_ARG(table->name)), arena,
                &table->delete_all);
}

/* ---- the schema ---- */

static err_t describe(struct db_tx *tx, struct arena *arena, struct migrate_table *table)
{
    struct db_rows rows;

    TRY(db_tx_run(tx, DB_ASK("{{columns}}", DB_OF_TEXT(table->name)), arena, &rows));
    table->column_count = rows.count;
    table->columns = arena_alloc_array(arena, rows.count, sizeof(*table->columns));
    table->keys = arena_alloc_array(arena, rows.count, sizeof(*table->keys));
    if (!table->columns || !table->keys)
        return arena_err(arena);
    for (size_t i = 0; i < rows.count; i++) {
        size_t position = (size_t)db_int(&rows, i, 1); /* in the primary key; 0: not in it */
        table->columns[i] = db_text(&rows, i, 0);
        if (position > rows.count)
            return err_new(ERR_BUG, "table %.*s has a strange key", STR_ARG(table->name));
        if (position > 0)
            table->keys[position - 1] = i;
        table->key_count += position > 0;
    }
    if (table->key_count == 0)
        return err_new(ERR_BUG, "table %.*s has no primary key", STR_ARG(table->name));
    return make_statements(table, arena);
}

err_t migrate_list(struct db_tx *tx, struct arena *arena, struct migrate_table **out, size_t *count)
{
    struct db_rows rows;

    TRY(db_tx_run(tx, DB_ASK_PLAIN("{{tables}}"), arena, &rows));
    *count = rows.count;
    *out = arena_alloc_array(arena, rows.count, sizeof(**out));
    if (!*out)
        return arena_err(arena);
    for (size_t i = 0; i < rows.count; i++) {
        (*out)[i].name = db_text(&rows, i, 0);
        TRY(describe(tx, arena, &(*out)[i]));
    }
    return NULL;
}

/* ---- rows ---- */

static uint64_t hash_of(const struct db_value *value, uint64_t seed)
{
    char number[8];
    struct str bytes = value->bytes;

    if (value->type == DB_INT) {
        for (int i = 0; i < 8; i++)
            number[i] = (char)((uint64_t)value->number >> (8 * i));
        bytes = (struct str){number, sizeof(number)};
    }
    /* The type and the length are in the seed, so that neighbours cannot be mistaken for each other. */
    return text_hash(bytes, seed * 31 + (uint64_t)value->type + ((uint64_t)bytes.len << 3));
}

static void add_up(const struct db_rows *rows, struct migrate_sum *sum)
{
    for (size_t row = 0; row < rows->count; row++) {
        uint64_t hash = 1;
        for (size_t column = 0; column < rows->columns; column++)
            hash = hash_of(db_cell(rows, row, column), hash);
        sum->hash += hash;
        sum->rows++;
    }
}

static err_t insert(const struct migrate_table *table, struct db_tx *target,
                    const struct db_rows *rows)
{
    size_t columns = table->column_count;

    if (rows->count == MIGRATE_BATCH)
        return db_tx_run(target,
                         (struct db_ask){table->insert_batch, rows->cells, rows->count * columns},
                         NULL, NULL);
    for (size_t row = 0; row < rows->count; row++)
        TRY(db_tx_run(target,
                      (struct db_ask){table->insert_one, &rows->cells[row * columns], columns},
                      NULL, NULL));
    return NULL;
}

/* Numbers that the target makes itself go on behind the highest that it was given. */
static err_t go_on_from(const struct migrate_table *table, struct db_tx *target,
                        const struct db_value *key)
{
    if (!target || table->key_count != 1 || key->type != DB_INT)
        return NULL;
    return db_tx_run(target,
                     DB_ASK("{{go_on_from}}", DB_OF_TEXT(table->name),
                            DB_OF_TEXT(table->columns[table->keys[0]]), DB_OF_INT(key->number)),
                     NULL, NULL);
}

/* One batch. The last row's key is kept in `last`, as long as the arena is not reset; it is from the arena of the batch
 * before, so that two take turns. */
static err_t read_batch(const struct migrate_table *table, struct db_tx *source,
                        const struct db_value *last, struct arena *arena, struct db_rows *rows)
{
    if (!last)
        return db_tx_run(source, DB_ASK_PLAIN(table->select_first), arena, rows);
    return db_tx_run(source, (struct db_ask){table->select_next, last, table->key_count}, arena,
                     rows);
}

static err_t take_key(const struct migrate_table *table, const struct db_rows *rows,
                      struct arena *arena, struct db_value **out)
{
    *out = arena_alloc_array(arena, table->key_count, sizeof(**out));
    if (!*out)
        return arena_err(arena);
    for (size_t i = 0; i < table->key_count; i++)
        (*out)[i] = *db_cell(rows, rows->count - 1, table->keys[i]);
    return NULL;
}

static err_t read_all(const struct migrate_table *table, struct db_tx *source, struct db_tx *target,
                      struct arena *const arenas[2], struct migrate_sum *sum)
{
    struct db_value *last = NULL;
    struct db_rows rows = {.count = MIGRATE_BATCH};

    for (int turn = 0; rows.count == MIGRATE_BATCH; turn = !turn) {
        arena_reset(arenas[turn]);
        TRY(read_batch(table, source, last, arenas[turn], &rows));
        if (rows.count == 0)
            break;
        add_up(&rows, sum);
        if (target)
            TRY(insert(table, target, &rows));
        TRY(take_key(table, &rows, arenas[turn], &last));
    }
    return last ? go_on_from(table, target, last) : NULL;
}

err_t migrate_read(const struct migrate_table *table, struct db_tx *source, struct db_tx *target,
                   struct migrate_sum *out)
{
    struct arena *arenas[2] = {arena_new(MEM_TOOL, BATCH_MAX_BYTES),
                               arena_new(MEM_TOOL, BATCH_MAX_BYTES)};
    err_t err = arenas[0] && arenas[1] ? NULL : err_no_memory();

    *out = (struct migrate_sum){0};
    if (!err)
        err = read_all(table, source, target, arenas, out);
    arena_free(arenas[0]);
    arena_free(arenas[1]);
    return err;
}
