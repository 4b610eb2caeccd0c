/* SPDX-License-Identifier: Apache-2.0 */
/* The contract of store/db.h, kept by every backend: written once, run for each of them, in a fiber and outside.
 *
 * SQLite gets a file of its own, and PostgreSQL a server; or TEST_POSTGRES_URL in the environment names a database that
 * the tests may fill and empty. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/mem.h"
#include "base/sys.h"
#include "base/text.h"
#include "fiber/fiber.h"
#include "fiber/offload.h"
#include "postgres.h"
#include "store/db_private.h"

#define ARENA_BYTES ((size_t)64 * 1024 * 1024)

static char folder[64];
static struct str url;
static struct db *db;
static struct arena *arena;

/* ---- helpers ---- */

static const char select_all[] = "SELECT n, t, b FROM contract ORDER BY id";
static const char insert[] = "INSERT INTO contract (n, t, b) VALUES ($1, $2, $3)";
static const char count_all[] = "SELECT count(*) FROM contract";

static struct db_rows run(enum db_mode mode, struct db_ask ask)
{
    struct db_rows rows = {0};
    err_t err = db_run(db, mode, ask, arena, &rows);

    if (err)
        fail_msg("%s: %s", ask.sql, err->text);
    return rows;
}

static void assert_fails(err_t err, enum err_kind kind, const char *code)
{
    if (!err)
        fail_msg("an error of kind %s is missing", err_kind_name(kind));
    if (err->kind != kind || (code && (!err->code || strcmp(err->code, code) != 0)))
        fail_msg("%s (%s) instead of %s: %s", err_kind_name(err->kind), err->code,
                 err_kind_name(kind), err->text);
}

static int64_t count_rows(void)
{
    struct db_rows rows = run(DB_READ, DB_ASK_PLAIN(count_all));

    return db_int(&rows, 0, 0);
}

static void add(int64_t n, struct str text)
{
    struct db_rows rows = run(DB_WRITE, DB_ASK(insert, DB_OF_INT(n), DB_OF_TEXT(text), DB_OF_NULL));

    assert_int_equal(rows.changed, 1);
}

static err_t tx_add(struct db_tx *tx, int64_t n)
{
    return db_tx_run(tx, DB_ASK(insert, DB_OF_INT(n), DB_OF_NULL, DB_OF_NULL), NULL, NULL);
}

static void assert_bytes(const struct db_value *cell, enum db_type type, struct str expected)
{
    assert_int_equal(cell->type, type);
    assert_int_equal(cell->bytes.len, expected.len);
    if (expected.len > 0)
        assert_memory_equal(cell->bytes.ptr, expected.ptr, expected.len);
}

/* ---- values ---- */

static void numbers_come_back(void)
{
    static const int64_t numbers[] = {0,         1,         -1,        INT32_MAX,      INT32_MIN,
                                      INT64_MAX, INT64_MIN, 1LL << 53, (1LL << 53) + 1};
    size_t count = sizeof(numbers) / sizeof(*numbers);
    struct db_rows rows;

    for (size_t i = 0; i < count; i++)
        add(numbers[i], STR(""));
    rows = run(DB_READ, DB_ASK_PLAIN(select_all));
    assert_int_equal(rows.count, count);
    assert_int_equal(rows.columns, 3);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(db_cell(&rows, i, 0)->type, DB_INT);
        assert_true(db_int(&rows, i, 0) == numbers[i]);
    }
}

static void null_is_not_empty(void)
{
    struct db_rows rows;

    run(DB_WRITE, DB_ASK(insert, DB_OF_NULL, DB_OF_NULL, DB_OF_NULL));
    run(DB_WRITE, DB_ASK(insert, DB_OF_INT(0), DB_OF_TEXT(STR("")), DB_OF_BLOB(STR(""))));
    run(DB_WRITE,
        DB_ASK(insert, DB_OF_INT(0), DB_OF_TEXT((struct str){0}), DB_OF_BLOB((struct str){0})));
    rows = run(DB_READ, DB_ASK_PLAIN(select_all));
    for (size_t column = 0; column < 3; column++)
        assert_int_equal(db_cell(&rows, 0, column)->type, DB_NULL);
    assert_int_equal(db_int(&rows, 0, 0), 0);
    assert_int_equal(db_text(&rows, 0, 1).len, 0);
    for (size_t row = 1; row < 3; row++) {
        assert_bytes(db_cell(&rows, row, 1), DB_TEXT, STR(""));
        assert_bytes(db_cell(&rows, row, 2), DB_BLOB, STR(""));
    }
}

/* A text through both directions: kept, compared, given back. */
static void assert_text_comes_back(struct str text)
{
    static const char select_same[] = "SELECT t FROM contract WHERE t = $1";
    struct db_rows rows;

    run(DB_WRITE, DB_ASK_PLAIN("DELETE FROM contract"));
    add(1, text);
    rows = run(DB_READ, DB_ASK(select_same, DB_OF_TEXT(text)));
    assert_int_equal(rows.count, 1);
    assert_bytes(db_cell(&rows, 0, 0), DB_TEXT, text);
}

static void nasty_texts_come_back(void)
{
    static const char *const texts[] = {
        "'",
        "''",
        "\"",
        "`",
        "\\",
        "\\'",
        "'; DROP TABLE contract; --",
        "' OR '1'='1",
        "%",
        "_",
        "%s%n",
        "$1",
        "$2",
        "?1",
        ":name",
        "@name",
        "{{blob}}",
        "{{",
        "}}",
        "--",
        "/* */",
        ";",
        "NULL",
        "null",
        "nil",
        "undefined",
        "true",
        "0",
        "-0",
        "1e309",
        "NaN",
        "Infinity",
        "0x7f",
        "1/0",
        " ",
        "  a  ",
        "\t",
        "\n",
        "\r\n",
        "\x01",
        "\x7f",
        "\x1b[31m",
        "\xc2\xa0",
        "\xc2\x85",
        "\xe2\x80\x8b",
        "\xe2\x80\xae"
        "abc",
        "\xef\xbb\xbf",
        "\xef\xbf\xbe",
        "\xef\xbf\xbf",
        "\xef\xbf\xbd",
        "e\xcc\x81",
        "\xc3\xa9",
        "\xc3\x9f",
        "\xc4\xb0",
        "\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x92\xbb",
        "\xf4\x8f\xbf\xbf",
        "\xe7\x94\xb0\xe4\xb8\xad",
        "\xd8\xb9\xd8\xb1\xd8\xa8\xd9\x8a",
        "<script>",
        "&amp;",
        "../../etc/passwd",
        "E'\\x00'",
        "\\x00",
        "\\000",
        "$$",
        "$tag$",
        "{\"a\": 1}",
        "{1,2}",
        "\\.",
        "COPY",
        "id\x1f"
        "x",
    };

    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++)
        assert_text_comes_back(str_from(texts[i]));
}

static size_t put_utf8(char *to, uint32_t code)
{
    if (code < 0x80) {
        to[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        to[0] = (char)(0xc0 | code >> 6);
        to[1] = (char)(0x80 | (code & 0x3f));
        return 2;
    }
    if (code < 0x10000) {
        to[0] = (char)(0xe0 | code >> 12);
        to[1] = (char)(0x80 | (code >> 6 & 0x3f));
        to[2] = (char)(0x80 | (code & 0x3f));
        return 3;
    }
    to[0] = (char)(0xf0 | code >> 18);
    to[1] = (char)(0x80 | (code >> 12 & 0x3f));
    to[2] = (char)(0x80 | (code >> 6 & 0x3f));
    to[3] = (char)(0x80 | (code & 0x3f));
    return 4;
}

static void every_character_comes_back(void)
{
    static char text[16 * 4096];

    for (uint32_t from = 1; from < 0x110000; from += 16384) {
        size_t len = 0;
        for (uint32_t code = from; code < from + 16384 && code < 0x110000; code++)
            if (code < 0xd800 || code > 0xdfff)
                len += put_utf8(text + len, code);
        assert_text_comes_back((struct str){text, len});
    }
}

static void every_byte_comes_back_in_a_blob(void)
{
    size_t size = 1024 * 1024;
    char *bytes = arena_alloc(arena, size);
    struct db_rows rows;

    for (size_t i = 0; i < size; i++)
        bytes[i] = (char)(i * 7 + i / 256);
    run(DB_WRITE, DB_ASK(insert, DB_OF_NULL, DB_OF_NULL, DB_OF_BLOB(((struct str){bytes, size}))));
    run(DB_WRITE, DB_ASK(insert, DB_OF_NULL, DB_OF_NULL, DB_OF_BLOB(STR("\0\0"))));
    rows = run(DB_READ, DB_ASK_PLAIN(select_all));
    assert_bytes(db_cell(&rows, 0, 2), DB_BLOB, (struct str){bytes, size});
    assert_bytes(db_cell(&rows, 1, 2), DB_BLOB, STR("\0\0"));
}

static err_t add_bad_text(struct db_tx *tx, void *arg)
{
    TRY(tx_add(tx, 1));
    return db_tx_run(tx, DB_ASK(insert, DB_OF_INT(2), DB_OF_TEXT(STR("a\0b")), DB_OF_NULL), NULL,
                     NULL);
}

static void texts_that_are_none_are_refused(void)
{
    static const struct str texts[] = {{"a\0b", 3}, {"\0", 1},           {"\xff", 1},
                                       {"\xc3", 1}, {"\xed\xa0\x80", 3}, {"\xc0\x80", 2}};

    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++)
        assert_fails(db_run(db, DB_WRITE,
                            DB_ASK(insert, DB_OF_INT(1), DB_OF_TEXT(texts[i]), DB_OF_NULL), NULL,
                            NULL),
                     ERR_BAD_REQUEST, "invalid_value");
    assert_fails(db_transact(db, DB_WRITE, add_bad_text, NULL), ERR_BAD_REQUEST, "invalid_value");
    assert_int_equal(count_rows(), 0);
}

/* ---- statements ---- */

static void parameters_have_numbers(void)
{
    struct db_rows rows;

    add(5, STR("five"));
    rows = run(DB_READ,
               DB_ASK("SELECT t, n + $2 FROM contract WHERE n + $2 = $1 AND n < $1 AND t = $3",
                      DB_OF_INT(7), DB_OF_INT(2), DB_OF_TEXT(STR("five"))));
    assert_int_equal(rows.count, 1);
    assert_int_equal(db_int(&rows, 0, 1), 7);
}

static void statements_are_used_again(void)
{
    static const char select_one[] = "SELECT n, t FROM contract WHERE n = $1";

    for (int i = 0; i < 300; i++) {
        struct db_rows rows;
        run(DB_WRITE, DB_ASK(insert, DB_OF_INT(i), i % 2 ? DB_OF_NULL : DB_OF_TEXT(STR("even")),
                             i % 3 ? DB_OF_NULL : DB_OF_BLOB(STR("third"))));
        rows = run(DB_READ, DB_ASK(select_one, DB_OF_INT(i)));
        assert_int_equal(rows.count, 1);
        assert_int_equal(db_cell(&rows, 0, 1)->type, i % 2 ? DB_NULL : DB_TEXT);
    }
    assert_int_equal(count_rows(), 300);
}

struct many {
    int count;
};

static err_t add_many(struct db_tx *tx, void *arg)
{
    const struct many *many = arg;

    for (int i = 0; i < many->count; i++)
        TRY(tx_add(tx, i));
    return NULL;
}

static void many_rows_come_back_in_order(void)
{
    struct many many = {5000};
    struct db_rows rows;

    assert_null(db_transact(db, DB_WRITE, add_many, &many));
    rows = run(DB_READ, DB_ASK_PLAIN(select_all));
    assert_int_equal(rows.count, many.count);
    for (int i = 0; i < many.count; i++)
        assert_int_equal(db_int(&rows, (size_t)i, 0), i);
}

static void too_many_rows_for_the_arena_are_an_error(void)
{
    struct many many = {2000};
    struct arena *small = arena_new(MEM_TOOL, 4096);
    struct db_rows rows;

    assert_null(db_transact(db, DB_WRITE, add_many, &many));
    assert_fails(db_run(db, DB_READ, DB_ASK_PLAIN(select_all), small, &rows), ERR_TOO_BIG, NULL);
    arena_free(small);
    assert_true(db_is_up(db));
    assert_int_equal(count_rows(), 2000);
}

static void changes_are_counted(void)
{
    static const char returning[] = "INSERT INTO contract (n) VALUES ($1) RETURNING n";
    static const char if_new[] =
        "INSERT INTO contract (id, n) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING";
    struct db_rows rows;

    for (int i = 0; i < 3; i++)
        add(i, STR("x"));
    rows = run(DB_WRITE, DB_ASK("UPDATE contract SET n = n + 10 WHERE n >= $1", DB_OF_INT(1)));
    assert_int_equal(rows.changed, 2);
    rows = run(DB_WRITE, DB_ASK("DELETE FROM contract WHERE n = $1", DB_OF_INT(99)));
    assert_int_equal(rows.changed, 0);
    rows = run(DB_READ, DB_ASK_PLAIN(select_all));
    assert_int_equal(rows.changed, 0);
    rows = run(DB_WRITE, DB_ASK(returning, DB_OF_INT(77)));
    assert_int_equal(rows.changed, 1);
    assert_int_equal(db_int(&rows, 0, 0), 77);
    assert_int_equal(run(DB_WRITE, DB_ASK(if_new, DB_OF_INT(1000), DB_OF_INT(1))).changed, 1);
    assert_int_equal(run(DB_WRITE, DB_ASK(if_new, DB_OF_INT(1000), DB_OF_INT(2))).changed, 0);
}

static void snippets_stand_for_what_differs(void)
{
    struct db_rows rows;
    int64_t ago_ms;

    add(1, STR("x"));
    rows = run(DB_WRITE, DB_ASK_PLAIN("SELECT id, {{now_ms}} FROM contract ORDER BY id LIMIT 1 "
                                      "{{for_update}} {{skip_locked}}"));
    ago_ms = (int64_t)sys_wall_ms() - db_int(&rows, 0, 1);
    assert_in_range(ago_ms + 5000, 0, 10000);
}

static void wrong_sql_is_a_defect_of_ours(void)
{
    struct db_rows rows;

    add(1, STR("x"));
#define ASSERT_WRONG(mode, ...)                                                                    \
    assert_fails(db_run(db, mode, __VA_ARGS__, arena, &rows), ERR_BUG, NULL)
    ASSERT_WRONG(DB_WRITE, DB_ASK_PLAIN("SELEKT 1"));
    ASSERT_WRONG(DB_READ, DB_ASK_PLAIN("SELECT x FROM no_such_table"));
    ASSERT_WRONG(DB_WRITE, DB_ASK_PLAIN("UPDATE contract SET no_such_column = 1"));
    ASSERT_WRONG(DB_WRITE, DB_ASK_PLAIN("DELETE FROM contract; DELETE FROM contract"));
    ASSERT_WRONG(DB_WRITE, DB_ASK_PLAIN("SELECT {{no_such_snippet}}"));
    ASSERT_WRONG(DB_WRITE, DB_ASK_PLAIN("SELECT {{blob"));
    ASSERT_WRONG(DB_READ, DB_ASK("SELECT n FROM contract WHERE n = $1 AND n = $2", DB_OF_INT(1)));
    ASSERT_WRONG(DB_READ, DB_ASK("SELECT n FROM contract", DB_OF_INT(1)));
    ASSERT_WRONG(DB_READ, DB_ASK_PLAIN("SELECT n * 1.5 FROM contract"));
    ASSERT_WRONG(DB_READ, DB_ASK_PLAIN("DELETE FROM contract WHERE n = 1"));
    assert_true(db_is_up(db));
    assert_int_equal(count_rows(), 1);
}

static void constraints_are_conflicts(void)
{
    static const char with_id[] = "INSERT INTO contract (id, n) VALUES ($1, $2)";
    static const char child[] = "INSERT INTO contract_child (parent) VALUES ($1)";

    run(DB_WRITE, DB_ASK(with_id, DB_OF_INT(7), DB_OF_INT(1)));
    assert_fails(db_run(db, DB_WRITE, DB_ASK(with_id, DB_OF_INT(7), DB_OF_INT(2)), NULL, NULL),
                 ERR_STORE, "store_conflict");
    assert_fails(db_run(db, DB_WRITE, DB_ASK(child, DB_OF_INT(8)), NULL, NULL), ERR_STORE,
                 "store_conflict");
    assert_fails(db_run(db, DB_WRITE, DB_ASK(child, DB_OF_NULL), NULL, NULL), ERR_STORE,
                 "store_conflict");
    run(DB_WRITE, DB_ASK(child, DB_OF_INT(7)));
    assert_int_equal(run(DB_WRITE, DB_ASK_PLAIN("DELETE FROM contract")).changed, 1);
    assert_int_equal(count_rows(), 0); /* ON DELETE CASCADE let it go */
    assert_true(db_is_up(db));
}

/* ---- transactions ---- */

static const struct err changed_mind = {.kind = ERR_NOT_FOUND, .text = "changed its mind"};

struct plan {
    int rows;
    err_t result;
    int64_t seen;
    const char *topic;
    int runs;
};

static err_t follow(struct db_tx *tx, void *arg)
{
    struct plan *plan = arg;
    struct db_rows rows;

    plan->runs++;
    for (int i = 0; i < plan->rows; i++)
        TRY(tx_add(tx, i));
    if (plan->topic)
        TRY(db_tx_notify(tx, plan->topic));
    TRY(db_tx_run(tx, DB_ASK_PLAIN(count_all), arena, &rows));
    plan->seen = db_int(&rows, 0, 0);
    return plan->result;
}

static void transactions_see_their_own_writes_and_commit(void)
{
    struct plan plan = {.rows = 3};

    assert_null(db_transact(db, DB_WRITE, follow, &plan));
    assert_int_equal(plan.seen, 3);
    assert_int_equal(plan.runs, 1);
    assert_int_equal(count_rows(), 3);
}

static void transactions_roll_back_with_their_functions_error(void)
{
    struct plan plan = {.rows = 3, .result = &changed_mind};

    assert_ptr_equal(db_transact(db, DB_WRITE, follow, &plan), &changed_mind);
    assert_int_equal(plan.seen, 3);
    assert_int_equal(plan.runs, 1);
    assert_int_equal(count_rows(), 0);
    assert_true(db_is_up(db));
}

static err_t swallow(struct db_tx *tx, void *arg)
{
    err_t *later = arg;

    TRY(tx_add(tx, 1));
    if (db_tx_run(tx, DB_ASK_PLAIN("SELEKT 2"), NULL, NULL))
        *later = tx_add(tx, 3);
    return NULL;
}

static void failed_statements_cannot_be_swallowed(void)
{
    err_t later = NULL;

    assert_fails(db_transact(db, DB_WRITE, swallow, &later), ERR_BUG, NULL);
    assert_non_null(later);
    assert_int_equal(count_rows(), 0);
}

static err_t read_and_write(struct db_tx *tx, void *arg)
{
    return tx_add(tx, 1);
}

static void reading_transactions_cannot_write(void)
{
    struct plan plan = {0};

    add(1, STR("x"));
    assert_null(db_transact(db, DB_READ, follow, &plan));
    assert_int_equal(plan.seen, 1);
    assert_fails(db_transact(db, DB_READ, read_and_write, NULL), ERR_BUG, NULL);
    assert_int_equal(count_rows(), 1);
}

static void topics_rise_at_the_commit(void)
{
    uint64_t keys = db_topic_version(db, "contract_keys"),
             other = db_topic_version(db, "contract_x");
    struct plan plan = {.rows = 1, .topic = "contract_keys"};

    assert_null(db_transact(db, DB_WRITE, follow, &plan));
    assert_true(db_topic_version(db, "contract_keys") > keys);
    assert_int_equal(db_topic_version(db, "contract_x"), other);
    /* A topic that was never told: what was may be heard of a second time, by way of the database. */
    plan.topic = "contract_x";
    plan.result = &changed_mind;
    assert_ptr_equal(db_transact(db, DB_WRITE, follow, &plan), &changed_mind);
    assert_int_equal(db_topic_version(db, "contract_x"), other);
}

static void backend_has_a_name(void)
{
    assert_true(str_starts(url, str_from(db_backend(db))));
}

/* ---- several at once ---- */

#define WRITERS 8
#define TURNS   20

static err_t increment(struct db_tx *tx, void *arg)
{
    static const char look[] = "SELECT n FROM contract WHERE id = 1 {{for_update}}";
    struct arena *own = arena_new(MEM_TOOL, 4096);
    struct db_rows rows;
    err_t err = db_tx_run(tx, DB_ASK_PLAIN(look), own, &rows);
    int64_t n = err ? 0 : db_int(&rows, 0, 0);

    arena_free(own);
    TRY(err);
    return db_tx_run(tx, DB_ASK("UPDATE contract SET n = $1 WHERE id = 1", DB_OF_INT(n + 1)), NULL,
                     NULL);
}

struct crowd {
    int left;
    bool failed;
};

static void increments(void *arg)
{
    struct crowd *crowd = arg;

    for (int i = 0; i < TURNS; i++)
        if (db_transact(db, DB_WRITE, increment, NULL))
            crowd->failed = true;
    if (--crowd->left == 0)
        loop_stop(loop_self());
}

static void *run_crowd(void *arg)
{
    struct crowd *crowd = arg;
    struct loop *loop;

    if (loop_open(&loop))
        return NULL;
    crowd->left = WRITERS;
    for (int i = 0; i < WRITERS; i++)
        if (fiber_start_later("writer", increments, crowd, NULL))
            crowd->failed = true;
    loop_run(loop);
    loop_close(loop);
    return NULL;
}

static void writers_of_two_threads_lose_nothing(void)
{
    struct crowd crowds[2] = {0};
    pthread_t threads[2];
    struct db_rows rows;

    run(DB_WRITE, DB_ASK_PLAIN("INSERT INTO contract (id, n) VALUES (1, 0)"));
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, run_crowd, &crowds[i]), 0);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    assert_false(crowds[0].failed || crowds[1].failed);
    rows = run(DB_READ, DB_ASK_PLAIN(select_all));
    assert_int_equal(db_int(&rows, 0, 0), 2 * WRITERS * TURNS);
}

static const struct err gone = {.kind = ERR_CANCELLED, .text = "gone"};

struct cancelled {
    err_t err;
    bool has_ended;
};

static void writes_two_rows(void *arg)
{
    struct cancelled *cancelled = arg;
    struct many two = {2};

    cancelled->err = db_transact(db, DB_WRITE, add_many, &two);
    cancelled->has_ended = true;
}

/* It happened or it did not, as a whole, and the database is as good as before. */
static void cancelled_writes_are_whole(void)
{
    struct cancelled cancelled = {0};
    struct fiber *fiber;
    int64_t count;

    if (!fiber_self())
        return;
    assert_null(fiber_start("cancelled", writes_two_rows, &cancelled, &fiber));
    if (!cancelled.has_ended)
        fiber_cancel(fiber, &gone);
    while (!cancelled.has_ended)
        assert_null(fiber_sleep(1));
    count = count_rows();
    assert_true(count == 2 || (count == 0 && cancelled.err == &gone));
    assert_true(cancelled.err ? cancelled.err == &gone : count == 2);
    add(1, STR("x"));
}

/* ---- schema ---- */

#define LIST_MAX 64

static struct db_migration list[LIST_MAX];
static unsigned own_at;

static void list_make(const char *first, const char *second)
{
    own_at = db_migration_count;
    for (unsigned i = 0; i < own_at; i++)
        list[i] = db_migrations[i];
    list[own_at] = (struct db_migration){901, "901-first", first};
    list[own_at + 1] = (struct db_migration){902, "902-second", second};
}

static void list_forget(void)
{
    run(DB_WRITE, DB_ASK_PLAIN("DELETE FROM schema_migrations WHERE number > 900"));
    run(DB_WRITE, DB_ASK_PLAIN("DROP TABLE IF EXISTS contract_second"));
    run(DB_WRITE, DB_ASK_PLAIN("DROP TABLE IF EXISTS contract_first"));
}

static const char make_first[] = "-- a comment; with a semicolon\n"
                                 "CREATE TABLE contract_first (x TEXT DEFAULT ';', b {{blob}});\n"
                                 "INSERT INTO contract_first (x) VALUES ('a;b');\n"
                                 "INSERT INTO contract_first (x) VALUES ('it''s');\n";
static const char make_second[] = "CREATE TABLE contract_second (id {{serial}}, x TEXT)";
static const char make_half[] = "CREATE TABLE contract_second (id {{serial}});\n"
                                "INSERT INTO contract_first (no_such_column) VALUES (1)";

static void migrations_are_applied_once(void)
{
    struct db_rows rows;

    list_make(make_first, make_second);
    assert_null(db_schema_update(db, list, own_at + 2));
    assert_null(db_schema_update(db, list, own_at + 2));
    assert_null(db_schema_check(db, list, own_at + 2));
    rows = run(DB_READ, DB_ASK_PLAIN("SELECT x FROM contract_first ORDER BY x"));
    assert_int_equal(rows.count, 2);
    assert_bytes(db_cell(&rows, 0, 0), DB_TEXT, STR("a;b"));
    assert_bytes(db_cell(&rows, 1, 0), DB_TEXT, STR("it's"));
    list_forget();
}

static void failed_migrations_leave_nothing(void)
{
    list_make(make_first, make_half);
    assert_fails(db_schema_update(db, list, own_at + 2), ERR_BUG, NULL);
    assert_fails(db_run(db, DB_READ, DB_ASK_PLAIN("SELECT id FROM contract_second"), NULL, NULL),
                 ERR_BUG, NULL);
    assert_fails(db_schema_check(db, list, own_at + 2), ERR_STORE, NULL);
    list_make(make_first, make_second);
    assert_null(db_schema_update(db, list, own_at + 2));
    run(DB_READ, DB_ASK_PLAIN("SELECT id, x FROM contract_second"));
    list_forget();
}

static void other_schemas_are_refused(void)
{
    err_t err;

    list_make(make_first, make_second);
    assert_null(db_schema_update(db, list, own_at + 2));
    err = db_schema_update(db, list, own_at + 1);
    assert_fails(err, ERR_STORE, NULL);
    assert_non_null(strstr(err->text, "newer"));
    assert_fails(db_schema_check(db, list, own_at), ERR_STORE, NULL);
    list[own_at].name = "901-other";
    err = db_schema_update(db, list, own_at + 2);
    assert_fails(err, ERR_STORE, NULL);
    assert_non_null(strstr(err->text, "another build"));
    list_forget();
    err = db_schema_check(db, list, own_at + 2);
    assert_fails(err, ERR_STORE, NULL);
    assert_non_null(strstr(err->text, "older"));
}

/* The text of one of our own migrations. */
static const char *own_migration(const char *name)
{
    for (unsigned i = 0; i < db_migration_count; i++)
        if (strcmp(db_migrations[i].name, name) == 0)
            return db_migrations[i].sql;
    fail_msg("there is no migration %s", name);
    return NULL;
}

/* The ledger in its older form, each row and each sum of which held all of its texts. */
static void make_old_ledger(void)
{
    static const char *const drops[] = {
        "DROP VIEW usage_hours",     "DROP VIEW usage_days",      "DROP VIEW usage_hour_parts",
        "DROP VIEW usage_day_parts", "DROP VIEW usage_recent",    "DROP VIEW ledger",
        "DROP TABLE ledger_rows",    "DROP TABLE ledger_kinds",   "DROP TABLE ledger_writers",
        "DROP TABLE usage_pending",  "DROP TABLE usage_left",     "DROP TABLE usage_hour_sums",
        "DROP TABLE usage_day_sums", "DROP TABLE usage_open_sums"};

    for (size_t i = 0; i < sizeof(drops) / sizeof(*drops); i++)
        run(DB_WRITE, DB_ASK_PLAIN(drops[i]));
    list_make(own_migration("002-ledger"), own_migration("006-ledger-kinds"));
    list[own_at + 2] = (struct db_migration){903, "903-third", own_migration("009-usage-sums")};
    list[own_at + 3] = (struct db_migration){904, "904-fourth", own_migration("011-usage-pending")};
    list[own_at + 4] =
        (struct db_migration){905, "905-fifth", own_migration("012-usage-open-sums")};
    assert_null(db_schema_update(db, list, own_at + 1));
}

static void add_old_row(int64_t n)
{
    static const char insert_old[] =
        "INSERT INTO ledger (at_ms, request_id, org_id, project_id, key_id, user_id, model, "
        "provider, upstream_model, route, outcome, status, duration_ms, attempts, input, output, "
        "cached, cache_written, reasoning, is_estimated, cost_nano, booked) VALUES ($1, 'r', 'o', "
        "'p', $2, 'u', 'm', '', 'x', 'POST /', 'completed', 200, 7, 1, $1, 20, 3, 4, 5, 0, $3, "
        "'key/money')";

    run(DB_WRITE, DB_ASK(insert_old, DB_OF_INT(n), DB_OF_TEXT(n % 3 ? STR("k1") : STR("k2")),
                         n % 2 ? DB_OF_NULL : DB_OF_INT(n * 1000)));
}

static void old_rows_of_the_ledger_are_taken_over(void)
{
    struct db_rows rows;

    make_old_ledger();
    for (int64_t n = 1; n <= 6; n++)
        add_old_row(n);
    assert_null(db_schema_update(db, list, own_at + 2));
    run(DB_WRITE, DB_ASK_PLAIN("INSERT INTO ledger_rows (at_ms, request_id, kind_id, user_id, "
                               "duration_ms, attempts, input, output, cached, cache_written, "
                               "reasoning, is_estimated) SELECT 7, 'new', max(id), '', 1, 1, 1, 1, "
                               "0, 0, 0, 0 FROM ledger_kinds"));
    rows = run(DB_READ, DB_ASK_PLAIN("SELECT id, at_ms, key_id, cost_nano, reasoning, booked FROM "
                                     "ledger ORDER BY id"));
    assert_int_equal(rows.count, 7);
    assert_int_equal(db_int(&rows, 6, 0), 7); /* numbers go on */
    for (size_t row = 0; row < 6; row++) {
        assert_int_equal(db_int(&rows, row, 0), db_int(&rows, row, 1));
        assert_bytes(db_cell(&rows, row, 2), DB_TEXT, row % 3 == 2 ? STR("k2") : STR("k1"));
        assert_int_equal(db_cell(&rows, row, 3)->type, row % 2 ? DB_INT : DB_NULL);
        assert_int_equal(db_int(&rows, row, 4), 5);
        assert_bytes(db_cell(&rows, row, 5), DB_TEXT, STR("key/money"));
    }
    rows = run(DB_READ, DB_ASK_PLAIN("SELECT COUNT(*) FROM ledger_kinds"));
    assert_int_equal(db_int(&rows, 0, 0), 2);
    assert_null(db_schema_update(db, list, own_at + 5));
    run(DB_WRITE, DB_ASK_PLAIN("DELETE FROM ledger_rows"));
    list_forget();
}

#define SUM_COLUMNS                                                                                \
    "begins_ms, org_id, project_id, key_id, user_id, model, provider, upstream_model, calls, "     \
    "failed, unpriced, input, output, cached, cache_written, reasoning, cost_nano"
#define FILL_SUMS(table)                                                                           \
    "INSERT INTO " table " (" SUM_COLUMNS                                                          \
    ") VALUES ($1, $2, 'p', 'k', $3, 'm', $4, 'x', 9, 8, 7, "                                      \
    "6, 5, 4, 3, 2, $5)"
#define ALL_SUMS(table) "SELECT " SUM_COLUMNS " FROM " table " ORDER BY cost_nano"

static void fill_old_sums(void)
{
    for (int64_t n = 0; n < 8; n++) {
        struct db_value begins = DB_OF_INT(n % 3 * 86400000),
                        org = DB_OF_TEXT(n % 2 ? STR("o1") : STR("o2")),
                        user = DB_OF_TEXT(n % 4 / 2 ? STR("") : STR("\xc3\xa4'")),
                        provider = DB_OF_TEXT(n / 4 ? STR("y") : STR("z"));
        run(DB_WRITE, DB_ASK(FILL_SUMS("usage_days"), begins, org, user, provider, DB_OF_INT(n)));
        run(DB_WRITE, DB_ASK(FILL_SUMS("usage_hours"), begins, org, user, provider,
                             DB_OF_INT(n - INT64_C(9000000000000000000))));
    }
}

static void assert_same_rows(const struct db_rows *a, const struct db_rows *b)
{
    assert_int_equal(a->count, b->count);
    assert_int_equal(a->columns, b->columns);
    for (size_t i = 0; i < a->count * a->columns; i++) {
        assert_int_equal(a->cells[i].type, b->cells[i].type);
        if (a->cells[i].type == DB_TEXT)
            assert_true(str_eq(a->cells[i].bytes, b->cells[i].bytes));
        else
            assert_int_equal(a->cells[i].number, b->cells[i].number);
    }
}

static void old_sums_are_taken_over(void)
{
    static const char add_more[] =
        "INSERT INTO usage_recent (slot, part, begins_ms, kind_id, user_id, calls, failed, "
        "unpriced, input, output, cached, cache_written, reasoning, cost_nano) "
        "SELECT 7, 1, 86400000 + 5 * 3600000, id, $1, 1, 0, 0, 1, 1, 0, 0, 0, 100 "
        "FROM ledger_kinds WHERE org_id = 'o1' AND provider = 'z'";
    struct db_rows days, hours, rows;

    make_old_ledger();
    assert_null(db_schema_update(db, list, own_at + 2));
    fill_old_sums();
    days = run(DB_READ, DB_ASK_PLAIN(ALL_SUMS("usage_days")));
    hours = run(DB_READ, DB_ASK_PLAIN(ALL_SUMS("usage_hours")));
    assert_int_equal(hours.count, 8);
    assert_null(db_schema_update(db, list, own_at + 3));
    rows = run(DB_READ, DB_ASK_PLAIN(ALL_SUMS("usage_days")));
    assert_same_rows(&rows, &days);
    rows = run(DB_READ, DB_ASK_PLAIN(ALL_SUMS("usage_hours")));
    assert_same_rows(&rows, &hours);
    run(DB_WRITE, DB_ASK(add_more, DB_OF_TEXT(STR("\xc3\xa4'")))); /* what comes next is added */
    rows = run(DB_READ, DB_ASK_PLAIN("SELECT calls, cost_nano FROM usage_days WHERE calls > 9"));
    assert_int_equal(rows.count, 1);
    assert_int_equal(db_int(&rows, 0, 0), 10);
    hours = run(DB_READ, DB_ASK_PLAIN(ALL_SUMS("usage_hours")));
    assert_int_equal(hours.count, 9);
    days = run(DB_READ, DB_ASK_PLAIN(ALL_SUMS("usage_days")));
    assert_null(db_schema_update(db, list, own_at + 5));
    rows = run(DB_READ, DB_ASK_PLAIN(ALL_SUMS("usage_hours")));
    assert_same_rows(&rows, &hours);
    rows = run(DB_READ, DB_ASK_PLAIN(ALL_SUMS("usage_days")));
    assert_same_rows(&rows, &days);
    run(DB_WRITE, DB_ASK_PLAIN("DELETE FROM usage_hour_sums"));
    run(DB_WRITE, DB_ASK_PLAIN("DELETE FROM usage_day_sums"));
    list_forget();
}

/* ---- memory ---- */

static void every_failing_allocation_is_reported(void)
{
    struct many two = {2};
    uint64_t n = 0;
    err_t err;

    do {
        int64_t before = count_rows();
        mem_fail_nth(++n);
        err = db_transact(db, DB_WRITE, add_many, &two);
        mem_fail_nth(0);
        assert_int_equal(count_rows(), err ? before : before + 2);
        assert_true(db_is_up(db) || err);
    } while (err);
    assert_true(n < 10000);
    assert_true(db_is_up(db));
}

/* ---- the runner ---- */

struct contract {
    const char *name;
    void (*check)(void);
};

#define CONTRACT(name) {#name, name}

static const struct contract contracts[] = {
    CONTRACT(backend_has_a_name),
    CONTRACT(numbers_come_back),
    CONTRACT(null_is_not_empty),
    CONTRACT(nasty_texts_come_back),
    CONTRACT(every_character_comes_back),
    CONTRACT(every_byte_comes_back_in_a_blob),
    CONTRACT(texts_that_are_none_are_refused),
    CONTRACT(parameters_have_numbers),
    CONTRACT(statements_are_used_again),
    CONTRACT(many_rows_come_back_in_order),
    CONTRACT(too_many_rows_for_the_arena_are_an_error),
    CONTRACT(changes_are_counted),
    CONTRACT(snippets_stand_for_what_differs),
    CONTRACT(wrong_sql_is_a_defect_of_ours),
    CONTRACT(constraints_are_conflicts),
    CONTRACT(transactions_see_their_own_writes_and_commit),
    CONTRACT(transactions_roll_back_with_their_functions_error),
    CONTRACT(failed_statements_cannot_be_swallowed),
    CONTRACT(reading_transactions_cannot_write),
    CONTRACT(topics_rise_at_the_commit),
    CONTRACT(writers_of_two_threads_lose_nothing),
    CONTRACT(cancelled_writes_are_whole),
    CONTRACT(migrations_are_applied_once),
    CONTRACT(failed_migrations_leave_nothing),
    CONTRACT(old_rows_of_the_ledger_are_taken_over),
    CONTRACT(old_sums_are_taken_over),
    CONTRACT(other_schemas_are_refused),
    CONTRACT(every_failing_allocation_is_reported),
};

#define CONTRACT_COUNT (sizeof(contracts) / sizeof(*contracts))

static void begin(void)
{
    arena = arena_new(MEM_TOOL, ARENA_BYTES);
    assert_non_null(arena);
    err_scope_set(arena);
    run(DB_WRITE, DB_ASK_PLAIN("DROP TABLE IF EXISTS contract_child"));
    run(DB_WRITE, DB_ASK_PLAIN("DROP TABLE IF EXISTS contract"));
    run(DB_WRITE,
        DB_ASK_PLAIN("CREATE TABLE contract (id {{serial}}, n BIGINT, t TEXT, b {{blob}})"));
    run(DB_WRITE, DB_ASK_PLAIN("CREATE TABLE contract_child (parent BIGINT NOT NULL "
                               "REFERENCES contract (id) ON DELETE CASCADE)"));
}

static void end(void)
{
    err_scope_set(NULL);
    arena_free(arena);
    arena = NULL;
}

static void run_outside(void **state)
{
    const struct contract *contract = *state;

    begin();
    contract->check();
    end();
}

static void run_as_fiber(void *arg)
{
    const struct contract *contract = arg;

    fiber_set_arena(arena);
    contract->check();
    fiber_set_arena(NULL);
    loop_stop(loop_self());
}

static void run_in_fiber(void **state)
{
    struct loop *loop;

    begin();
    assert_null(loop_open(&loop));
    assert_null(fiber_start_later("contract", run_as_fiber, *state, NULL));
    loop_run(loop);
    loop_close(loop);
    end();
}

static int open_backend(void **state)
{
    struct db_options options = {.url = url, .connections = 8};
    struct arena *scope = arena_new(MEM_TOOL, ARENA_BYTES);
    err_t err;

    err_scope_set(scope);
    err = db_open(&options, &db);
    if (err)
        fprintf(stderr, "%.*s: %s\n", STR_ARG(url), err->text);
    err_scope_set(NULL);
    arena_free(scope);
    return err ? -1 : 0;
}

static int close_backend(void **state)
{
    db_close(db);
    offload_stop_all();
    return 0;
}

static int run_backend(struct str at)
{
    static struct CMUnitTest tests[2 * CONTRACT_COUNT];
    int failed;

    url = at;
    for (size_t i = 0; i < CONTRACT_COUNT; i++) {
        void *contract = (void *)(uintptr_t)&contracts[i];
        tests[2 * i] = (struct CMUnitTest){contracts[i].name, run_outside, NULL, NULL, contract};
        tests[2 * i + 1] =
            (struct CMUnitTest){contracts[i].name, run_in_fiber, NULL, NULL, contract};
    }
    failed = cmocka_run_group_tests(tests, open_backend, close_backend);
    if (mem_in_use(MEM_TOOL) > 0) {
        fprintf(stderr, "%zu bytes of %.*s are left\n", mem_in_use(MEM_TOOL), STR_ARG(at));
        failed++;
    }
    return failed;
}

int main(void)
{
    const char *server = getenv("TEST_POSTGRES_URL");
    char path[128], command[128];
    int failed;

    snprintf(folder, sizeof(folder), "/tmp/sluice-store-XXXXXX");
    if (!mkdtemp(folder))
        return 1;
    snprintf(path, sizeof(path), "sqlite:%s/deep/er/sluice.db", folder);
    failed = run_backend(str_from(path));
    snprintf(command, sizeof(command), "rm -rf %s", folder);
    failed += system(command) != 0;
    if (!server || !*server)
        server = postgres_open(NULL);
    if (server)
        failed += run_backend(str_from(server));
    if (postgres.tls_url[0])
        failed += run_backend(str_from(postgres.tls_url));
    if (!server)
        fprintf(stderr, "\n*** PostgreSQL is NOT tested: it is not installed ***\n");
    postgres_close();
    return failed > 0;
}
